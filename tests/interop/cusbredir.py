"""libusbredirparser by ctypes: the reference implementation, as a `CParser` that speaks our packet classes.

    parser = CParser(Role.GUEST, ALL_CAPS)
    parser.send(Reset(), 7)               # usbredirparser_send_reset
    parser.output()                       # the bytes it wants written, its hello first
    parser.read(data)                     # usbredirparser_do_read -> parser.packets, parser.errors

and its filter functions, as `string_to_rules`, `rules_to_string` and `filter_check`. The structures are those of
usbredirproto.h and usbredirparser.h (packed, little-endian); needs libusbredirparser.so.1 (Debian: libusbredirparser1).
"""

import ctypes
import errno
from collections.abc import Callable, Iterable, Sequence
from ctypes import POINTER, c_char, c_char_p, c_int, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from typing import Any

from usbbridge.usbredir import packets as p
from usbbridge.usbredir.filter import DeviceFacts, FilterRule, format
from usbbridge.usbredir.proto import Cap, PacketType, Role, consistent

T = PacketType


# Structures


def _struct(name: str, *fields: tuple[str, Any]) -> type[ctypes.LittleEndianStructure]:
    return type(name, (ctypes.LittleEndianStructure,), {"_pack_": 1, "_layout_": "ms", "_fields_": list(fields)})


def _bytes(name: str, *fields: str) -> type[ctypes.LittleEndianStructure]:
    return _struct(name, *((field, c_uint8) for field in fields))


_EACH = c_uint8 * 32
_STREAM = ("stream_id", c_uint32)
_SHORT = (("endpoint", c_uint8), ("status", c_uint8), ("length", c_uint16))
_CONNECT_BYTES = ("speed", "class_", "subclass", "protocol")

HEADERS: dict[PacketType, type[ctypes.LittleEndianStructure]] = {
    T.HELLO: _struct("hello", ("version", c_char * 64)),
    T.DEVICE_CONNECT: _struct(
        "device_connect",
        *((name, c_uint8) for name in _CONNECT_BYTES),
        *((name, c_uint16) for name in ("vendor", "product", "version")),
    ),
    T.INTERFACE_INFO: _struct(
        "interface_info", ("count", c_uint32), *((name, _EACH) for name in p.InterfaceEntry.__slots__)
    ),
    T.EP_INFO: _struct(
        "ep_info",
        *((name, _EACH) for name in ("type", "interval", "interface")),
        ("max_packet_size", c_uint16 * 32),
        ("max_streams", c_uint32 * 32),
    ),
    T.SET_CONFIGURATION: _bytes("set_configuration", "configuration"),
    T.CONFIGURATION_STATUS: _bytes("configuration_status", "status", "configuration"),
    T.SET_ALT_SETTING: _bytes("set_alt_setting", "interface", "alt"),
    T.GET_ALT_SETTING: _bytes("get_alt_setting", "interface"),
    T.ALT_SETTING_STATUS: _bytes("alt_setting_status", "status", "interface", "alt"),
    T.START_ISO_STREAM: _bytes("start_iso_stream", "endpoint", "pkts_per_urb", "no_urbs"),
    T.STOP_ISO_STREAM: _bytes("stop_iso_stream", "endpoint"),
    T.ISO_STREAM_STATUS: _bytes("iso_stream_status", "status", "endpoint"),
    T.START_INTERRUPT_RECEIVING: _bytes("start_interrupt_receiving", "endpoint"),
    T.STOP_INTERRUPT_RECEIVING: _bytes("stop_interrupt_receiving", "endpoint"),
    T.INTERRUPT_RECEIVING_STATUS: _bytes("interrupt_receiving_status", "status", "endpoint"),
    T.ALLOC_BULK_STREAMS: _struct("alloc_bulk_streams", ("endpoints", c_uint32), ("no_streams", c_uint32)),
    T.FREE_BULK_STREAMS: _struct("free_bulk_streams", ("endpoints", c_uint32)),
    T.BULK_STREAMS_STATUS: _struct(
        "bulk_streams_status", ("endpoints", c_uint32), ("no_streams", c_uint32), ("status", c_uint8)
    ),
    T.START_BULK_RECEIVING: _struct(
        "start_bulk_receiving",
        _STREAM,
        ("bytes_per_transfer", c_uint32),
        ("endpoint", c_uint8),
        ("no_transfers", c_uint8),
    ),
    T.STOP_BULK_RECEIVING: _struct("stop_bulk_receiving", _STREAM, ("endpoint", c_uint8)),
    T.BULK_RECEIVING_STATUS: _struct("bulk_receiving_status", _STREAM, ("endpoint", c_uint8), ("status", c_uint8)),
    T.CONTROL_PACKET: _struct(
        "control_packet",
        *((name, c_uint8) for name in ("endpoint", "request", "requesttype", "status")),
        *((name, c_uint16) for name in ("value", "index", "length")),
    ),
    T.BULK_PACKET: _struct("bulk_packet", *_SHORT, _STREAM, ("length_high", c_uint16)),
    T.ISO_PACKET: _struct("iso_packet", *_SHORT),
    T.INTERRUPT_PACKET: _struct("interrupt_packet", *_SHORT),
    T.BUFFERED_BULK_PACKET: _struct(
        "buffered_bulk_packet", _STREAM, ("length", c_uint32), ("endpoint", c_uint8), ("status", c_uint8)
    ),
}
"usb_redir_*_header, fields named as ours. Types without one have no type header."


class CRule(ctypes.Structure):
    """struct usbredirfilter_rule."""

    _fields_ = [(name, c_int) for name in ("class_", "vendor", "product", "version", "allow")]


WITHOUT_ID = {T.HELLO, T.DEVICE_CONNECT, T.DEVICE_DISCONNECT, T.RESET, T.INTERFACE_INFO, T.EP_INFO} | {
    T.FILTER_REJECT,
    T.FILTER_FILTER,
    T.DEVICE_DISCONNECT_ACK,
}
"The library sends these with id 0 and does not tell the id when it receives one."
WITH_DATA = {T.CONTROL_PACKET, T.BULK_PACKET, T.ISO_PACKET, T.INTERRUPT_PACKET, T.BUFFERED_BULK_PACKET}

_LOG = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p)
_IO = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(c_uint8), c_int)


def _callback_type(packet: PacketType) -> Any:
    if packet is T.FILTER_FILTER:
        return ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_int)
    arguments: list[Any] = [c_void_p]
    if packet not in WITHOUT_ID:
        arguments.append(c_uint64)
    if packet in HEADERS:
        arguments.append(POINTER(HEADERS[packet]))
    if packet in WITH_DATA:
        arguments += [c_void_p, c_int]
    return ctypes.CFUNCTYPE(None, *arguments)


_CALLBACKS = {packet: _callback_type(packet) for packet in PacketType}
_MEMBERS = (
    *(packet for packet in PacketType if T.DEVICE_CONNECT <= packet <= T.CANCEL_DATA_PACKET),
    *(T.CONTROL_PACKET, T.BULK_PACKET, T.ISO_PACKET, T.INTERRUPT_PACKET),
    *("alloc_lock", "lock", "unlock", "free_lock"),
    *(T.HELLO, T.FILTER_REJECT, T.FILTER_FILTER, T.DEVICE_DISCONNECT_ACK),
    *(T.START_BULK_RECEIVING, T.STOP_BULK_RECEIVING, T.BULK_RECEIVING_STATUS, T.BUFFERED_BULK_PACKET),
)
"Callbacks of struct usbredirparser after log, read and write, in its order; the locks stay NULL."


def _member(packet: PacketType | str) -> tuple[str, Any]:
    return (packet.name, _CALLBACKS[packet]) if isinstance(packet, PacketType) else (packet, c_void_p)


class CParserStruct(ctypes.Structure):
    """struct usbredirparser, its public part."""

    _fields_ = [("priv", c_void_p), ("log", _LOG), ("read", _IO), ("write", _IO), *map(_member, _MEMBERS)]


# Functions

_lib = ctypes.CDLL("libusbredirparser.so.1")
_parser_p = POINTER(CParserStruct)
_lib.usbredirparser_create.restype = _parser_p
_lib.usbredirparser_init.argtypes = [_parser_p, c_char_p, POINTER(c_uint32), c_int, c_int]
_lib.usbredirparser_destroy.argtypes = [_parser_p]
_lib.usbredirparser_do_read.argtypes = [_parser_p]
_lib.usbredirparser_do_write.argtypes = [_parser_p]
_lib.usbredirparser_have_peer_caps.argtypes = [_parser_p]
_lib.usbredirparser_peer_has_cap.argtypes = [_parser_p, c_int]
_lib.usbredirparser_free_packet_data.argtypes = [_parser_p, c_void_p]
_lib.usbredirfilter_string_to_rules.argtypes = [
    *(c_char_p, c_char_p, c_char_p),
    POINTER(POINTER(CRule)),
    POINTER(c_int),
]
_lib.usbredirfilter_rules_to_string.argtypes = [POINTER(CRule), c_int, c_char_p, c_char_p]
_lib.usbredirfilter_rules_to_string.restype = c_void_p
_lib.usbredirfilter_free.argtypes = [c_void_p]
_lib.usbredirfilter_check.argtypes = [
    *(POINTER(CRule), c_int),
    *(c_uint8, c_uint8, c_uint8),
    *(c_char_p, c_char_p, c_char_p, c_int),
    *(c_uint16, c_uint16, c_uint16, c_int),
]

_FL_USB_HOST = 1
_PARSE_ERROR = -2


class CParser:
    """One end of a connection, played by libusbredirparser."""

    def __init__(self, role: Role, caps: Cap, version: str = "libusbredirparser") -> None:
        self.packets: list[tuple[int, p.Packet]] = []
        "(id, packet) of what it received and told; id 0 for types whose id it does not tell. No hello."
        self.hello: str | None = None
        "The peer's version, once told."
        self.errors = 0
        "Packets that it refused to take."
        self.log: list[str] = []
        self._caps = consistent(caps | (Cap.DEVICE_DISCONNECT_ACK if role is Role.GUEST else Cap(0)))
        self._input = b""
        self._output = bytearray()
        self._parser = _lib.usbredirparser_create()
        struct = self._parser.contents
        struct.log, struct.read, struct.write = _LOG(self._on_log), _IO(self._on_read), _IO(self._on_write)
        for packet, callback in _CALLBACKS.items():
            setattr(struct, packet.name, callback(self._receiver(packet)))
        words = (c_uint32 * 1)(caps)
        flags = _FL_USB_HOST if role is Role.HOST else 0
        _lib.usbredirparser_init(self._parser, version.encode(), words, 1, flags)

    def close(self) -> None:
        """Free the parser."""
        if self._parser is not None:
            _lib.usbredirparser_destroy(self._parser)
            self._parser = None

    def __enter__(self) -> "CParser":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def peer_caps(self) -> Cap | None:
        """What it believes of the peer's hello."""
        if not _lib.usbredirparser_have_peer_caps(self._parser):
            return None
        return Cap(sum(1 << bit for bit in range(8) if _lib.usbredirparser_peer_has_cap(self._parser, bit)))

    def read(self, *pieces: bytes) -> None:
        """Let it read these bytes, a piece after the other."""
        for piece in pieces:
            self._input = piece
            while self._input:
                if _lib.usbredirparser_do_read(self._parser) == _PARSE_ERROR:
                    self.errors += 1

    def output(self) -> bytes:
        """What it has to write; forgotten thereby."""
        _lib.usbredirparser_do_write(self._parser)
        data = bytes(self._output)
        self._output.clear()
        return data

    def send(self, packet: p.Packet, packet_id: int = 0) -> bytes:
        """Call the send function of a packet; returns what it made of it, nothing if it refused."""
        function = getattr(_lib, f"usbredirparser_send_{packet.type.name.lower()}")
        function(self._parser, *self._arguments(packet, packet_id))
        return self.output()

    # Callbacks

    def _on_log(self, _: Any, level: int, message: bytes) -> None:
        self.log.append(message.decode(errors="replace"))

    def _on_read(self, _: Any, target: Any, count: int) -> int:
        data, self._input = self._input[:count], self._input[count:]
        ctypes.memmove(target, data, len(data))
        return len(data)

    def _on_write(self, _: Any, source: Any, count: int) -> int:
        self._output += ctypes.string_at(source, count)
        return count

    def _receiver(self, packet: PacketType) -> Callable[..., None]:
        def received(_: Any, *arguments: Any) -> None:
            rest = list(arguments)
            packet_id = 0 if packet in WITHOUT_ID else rest.pop(0)
            if packet is T.HELLO:
                self.hello = rest[0].contents.version.decode(errors="replace")
            else:
                self.packets.append((packet_id, self._to_packet(packet, rest)))

        return received

    def _to_packet(self, packet: PacketType, rest: list[Any]) -> p.Packet:
        if packet is T.FILTER_FILTER:
            rules = ctypes.cast(rest[0], POINTER(CRule))
            text = format(_rules(rules, rest[1]))
            _lib.usbredirfilter_free(rest[0])
            return p.FilterFilter(text)
        if packet not in HEADERS:
            return p.PACKET_CLASSES[packet]()
        fields = _to_fields(packet, rest[0].contents, self._caps & (self.peer_caps or Cap(0)))
        if packet in WITH_DATA:
            fields.append(ctypes.string_at(rest[1], rest[2]) if rest[1] else b"")
            _lib.usbredirparser_free_packet_data(self._parser, rest[1])
        return p.PACKET_CLASSES[packet](*fields)

    # Sending

    def _arguments(self, packet: p.Packet, packet_id: int) -> list[Any]:
        arguments: list[Any] = []
        if isinstance(packet, p.FilterFilter):
            _, found = string_to_rules(packet.text.encode())
            return [_c_rules(found), len(found)]
        if packet.type not in WITHOUT_ID:
            arguments.append(c_uint64(packet_id))
        if packet.type in HEADERS:
            arguments.append(ctypes.byref(_from_packet(packet)))
        if isinstance(packet, p.DataPacket):
            arguments += [packet.data or None, len(packet.data)]
        return arguments


def _to_fields(packet: PacketType, header: Any, agreed: Cap) -> list[Any]:
    """Arguments of our packet class; what the peers did not agree on is uninitialised in C, and 0 for us."""
    values = [getattr(header, name) for name, *_ in header._fields_]
    if packet is T.DEVICE_CONNECT and Cap.CONNECT_DEVICE_VERSION not in agreed:
        values[-1] = 0
    elif packet is T.BULK_PACKET:
        endpoint, status, low, stream_id, high = values
        values = [endpoint, status, low | high << 16, stream_id]
    elif packet is T.INTERFACE_INFO:
        rows = list(zip(*values[1:], strict=True))[: values[0]]
        values = [tuple(p.InterfaceEntry(*row) for row in rows)]
    elif packet is T.EP_INFO:
        if Cap.EP_INFO_MAX_PACKET_SIZE not in agreed:
            values[3] = [0] * 32
        if Cap.BULK_STREAMS not in agreed:
            values[4] = [0] * 32
        values = [tuple(p.EndpointEntry(*row) for row in zip(*values, strict=True))]
    return values


def _from_packet(packet: Any) -> ctypes.Structure:
    header = HEADERS[packet.type]
    if isinstance(packet, p.InterfaceInfo):
        columns = [_EACH(*(getattr(each, name) for each in packet.interfaces)) for name in p.InterfaceEntry.__slots__]
        return header(len(packet.interfaces), *columns)
    if isinstance(packet, p.EpInfo):
        names = [(name, kind) for name, kind, *_ in header._fields_]
        return header(*(kind(*(getattr(each, name) for each in packet.endpoints)) for name, kind in names))
    if isinstance(packet, p.BulkPacket):
        return header(packet.endpoint, packet.status, packet.length & 0xFFFF, packet.stream_id, packet.length >> 16)
    return header(*(getattr(packet, name) for name, *_ in header._fields_))


# Filters


def _rules(rules: Any, count: int) -> list[FilterRule]:
    return [
        FilterRule(each.class_, each.vendor, each.product, each.version, each.allow != 0) for each in rules[:count]
    ]


def _c_rules(rules: Sequence[FilterRule]) -> Any:
    each = (CRule(rule.class_, rule.vendor, rule.product, rule.version, rule.allow) for rule in rules)
    return (CRule * len(rules))(*each)


def string_to_rules(text: bytes) -> tuple[int, list[FilterRule]]:
    """usbredirfilter_string_to_rules: 0 and the rules, or a negative errno."""
    found, count = POINTER(CRule)(), c_int()
    code = _lib.usbredirfilter_string_to_rules(text, b",", b"|", ctypes.byref(found), ctypes.byref(count))
    rules = _rules(found, count.value) if code == 0 else []
    _lib.usbredirfilter_free(ctypes.cast(found, c_void_p))
    return code, rules


def rules_to_string(rules: Sequence[FilterRule]) -> str:
    """usbredirfilter_rules_to_string."""
    text = _lib.usbredirfilter_rules_to_string(_c_rules(rules), len(rules), b",", b"|")
    result = ctypes.string_at(text).decode()
    _lib.usbredirfilter_free(text)
    return result


ALLOWED, DENIED, NO_RULE = 0, -errno.EPERM, -errno.ENOENT


def filter_check(rules: Sequence[FilterRule], device: DeviceFacts, *, flags: int = 0) -> int:
    """usbredirfilter_check: `ALLOWED`, `DENIED` or `NO_RULE`. Flags: 1 default allow, 2 don't skip non-boot HID."""

    def column(values: Iterable[int]) -> bytes:
        return bytes(values)

    code: int = _lib.usbredirfilter_check(
        *(_c_rules(rules), len(rules)),
        *(device.class_, device.subclass, device.protocol),
        column(each.class_ for each in device.interfaces),
        column(each.subclass for each in device.interfaces),
        column(each.protocol for each in device.interfaces),
        len(device.interfaces),
        *(device.vendor, device.product, device.version, flags),
    )
    return code
