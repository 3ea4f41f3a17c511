"""Who gets the packets that a connection receives."""

from typing import Protocol

from usbbridge.usbredir.packets import Packet
from usbbridge.usbredir.proto import PacketType


class Sink(Protocol):
    """Who gets the packets. Its methods are called from within `received` and `feed`, once for each packet, in order.

    They must not raise: what they raise comes out of `received` or `feed` and leaves the connection closed.

    A `data` view is valid only during the call, except one that came from `data_area`. Statuses are what the peer sent:
    in a guest's requests they mean nothing.
    """

    def packet(self, packet_id: int, packet: Packet) -> None:
        """A packet other than the five data types. The peer's first hello is one; further ones are dropped."""

    def control(
        self,
        packet_id: int,
        endpoint: int,
        request: int,
        requesttype: int,
        status: int,
        value: int,
        index: int,
        length: int,
        data: memoryview,
    ) -> None:
        """A control_packet."""

    def bulk(self, packet_id: int, endpoint: int, status: int, length: int, stream_id: int, data: memoryview) -> None:
        """A bulk_packet, the two halves of its length joined."""

    def interrupt(self, packet_id: int, endpoint: int, status: int, length: int, data: memoryview) -> None:
        """An interrupt_packet."""

    def iso(self, packet_id: int, endpoint: int, status: int, length: int, data: memoryview) -> None:
        """An iso_packet."""

    def buffered_bulk(
        self, packet_id: int, stream_id: int, length: int, endpoint: int, status: int, data: memoryview
    ) -> None:
        """A buffered_bulk_packet."""

    def data_area(self, kind: PacketType, endpoint: int, length: int) -> memoryview | None:
        """Where to receive the payload of a data packet that is not all there yet: `length` writable bytes or more.

        None leaves it to the decoder. The packet's own call follows with exactly the first `length` bytes as `data`.
        """
