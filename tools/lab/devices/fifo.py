"""A bounded queue of bytes between the two directions of a serial line."""

from typing import Final

from usbbridge.backend.emulated.function import NAK

FULL: Final = 4096
"Bytes from which on the device takes no more: what chips and modems have as their buffer is a quarter of it to twice."


class Fifo:
    """Whole transfers go in, as many bytes as the host has room for come out.

    A transfer is taken whole or not at all, because a short OUT transfer would lose its rest: so there are never more
    bytes than `FULL` and one transfer.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes)

    def put(self, data: bytes | memoryview) -> int:
        """What a function answers to an OUT transfer: bytes accepted, or NAK while it is full."""
        if len(self._bytes) >= FULL:
            return NAK
        self._bytes += data
        return len(data)

    def take(self, room: memoryview) -> int:
        """Move the oldest bytes into `room`; how many."""
        size = min(len(room), len(self._bytes))
        room[:size] = self._bytes[:size]
        del self._bytes[:size]
        return size

    def clear(self) -> None:
        """Forget everything."""
        self._bytes.clear()
