"""How SPICE messages are delimited on the wire: the link stage's header and the data stage's two headers.

Symmetric, so that either side of a connection can be built on it (SPICE protocol, "Link" and "Data header"). All
integers are little-endian and nothing is padded.
"""

import struct
from typing import NamedTuple

MAGIC = b"REDQ"
MAJOR, MINOR = 2, 2
LINK_HEADER = struct.Struct("<4sIII")
MINI_HEADER = struct.Struct("<HI")
FULL_HEADER = struct.Struct("<QHII")


class LinkHeader(NamedTuple):
    """What precedes either side's link message (16 bytes)."""

    magic: bytes
    major: int
    minor: int
    size: int
    "Bytes that follow the header."

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> "LinkHeader":
        """The header in the first 16 bytes of `data`; nothing is checked."""
        return cls(*LINK_HEADER.unpack_from(data))


class DataHeader(NamedTuple):
    """What precedes a message of the data stage."""

    type: int
    size: int
    "Bytes that follow the header."
    sub_list: int
    "Offset of a list of sub-messages in the body, 0 if there is none; always 0 in a mini header."


def link_message(body: bytes) -> bytes:
    """A link message with its header."""
    return LINK_HEADER.pack(MAGIC, MAJOR, MINOR, len(body)) + body


def header_size(mini: bool) -> int:
    """Bytes a message header has."""
    return MINI_HEADER.size if mini else FULL_HEADER.size


def parse_header(mini: bool, data: bytes | bytearray | memoryview, offset: int = 0) -> DataHeader:
    """The message header at `offset`; `header_size(mini)` bytes must be there."""
    if mini:
        type_, size = MINI_HEADER.unpack_from(data, offset)
        return DataHeader(type_, size, 0)
    _serial, type_, size, sub_list = FULL_HEADER.unpack_from(data, offset)
    return DataHeader(type_, size, sub_list)


class MessageWriter:
    """Makes the message headers of one direction of one channel; full headers are numbered from 1."""

    def __init__(self, mini: bool) -> None:
        self._mini = mini
        self._serial = 0

    def header(self, type_: int, size: int) -> bytes:
        """The header of the next message, whose body of `size` bytes is to follow it at once."""
        if self._mini:
            return MINI_HEADER.pack(type_, size)
        self._serial += 1
        return FULL_HEADER.pack(self._serial, type_, size, 0)

    def message(self, type_: int, body: bytes = b"") -> bytes:
        """A whole message."""
        return self.header(type_, len(body)) + body
