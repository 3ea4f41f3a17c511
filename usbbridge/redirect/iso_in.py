"""Isochronous IN streams: cameras and microphones. Some URBs of several packets each are kept running, and every packet
of theirs, also an empty or a damaged one, is sent to the guest, so that it sees each service interval.

What a guest does not read in time is of no use to it any more, and would stand in front of what other endpoints have to
say: a stream whose packets pile up drops them, until most of what has piled up is gone. Their numbers go on.

All packets of one URB are one part in the outbox: there are up to 8000 packets a second.
"""

from itertools import islice

from usbbridge.backend.base import ISO_ACTUAL, ISO_FIELDS, ISO_LENGTH, ISO_STATUS, Status, Transfer
from usbbridge.redirect.limits import ISO_BACKLOG, ISO_DROP_FROM, ISO_DROP_UNTIL, MAX_ISO_PACKETS, MAX_STREAM_URBS
from usbbridge.redirect.status import REDIR_STATUS
from usbbridge.redirect.streams import NUMBER_MASK, Stream, StreamKind
from usbbridge.usb.ch9 import TransferType
from usbbridge.usbredir.packets import IsoStreamStatus
from usbbridge.usbredir.proto import Status as RedirStatus

_COMPLETED = Status.COMPLETED
_SUCCESS = int(RedirStatus.SUCCESS)
_ENDING = (Status.STALL, Status.NO_DEVICE)


class IsoInStream(Stream):
    """URBs of `packets` packets, for each of which there are `packet_bytes`."""

    __slots__ = ("dropping", "high", "low", "packet_bytes", "packets", "waiting")

    def __init__(self, endpoint: int, count: int, packets: int, packet_bytes: int) -> None:
        super().__init__(endpoint, count, packets * packet_bytes)
        self.packets, self.packet_bytes = packets, packet_bytes
        whole = count * self.size
        self.high, self.low = min(ISO_DROP_FROM * whole, ISO_BACKLOG), whole // ISO_DROP_UNTIL
        self.low = min(self.low, self.high // ISO_DROP_UNTIL)
        self.waiting = 0
        "Bytes of the stream that wait to be written, at the most."
        self.dropping = False

    def renewed(self) -> "IsoInStream":
        return IsoInStream(self.endpoint, self.count, self.packets, self.packet_bytes)


class IsoIn(StreamKind[IsoInStream]):
    """All isochronous IN streams of a device."""

    TYPE = TransferType.ISO
    _waiting = 0  # bytes of all of them that wait to be written, at the most

    def start(self, endpoint: int, packets: int, count: int, packet_id: int = 0) -> None:
        """start_iso_stream, and its answer: `count` URBs of `packets` packets."""
        largest = self.endpoints.get(endpoint, 0)
        legal = largest and 1 <= packets <= MAX_ISO_PACKETS and 1 <= count <= MAX_STREAM_URBS
        self._start(IsoInStream(endpoint, count, packets, largest) if legal else None, endpoint, packet_id)

    def say(self, endpoint: int, status: RedirStatus, packet_id: int = 0) -> None:
        self._outbox.put(self._codec.encode(IsoStreamStatus(status, endpoint), packet_id))

    def _take(self, stream: IsoInStream) -> Transfer:
        t = self._device.take_iso(stream.packets, stream.packet_bytes)
        for i in range(stream.packets):
            t.iso[ISO_FIELDS * i + ISO_LENGTH] = stream.packet_bytes
        return t

    def _submit(self, stream: IsoInStream, t: Transfer) -> bool:
        started = self._device.submit_iso(t, stream.endpoint, stream.packets)
        return started is _COMPLETED or self._refused(stream, t, started)

    def _done(self, t: Transfer) -> None:
        stream: IsoInStream = t.header
        if t.cancelled:
            self._give_back(stream, t)
            return
        status = t.status or self._packets(stream, t)
        if status == _COMPLETED:
            stream.errors = 0
        elif self._went_wrong(stream, t, status):
            header = self._codec.iso_header(stream.next_id, stream.endpoint, REDIR_STATUS[status], 0, 0)
            self._put(stream, header, 1)
        else:
            return
        stream.next_id = stream.next_id + stream.packets & NUMBER_MASK
        if not self._submit(stream, t):
            self.say(stream.endpoint, RedirStatus.STALL)

    def _packets(self, stream: IsoInStream, t: Transfer) -> int:
        """Send the packets of an URB. Answer: the `Status` that ended the stream in the middle of it, or COMPLETED."""
        endpoint, size, header, data = stream.endpoint, stream.packet_bytes, self._codec.iso_header, t.data
        table = t.iso.tolist()
        end = ISO_FIELDS * stream.packets
        actuals, statuses = table[ISO_ACTUAL:end:ISO_FIELDS], table[ISO_STATUS:end:ISO_FIELDS]
        if not 0 <= min(actuals) <= max(actuals) <= size:
            return Status.ERROR  # a driver of the client says what can't be: the guest would be sent other memory
        ended = next((s for s in statuses if s in _ENDING), _COMPLETED) if any(statuses) else _COMPLETED
        count = statuses.index(ended) if ended else stream.packets
        parts: list[bytes | memoryview] = []
        number, at = stream.next_id, 0
        for actual, status in islice(zip(actuals, statuses, strict=True), count):
            if status:
                parts.append(header(number, endpoint, REDIR_STATUS[status], 0, 0))
            else:
                parts.append(header(number, endpoint, _SUCCESS, actual, actual))
                parts.append(data[at : at + actual])
            number = number + 1 & NUMBER_MASK
            at += size
        self._put(stream, b"".join(parts), count)
        return ended

    def _put(self, stream: IsoInStream, data: bytes, packets: int) -> None:
        """Send so many packets, unless too much of the stream, or of all streams, waits already.

        How much waits is known within a bound: no more than has been put, and no more than the whole outbox.
        """
        waiting = stream.waiting = min(stream.waiting, self._outbox.size)
        self._waiting = min(self._waiting, self._outbox.size)
        limit = stream.low if stream.dropping else stream.high
        stream.dropping = waiting >= limit or self._waiting >= ISO_BACKLOG
        if stream.dropping:
            self.dropped += packets
        elif data:
            self._outbox.put(data)
            stream.waiting += len(data)
            self._waiting += len(data)
