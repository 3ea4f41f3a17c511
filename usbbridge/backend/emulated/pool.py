"""Transfers of an emulated device: plain memory, allocated by size class and reused."""

from collections import defaultdict
from typing import Final

from usbbridge.backend.base import Status, Transfer
from usbbridge.usb.ch9 import SETUP_SIZE

SMALLEST: Final = 512
"The smallest data area: a high-speed bulk packet. Above it sizes are powers of two, so that few of them exist."
POOL_BYTES: Final = 16 << 20
"Free buffers kept for reuse: twice what a mass-storage device has in flight. What is above goes back to the system."

IDLE, QUEUED, DONE = range(3)
"States of a transfer: its owner's; waiting for the function; ended and not yet reaped."


class EmulatedTransfer(Transfer):
    """A transfer and its memory."""

    __slots__ = ("state",)

    state: int

    def __init__(self, capacity: int) -> None:
        memory = memoryview(bytearray(SETUP_SIZE + capacity))
        self.setup, self.data, self.capacity = memory[:SETUP_SIZE], memory[SETUP_SIZE:], capacity
        self.endpoint = self.length = self.actual = self.id = 0
        self.status = Status.COMPLETED
        self.header, self.cancelled, self.state = None, False, IDLE


class TransferPool:
    """Free transfers by capacity."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[EmulatedTransfer]] = defaultdict(list)
        self._bytes = 0

    @property
    def bytes_kept(self) -> int:
        """Capacity of all free transfers; never above `POOL_BYTES`."""
        return self._bytes

    def take(self, size: int) -> EmulatedTransfer:
        """A transfer that holds `size` bytes or more."""
        capacity = SMALLEST if size <= SMALLEST else 1 << (size - 1).bit_length()
        free = self._free[capacity]
        if not free:
            return EmulatedTransfer(capacity)
        self._bytes -= capacity
        return free.pop()

    def give_back(self, transfer: EmulatedTransfer) -> None:
        """Keep a transfer for reuse; it must not be in flight."""
        if transfer.state != IDLE:
            raise ValueError("a transfer was given back while the device still has it")
        if self._bytes + transfer.capacity <= POOL_BYTES:
            self._bytes += transfer.capacity
            self._free[transfer.capacity].append(transfer)

    def clear(self) -> None:
        """Let all memory go."""
        self._free.clear()
        self._bytes = 0
