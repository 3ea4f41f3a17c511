"""Packets other than the five data types, to and from bytes: off the hot path, so by table, every field checked.

A body is what follows the packet header: the type header, and for filter_filter its text.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from usbbridge.usbredir import filter as filters
from usbbridge.usbredir.errors import FilterError, IllegalPacketError, PeerViolationError, Rule
from usbbridge.usbredir.packets import (
    PACKET_CLASSES,
    DeviceConnect,
    EndpointEntry,
    EpInfo,
    FilterFilter,
    Hello,
    InterfaceEntry,
    InterfaceInfo,
    Packet,
)
from usbbridge.usbredir.proto import (
    CAP_BITS,
    ENDPOINT_IN,
    ENDPOINT_SLOTS,
    MAX_CAP_WORDS,
    MAX_FILTER_BYTES,
    MAX_INTERFACES,
    MAX_TRANSFER,
    VERSION_BYTES,
    Cap,
    DeviceSpeed,
    EndpointType,
    PacketType,
    Status,
)
from usbbridge.usbredir.wire import CAP_WORD, HELLO_HEADER, Wire

_T = PacketType


class _Fault(NamedTuple):
    """A field that breaks a rule."""

    field: str
    value: object
    limit: object


def longest_body(packet: PacketType, wire: Wire) -> int:
    """The most bytes that the body of a packet other than the data types may have."""
    extra = {_T.HELLO: MAX_CAP_WORDS * CAP_WORD.size, _T.FILTER_FILTER: MAX_FILTER_BYTES}
    return wire.bodies[packet].size + extra.get(packet, 0)


def pack_hello(version: str, caps: Cap) -> bytes:
    """The whole hello packet. Raises `IllegalPacketError` unless `version` is up to 63 printable ASCII characters."""
    if len(version) >= VERSION_BYTES or not version.isprintable() or not version.isascii():
        raise IllegalPacketError(_T.HELLO, Rule.FIELD, "version", repr(version), "printable ASCII, 63 characters")
    body = version.encode("ascii").ljust(VERSION_BYTES, b"\0") + CAP_WORD.pack(caps)
    return HELLO_HEADER.pack(_T.HELLO, len(body), 0) + body


def pack_body(packet: Packet, wire: Wire) -> bytes:
    """The body of a packet that we may send now. Raises `IllegalPacketError` if a field is out of range."""
    fault = _fault(packet) or _fault_of_sender(packet)
    if fault is not None:
        raise IllegalPacketError(packet.type, Rule.FIELD, *fault)
    pack = _PACK.get(packet.type, _pack_fields)
    try:
        return pack(packet, wire)
    except (struct.error, ValueError) as error:
        raise IllegalPacketError(packet.type, Rule.FIELD, "a field", packet, str(error)) from error


def unpack_body(kind: PacketType, body: memoryview, wire: Wire) -> Packet:
    """The packet in a body of legal length. Raises `PeerViolationError` if a field is out of range."""
    packet = _UNPACK.get(kind, _unpack_fields)(kind, body, wire)
    fault = _fault(packet)
    if fault is not None:
        raise PeerViolationError(kind, Rule.FIELD, *fault)
    return packet


# Checks


def _fault(packet: Packet) -> _Fault | None:
    """What libusbredirparser refuses, sent or received."""
    if packet.type in _IN_ENDPOINTS_ONLY:
        endpoint: int = cast(Any, packet).endpoint
        if not endpoint & ENDPOINT_IN:
            return _Fault("endpoint", f"{endpoint:#04x}", "an IN endpoint")
    if packet.type is _T.START_BULK_RECEIVING:
        size: int = cast(Any, packet).bytes_per_transfer
        if size > MAX_TRANSFER:
            return _Fault("bytes_per_transfer", size, f"at most {MAX_TRANSFER}")
    if isinstance(packet, InterfaceInfo) and len(packet.interfaces) > MAX_INTERFACES:
        return _Fault("interface_count", len(packet.interfaces), f"at most {MAX_INTERFACES}")
    return None


_IN_ENDPOINTS_ONLY = frozenset(
    {
        _T.START_INTERRUPT_RECEIVING,
        _T.STOP_INTERRUPT_RECEIVING,
        _T.INTERRUPT_RECEIVING_STATUS,
        _T.START_BULK_RECEIVING,
        _T.STOP_BULK_RECEIVING,
        _T.BULK_RECEIVING_STATUS,
    }
)


def _fault_of_sender(packet: Packet) -> _Fault | None:
    """What a peer may send us, but we do not send: numbers outside the enums, unreadable filters, a short ep_info."""
    status = getattr(packet, "status", Status.SUCCESS)
    if status not in _STATUSES:
        return _Fault("status", status, "a known status")
    if isinstance(packet, DeviceConnect) and packet.speed not in _SPEEDS:
        return _Fault("speed", packet.speed, "a known speed")
    if isinstance(packet, EpInfo):
        return _fault_of_endpoints(packet)
    if isinstance(packet, FilterFilter):
        return _fault_of_filter(packet.text)
    return None


_STATUSES = frozenset(Status)
_SPEEDS = frozenset(DeviceSpeed)
_ENDPOINT_TYPES = frozenset(EndpointType)


def _fault_of_endpoints(packet: EpInfo) -> _Fault | None:
    if len(packet.endpoints) != ENDPOINT_SLOTS:
        return _Fault("endpoints", len(packet.endpoints), f"exactly {ENDPOINT_SLOTS}")
    for entry in packet.endpoints:
        if entry.type not in _ENDPOINT_TYPES:
            return _Fault("type", entry.type, "a known endpoint type")
    return None


def _fault_of_filter(text: str) -> _Fault | None:
    if len(text) >= MAX_FILTER_BYTES:
        return _Fault("text", f"{len(text)} characters", f"at most {MAX_FILTER_BYTES - 1}")
    try:
        filters.parse(text)
    except FilterError as error:
        return _Fault("text", error.text, error.reason)
    return None


# Bytes


def _pack_fields(packet: Packet, wire: Wire) -> bytes:
    return wire.bodies[packet.type].pack(*(getattr(packet, name) for name in packet.__slots__))


def _unpack_fields(kind: PacketType, body: memoryview, wire: Wire) -> Packet:
    return PACKET_CLASSES[kind](*wire.bodies[kind].unpack(body))


def _unpack_hello(kind: PacketType, body: memoryview, wire: Wire) -> Packet:
    # Hello without a capability word is that of protocol 0.3; words after the first are not for us.
    words = (len(body) - VERSION_BYTES) // CAP_WORD.size
    caps = Cap(CAP_WORD.unpack_from(body, VERSION_BYTES)[0] & CAP_BITS) if words else Cap(0)
    # The last byte is a NUL, or its sender broke the rule; libusbredirparser puts one there, too.
    text = bytes(body[: VERSION_BYTES - 1]).split(b"\0", 1)[0]
    return Hello(_printable(text), caps)


def _printable(text: bytes) -> str:
    """A peer's text, safe to show on a terminal and to log."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "?" for byte in text)


def _pack_device_connect(packet: Packet, wire: Wire) -> bytes:
    assert isinstance(packet, DeviceConnect)
    numbers = [packet.speed, packet.class_, packet.subclass, packet.protocol, packet.vendor, packet.product]
    if Cap.CONNECT_DEVICE_VERSION in wire.caps:
        numbers.append(packet.version)
    return wire.bodies[packet.type].pack(*numbers)


def _pack_interface_info(packet: Packet, wire: Wire) -> bytes:
    assert isinstance(packet, InterfaceInfo)
    entries = packet.interfaces
    columns = (
        bytes(entry.interface for entry in entries),
        bytes(entry.class_ for entry in entries),
        bytes(entry.subclass for entry in entries),
        bytes(entry.protocol for entry in entries),
    )
    return wire.bodies[packet.type].pack(len(entries), *columns)


def _unpack_interface_info(kind: PacketType, body: memoryview, wire: Wire) -> Packet:
    count, *columns = wire.bodies[kind].unpack(body)
    if count > MAX_INTERFACES:
        raise PeerViolationError(kind, Rule.FIELD, "interface_count", count, f"at most {MAX_INTERFACES}")
    rows = list(zip(*columns, strict=True))[:count]
    return InterfaceInfo(tuple(InterfaceEntry(*row) for row in rows))


def _pack_ep_info(packet: Packet, wire: Wire) -> bytes:
    assert isinstance(packet, EpInfo)
    entries = packet.endpoints
    values: list[bytes | int] = [
        bytes(entry.type for entry in entries),
        bytes(entry.interval for entry in entries),
        bytes(entry.interface for entry in entries),
    ]
    if Cap.EP_INFO_MAX_PACKET_SIZE in wire.caps:
        values += [entry.max_packet_size for entry in entries]
    if Cap.BULK_STREAMS in wire.caps:
        values += [entry.max_streams for entry in entries]
    return wire.bodies[packet.type].pack(*values)


def _unpack_ep_info(kind: PacketType, body: memoryview, wire: Wire) -> Packet:
    types, intervals, interfaces, *numbers = wire.bodies[kind].unpack(body)
    sizes = numbers[:ENDPOINT_SLOTS] or (0,) * ENDPOINT_SLOTS
    streams = numbers[ENDPOINT_SLOTS:] or (0,) * ENDPOINT_SLOTS
    rows = zip(types, intervals, interfaces, sizes, streams, strict=True)
    return EpInfo(tuple(EndpointEntry(*row) for row in rows))


def _pack_filter(packet: Packet, wire: Wire) -> bytes:
    assert isinstance(packet, FilterFilter)
    return packet.text.encode("ascii") + b"\0"


def _unpack_filter(kind: PacketType, body: memoryview, wire: Wire) -> Packet:
    text = bytes(body)
    if not text.endswith(b"\0"):
        raise PeerViolationError(kind, Rule.FIELD, "text", f"{len(text)} bytes", "NUL-terminated")
    return FilterFilter(text[:-1].decode("ascii", "replace"))


_PACK: dict[PacketType, Callable[[Packet, Wire], bytes]] = {
    _T.DEVICE_CONNECT: _pack_device_connect,
    _T.INTERFACE_INFO: _pack_interface_info,
    _T.EP_INFO: _pack_ep_info,
    _T.FILTER_FILTER: _pack_filter,
}
_UNPACK: dict[PacketType, Callable[[PacketType, memoryview, Wire], Packet]] = {
    _T.HELLO: _unpack_hello,
    _T.INTERFACE_INFO: _unpack_interface_info,
    _T.EP_INFO: _unpack_ep_info,
    _T.FILTER_FILTER: _unpack_filter,
}
