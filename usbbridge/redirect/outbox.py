"""What is to be sent to the guest, in order, without copying the data.

A part is a packet's header (bytes) or its data (a view of a transfer's data area). Such a transfer is held until its
data has been written, and only then returned to the device's pool; `size` counts all bytes that wait.
"""

from usbbridge.backend.base import Transfer


class Outbox:
    """Parts waiting to be written, and the transfers whose memory some of them are."""

    __slots__ = ("held", "parts", "size")

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self.held: list[Transfer] = []
        self.size = 0

    def put(self, packet: bytes) -> None:
        """A whole packet, or a header whose data does not exist."""
        self.parts.append(packet)
        self.size += len(packet)

    def put_data(self, header: bytes, data: memoryview, transfer: Transfer) -> None:
        """A header and the data behind it, which lies in `transfer`."""
        self.parts.append(header)
        self.parts.append(data)
        self.held.append(transfer)
        self.size += len(header) + len(data)
