"""Isochronous OUT streams: loudspeakers. The guest sends packet after packet; some of them are an URB.

As packets come when they come, half of a stream's URBs are a buffer: nothing is started until half is filled, and then
an URB is started whenever it is full. When all URBs are in flight and one more packet comes, the guest is too fast: as
many packets as half of the buffer holds are dropped. When none is in flight any more, it was too slow: the
stream begins anew, with an empty buffer.

Packets have no answers; the guest is only told what went wrong, once an URB.
"""

from collections import deque
from collections.abc import Callable

from usbbridge.backend.base import ISO_FIELDS, ISO_LENGTH, ISO_STATUS, Device, Status, Transfer
from usbbridge.redirect.limits import MAX_ISO_PACKETS, MAX_STREAM_URBS
from usbbridge.redirect.outbox import Outbox
from usbbridge.redirect.status import REDIR_STATUS
from usbbridge.redirect.streams import Budget, Stream, StreamKind
from usbbridge.usb.ch9 import TransferType
from usbbridge.usbredir.packets import IsoStreamStatus
from usbbridge.usbredir.proto import Status as RedirStatus

_COMPLETED = Status.COMPLETED
_ENDING = (Status.STALL, Status.NO_DEVICE)


class IsoOutStream(Stream):
    """URBs of `packets` packets of up to `packet_bytes`. Each of them is in flight, idle, being filled, or full and
    waiting for the start."""

    __slots__ = ("at", "filled", "filling", "full", "half", "packet_bytes", "packets", "started", "to_drop", "wanted")

    def __init__(self, endpoint: int, count: int, packets: int, packet_bytes: int) -> None:
        super().__init__(endpoint, count, packets * packet_bytes)
        self.packets, self.packet_bytes = packets, packet_bytes
        self.half = packets * count // 2
        self.wanted = max(self.half, packets)
        "Packets to start with: half of what there is room for, but a whole URB, of which a guest may want only one."
        self.filling: Transfer | None = None
        self.filled = self.at = 0
        "Packets in it, and where in its data the next one goes."
        self.full: deque[Transfer] = deque()
        self.started = False
        self.to_drop = 0

    def renewed(self) -> "IsoOutStream":
        return IsoOutStream(self.endpoint, self.count, self.packets, self.packet_bytes)


class IsoOut(StreamKind[IsoOutStream]):
    """All isochronous OUT streams of a device."""

    TYPE, DIRECTION = TransferType.ISO, 0

    def __init__(
        self,
        device: Device,
        outbox: Outbox,
        budget: Budget,
        lost: Callable[[], None],
        stalled: Callable[[], None],
        why_not: Callable[[], RedirStatus],
    ) -> None:
        """`why_not` says with what status a packet is refused."""
        super().__init__(device, outbox, budget, lost, stalled)
        self._why_not = why_not

    def start(self, endpoint: int, packets: int, count: int, packet_id: int = 0) -> None:
        """start_iso_stream, and its answer: `count` URBs of `packets` packets."""
        largest = self.endpoints.get(endpoint, 0)
        legal = largest and 1 <= packets <= MAX_ISO_PACKETS and 1 <= count <= MAX_STREAM_URBS
        self._start(IsoOutStream(endpoint, count, packets, largest) if legal else None, endpoint, packet_id)

    def say(self, endpoint: int, status: RedirStatus, packet_id: int = 0) -> None:
        self._outbox.put(self._codec.encode(IsoStreamStatus(status, endpoint), packet_id))

    # ---- packets of the guest

    def packet(self, packet_id: int, endpoint: int, status: int, length: int, data: memoryview) -> None:
        """An isochronous packet from the guest. `status` is not looked at: QEMU leaves it uninitialised."""
        stream = self._running.get(endpoint)
        if stream is None or length > stream.packet_bytes:
            self.say(endpoint, self._why_not(), packet_id)
            return
        t = stream.filling
        if t is None:
            t = self._next(stream, packet_id)
            if t is None:
                return
        t.data[stream.at : stream.at + length] = data
        t.iso[ISO_FIELDS * stream.filled + ISO_LENGTH] = length
        stream.at += length
        stream.filled += 1
        if stream.filled == stream.packets:
            stream.full.append(t)
            stream.filling, stream.filled, stream.at = None, 0, 0
        if stream.started or len(stream.full) * stream.packets + stream.filled >= stream.wanted:
            self._send(stream)

    def _next(self, stream: IsoOutStream, packet_id: int) -> Transfer | None:
        """The URB for this packet to be the first of; None if it is to be dropped."""
        if stream.to_drop:
            stream.to_drop -= 1
        elif stream.idle:
            t = stream.filling = stream.idle.popleft()
            t.id = packet_id
            return t
        else:
            stream.to_drop = stream.half
        self.dropped += 1
        return None

    def _send(self, stream: IsoOutStream) -> None:
        """Start what is full."""
        stream.started = True
        while stream.full:
            t = stream.full.popleft()
            stream.flying.append(t)
            if not self._submit(stream, t):
                self.say(stream.endpoint, RedirStatus.STALL)
                return

    # ---- transfers

    def _launch(self, stream: IsoOutStream) -> bool:
        return True  # with nothing: there is no data yet

    def _take(self, stream: IsoOutStream) -> Transfer:
        return self._device.take_iso(stream.packets, stream.packet_bytes)

    def _submit(self, stream: IsoOutStream, t: Transfer) -> bool:
        started = self._device.submit_iso(t, stream.endpoint, stream.packets)
        return started is _COMPLETED or self._refused(stream, t, started)

    def _halt(self, endpoint: int) -> None:
        stream = self._running.get(endpoint)
        if stream is not None:
            self._empty(stream)
        super()._halt(endpoint)

    def _empty(self, stream: IsoOutStream) -> None:
        """Forget the packets that are not in flight."""
        stream.idle.extend(stream.full)
        stream.full.clear()
        if stream.filling is not None:
            stream.idle.append(stream.filling)
            stream.filling = None
        stream.filled = stream.at = stream.to_drop = 0

    def _done(self, t: Transfer) -> None:
        stream: IsoOutStream = t.header
        if t.cancelled:
            self._give_back(stream, t)
            return
        status = t.status or _worst(t, stream.packets)
        if status == _COMPLETED:
            stream.errors = 0
        elif self._went_wrong(stream, t, status):
            self.say(stream.endpoint, REDIR_STATUS[status], t.id)
        else:
            return
        stream.flying.remove(t)
        stream.idle.append(t)
        if not stream.flying:
            stream.started = False
            self.dropped += stream.filled
            self._empty(stream)


def _worst(t: Transfer, packets: int) -> int:
    """The status that an URB's packets come to: what ends the stream, or the first bad one, or COMPLETED."""
    bad = [status for status in t.iso.tolist()[ISO_STATUS : ISO_FIELDS * packets : ISO_FIELDS] if status]
    return next((status for status in bad if status in _ENDING), bad[0] if bad else _COMPLETED)
