"""Buffered bulk: receiving bulk IN endpoints as interrupt ones are, without a request for each transfer. Guests use it
for serial converters, which have data at any time and little room to keep it.

Nothing is ever dropped, unlike with interrupt and isochronous endpoints: a bulk endpoint waits until it is asked. As
long as little waits to be written, data is copied and the transfer started again at once; otherwise the data stays in
its transfer, which is started again when the guest has read it. So a guest that does not read makes the device wait,
and the device its sender, if they agreed on some flow control.
"""

from collections.abc import Callable

from usbbridge.backend.base import Device, Status, Transfer
from usbbridge.redirect.limits import BULK_BACKLOG, MAX_BULK_RECEIVING, MAX_STREAM_URBS
from usbbridge.redirect.outbox import Outbox
from usbbridge.redirect.status import REDIR_STATUS
from usbbridge.redirect.streams import NUMBER_MASK, Budget, Stream, StreamKind
from usbbridge.usb.ch9 import TransferType
from usbbridge.usbredir.packets import BulkReceivingStatus
from usbbridge.usbredir.proto import Status as RedirStatus

_COMPLETED = Status.COMPLETED


class BulkReceiving(StreamKind[Stream]):
    """All bulk endpoints of a device that are being received from. While one is, bulk packets on it are invalid: two
    readers would tear the data apart."""

    TYPE = TransferType.BULK

    def __init__(
        self,
        device: Device,
        outbox: Outbox,
        budget: Budget,
        lost: Callable[[], None],
        stalled: Callable[[], None],
        take_over: Callable[[set[int]], bool],
        hand_back: Callable[[set[int]], None],
    ) -> None:
        """`take_over` is called when an endpoint is to be received from; False: it is not to be had. `hand_back` when
        it is no longer."""
        super().__init__(device, outbox, budget, lost, stalled)
        self._take_over, self._hand_back = take_over, hand_back

    def start(self, endpoint: int, stream_id: int, size: int, count: int, packet_id: int = 0) -> None:
        """start_bulk_receiving, and its answer: `count` transfers of `size` bytes. Bulk streams can't be received."""
        largest = self.endpoints.get(endpoint, 0)
        legal = (
            largest
            and not stream_id
            and 1 <= count <= MAX_STREAM_URBS
            and 0 < size <= MAX_BULK_RECEIVING
            and not size % largest
        )
        if stream_id:
            status = RedirStatus.INVAL if endpoint in self._running else RedirStatus.STALL
            self._tell(endpoint, stream_id, status, packet_id)
        else:
            self._start(Stream(endpoint, count, size) if legal else None, endpoint, packet_id)

    def say(self, endpoint: int, status: RedirStatus, packet_id: int = 0) -> None:
        self._tell(endpoint, 0, status, packet_id)

    def _tell(self, endpoint: int, stream_id: int, status: RedirStatus, packet_id: int) -> None:
        self._outbox.put(self._codec.encode(BulkReceivingStatus(stream_id, endpoint, status), packet_id))

    def written(self, t: Transfer) -> None:
        """The data of a transfer that had to wait in it has been written."""
        stream: Stream = t.header
        if stream.stopped:
            self._give_back(stream, t)
            return
        stream.flying.append(t)
        if not self._submit(stream, t):
            self.say(stream.endpoint, RedirStatus.STALL)

    def _take(self, stream: Stream) -> Transfer:
        return self._device.take(stream.size)

    def _run(self, stream: Stream) -> bool:
        if not self._take_over({stream.endpoint}):
            return False
        if super()._run(stream):
            return True
        self._hand_back({stream.endpoint})
        return False

    def _halt(self, endpoint: int) -> None:
        if endpoint in self._running:
            self._hand_back({endpoint})
        super()._halt(endpoint)

    def _submit(self, stream: Stream, t: Transfer) -> bool:
        started = self._device.submit_bulk(t, stream.endpoint, stream.size)
        return started is _COMPLETED or self._refused(stream, t, started)

    def _done(self, t: Transfer) -> None:
        stream: Stream = t.header
        if t.cancelled:
            self._give_back(stream, t)
            return
        n = 0
        if t.status == _COMPLETED:
            stream.errors, n = 0, t.actual
        elif not self._went_wrong(stream, t, t.status):
            return
        number = stream.next_id
        stream.next_id = number + 1 & NUMBER_MASK
        header = self._codec.buffered_bulk_header(number, 0, n, stream.endpoint, REDIR_STATUS[t.status], n)
        if self._outbox.size > BULK_BACKLOG:
            stream.flying.remove(t)
            self._outbox.put_data(header, t.data[:n], t)
            return
        self._outbox.put(header + t.data[:n])
        if not self._submit(stream, t):
            self.say(stream.endpoint, RedirStatus.STALL)
