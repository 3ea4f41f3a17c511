"""The numbers of the usbredir protocol 0.7: packet types, capabilities, codes, and the limits we hold a peer to.

Terms, as the protocol uses them: the *usb-host* has the device (usbbridge on the client), the *usb-guest* uses it (the
VM). Directions are named by where a packet goes, so that both ends of a connection can share one table.
"""

from enum import Enum, IntEnum, IntFlag


class PacketType(IntEnum):
    """`type` of the packet header (usbredirproto.h)."""

    HELLO = 0
    DEVICE_CONNECT = 1
    DEVICE_DISCONNECT = 2
    RESET = 3
    INTERFACE_INFO = 4
    EP_INFO = 5
    SET_CONFIGURATION = 6
    GET_CONFIGURATION = 7
    CONFIGURATION_STATUS = 8
    SET_ALT_SETTING = 9
    GET_ALT_SETTING = 10
    ALT_SETTING_STATUS = 11
    START_ISO_STREAM = 12
    STOP_ISO_STREAM = 13
    ISO_STREAM_STATUS = 14
    START_INTERRUPT_RECEIVING = 15
    STOP_INTERRUPT_RECEIVING = 16
    INTERRUPT_RECEIVING_STATUS = 17
    ALLOC_BULK_STREAMS = 18
    FREE_BULK_STREAMS = 19
    BULK_STREAMS_STATUS = 20
    CANCEL_DATA_PACKET = 21
    FILTER_REJECT = 22
    FILTER_FILTER = 23
    DEVICE_DISCONNECT_ACK = 24
    START_BULK_RECEIVING = 25
    STOP_BULK_RECEIVING = 26
    BULK_RECEIVING_STATUS = 27
    CONTROL_PACKET = 100
    BULK_PACKET = 101
    ISO_PACKET = 102
    INTERRUPT_PACKET = 103
    BUFFERED_BULK_PACKET = 104


class Role(Enum):
    """Which end of the connection we are."""

    HOST = "usb-host"
    GUEST = "usb-guest"


class Direction(Enum):
    """Where a packet goes."""

    TO_GUEST = "to the usb-guest"
    TO_HOST = "to the usb-host"


class Cap(IntFlag):
    """Capability bits of hello; each has its effect only when both ends announced it."""

    BULK_STREAMS = 1 << 0
    "ep_info gains max_streams[32]; the three bulk stream packets exist. Needs EP_INFO_MAX_PACKET_SIZE."
    CONNECT_DEVICE_VERSION = 1 << 1
    "device_connect gains the device's bcdDevice."
    FILTER = 1 << 2
    "filter_reject and filter_filter exist."
    DEVICE_DISCONNECT_ACK = 1 << 3
    "The guest answers device_disconnect with device_disconnect_ack."
    EP_INFO_MAX_PACKET_SIZE = 1 << 4
    "ep_info gains max_packet_size[32]."
    IDS_64BIT = 1 << 5
    "After hello the header's id has 64 bits: 16 bytes of header instead of 12."
    BULK_LENGTH_32BIT = 1 << 6
    "bulk_packet gains the high 16 bits of its length."
    BULK_RECEIVING = 1 << 7
    "start/stop_bulk_receiving, bulk_receiving_status and buffered_bulk_packet exist."


ALL_CAPS = Cap(0xFF)
CAP_BITS = int(ALL_CAPS)


class Status(IntEnum):
    """How a request ended. Any other number from a peer means an error too, so a received status stays a plain int."""

    SUCCESS = 0
    CANCELLED = 1
    INVAL = 2
    IOERROR = 3
    STALL = 4
    TIMEOUT = 5
    BABBLE = 6


class EndpointType(IntEnum):
    """`type` of an ep_info entry; 0 to 3 are bmAttributes' transfer types (USB 2.0 §9.6.6)."""

    CONTROL = 0
    ISO = 1
    BULK = 2
    INTERRUPT = 3
    INVALID = 255


class DeviceSpeed(IntEnum):
    """`speed` of device_connect. SuperSpeed+ has no code of its own."""

    LOW = 0
    FULL = 1
    HIGH = 2
    SUPER = 3
    UNKNOWN = 255


_T = PacketType
_BOTH = frozenset(Direction)
_TO_GUEST = frozenset({Direction.TO_GUEST})
_TO_HOST = frozenset({Direction.TO_HOST})

DIRECTIONS: dict[PacketType, frozenset[Direction]] = {
    _T.HELLO: _BOTH,
    _T.DEVICE_CONNECT: _TO_GUEST,
    _T.DEVICE_DISCONNECT: _TO_GUEST,
    _T.RESET: _TO_HOST,
    _T.INTERFACE_INFO: _TO_GUEST,
    _T.EP_INFO: _TO_GUEST,
    _T.SET_CONFIGURATION: _TO_HOST,
    _T.GET_CONFIGURATION: _TO_HOST,
    _T.CONFIGURATION_STATUS: _TO_GUEST,
    _T.SET_ALT_SETTING: _TO_HOST,
    _T.GET_ALT_SETTING: _TO_HOST,
    _T.ALT_SETTING_STATUS: _TO_GUEST,
    _T.START_ISO_STREAM: _TO_HOST,
    _T.STOP_ISO_STREAM: _TO_HOST,
    _T.ISO_STREAM_STATUS: _TO_GUEST,
    _T.START_INTERRUPT_RECEIVING: _TO_HOST,
    _T.STOP_INTERRUPT_RECEIVING: _TO_HOST,
    _T.INTERRUPT_RECEIVING_STATUS: _TO_GUEST,
    _T.ALLOC_BULK_STREAMS: _TO_HOST,
    _T.FREE_BULK_STREAMS: _TO_HOST,
    _T.BULK_STREAMS_STATUS: _TO_GUEST,
    _T.CANCEL_DATA_PACKET: _TO_HOST,
    _T.FILTER_REJECT: _TO_HOST,
    _T.FILTER_FILTER: _BOTH,
    _T.DEVICE_DISCONNECT_ACK: _TO_HOST,
    _T.START_BULK_RECEIVING: _TO_HOST,
    _T.STOP_BULK_RECEIVING: _TO_HOST,
    _T.BULK_RECEIVING_STATUS: _TO_GUEST,
    _T.CONTROL_PACKET: _BOTH,
    _T.BULK_PACKET: _BOTH,
    _T.ISO_PACKET: _BOTH,
    _T.INTERRUPT_PACKET: _BOTH,
    _T.BUFFERED_BULK_PACKET: _TO_GUEST,
}
"The directions in which each packet type may go."

REQUIRED_CAP: dict[PacketType, Cap] = {
    _T.ALLOC_BULK_STREAMS: Cap.BULK_STREAMS,
    _T.FREE_BULK_STREAMS: Cap.BULK_STREAMS,
    _T.BULK_STREAMS_STATUS: Cap.BULK_STREAMS,
    _T.FILTER_REJECT: Cap.FILTER,
    _T.FILTER_FILTER: Cap.FILTER,
    _T.DEVICE_DISCONNECT_ACK: Cap.DEVICE_DISCONNECT_ACK,
    _T.START_BULK_RECEIVING: Cap.BULK_RECEIVING,
    _T.STOP_BULK_RECEIVING: Cap.BULK_RECEIVING,
    _T.BULK_RECEIVING_STATUS: Cap.BULK_RECEIVING,
    _T.BUFFERED_BULK_PACKET: Cap.BULK_RECEIVING,
}
"Packet types that exist only by a capability."

DATA_TYPES = frozenset({_T.CONTROL_PACKET, _T.BULK_PACKET, _T.ISO_PACKET, _T.INTERRUPT_PACKET, _T.BUFFERED_BULK_PACKET})

ENDPOINT_IN = 0x80
"Direction bit of an endpoint address: device to host (USB 2.0 §9.6.6)."

ENDPOINT_SLOTS = 32
"Entries of ep_info, always all of them: 0-15 OUT, 16-31 IN."
MAX_INTERFACES = 32
"interface_info has room for no more."

VERSION_BYTES = 64
"hello's version field, its NUL included."
MAX_CAP_WORDS = 32
"Capability words taken in a hello. Today's protocol has 1, and extra ones are ignored; room for 1024 capabilities."

MAX_TRANSFER = 128 << 20
"Bytes in one bulk transfer; libusbredirparser treats more as malformed in either direction."
DEFAULT_MAX_PAYLOAD = 32 << 20
"""Payload bytes of one packet that we hold, unless told otherwise. The largest URB known to come from a guest is 16 MiB
(usbfs_memory_mb of a Linux guest); twice that leaves room, and a lying peer costs us no more than this."""
MAX_FILTER_BYTES = 64 << 10
"A filter string with its NUL: some 2300 rules as libusbredirfilter writes them. Bounds the work of matching, too."
WINDOW = 16 << 10
"Bytes read ahead: hundreds of small packets in one read, while copying the start of a payload out of it stays cheap."


def endpoint_index(address: int) -> int:
    """Where an endpoint address has its entry in ep_info: 0-15 for OUT, 16-31 for IN."""
    return (address & ENDPOINT_IN) >> 3 | address & 0x0F


def endpoint_address(index: int) -> int:
    """The endpoint address of an entry of ep_info; the inverse of `endpoint_index`."""
    return (index & 0x10) << 3 | index & 0x0F


def consistent(caps: Cap) -> Cap:
    """`caps` less those whose prerequisite is missing. Both ends do this to both hellos, as libusbredirparser does."""
    if Cap.BULK_STREAMS in caps and Cap.EP_INFO_MAX_PACKET_SIZE not in caps:
        return caps & ~Cap.BULK_STREAMS
    return caps
