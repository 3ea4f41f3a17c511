"""Transfers of an emulated device: plain memory, allocated by size class and reused."""

from collections import defaultdict
from typing import Final

from usbbridge.backend.base import ISO_FIELDS, Status, Transfer
from usbbridge.usb.ch9 import SETUP_SIZE

SMALLEST: Final = 512
"The smallest data area: a high-speed bulk packet. Above it sizes are powers of two, so that few of them exist."
POOL_BYTES: Final = 16 << 20
"Free buffers kept for reuse: twice what a mass-storage device has in flight. What is above goes back to the system."

ISO_FIELD_SIZE: Final = 4
"Bytes of each number in `Transfer.iso`, a C int."

IDLE, QUEUED, DONE = range(3)
"States of a transfer: its owner's; waiting for the function; ended and not yet reaped."


class EmulatedTransfer(Transfer):
    """A transfer and its memory."""

    __slots__ = ("count", "next_packet", "offset", "state")

    state: int
    count: int
    "Packets that take part in the transfer. Like the next two, an isochronous transfer's only, from submit on."
    next_packet: int
    "The first that has not been served."
    offset: int
    "Where its data begins."

    def __init__(self, capacity: int, packets: int = 0) -> None:
        memory = memoryview(bytearray(SETUP_SIZE + capacity))
        self.setup, self.data, self.capacity = memory[:SETUP_SIZE], memory[SETUP_SIZE:], capacity
        self.endpoint = self.length = self.actual = self.id = self.stream = 0
        self.packets = packets
        if packets:
            self.iso = memoryview(bytearray(packets * ISO_FIELDS * ISO_FIELD_SIZE)).cast("i")
        self.status = Status.COMPLETED
        self.header, self.cancelled, self.state = None, False, IDLE


class TransferPool:
    """Free transfers by number of packets (none but for isochronous ones) and capacity."""

    def __init__(self) -> None:
        self._free: defaultdict[tuple[int, int], list[EmulatedTransfer]] = defaultdict(list)
        self._bytes = 0

    @property
    def bytes_kept(self) -> int:
        """Capacity of all free transfers; never above `POOL_BYTES`."""
        return self._bytes

    def take(self, size: int, packets: int = 0) -> EmulatedTransfer:
        """A transfer that holds `size` bytes or more, in so many packets."""
        capacity = SMALLEST if size <= SMALLEST else 1 << (size - 1).bit_length()
        free = self._free[packets, capacity]
        if not free:
            return EmulatedTransfer(capacity, packets)
        self._bytes -= capacity
        return free.pop()

    def give_back(self, transfer: EmulatedTransfer) -> None:
        """Keep a transfer for reuse; it must not be in flight."""
        if transfer.state != IDLE:
            raise ValueError("a transfer was given back while the device still has it")
        if self._bytes + transfer.capacity <= POOL_BYTES:
            self._bytes += transfer.capacity
            self._free[transfer.packets, transfer.capacity].append(transfer)

    def clear(self) -> None:
        """Let all memory go."""
        self._free.clear()
        self._bytes = 0
