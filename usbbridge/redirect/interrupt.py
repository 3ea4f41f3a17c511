"""Receiving interrupt endpoints: every report is sent to the guest as it comes.

Some transfers are kept running on the endpoint all the time, so that no report is lost while one is being handled.
"""

import math

from usbbridge.backend.base import Status, Transfer
from usbbridge.redirect.limits import INTERRUPT_TRANSFERS, MOST_INTERRUPT_TRANSFERS, REPORT_SECONDS, STREAM_DROP
from usbbridge.redirect.status import REDIR_STATUS
from usbbridge.redirect.streams import NUMBER_MASK, Stream, StreamKind
from usbbridge.usb.ch9 import TransferType
from usbbridge.usbredir.packets import InterruptReceivingStatus
from usbbridge.usbredir.proto import Status as RedirStatus

_COMPLETED = Status.COMPLETED
_SUCCESS = RedirStatus.SUCCESS


class InterruptReceiving(StreamKind[Stream]):
    """All receiving interrupt endpoints of a device."""

    TYPE = TransferType.INTERRUPT
    _waiting = 0  # bytes of reports put since the outbox was last found empty

    def start(self, endpoint: int, packet_id: int = 0) -> None:
        """start_interrupt_receiving, and its answer."""
        size = self.endpoints.get(endpoint)
        stream = None if size is None else Stream(endpoint, self._count(endpoint), max(size, 1))
        self._start(stream, endpoint, packet_id)

    def _count(self, endpoint: int) -> int:
        """Transfers to keep running: enough to be away for REPORT_SECONDS."""
        wanted = math.ceil(REPORT_SECONDS / self.intervals[endpoint])
        return min(max(wanted, INTERRUPT_TRANSFERS), MOST_INTERRUPT_TRANSFERS)

    def say(self, endpoint: int, status: RedirStatus, packet_id: int = 0) -> None:
        self._outbox.put(self._codec.encode(InterruptReceivingStatus(status, endpoint), packet_id))

    def _take(self, stream: Stream) -> Transfer:
        return self._device.take(stream.size)

    def _submit(self, stream: Stream, t: Transfer) -> bool:
        started = self._device.submit_interrupt(t, stream.endpoint, stream.size)
        return started is _COMPLETED or self._refused(stream, t, started)

    def _done(self, t: Transfer) -> None:
        stream: Stream = t.header
        if t.cancelled:
            self._give_back(stream, t)
            return
        if t.status == _COMPLETED:
            stream.errors = 0
            self._report(stream, _SUCCESS, t.data[: t.actual])
        elif self._went_wrong(stream, t, t.status):
            self._report(stream, REDIR_STATUS[t.status], t.data[:0])
        else:
            return
        if not self._submit(stream, t):
            self.say(stream.endpoint, RedirStatus.STALL)

    def _report(self, stream: Stream, status: RedirStatus, data: memoryview) -> None:
        number = stream.next_id
        stream.next_id = number + 1 & NUMBER_MASK
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
