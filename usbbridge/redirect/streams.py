"""What all streams have in common: a guest says start once, and from then on transfers are kept running on an endpoint
without being asked for, until the guest says stop, the device is changed, or the endpoint gives up.

A stream has a fixed number of transfers, all of one size. Each of them is in flight (`flying`) or not (`idle`, or where
the kind of stream keeps it). Their ends come in through `_done`; what is sent carries a number of the stream's own,
from 0.

A stalled endpoint is cleared and started anew without the guest's knowing, as other usbredir hosts do: not in the
callback that noticed it, but in `recover()`. A stream that can't go on is stopped, and said to be stalled: a guest may
start it again.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import ClassVar, Final, Generic, Self, TypeVar

from usbbridge.backend.base import Device, Status, Transfer
from usbbridge.errors import DeviceError, DeviceLostError
from usbbridge.redirect.limits import DRAIN_SECONDS, MAX_STREAM_ERRORS
from usbbridge.redirect.outbox import Outbox
from usbbridge.usb.ch9 import DIR_IN, TransferType
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.proto import Status as RedirStatus

NUMBER_MASK: Final = 0xFFFF_FFFF
"Numbers of a stream's packets stay within it: ids are that short if the guest wants no longer ones."

_ENDING: Final = (Status.NO_DEVICE, Status.STALL)


class Budget:
    """What the transfers of several streams may come to, those included that were cancelled and are not back yet."""

    __slots__ = ("bytes", "transfers")

    def __init__(self, transfers: int, size: int) -> None:
        """So many transfers, and bytes of data area as asked for; a backend may round each up, to twice that."""
        self.transfers, self.bytes = transfers, size

    def take(self, transfers: int, size: int) -> bool:
        """So many transfers of `size` bytes each, if there is room for them; whether there was."""
        if transfers > self.transfers or transfers * size > self.bytes:
            return False
        self.transfers -= transfers
        self.bytes -= transfers * size
        return True

    def give_back(self, size: int) -> None:
        """One transfer of `size` bytes is back in the pool."""
        self.transfers += 1
        self.bytes += size


class Stream:
    """One endpoint with transfers running on it."""

    __slots__ = ("count", "endpoint", "errors", "flying", "idle", "next_id", "size", "stopped")

    def __init__(self, endpoint: int, count: int, size: int) -> None:
        """`count` transfers of `size` bytes."""
        self.endpoint, self.count, self.size = endpoint, count, size
        self.errors = 0
        "Bad ends in a row."
        self.next_id = 0
        self.flying: list[Transfer] = []
        self.idle: deque[Transfer] = deque()
        self.stopped = False

    def renewed(self) -> Self:
        """A stream with the same parameters that has not begun."""
        return type(self)(self.endpoint, self.count, self.size)


_S = TypeVar("_S", bound=Stream)


class StreamKind(ABC, Generic[_S]):
    """All streams of one kind that a device has."""

    TYPE: ClassVar[TransferType]
    DIRECTION: ClassVar[int] = DIR_IN

    def __init__(
        self, device: Device, outbox: Outbox, budget: Budget, lost: Callable[[], None], stalled: Callable[[], None]
    ) -> None:
        """`lost` is called when the device turns out to be gone, `stalled` when there is something `to_recover`."""
        self.dropped = 0
        "Packets thrown away because the other side did not keep up."
        self.to_recover: list[int] = []
        "Endpoints that have stalled: `recover()` is to be called, outside of any callback."
        self.endpoints: dict[int, int] = {}
        "Endpoints that may be started, by address: bytes that they carry in a service interval."
        self.intervals: dict[int, float] = {}
        "Their service intervals, in seconds."
        self._device, self._outbox, self._budget = device, outbox, budget
        self._lost, self._stalled = lost, stalled
        self._running: dict[int, _S] = {}

    def answer_through(self, codec: Codec) -> None:
        """Whose packets the answers and data are; to be called before the first packet."""
        self._codec = codec

    @property
    def running(self) -> bool:
        """Whether there is a stream."""
        return bool(self._running)

    def drive(self, device: Device) -> list[Transfer]:
        """Give transfers to this device object from now on. Answer: what is in flight now."""
        self._device = device
        return [t for stream in self._running.values() for t in stream.flying]

    # ---- what kinds differ in

    @abstractmethod
    def say(self, endpoint: int, status: RedirStatus, packet_id: int = 0) -> None:
        """Tell the guest what has become of a stream; 0 is the id of what it did not ask for."""

    @abstractmethod
    def _take(self, stream: _S) -> Transfer:
        """A transfer for the stream out of the device's pool."""

    @abstractmethod
    def _submit(self, stream: _S, t: Transfer) -> bool:
        """Start one that is among the stream's `flying`; if it can't be, `_refused`."""

    @abstractmethod
    def _done(self, t: Transfer) -> None:
        """A transfer has ended."""

    # ---- start and stop

    def _start(self, stream: _S | None, endpoint: int, packet_id: int) -> None:
        """Start this stream, and answer the request for it; None if what was asked for can't be."""
        if endpoint in self._running:
            self.say(endpoint, RedirStatus.INVAL, packet_id)  # however it was asked for: STALL would say it has stopped
        elif stream is None:
            self.say(endpoint, RedirStatus.STALL, packet_id)
        else:
            started = self._run(stream)
            self.say(endpoint, RedirStatus.SUCCESS if started else RedirStatus.STALL, packet_id)

    def stop(self, endpoint: int, packet_id: int = 0) -> None:
        """Stop a stream, and answer; stopping what does not run is no error."""
        self._halt(endpoint)
        self.say(endpoint, RedirStatus.SUCCESS, packet_id)

    def stop_all(self, endpoints: set[int] | None = None, *, say: RedirStatus | None = None) -> None:
        """Stop all, or those on the given addresses; with `say`, tell the guest so."""
        for endpoint in list(self._running):
            if endpoints is None or endpoint in endpoints:
                self._halt(endpoint)
                if say is not None:
                    self.say(endpoint, say)

    def recover(self) -> None:
        """Clear the halt of the endpoints that stalled and start them anew; tell the guest of those where it fails."""
        endpoints, self.to_recover = self.to_recover, []
        for endpoint in endpoints:
            stream = self._running.get(endpoint)
            if stream is not None:
                self._restart(stream)

    def _restart(self, stream: _S) -> None:
        self._halt(stream.endpoint)
        try:
            self._device.drain(DRAIN_SECONDS)
            self._device.clear_halt(stream.endpoint)
        except DeviceLostError:
            self._lost()
            return
        except DeviceError:
            self.say(stream.endpoint, RedirStatus.STALL)
            return
        again = stream.renewed()
        again.errors = stream.errors
        if not self._run(again):
            self.say(stream.endpoint, RedirStatus.STALL)

    def _run(self, stream: _S) -> bool:
        """Take a stream's transfers and start it; whether it runs."""
        if not self._budget.take(stream.count, stream.size):
            return False
        self._running[stream.endpoint] = stream
        for _ in range(stream.count):
            t = self._take(stream)
            t.header, t.on_done, t.cancelled, t.id = stream, self._done, False, 0
            stream.idle.append(t)
        return self._launch(stream)

    def _launch(self, stream: _S) -> bool:
        """Start all the transfers of a stream; whether it runs."""
        while stream.idle:
            t = stream.idle.popleft()
            stream.flying.append(t)
            if not self._submit(stream, t):
                return False
        return True

    def _halt(self, endpoint: int) -> None:
        stream = self._running.pop(endpoint, None)
        if stream is None:
            return
        stream.stopped = True
        for t in stream.flying:
            t.cancelled = True
            self._device.cancel(t)
        while stream.idle:
            self._give_back(stream, stream.idle.pop())

    def _give_back(self, stream: _S, t: Transfer) -> None:
        self._budget.give_back(stream.size)
        self._device.give_back(t)

    # ---- what goes wrong

    def _refused(self, stream: _S, t: Transfer, status: Status) -> bool:
        """The device did not take a transfer: the stream is stopped. Always False, as `_submit` is then."""
        stream.flying.remove(t)
        self._give_back(stream, t)
        self._halt(stream.endpoint)
        if status is Status.NO_DEVICE:
            self._lost()
        return False

    def _went_wrong(self, stream: _S, t: Transfer, status: int) -> bool:
        """A transfer has ended badly; whether it is to be started again. If not, all is done that is to be done."""
        stream.errors += 1
        if status not in _ENDING and stream.errors <= MAX_STREAM_ERRORS:
            return True
        stream.flying.remove(t)
        self._give_back(stream, t)
        if status == Status.NO_DEVICE:
            self._halt(stream.endpoint)
            self._lost()
        elif status == Status.STALL and stream.errors <= MAX_STREAM_ERRORS:
            if stream.endpoint not in self.to_recover:  # all of its transfers stall, one after the other
                self.to_recover.append(stream.endpoint)
            self._stalled()
        else:
            self._halt(stream.endpoint)
            self.say(stream.endpoint, RedirStatus.STALL)
        return False
