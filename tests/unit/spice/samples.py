"""The server's side of conversations, for tests: replies, messages, and ways to deliver them."""

import random
import struct
from collections.abc import Callable, Iterator
from functools import cache

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from usbbridge.spice.framing import FULL_HEADER, MINI_HEADER, link_message
from usbbridge.spice.link import LinkResult
from usbbridge.spice.messages import ChannelType, CommonCap, LinkReply

SERVER_CAPS = frozenset({CommonCap.PROTOCOL_AUTH_SELECTION, CommonCap.AUTH_SPICE, CommonCap.MINI_HEADER})
"What spice-server announces without SASL: 0x0b."
WHERE = "vm.example:5900"


@cache
def server_key(bits: int = 1024) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def der(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def decrypt(ticket: bytes) -> bytes:
    """What the server reads out of a ticket."""
    return server_key().decrypt(ticket, padding.OAEP(padding.MGF1(SHA1()), SHA1(), None))


def reply(
    *, error: int = 0, common: frozenset[int] = SERVER_CAPS, channel: frozenset[int] = frozenset(), key: bytes = b""
) -> bytes:
    """A link reply with its header."""
    return link_message(LinkReply(error, key or der(server_key()), common, channel).pack())


def result(code: int = 0) -> bytes:
    return struct.pack("<I", code)


def linked(
    channel_type: int = ChannelType.USBREDIR,
    channel_id: int = 0,
    *,
    mini: bool = True,
    caps: frozenset[int] = frozenset({0}),
) -> LinkResult:
    return LinkResult(channel_type, channel_id, mini, SERVER_CAPS, caps, WHERE)


def message(type_: int, body: bytes = b"") -> bytes:
    """A message with a mini header."""
    return MINI_HEADER.pack(type_, len(body)) + body


def full_message(serial: int, type_: int, body: bytes = b"", sub_list: int = 0) -> bytes:
    return FULL_HEADER.pack(serial, type_, len(body), sub_list) + body


def sub_messages(*messages: bytes, offset: int = 0) -> bytes:
    """A SubMessageList that stands at `offset` of its body, and the sub-messages behind it."""
    head = 2 + 4 * len(messages)
    at, offsets = offset + head, []
    for item in messages:
        offsets.append(at)
        at += len(item)
    return struct.pack(f"<H{len(offsets)}I", len(offsets), *offsets) + b"".join(messages)


Split = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    for index in range(len(data)):
        yield data[index : index + 1]


def in_pieces(data: bytes) -> Iterator[bytes]:
    """The same pieces every time, of very different sizes."""
    random_ = random.Random(len(data))
    start = 0
    while start < len(data):
        end = start + random_.choice((1, 2, 5, 17, 100, 4000, 20000))
        yield data[start:end]
        start = end


SPLITS: tuple[Split, ...] = (whole, byte_by_byte, in_pieces)


class Recorder:
    """A handler that remembers the events."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def event(self, event: object) -> None:
        self.events.append(event)


class Stream:
    """A receiver that remembers the stream, and how much of it came without a copy."""

    def __init__(self, size: int = 16 * 1024) -> None:
        self.data = bytearray()
        self.direct = 0
        self._buffer = memoryview(bytearray(size))

    def buffer(self) -> memoryview:
        return self._buffer

    def received(self, n: int) -> None:
        self.data += self._buffer[:n]
        self.direct += n

    def feed(self, data: memoryview) -> None:
        self.data += data
