"""Every layout of the protocol, declared once with `construct` from usbredirproto.h: the reference for `wire.py`.

For tools that take packets apart off the hot path, and for the test that proves `wire.py` right. Each function takes
the capabilities that both ends agreed on, because some fields exist only by them.
"""

from construct import Bytes, Construct, If, Int8ul, Int16ul, Int32ul, Int64ul, Struct

from usbbridge.usbredir.proto import ENDPOINT_SLOTS, MAX_INTERFACES, VERSION_BYTES, Cap, PacketType

_T = PacketType


def header(caps: Cap) -> Construct:
    """The packet header; hello always has the one without IDS_64BIT."""
    return Struct("type" / Int32ul, "length" / Int32ul, "id" / (Int64ul if Cap.IDS_64BIT in caps else Int32ul))


def type_header(packet: PacketType, caps: Cap) -> Construct:
    """What follows the header, without the payload of hello, filter_filter and the data packets."""
    return _type_headers(caps)[packet]


def _bytes(*names: str) -> Construct:
    return Struct(*(name / Int8ul for name in names))


def _type_headers(caps: Cap) -> dict[PacketType, Construct]:
    return {**_session(caps), **_device(), **_streams(), **_data(caps)}


def _session(caps: Cap) -> dict[PacketType, Construct]:
    nothing = Struct()
    return {
        _T.HELLO: Struct("version" / Bytes(VERSION_BYTES)),
        _T.DEVICE_CONNECT: Struct(
            "speed" / Int8ul,
            "class_" / Int8ul,
            "subclass" / Int8ul,
            "protocol" / Int8ul,
            "vendor" / Int16ul,
            "product" / Int16ul,
            "version" / If(Cap.CONNECT_DEVICE_VERSION in caps, Int16ul),
        ),
        _T.DEVICE_DISCONNECT: nothing,
        _T.RESET: nothing,
        _T.INTERFACE_INFO: Struct(
            "interface_count" / Int32ul,
            "interface" / Int8ul[MAX_INTERFACES],
            "class_" / Int8ul[MAX_INTERFACES],
            "subclass" / Int8ul[MAX_INTERFACES],
            "protocol" / Int8ul[MAX_INTERFACES],
        ),
        _T.EP_INFO: Struct(
            "type" / Int8ul[ENDPOINT_SLOTS],
            "interval" / Int8ul[ENDPOINT_SLOTS],
            "interface" / Int8ul[ENDPOINT_SLOTS],
            "max_packet_size" / If(Cap.EP_INFO_MAX_PACKET_SIZE in caps, Int16ul[ENDPOINT_SLOTS]),
            "max_streams" / If(Cap.BULK_STREAMS in caps, Int32ul[ENDPOINT_SLOTS]),
        ),
        _T.CANCEL_DATA_PACKET: nothing,
        _T.FILTER_REJECT: nothing,
        _T.FILTER_FILTER: nothing,
        _T.DEVICE_DISCONNECT_ACK: nothing,
    }


def _device() -> dict[PacketType, Construct]:
    return {
        _T.SET_CONFIGURATION: _bytes("configuration"),
        _T.GET_CONFIGURATION: Struct(),
        _T.CONFIGURATION_STATUS: _bytes("status", "configuration"),
        _T.SET_ALT_SETTING: _bytes("interface", "alt"),
        _T.GET_ALT_SETTING: _bytes("interface"),
        _T.ALT_SETTING_STATUS: _bytes("status", "interface", "alt"),
    }


def _streams() -> dict[PacketType, Construct]:
    mask = "endpoints" / Int32ul
    stream = "stream_id" / Int32ul
    return {
        _T.START_ISO_STREAM: _bytes("endpoint", "pkts_per_urb", "no_urbs"),
        _T.STOP_ISO_STREAM: _bytes("endpoint"),
        _T.ISO_STREAM_STATUS: _bytes("status", "endpoint"),
        _T.START_INTERRUPT_RECEIVING: _bytes("endpoint"),
        _T.STOP_INTERRUPT_RECEIVING: _bytes("endpoint"),
        _T.INTERRUPT_RECEIVING_STATUS: _bytes("status", "endpoint"),
        _T.ALLOC_BULK_STREAMS: Struct(mask, "no_streams" / Int32ul),
        _T.FREE_BULK_STREAMS: Struct(mask),
        _T.BULK_STREAMS_STATUS: Struct(mask, "no_streams" / Int32ul, "status" / Int8ul),
        _T.START_BULK_RECEIVING: Struct(
            stream, "bytes_per_transfer" / Int32ul, "endpoint" / Int8ul, "no_transfers" / Int8ul
        ),
        _T.STOP_BULK_RECEIVING: Struct(stream, "endpoint" / Int8ul),
        _T.BULK_RECEIVING_STATUS: Struct(stream, "endpoint" / Int8ul, "status" / Int8ul),
    }


def _data(caps: Cap) -> dict[PacketType, Construct]:
    short = ("endpoint" / Int8ul, "status" / Int8ul, "length" / Int16ul)
    stream = "stream_id" / Int32ul
    return {
        _T.CONTROL_PACKET: Struct(
            "endpoint" / Int8ul,
            "request" / Int8ul,
            "requesttype" / Int8ul,
            "status" / Int8ul,
            "value" / Int16ul,
            "index" / Int16ul,
            "length" / Int16ul,
        ),
        _T.BULK_PACKET: Struct(*short, stream, "length_high" / If(Cap.BULK_LENGTH_32BIT in caps, Int16ul)),
        _T.ISO_PACKET: Struct(*short),
        _T.INTERRUPT_PACKET: Struct(*short),
        _T.BUFFERED_BULK_PACKET: Struct(stream, "length" / Int32ul, "endpoint" / Int8ul, "status" / Int8ul),
    }
