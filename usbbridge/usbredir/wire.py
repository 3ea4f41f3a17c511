"""The layouts as `struct` formats: what the codec packs and unpacks with.

`layouts.py` declares the same with `construct`, and a unit test proves the two equal. The codec does not import that
file, because importing construct costs 35 ms and the encoder process is to start within 250 ms.
"""

from functools import cache
from struct import Struct

from usbbridge.usbredir.proto import Cap, PacketType

_T = PacketType

HELLO_HEADER = Struct("<III")
"hello has this 12-byte header whatever is agreed on later: u32 type, u32 length, u32 id."
_WIDE_HEADER = Struct("<IIQ")

CAP_WORD = Struct("<I")

_FORMATS: dict[PacketType, str] = {
    _T.HELLO: "64s",
    _T.DEVICE_CONNECT: "BBBBHH",
    _T.DEVICE_DISCONNECT: "",
    _T.RESET: "",
    _T.INTERFACE_INFO: "I32s32s32s32s",
    _T.EP_INFO: "32s32s32s",
    _T.SET_CONFIGURATION: "B",
    _T.GET_CONFIGURATION: "",
    _T.CONFIGURATION_STATUS: "BB",
    _T.SET_ALT_SETTING: "BB",
    _T.GET_ALT_SETTING: "B",
    _T.ALT_SETTING_STATUS: "BBB",
    _T.START_ISO_STREAM: "BBB",
    _T.STOP_ISO_STREAM: "B",
    _T.ISO_STREAM_STATUS: "BB",
    _T.START_INTERRUPT_RECEIVING: "B",
    _T.STOP_INTERRUPT_RECEIVING: "B",
    _T.INTERRUPT_RECEIVING_STATUS: "BB",
    _T.ALLOC_BULK_STREAMS: "II",
    _T.FREE_BULK_STREAMS: "I",
    _T.BULK_STREAMS_STATUS: "IIB",
    _T.CANCEL_DATA_PACKET: "",
    _T.FILTER_REJECT: "",
    _T.FILTER_FILTER: "",
    _T.DEVICE_DISCONNECT_ACK: "",
    _T.START_BULK_RECEIVING: "IIBB",
    _T.STOP_BULK_RECEIVING: "IB",
    _T.BULK_RECEIVING_STATUS: "IBB",
    _T.CONTROL_PACKET: "BBBBHHH",
    _T.BULK_PACKET: "BBHI",
    _T.ISO_PACKET: "BBH",
    _T.INTERRUPT_PACKET: "BBH",
    _T.BUFFERED_BULK_PACKET: "IIBB",
}
"Type headers as they are with no capability at all."

_GAINS: tuple[tuple[Cap, PacketType, str], ...] = (
    (Cap.CONNECT_DEVICE_VERSION, _T.DEVICE_CONNECT, "H"),
    (Cap.EP_INFO_MAX_PACKET_SIZE, _T.EP_INFO, "32H"),
    (Cap.BULK_STREAMS, _T.EP_INFO, "32I"),
    (Cap.BULK_LENGTH_32BIT, _T.BULK_PACKET, "H"),
)
"What a capability appends to a type header, in the order of the wire."


class Wire:
    """The layouts under one set of agreed capabilities."""

    __slots__ = ("bodies", "caps", "header", "packets")

    def __init__(self, caps: Cap) -> None:
        self.caps = caps
        self.header = _WIDE_HEADER if Cap.IDS_64BIT in caps else HELLO_HEADER
        "Header of every packet but hello: type, length, id."
        formats = dict(_FORMATS)
        for cap, packet, gain in _GAINS:
            if cap in caps:
                formats[packet] += gain
        self.bodies = {packet: Struct("<" + layout) for packet, layout in formats.items()}
        "Type header of each packet type."
        self.packets = {packet: Struct(self.header.format + layout) for packet, layout in formats.items()}
        "Header and type header together."


@cache
def wire(caps: Cap) -> Wire:
    """The layouts under `caps`, built once."""
    return Wire(caps)
