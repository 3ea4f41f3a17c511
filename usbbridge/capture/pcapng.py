"""The pcapng file format, as much of it as a capture of one device needs, and how to cut such a stream into blocks.

Section Header, Interface Description, Enhanced Packet and Interface Statistics Block: draft-ietf-opsawg-pcapng, §4.1,
§4.2, §4.3 and §4.6. Everything is little-endian, which the section header tells; lengths are padded to 4 bytes.

    file = section_header("usbbridge 0.1.0") + interface("1-2", "a stick")
    file += packet(microseconds, [header, data], length)        # as often as there are packets
    file += statistics(microseconds, received, dropped)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from usbbridge.errors import RemoteProtocolError

LINKTYPE_USB_LINUX_MMAPPED: Final = 220
"Packets begin with the 64 bytes of usbmon's `struct mon_bin_hdr`."
MAX_PACKET: Final = 262144
"Bytes of one packet: Wireshark takes no file for whole that has a larger one of this link type (wiretap/wtap.h)."
MAX_BLOCK: Final = 2 * MAX_PACKET
"Bytes of one block that is taken from a stream: a packet and its options fit."

SECTION_HEADER: Final = 0x0A0D0D0A
INTERFACE_DESCRIPTION: Final = 1
INTERFACE_STATISTICS: Final = 5
ENHANCED_PACKET: Final = 6

_BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
_WHOLE_FILE: Final = 0xFFFF_FFFF_FFFF_FFFF  # of the section: its length is not known yet
_COMMENT, _NAME, _DESCRIPTION, _APPLICATION = 1, 2, 3, 4  # opt_comment, if_name, if_description, shb_userappl
_IF_RECEIVED, _IF_DROPPED, _DROP_COUNT = 4, 5, 4  # isb_ifrecv, isb_ifdrop, epb_dropcount

_head = Struct("<II")
_tail = Struct("<I")
_section = Struct("<IHHQ")
_interface = Struct("<HHI")
_packet = Struct("<IIIIIII")
_statistics = Struct("<III")
_option = Struct("<HH")
_counter = Struct("<Q")
_FRAME: Final = _head.size + _tail.size
STATISTICS_BYTES: Final = _FRAME + _statistics.size + 2 * (_option.size + _counter.size) + _option.size
"Size of the block that `statistics` makes."


def section_header(application: str) -> bytes:
    """The first block of a file."""
    return _block(SECTION_HEADER, _section.pack(_BYTE_ORDER_MAGIC, 1, 0, _WHOLE_FILE), _text(_APPLICATION, application))


def interface(name: str, description: str) -> bytes:
    """The block that describes where the packets come from; they refer to it by its place in the file, 0."""
    body = _interface.pack(LINKTYPE_USB_LINUX_MMAPPED, 0, MAX_PACKET)
    return _block(INTERFACE_DESCRIPTION, body, _text(_NAME, name) + _text(_DESCRIPTION, description))


def packet(
    microseconds: int, parts: Sequence[bytes | memoryview], length: int, *, dropped: int = 0, comment: str = ""
) -> bytes:
    """A packet of `length` bytes, of which `parts` are at hand, at a time since the epoch. `dropped` packets that came
    right before it are missing."""
    captured = sum(map(len, parts))
    options = _text(_COMMENT, comment) if comment else b""
    if dropped:
        options += _option.pack(_DROP_COUNT, _counter.size) + _counter.pack(dropped)
    end = _option.pack(0, 0) if options else b""
    padding = -captured % 4
    total = _packet.size + captured + padding + len(options) + len(end) + _tail.size
    high, low = microseconds >> 32, microseconds & 0xFFFF_FFFF
    head = _packet.pack(ENHANCED_PACKET, total, 0, high, low, captured, length)
    return b"".join((head, *parts, bytes(padding), options, end, _tail.pack(total)))


def statistics(microseconds: int, received: int, dropped: int) -> bytes:
    """How many packets there have been, and how many of them are missing, at a time since the epoch."""
    body = _statistics.pack(0, microseconds >> 32, microseconds & 0xFFFF_FFFF)
    options = _option.pack(_IF_RECEIVED, _counter.size) + _counter.pack(received)
    options += _option.pack(_IF_DROPPED, _counter.size) + _counter.pack(dropped)
    return _block(INTERFACE_STATISTICS, body, options)


def dropped_of(block: bytes) -> int:
    """How many packets are missing, of a block that `statistics` has made. Raises RemoteProtocolError for another."""
    if len(block) != STATISTICS_BYTES:
        raise RemoteProtocolError("the capture has statistics of an unknown form")
    at = STATISTICS_BYTES - _tail.size - _option.size - _counter.size
    return int(_counter.unpack_from(block, at)[0])


def _text(code: int, text: str) -> bytes:
    data = text.encode(errors="replace")[:0xFFFF]  # the path of a disk may be no Unicode
    return _option.pack(code, len(data)) + data + bytes(-len(data) % 4)


def _block(kind: int, body: bytes, options: bytes) -> bytes:
    options += _option.pack(0, 0)
    total = _FRAME + len(body) + len(options)
    return _head.pack(kind, total) + body + options + _tail.pack(total)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a stream, as it is to be written."""

    kind: int
    data: bytes


class Splitter:
    """Cuts a stream that may end anywhere into whole blocks."""

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def rest(self) -> int:
        """Bytes that are there of a block that is not whole."""
        return len(self._rest)

    def feed(self, data: bytes) -> Iterator[Block]:
        """Take the next bytes; the blocks that are whole now. Raises RemoteProtocolError for what is no pcapng."""
        self._rest += data
        start = 0
        try:
            while len(self._rest) - start >= _head.size:
                kind, total = _head.unpack_from(self._rest, start)
                if total < _FRAME or total % 4 or total > MAX_BLOCK:
                    raise RemoteProtocolError(f"the capture has a block of {total} bytes")
                if len(self._rest) - start < total:
                    break
                yield Block(kind, bytes(self._rest[start : start + total]))
                start += total
        finally:
            del self._rest[:start]
