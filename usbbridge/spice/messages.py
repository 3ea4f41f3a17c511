"""The contents of the SPICE messages usbbridge speaks: numbers, layouts, and what one may contain.

Names and numbers are those of the SPICE protocol (spice-protocol's enums.h, spice-common's spice.proto). Layouts are
little-endian and packed. Parsers take a message's body, check every count in it against what is there, and raise
`MalformedMessageError`; that the body has its fixed part is checked before, against the least size of its type.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from usbbridge.spice.errors import MalformedMessageError

PUBLIC_KEY_BYTES = 162
"A DER SubjectPublicKeyInfo of a 1024-bit RSA key with exponent 65537; the field has this size and no length."
TICKET_BYTES = 128
"An RSA-1024 cipher text."
MAX_CAP_WORDS = 32
"Capability words a side announces: one today; 32 leave room for 1024 capabilities and keep the parsing trivial."
MAX_LINK_BYTES = 4096
"A link message: spice-server refuses more from a client, and its own reply has 186 bytes."
MAX_CHANNELS = 4096
"Entries of a CHANNELS_LIST: eleven channel types with at most 256 channels each come to 2816."
MAX_TEXT = 4096
"Bytes kept of a text the server wants shown: a screenful. What is longer is cut."

_LINK_MESS = struct.Struct("<IBBIII")
_LINK_REPLY = struct.Struct(f"<I{PUBLIC_KEY_BYTES}sIII")
SET_ACK = struct.Struct("<II")
PING = struct.Struct("<IQ")
NOTIFY = struct.Struct("<QIIII")
DISCONNECTING = struct.Struct("<QI")
INIT = struct.Struct("<8I")
MOUSE_MODE = struct.Struct("<HH")
CHANNEL_ENTRY = struct.Struct("<BB")
COMPRESSED_DATA = struct.Struct("<BI")
U32 = struct.Struct("<I")
U16 = struct.Struct("<H")
UUID_BYTES = 16

Body = bytes | bytearray | memoryview


class ChannelType(IntEnum):
    """SPICE_CHANNEL_*."""

    MAIN = 1
    DISPLAY = 2
    INPUTS = 3
    CURSOR = 4
    PLAYBACK = 5
    RECORD = 6
    TUNNEL = 7
    SMARTCARD = 8
    USBREDIR = 9
    PORT = 10
    WEBDAV = 11


def channel_name(type_: int, id_: int) -> str:
    """What to call a channel in a message, for instance `usbredir 0`."""
    known = type_ in ChannelType._value2member_map_
    return f"{ChannelType(type_).name.lower() if known else f'type {type_},'} {id_}"


class CommonCap(IntEnum):
    """Bits of the common capabilities; AUTH_SPICE's number is also the name of the ticket mechanism on the wire."""

    PROTOCOL_AUTH_SELECTION = 0
    AUTH_SPICE = 1
    AUTH_SASL = 2
    MINI_HEADER = 3


class MainCap(IntEnum):
    """Bits of the MAIN channel's capabilities."""

    SEMI_SEAMLESS_MIGRATE = 0
    NAME_AND_UUID = 1
    AGENT_CONNECTED_TOKENS = 2
    SEAMLESS_MIGRATE = 3


class SpicevmcCap(IntEnum):
    """Bits of the capabilities of USBREDIR, PORT and WEBDAV."""

    DATA_COMPRESS_LZ4 = 0


class LinkErrorCode(IntEnum):
    """SPICE_LINK_ERR_*: of the link reply, of the link result, and as the reason in DISCONNECTING."""

    OK = 0
    ERROR = 1
    INVALID_MAGIC = 2
    INVALID_DATA = 3
    VERSION_MISMATCH = 4
    NEED_SECURED = 5
    NEED_UNSECURED = 6
    PERMISSION_DENIED = 7
    BAD_CONNECTION_ID = 8
    CHANNEL_NOT_AVAILABLE = 9


class ServerMessage(IntEnum):
    """Messages any server channel may send."""

    MIGRATE = 1
    MIGRATE_DATA = 2
    SET_ACK = 3
    PING = 4
    WAIT_FOR_CHANNELS = 5
    DISCONNECTING = 6
    NOTIFY = 7
    LIST = 8


class ClientMessage(IntEnum):
    """Messages any client channel may send."""

    ACK_SYNC = 1
    ACK = 2
    PONG = 3


class MainServerMessage(IntEnum):
    """Messages of the server on MAIN."""

    MIGRATE_BEGIN = 101
    INIT = 103
    CHANNELS_LIST = 104
    MOUSE_MODE = 105
    MULTI_MEDIA_TIME = 106
    MIGRATE_SWITCH_HOST = 111
    NAME = 113
    UUID = 114
    MIGRATE_BEGIN_SEAMLESS = 116


class MainClientMessage(IntEnum):
    """Messages of the client on MAIN."""

    ATTACH_CHANNELS = 104


class SpicevmcMessage(IntEnum):
    """Messages of USBREDIR, the same both ways."""

    DATA = 101
    COMPRESSED_DATA = 102


class CompressionType(IntEnum):
    """SPICE_DATA_COMPRESSION_TYPE_*."""

    NONE = 0
    LZ4 = 1


def pack_caps(caps: Iterable[int]) -> bytes:
    """Capability bits as the least number of words; no bytes if there is none."""
    bits = sum(1 << cap for cap in set(caps))
    return bits.to_bytes((bits.bit_length() + 31) // 32 * 4, "little")


def parse_caps(words: Body) -> frozenset[int]:
    """The numbers of the bits that are set in capability words."""
    bits = int.from_bytes(words, "little")
    return frozenset(bit for bit in range(bits.bit_length()) if bits >> bit & 1)


@dataclass(frozen=True, slots=True)
class LinkMess:
    """SpiceLinkMess: what the client opens a channel with."""

    connection_id: int
    channel_type: int
    channel_id: int
    common_caps: frozenset[int]
    channel_caps: frozenset[int]

    def pack(self) -> bytes:
        common, channel = pack_caps(self.common_caps), pack_caps(self.channel_caps)
        head = _LINK_MESS.pack(
            self.connection_id, self.channel_type, self.channel_id, len(common) // 4, len(channel) // 4, _LINK_MESS.size
        )
        return head + common + channel

    @classmethod
    def parse(cls, body: Body) -> "LinkMess":
        """Raises `ValueError` if it is too short or its capabilities lie outside."""
        if len(body) < _LINK_MESS.size:
            raise ValueError(f"a link message of {len(body)} bytes")
        connection_id, type_, id_, n_common, n_channel, offset = _LINK_MESS.unpack_from(body)
        caps = _caps_at(body, n_common, n_channel, offset, _LINK_MESS.size)
        return cls(connection_id, type_, id_, *caps)


@dataclass(frozen=True, slots=True)
class LinkReply:
    """SpiceLinkReply: the server's answer to a `LinkMess`."""

    error: int
    public_key: bytes
    "DER, `PUBLIC_KEY_BYTES` long."
    common_caps: frozenset[int]
    channel_caps: frozenset[int]

    SIZE = _LINK_REPLY.size

    def pack(self) -> bytes:
        common, channel = pack_caps(self.common_caps), pack_caps(self.channel_caps)
        head = _LINK_REPLY.pack(self.error, self.public_key, len(common) // 4, len(channel) // 4, _LINK_REPLY.size)
        return head + common + channel

    @classmethod
    def parse(cls, body: Body) -> "LinkReply":
        """Raises `ValueError` if it is too short or its capabilities lie outside; these don't count with an error."""
        if len(body) < _LINK_REPLY.size:
            raise ValueError(f"a link reply of {len(body)} bytes")
        error, key, n_common, n_channel, offset = _LINK_REPLY.unpack_from(body)
        if error:
            return cls(error, key, frozenset(), frozenset())
        return cls(error, key, *_caps_at(body, n_common, n_channel, offset, _LINK_REPLY.size))


def _caps_at(
    body: Body, n_common: int, n_channel: int, offset: int, least: int
) -> tuple[frozenset[int], frozenset[int]]:
    if n_common > MAX_CAP_WORDS or n_channel > MAX_CAP_WORDS:
        raise ValueError(f"{n_common} + {n_channel} capability words")
    middle = offset + 4 * n_common
    end = middle + 4 * n_channel
    if offset < least or end > len(body):
        raise ValueError(f"capabilities at {offset}..{end} of {len(body)} bytes")
    return parse_caps(body[offset:middle]), parse_caps(body[middle:end])


@dataclass(frozen=True, slots=True)
class Notify:
    """NOTIFY: a text for the user."""

    severity: int
    "0 information, 1 warning, 2 error."
    visibility: int
    "0 low, 1 medium, 2 high."
    what: int
    text: str

    @classmethod
    def parse(cls, body: Body) -> "Notify":
        _time, severity, visibility, what, length = NOTIFY.unpack_from(body)
        return cls(severity, visibility, what, printable(body[NOTIFY.size : NOTIFY.size + length]))


@dataclass(frozen=True, slots=True)
class Init:
    """INIT: the session begins."""

    session_id: int
    display_channels_hint: int
    supported_mouse_modes: int
    current_mouse_mode: int
    agent_connected: int
    agent_tokens: int
    multi_media_time: int
    ram_hint: int

    @classmethod
    def parse(cls, body: Body) -> "Init":
        return cls(*INIT.unpack_from(body))


@dataclass(frozen=True, slots=True)
class ChannelsList:
    """CHANNELS_LIST: (type, id) of channels that exist; sent again with the new ones only, or with all of them."""

    channels: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, body: Body) -> "ChannelsList":
        (count,) = U32.unpack_from(body)
        if count > MAX_CHANNELS or 4 + 2 * count > len(body):
            raise MalformedMessageError(MainServerMessage.CHANNELS_LIST, f"{count} channels in {len(body)} bytes")
        return cls(tuple(CHANNEL_ENTRY.iter_unpack(body[4 : 4 + 2 * count])))


@dataclass(frozen=True, slots=True)
class Name:
    """NAME: what the VM is called on its host."""

    name: str

    @classmethod
    def parse(cls, body: Body) -> "Name":
        (length,) = U32.unpack_from(body)
        return cls(printable(body[4 : 4 + length]))


@dataclass(frozen=True, slots=True)
class Uuid:
    """UUID of the VM."""

    uuid: str
    "As RFC 9562 §4 writes it."

    @classmethod
    def parse(cls, body: Body) -> "Uuid":
        digits = bytes(body[:UUID_BYTES]).hex()
        return cls("-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])))


@dataclass(frozen=True, slots=True)
class MouseMode:
    """MOUSE_MODE: bits 1 server, 2 client."""

    supported: int
    current: int

    @classmethod
    def parse(cls, body: Body) -> "MouseMode":
        return cls(*MOUSE_MODE.unpack_from(body))


@dataclass(frozen=True, slots=True)
class MultiMediaTime:
    """MULTI_MEDIA_TIME, in milliseconds of the server's own count."""

    time: int

    @classmethod
    def parse(cls, body: Body) -> "MultiMediaTime":
        return cls(*U32.unpack_from(body))


Event = Notify | Init | ChannelsList | Name | Uuid | MouseMode | MultiMediaTime


def printable(raw: Body) -> str:
    """A peer's text made fit for a terminal: up to its NUL, at most `MAX_TEXT` bytes, control characters replaced."""
    text = bytes(raw[:MAX_TEXT]).partition(b"\0")[0].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
