"""Receiving interrupt endpoints: a guest says start once, and from then on every report is sent to it as it comes.

Some transfers are kept running on the endpoint all the time, so that no report is lost while one is being handled.
Reports carry a number of their own, from 0. A stalled endpoint is cleared and started anew without the guest's
knowing, as other usbredir hosts do.
"""

from collections.abc import Callable

from usbbridge.backend.base import Device, Status, Transfer
from usbbridge.errors import DeviceError, DeviceLostError
from usbbridge.redirect.limits import (
    DRAIN_SECONDS,
    INTERRUPT_TRANSFERS,
    MAX_REPORT_TRANSFERS,
    MAX_STREAM_ERRORS,
    STREAM_DROP,
)
from usbbridge.redirect.outbox import Outbox
from usbbridge.redirect.status import REDIR_STATUS
from usbbridge.usb.ch9 import DIR_IN, TransferType
from usbbridge.usb.descriptors import Endpoint
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.packets import InterruptReceivingStatus
from usbbridge.usbredir.proto import Status as RedirStatus


class _Stream:
    """One endpoint that is being received from."""

    __slots__ = ("endpoint", "errors", "next_id", "size", "transfers")

    def __init__(self, endpoint: int, size: int, errors: int) -> None:
        self.endpoint, self.size, self.errors = endpoint, size, errors
        self.next_id = 0
        self.transfers: list[Transfer] = []


class InterruptReceiving:
    """All receiving endpoints of a device."""

    def __init__(
        self, device: Device, outbox: Outbox, lost: Callable[[], None], stalled: Callable[[], None]
    ) -> None:
        """`stalled` is called when there is something `to_recover`."""
        self.dropped = 0
        "Reports thrown away because the guest did not read."
        self.to_recover: list[int] = []
        "Endpoints that have stalled: `recover()` is to be called, outside of any callback."
        self._device, self._outbox, self._lost, self._stalled = device, outbox, lost, stalled
        self._streams: dict[int, _Stream] = {}
        self._endpoints: dict[int, Endpoint] = {}
        self._taken = 0  # transfers that are not back in the pool
        self._waiting = 0  # bytes of reports put since the outbox was last found empty

    def answer_through(self, codec: Codec) -> None:
        """Whose packets the answers and reports are; to be called before the first packet."""
        self._codec = codec

    def set_endpoints(self, endpoints: dict[int, Endpoint]) -> None:
        """Which endpoints may be received from."""
        kind = TransferType.INTERRUPT
        self._endpoints = {a: e for a, e in endpoints.items() if a & DIR_IN and e.transfer_type is kind}

    def start(self, address: int) -> None:
        """start_interrupt_receiving, and its answer."""
        if address in self._streams:
            self._say(address, RedirStatus.INVAL)
        elif address not in self._endpoints or not self._run(address):
            self._say(address, RedirStatus.STALL)
        else:
            self._say(address, RedirStatus.SUCCESS)

    def stop(self, address: int) -> None:
        """stop_interrupt_receiving, and its answer; stopping what does not run is no error."""
        self._halt(address)
        self._say(address, RedirStatus.SUCCESS)

    def stop_all(self, endpoints: set[int] | None = None, *, say: RedirStatus | None = None) -> None:
        """Stop all, or those on the given addresses; with `say`, tell the guest so."""
        for address in list(self._streams):
            if endpoints is None or address in endpoints:
                self._halt(address)
                if say is not None:
                    self._say(address, say)

    def recover(self) -> None:
        """Clear the halt of the endpoints that stalled and start them anew; tell the guest of those where it fails."""
        addresses, self.to_recover = self.to_recover, []
        for address in addresses:
            stream = self._streams.get(address)
            if stream is None:
                continue
            self._halt(address)
            try:
                self._device.drain(DRAIN_SECONDS)
                self._device.clear_halt(address)
            except DeviceLostError:
                self._lost()
                return
            except DeviceError:
                self._say(address, RedirStatus.STALL)
                continue
            if not self._run(address, stream.errors):
                self._say(address, RedirStatus.STALL)

    def _say(self, address: int, status: RedirStatus) -> None:
        self._outbox.put(self._codec.encode(InterruptReceivingStatus(status, address)))

    def _run(self, address: int, errors: int = 0) -> bool:
        """Start an endpoint, that has ended `errors` times in a row by now; whether it runs."""
        if self._taken + INTERRUPT_TRANSFERS > MAX_REPORT_TRANSFERS:
            return False
        size = max(self._endpoints[address].max_packet_size & 0x7FF, 1)
        stream = self._streams[address] = _Stream(address, size, errors)
        for _ in range(INTERRUPT_TRANSFERS):
            t = self._device.take(size)
            self._taken += 1
            t.header, t.on_done, t.cancelled, t.id = stream, self._done, False, 0
            stream.transfers.append(t)
            if not self._submit(stream, t):
                return False
        return True

    def _submit(self, stream: _Stream, t: Transfer) -> bool:
        """Start one transfer; if it can't be, the stream is stopped."""
        started = self._device.submit_interrupt(t, stream.endpoint, stream.size)
        if started is Status.COMPLETED:
            return True
        stream.transfers.remove(t)
        self._give_back(t)
        self._halt(stream.endpoint)
        if started is Status.NO_DEVICE:
            self._lost()
        return False

    def _give_back(self, t: Transfer) -> None:
        self._taken -= 1
        self._device.give_back(t)

    def _halt(self, address: int) -> None:
        stream = self._streams.pop(address, None)
        for t in stream.transfers if stream else ():
            t.cancelled = True
            self._device.cancel(t)

    def _done(self, t: Transfer) -> None:
        stream: _Stream = t.header
        if t.cancelled:
            self._give_back(t)
            return
        if t.status == Status.COMPLETED:
            stream.errors = 0
            self._report(stream, RedirStatus.SUCCESS, t.data[: t.actual])
        elif not self._went_wrong(stream, t):
            return
        if not self._submit(stream, t):
            self._say(stream.endpoint, RedirStatus.STALL)

    def _report(self, stream: _Stream, status: RedirStatus, data: memoryview) -> None:
        number = stream.next_id
        stream.next_id = number + 1 & 0xFFFF_FFFF  # ids are that short if the guest wants no longer ones
        if not self._outbox.size:
            self._waiting = 0
        if self._waiting > STREAM_DROP:
            self.dropped += 1
            return
        n = len(data)
        header = self._codec.interrupt_header(number, stream.endpoint, status, n, n)
        packet = header + data  # a report is small: to copy it costs less than to hold its transfer
        self._waiting += len(packet)
        self._outbox.put(packet)

    def _went_wrong(self, stream: _Stream, t: Transfer) -> bool:
        """Handle the bad end of a transfer; whether it is to be started again."""
        stream.errors += 1
        ended = t.status in (Status.NO_DEVICE, Status.STALL) or stream.errors > MAX_STREAM_ERRORS
        if not ended:
            self._report(stream, REDIR_STATUS[t.status], t.data[:0])
            return True
        stream.transfers.remove(t)
        self._give_back(t)
        if t.status == Status.NO_DEVICE:
            self._halt(stream.endpoint)
            self._lost()
        elif t.status == Status.STALL and stream.errors <= MAX_STREAM_ERRORS:
            if stream.endpoint not in self.to_recover:  # all of its transfers stall, one after the other
                self.to_recover.append(stream.endpoint)
            self._stalled()
        else:
            self._halt(stream.endpoint)
            self._say(stream.endpoint, RedirStatus.STALL)
        return False
