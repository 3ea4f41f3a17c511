"""Reading ahead of the guest on Bulk-Only Transport, where it is known what a guest is about to ask for.

A command tells how many bytes follow it and in which direction, and a status of 13 bytes follows those (USB Mass
Storage Class, Bulk-Only Transport, revision 1.0, §5). A guest's driver asks for each of these only when it has been
answered the one before. So once a command has gone to the device, its data is read at once, and once all of that has
come, or gone, its status: the device works while the guest's next packet is on its way.

Nothing is read that the guest has not commanded, in another order, or twice; a packet is answered by the transfer that
would answer it otherwise, only that this has begun earlier. It is for guests that are seen to ask for the whole of each
part with one packet, when they have been answered the one before. One that asks for less is answered rightly, too, and
left alone for a long while, as is one that sends something instead of asking, which the specification forbids. What has
been read and is not asked for any more (after a reset, of the device or of the transport, and when the halt of the IN
endpoint is cleared) is thrown away, as a device does with what nobody has fetched.
"""

import struct
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from usbbridge.backend.base import Status, Transfer
from usbbridge.redirect.limits import MAX_PENDING, MAX_READ_AHEAD
from usbbridge.redirect.status import REDIR_STATUS
from usbbridge.usb.ch9 import DIR_IN
from usbbridge.usb.descriptors import Endpoint
from usbbridge.usbredir.proto import Status as RedirStatus

COMMAND_SIZE: Final = 31
STATUS_SIZE: Final = 13
BULK_ONLY_RESET: Final = 0xFF
"bRequest of the class request (bmRequestType 0x21) that makes the device forget its command (§3.1)."
_SIGNATURE: Final = b"USBC"
_unpack_command = struct.Struct("<4s4xIB").unpack_from
"dCBWSignature, dCBWDataTransferLength, bmCBWFlags, of which bit 7 is set for data to the host (§5.1)."

TRUST: Final = 16
"Packets in a row that have to be asked for as was foreseen, before anything is read ahead."
MISTRUST: Final = -1000
"And after one that was not, how many more."

AT_ONCE: Final = 35e-6
"Seconds within which a device answers at once, as an emulated one does: then the guest's answer goes out first."
SLOW_FOR: Final = 64
"Transfers that are begun before the guest is answered, each time that the device has been seen to take longer."

_COMPLETED, _NO_DEVICE = Status.COMPLETED, Status.NO_DEVICE


class Owner(Protocol):
    """Whose transfers these are: `usbbridge.redirect.transfers.Transfers`."""

    foreseen: "dict[ReadAhead, None]"
    "Who has something to begin, when what waits to be written has been."
    unasked: dict[Transfer, None]
    "Transfers in flight that the guest has not asked for, or never will."

    clock: Callable[[], float]
    "Seconds."

    def is_awaited(self, endpoint: int) -> bool:
        """Whether the guest waits for a transfer on this endpoint."""

    def read_unasked(self, endpoint: int, length: int, on_done: Callable[[Transfer], None]) -> Transfer | None:
        """Start a bulk transfer; None if it can't be."""

    def adopt(self, t: Transfer) -> None:
        """The guest waits for this transfer, which is in flight, from now on."""

    def bulk_done(self, t: Transfer) -> None:
        """A transfer that the guest waits for has ended."""

    def answer_bulk(self, t: Transfer) -> None:
        """Answer the guest with a transfer that has ended."""

    def answer_piece(self, packet_id: int, endpoint: int, status: RedirStatus, data: memoryview) -> None:
        """Answer a packet with some bytes."""

    def ask_again(self, packet_id: int, endpoint: int, length: int) -> None:
        """A bulk packet of the guest's is for the device."""

    def refuse_bulk(self, packet_id: int, endpoint: int, stream_id: int, status: RedirStatus) -> None:
        """Answer a bulk packet without data."""

    def abort(self, t: Transfer) -> None:
        """Cancel a transfer in flight that nobody waits for."""

    def release(self, t: Transfer) -> None:
        """The transfer's data area is no longer needed."""

    def lost(self) -> None:
        """The device has gone."""


class ReadAhead:
    """One drive: the bulk IN endpoint of a Bulk-Only interface, and what goes to its OUT endpoint."""

    def __init__(self, owner: Owner, interface: int, source: Endpoint, sink: Endpoint) -> None:
        self.drive = interface, source, sink
        self.source, self.sink, self.interface = source.address, sink.address, interface
        self._owner = owner
        self._packet = max(source.max_packet_size & 0x7FF, 1)  # a lying device may say 0
        self._trust = 0
        self._next = 0  # bytes that the guest is expected to ask for with its next packet; 0: that is not known
        self._data_in = self._data_out = 0  # bytes between the command and its status that are still to come, or to go
        self._ahead: Transfer | None = None  # read, or being read, and not asked for
        self._is_there = False  # it has ended
        self._taken = 0  # bytes of it that the guest has had
        self._slow = 0  # transfers for which the device is taken to be slow
        self._since = 0.0  # when the one was begun whose time is taken
        self._asked: deque[tuple[int, int]] = deque()  # (id, length) of packets that it is to answer in pieces

    def start(self) -> None:
        """Read what the guest is about to ask for, unless it has just asked."""
        if self._next and self._ahead is None:
            self._is_there, self._taken = False, 0
            self._ahead = self._owner.read_unasked(self.source, self._next, self._ended)
            self._since = 0.0 if self._slow else self._owner.clock()

    # ---- what the guest sends

    def overtaken(self) -> None:
        """Something is on its way to the device. What lies here then was for a command that the guest has given up."""
        self._next = 0
        if self._ahead is not None and not self._asked:
            self._trust = MISTRUST
            self._drop()

    def sent(self, t: Transfer) -> None:
        """Something has gone to the device: a command, or the data that follows it."""
        n = t.actual
        if t.status != _COMPLETED or n != t.length:
            self._data_in = self._data_out = 0
        elif self._data_out:
            self._data_out = max(self._data_out - n, 0)
            if not self._data_out:
                self._foresee(STATUS_SIZE)
        elif n == COMMAND_SIZE:
            self._commanded(*_unpack_command(t.data))

    def _commanded(self, signature: bytes, length: int, flags: int) -> None:
        self._data_in = 0
        if signature != _SIGNATURE:
            return
        if not length:
            self._foresee(STATUS_SIZE)
        elif not flags & DIR_IN:
            self._data_out = length
        elif length <= MAX_READ_AHEAD:
            self._data_in = length
            self._foresee(length)

    def _foresee(self, length: int) -> None:
        if self._owner.is_awaited(self.source):  # it asks before it is answered, and so needs no help
            self._trust = MISTRUST
            return
        self._next = length
        if self._trust < TRUST:
            return
        if self._slow:
            self._slow -= 1
            self.start()
        else:
            self._owner.foreseen[self] = None

    # ---- what the guest asks for

    def asked(self, packet_id: int, length: int) -> bool:
        """The guest asks for `length` bytes. Whether that is answered from here, now or later; if not, it is for the
        device."""
        expected, self._next = self._next, 0
        if expected and length != expected:
            self._trust = MISTRUST
        elif expected and self._trust < TRUST:
            self._trust += 1
        t = self._ahead
        if t is None:
            return False
        if self._taken or self._asked or length < t.length:
            self._ask_for_a_piece(packet_id, length)
            return True
        self._ahead, t.id = None, packet_id
        if self._is_there:
            self._owner.answer_bulk(t)
        else:
            self._owner.adopt(t)
        return True

    def received(self, t: Transfer) -> None:
        """The guest is being answered with this transfer."""
        wanted, self._data_in = self._data_in, 0
        if wanted and t.actual == t.length == wanted and t.status == _COMPLETED:
            self._foresee(STATUS_SIZE)  # of less than all, the status may have been a part: some devices do that

    def cancelled(self, packet_id: int) -> bool:
        """The guest cancels a packet; whether it is one that was to be answered from here."""
        for i, (waiting, _) in enumerate(self._asked):
            if waiting == packet_id:
                del self._asked[i]
                self._owner.refuse_bulk(packet_id, self.source, 0, RedirStatus.CANCELLED)
                return True
        return False

    def _ended(self, t: Transfer) -> None:
        unasked = self._owner.unasked
        if t is not self._ahead and t in unasked:  # dropped
            del unasked[t]
            self._owner.release(t)
            return
        if self._since and self._owner.clock() - self._since > AT_ONCE:
            self._slow = SLOW_FOR
        self._since = 0.0
        if t is not self._ahead:
            self._owner.bulk_done(t)
            return
        del unasked[t]
        self._is_there = True
        if t.status == _NO_DEVICE:
            self._owner.lost()
        self._hand_out()

    # ---- a guest that asks otherwise

    def _ask_for_a_piece(self, packet_id: int, length: int) -> None:
        if len(self._asked) >= MAX_PENDING:
            self._owner.refuse_bulk(packet_id, self.source, 0, RedirStatus.IOERROR)
            return
        self._asked.append((packet_id, length))
        if self._is_there:
            self._hand_out()

    def _hand_out(self) -> None:
        """Answer with pieces of what was read whole, as a device would have sent it packet by packet."""
        while self._asked and self._ahead is not None:
            self._answer_piece(self._ahead, *self._asked.popleft())
        while self._asked:
            packet_id, length = self._asked.popleft()
            self._owner.ask_again(packet_id, self.source, length)

    def _answer_piece(self, t: Transfer, packet_id: int, length: int) -> None:
        start, n = self._taken, min(length, t.actual - self._taken)
        self._taken += n
        status = RedirStatus.SUCCESS if n == length else REDIR_STATUS[t.status]
        self._owner.answer_piece(packet_id, self.source, status, t.data[start : start + n])
        if n < length or (self._taken == t.actual and t.status == _COMPLETED and not self._ends_in_an_empty_packet(t)):
            self._ahead = None
            self._owner.release(t)

    def _ends_in_an_empty_packet(self, t: Transfer) -> bool:
        """Whether the device has ended the transfer early by a packet without data (USB 2.0 §5.8.3)."""
        return t.actual < t.length and not t.actual % self._packet

    # ---- the end

    def forget(self, status: RedirStatus | None = None) -> None:
        """The device has no command any more. What waits for an answer gets this status, if it is to have any."""
        self._next = self._data_in = self._data_out = 0
        asked, self._asked = self._asked, deque()
        self._drop()
        if status is not None:
            for packet_id, _ in asked:
                self._owner.refuse_bulk(packet_id, self.source, 0, status)

    def _drop(self) -> None:
        t, self._ahead = self._ahead, None
        if t is None:
            return
        if self._is_there:
            self._owner.release(t)
        else:
            self._owner.abort(t)
