"""From packets to bytes that the peer's parser takes: everything is checked before a byte is made.

QEMU asserts that its parser used up each chunk of bytes, and the parser stops at a header that it refuses: such a
packet aborts the whole VM. So nothing illegal is ever encoded: type, direction, state, capability, lengths and ranges
are checked first, and what breaks a rule raises `IllegalPacketError` with nothing sent.

The five data types have functions that make only the headers: the caller sends the payload right behind them, from
wherever it lies. They are the hot path: one condition guards each, and `_fault` names what was wrong.
"""

import struct

from usbbridge.usbredir import bodies
from usbbridge.usbredir.errors import IllegalPacketError, Rule
from usbbridge.usbredir.packets import (
    BufferedBulkPacket,
    BulkPacket,
    ControlPacket,
    DataPacket,
    Hello,
    InterruptPacket,
    IsoPacket,
    Packet,
)
from usbbridge.usbredir.proto import ENDPOINT_IN, MAX_TRANSFER, Cap, Direction, PacketType, Status
from usbbridge.usbredir.state import Session
from usbbridge.usbredir.wire import wire

_T = PacketType
_CONTROL, _BULK, _ISO = int(_T.CONTROL_PACKET), int(_T.BULK_PACKET), int(_T.ISO_PACKET)
_INTERRUPT, _BUFFERED = int(_T.INTERRUPT_PACKET), int(_T.BUFFERED_BULK_PACKET)
_LAST_STATUS = int(max(Status))
_LONGEST_NARROW = 0xFFFF
"What the 16-bit length of a bulk packet without BULK_LENGTH_32BIT can say."


class Encoder:
    """The sending half of a connection."""

    __slots__ = (
        "_buffered",
        "_buffered_size",
        "_bulk",
        "_bulk_size",
        "_carries",
        "_control",
        "_control_size",
        "_hello",
        "_longest_bulk",
        "_session",
        "_short",
        "_short_size",
        "_wide_length",
        "_wire",
    )

    def __init__(self, session: Session, version: str) -> None:
        self._session = session
        self._hello = bodies.pack_hello(version, session.caps)
        self._carries = ENDPOINT_IN if session.sends is Direction.TO_GUEST else 0
        "Direction bit of the endpoints whose packets carry our payload."
        self.agreed(Cap(0))

    def agreed(self, caps: Cap) -> None:
        """Use the layouts that these capabilities lead to."""
        self._wire = layouts = wire(caps)
        self._control = layouts.packets[_T.CONTROL_PACKET].pack
        self._bulk = layouts.packets[_T.BULK_PACKET].pack
        self._short = layouts.packets[_T.INTERRUPT_PACKET].pack
        self._buffered = layouts.packets[_T.BUFFERED_BULK_PACKET].pack
        self._control_size = layouts.bodies[_T.CONTROL_PACKET].size
        self._bulk_size = layouts.bodies[_T.BULK_PACKET].size
        self._short_size = layouts.bodies[_T.INTERRUPT_PACKET].size
        self._buffered_size = layouts.bodies[_T.BUFFERED_BULK_PACKET].size
        self._wide_length = Cap.BULK_LENGTH_32BIT in caps
        self._longest_bulk = MAX_TRANSFER if self._wide_length else _LONGEST_NARROW

    def hello(self) -> bytes:
        """Our hello, once: the first thing to send. Raises `LocalProtocolError` the second time."""
        self._session.our_hello()
        return self._hello

    def encode(self, packet: Packet, packet_id: int = 0) -> bytes:
        """A whole packet. Raises `LocalProtocolError` if it may not be sent, by its type, its fields or the state.

        Nothing but hello may be sent before the peer's hello has come: it decides how wide ids are.
        """
        if isinstance(packet, DataPacket):
            return self._data_header(packet, packet_id) + packet.data
        if isinstance(packet, Hello):
            raise IllegalPacketError(_T.HELLO, Rule.STATE)
        kind = packet.type
        self._session.check_send(kind)
        body = bodies.pack_body(packet, self._wire)
        try:
            header = self._wire.header.pack(kind, len(body), packet_id)
        except struct.error as error:
            raise IllegalPacketError(kind, Rule.FIELD, "id", packet_id, str(error)) from error
        self._session.passed(self._session.sends, kind)
        return header + body

    def _data_header(self, packet: DataPacket, packet_id: int) -> bytes:
        payload = len(packet.data)
        match packet:
            case ControlPacket(endpoint, request, requesttype, status, value, index, length):
                return self.control_header(
                    packet_id, endpoint, request, requesttype, status, value, index, length, payload
                )
            case BulkPacket(endpoint, status, length, stream_id):
                return self.bulk_header(packet_id, endpoint, status, length, stream_id, payload)
            case IsoPacket(endpoint, status, length):
                return self.iso_header(packet_id, endpoint, status, length, payload)
            case InterruptPacket(endpoint, status, length):
                return self.interrupt_header(packet_id, endpoint, status, length, payload)
            case BufferedBulkPacket(stream_id, length, endpoint, status):
                return self.buffered_bulk_header(packet_id, stream_id, length, endpoint, status, payload)

    # The hot path

    def control_header(
        self,
        packet_id: int,
        endpoint: int,
        request: int,
        requesttype: int,
        status: int,
        value: int,
        index: int,
        length: int,
        payload: int,
    ) -> bytes:
        """The headers of a control_packet that `payload` bytes follow. Raises `LocalProtocolError`."""
        if (
            payload != (length if endpoint & ENDPOINT_IN == self._carries else 0)
            or status > _LAST_STATUS
            or _CONTROL not in self._session.sendable
        ):
            raise self._fault(_T.CONTROL_PACKET, endpoint, status, length, payload)
        size = self._control_size + payload
        try:
            return self._control(
                _CONTROL, size, packet_id, endpoint, request, requesttype, status, value, index, length
            )
        except struct.error as error:
            raise _out_of_range(_T.CONTROL_PACKET, packet_id, error) from error

    def bulk_header(
        self, packet_id: int, endpoint: int, status: int, length: int, stream_id: int, payload: int
    ) -> bytes:
        """The headers of a bulk_packet that `payload` bytes follow. Raises `LocalProtocolError`."""
        if (
            payload != (length if endpoint & ENDPOINT_IN == self._carries else 0)
            or length > self._longest_bulk
            or status > _LAST_STATUS
            or _BULK not in self._session.sendable
        ):
            raise self._fault(_T.BULK_PACKET, endpoint, status, length, payload)
        size = self._bulk_size + payload
        try:
            if self._wide_length:
                low, high = length & 0xFFFF, length >> 16
                return self._bulk(_BULK, size, packet_id, endpoint, status, low, stream_id, high)
            return self._bulk(_BULK, size, packet_id, endpoint, status, length, stream_id)
        except struct.error as error:
            raise _out_of_range(_T.BULK_PACKET, packet_id, error) from error

    def interrupt_header(self, packet_id: int, endpoint: int, status: int, length: int, payload: int) -> bytes:
        """The headers of an interrupt_packet that `payload` bytes follow. Raises `LocalProtocolError`."""
        carries = endpoint & ENDPOINT_IN == self._carries
        if (
            payload != (length if carries else 0)
            or not (carries or self._carries)  # a guest has no interrupt packets for IN endpoints
            or status > _LAST_STATUS
            or _INTERRUPT not in self._session.sendable
        ):
            raise self._fault(_T.INTERRUPT_PACKET, endpoint, status, length, payload)
        try:
            return self._short(_INTERRUPT, self._short_size + payload, packet_id, endpoint, status, length)
        except struct.error as error:
            raise _out_of_range(_T.INTERRUPT_PACKET, packet_id, error) from error

    def iso_header(self, packet_id: int, endpoint: int, status: int, length: int, payload: int) -> bytes:
        """The headers of an iso_packet that `payload` bytes follow. Raises `LocalProtocolError`."""
        if (
            payload != length
            or endpoint & ENDPOINT_IN != self._carries
            or status > _LAST_STATUS
            or _ISO not in self._session.sendable
        ):
            raise self._fault(_T.ISO_PACKET, endpoint, status, length, payload)
        try:
            return self._short(_ISO, self._short_size + payload, packet_id, endpoint, status, length)
        except struct.error as error:
            raise _out_of_range(_T.ISO_PACKET, packet_id, error) from error

    def buffered_bulk_header(
        self, packet_id: int, stream_id: int, length: int, endpoint: int, status: int, payload: int
    ) -> bytes:
        """The headers of a buffered_bulk_packet that `payload` bytes follow. Raises `LocalProtocolError`."""
        if (
            payload != length
            or length > MAX_TRANSFER
            or endpoint & ENDPOINT_IN != self._carries
            or status > _LAST_STATUS
            or _BUFFERED not in self._session.sendable
        ):
            raise self._fault(_T.BUFFERED_BULK_PACKET, endpoint, status, length, payload)
        size = self._buffered_size + payload
        try:
            return self._buffered(_BUFFERED, size, packet_id, stream_id, length, endpoint, status)
        except struct.error as error:
            raise _out_of_range(_T.BUFFERED_BULK_PACKET, packet_id, error) from error

    def _fault(self, packet: PacketType, endpoint: int, status: int, length: int, payload: int) -> IllegalPacketError:
        self._session.check_send(packet)
        longest = self._longest_bulk if packet is _T.BULK_PACKET else MAX_TRANSFER
        if length > longest:
            return IllegalPacketError(packet, Rule.LENGTH, "length", length, f"at most {longest}")
        if status > _LAST_STATUS:
            return IllegalPacketError(packet, Rule.FIELD, "status", status, "a known status")
        wanted = length if endpoint & ENDPOINT_IN == self._carries else "from this side"
        return IllegalPacketError(packet, Rule.PAYLOAD, f"payload for endpoint {endpoint:#04x}", payload, wanted)


def _out_of_range(packet: PacketType, packet_id: int, error: struct.error) -> IllegalPacketError:
    return IllegalPacketError(packet, Rule.FIELD, f"a field of id {packet_id}", "out of range", str(error))
