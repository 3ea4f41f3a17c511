"""What PTP and MTP put on the wire: containers, codes, and the data types of datasets.

PTP is ISO 15740; its transport is the Still Image Capture Device class 1.0, whose containers these are (§7.1). MTP is
USB-IF's Media Transfer Protocol 1.1, which extends it.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Final

CONTAINER: Final = struct.Struct("<IHHI")
"Length with this header, type, code, transaction."
COMMAND, DATA, RESPONSE = 1, 2, 3
MAX_PARAMETERS: Final = 5
WHOLE_OBJECT: Final = 0xFFFF_FFFF
"A container's length that says: until a short packet. For what is larger than 4 GiB."
MAX_UNITS: Final = 254
"UTF-16 units in a string beside its final zero: their number is one byte."
ANY: Final = 0xFFFF_FFFF
"As a storage: all of them; as a parent: the root."


class Operation(IntEnum):
    """Operation codes (MTP 1.1 appendix D)."""

    GET_DEVICE_INFO = 0x1001
    OPEN_SESSION = 0x1002
    CLOSE_SESSION = 0x1003
    GET_STORAGE_IDS = 0x1004
    GET_STORAGE_INFO = 0x1005
    GET_NUM_OBJECTS = 0x1006
    GET_OBJECT_HANDLES = 0x1007
    GET_OBJECT_INFO = 0x1008
    GET_OBJECT = 0x1009
    DELETE_OBJECT = 0x100B
    SEND_OBJECT_INFO = 0x100C
    SEND_OBJECT = 0x100D
    GET_PARTIAL_OBJECT = 0x101B
    GET_OBJECT_PROPS_SUPPORTED = 0x9801
    GET_OBJECT_PROP_DESC = 0x9802
    GET_OBJECT_PROP_VALUE = 0x9803


class Result(IntEnum):
    """Response codes (MTP 1.1 appendix F)."""

    OK = 0x2001
    GENERAL_ERROR = 0x2002
    SESSION_NOT_OPEN = 0x2003
    OPERATION_NOT_SUPPORTED = 0x2005
    INVALID_STORAGE = 0x2008
    INVALID_HANDLE = 0x2009
    STORE_FULL = 0x200C
    NO_VALID_OBJECT_INFO = 0x2015
    INVALID_PARENT = 0x201A
    INVALID_PARAMETER = 0x201D
    SESSION_ALREADY_OPEN = 0x201E
    INVALID_PROP_CODE = 0xA801
    INVALID_DATASET = 0xA806


class Format(IntEnum):
    """Object format codes (MTP 1.1 appendix A)."""

    UNDEFINED = 0x3000
    FOLDER = 0x3001
    TEXT = 0x3004
    JPEG = 0x3801


class Property(IntEnum):
    """Object property codes (MTP 1.1 appendix B)."""

    STORAGE = 0xDC01
    FORMAT = 0xDC02
    SIZE = 0xDC04
    FILE_NAME = 0xDC07
    PARENT = 0xDC0B
    UNIQUE_ID = 0xDC41
    NAME = 0xDC44


UINT16, UINT32, UINT64, UINT128, STRING = 0x0004, 0x0006, 0x0008, 0x000A, 0xFFFF
"Data type codes (MTP 1.1 table 3)."
_SIZES: Final = {UINT16: 2, UINT32: 4, UINT64: 8, UINT128: 16}

OBJECT_INFO: Final = struct.Struct("<IHHIHIIIIIIIHII")
"""StorageID, ObjectFormat, ProtectionStatus, ObjectCompressedSize; format, size, width and height of the thumbnail;
width, height and depth of the image; ParentObject; association type and description; SequenceNumber. Four strings
follow: Filename, DateCreated, DateModified, Keywords (MTP 1.1 §5.3.1)."""


def string(text: str) -> bytes:
    """A string: how many UTF-16 units with the final zero, and these; empty: the number alone (MTP 1.1 §3.2.3). What is
    longer than MAX_UNITS is cut."""
    units = text.encode("utf-16-le")[: 2 * MAX_UNITS]
    return bytes((len(units) // 2 + 1,)) + units + bytes(2) if units else b"\0"


def parse_string(data: bytes) -> str:
    """The string at the start of `data`. Raises ValueError for one that isn't all there."""
    size = 2 * data[0] if data else -1
    if not 0 <= size < len(data):
        raise ValueError("a string is cut off")
    return data[1 : 1 + size].decode("utf-16-le").rstrip("\0")


def array(values: Iterable[int], kind: int = UINT16) -> bytes:
    """How many, and these."""
    found = [*values]
    return struct.pack("<I", len(found)) + b"".join(value.to_bytes(_SIZES[kind], "little") for value in found)


def value(kind: int, content: int | str) -> bytes:
    """A property's value of that data type."""
    return string(content) if isinstance(content, str) else content.to_bytes(_SIZES[kind], "little")


def container(kind: int, code: int, transaction: int, body: bytes = b"") -> bytes:
    """A container with its header."""
    return CONTAINER.pack(CONTAINER.size + len(body), kind, code, transaction) + body


def parameters(body: bytes | memoryview) -> tuple[int, ...]:
    """A command's or a response's. Raises ValueError for what no such container can hold."""
    if len(body) % 4 or len(body) > 4 * MAX_PARAMETERS:
        raise ValueError("a command has up to five parameters of four bytes")
    return struct.unpack(f"<{len(body) // 4}I", body)
