"""A SPICE server that says anything: documented errors only, answers that are legal, and pieces that do not matter.

An input is a byte that chooses what is linked and how it is received, one for the size of the pieces, and what the
server says: as it stands, or as messages whose types, bodies and compressed data follow.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import lz4.block

from tests.fuzz.source import Source
from tests.unit.spice.samples import Recorder, Stream, full_message, linked, message, sub_messages
from usbbridge.errors import ConnectionLostError, LinkError, RemoteProtocolError
from usbbridge.spice.channel import MAX_OUTPUT, Channel
from usbbridge.spice.framing import link_message, parse_header
from usbbridge.spice.link import LinkClient, LinkResult
from usbbridge.spice.main import MainChannel
from usbbridge.spice.messages import MAX_CHANNELS, MAX_LINK_BYTES, PING, ChannelType, ClientMessage, LinkReply
from usbbridge.spice.messages import MainClientMessage as MainClient
from usbbridge.spice.reader import WINDOW
from usbbridge.spice.usbredir import MAX_UNCOMPRESSED, UsbredirChannel

DOCUMENTED: Final = (RemoteProtocolError, ConnectionLostError)

KEY: Final = bytes.fromhex(
    "30819f300d06092a864886f70d010101050003818d0030818902818100c21a51b83839c5b3dcb304616bb17da4fa8a70654c"
    "3c04489a343caa5f95bec8c218aa3db0268a14d43c8c2b2a74c8a5b8bd62723543dadfcd17e9cbbec2e8249692998af4684f"
    "17329a6a1e965fb077ca7572ea11346cf5ae0654eeb9d2d747ba7c83936104b61e905f52a148436db5f2104d1b6688f172c3"
    "1d6046ff11be6d0203010001"
)
"A public key, the same in every run; nobody has the private one."

LINK, MAIN, FULL, DIRECT, SCRIPT = 1, 2, 4, 8, 16
"""Bits of the first byte: begin with the link stage; MAIN instead of USBREDIR; full headers; receive into the channel's
own buffer; messages instead of bytes."""

TYPES: Final = (3, 4, 101, 102, 103, 104, 5, 6, 7, 8, 1, 105, 106, 111, 113, 114, 116, 2, 109, 999)
"Of messages, those that are most worth trying first."
ANSWER_SIZES: Final = {
    ClientMessage.ACK_SYNC: 4,
    ClientMessage.ACK: 0,
    ClientMessage.PONG: PING.size,
    MainClient.ATTACH_CHANNELS: 0,
}
"What we send, and how long it is; the server ends the session for anything else."


class Said(NamedTuple):
    """What came of a stream."""

    error: Exception | None
    output: bytes
    stream: bytes
    events: list[object]


def one(data: bytes) -> None:
    """Run an input."""
    source = Source(data)
    how, size = source.number(), source.number() + 1
    if how & LINK:
        found = link(how, source.rest(), size)
        if found is None:
            return
        result, said = found
    else:
        kind = ChannelType.MAIN if how & MAIN else ChannelType.USBREDIR
        result = linked(kind, mini=not how & FULL)
        said = script(source, mini=not how & FULL) if how & SCRIPT else source.rest()
    cut = hear(channel_of(result), said, size * size, direct=bool(how & DIRECT))
    check_output(result, cut.output)
    whole = hear(channel_of(result), said, len(said) + 1, direct=False)
    if cut.error is None and whole.error is None:
        assert cut[1:] == whole[1:], "the pieces that it came in make a difference"


def link(how: int, said: bytes, size: int) -> tuple[LinkResult, bytes] | None:
    """What was linked, and the bytes after it; None if the link stage failed, or was not finished."""
    kind = ChannelType.MAIN if how & MAIN else ChannelType.USBREDIR
    client = LinkClient(kind, 0, 0 if how & MAIN else 7, password="secret" if how & FULL else "")
    client.bytes_to_send()
    try:
        for start in range(0, len(said), size):
            client.receive(said[start : start + size])
            client.bytes_to_send()
            if client.done is not None:
                return client.done, client.rest + said[start + size :]
            assert len(client._input) < MAX_LINK_BYTES + WINDOW, "the link stage collects without end"
        client.eof()
    except LinkError:
        return None


def channel_of(result: LinkResult) -> Channel:
    if result.channel_type == ChannelType.MAIN:
        return MainChannel(result, Recorder())
    return UsbredirChannel(result, Stream(), handler=Recorder())


def hear(channel: Channel, said: bytes, size: int, *, direct: bool) -> Said:
    """Give a channel what the server said, `size` bytes at a time."""
    output, error = b"", None
    try:
        for start in range(0, len(said), size):
            receive(channel, said[start : start + size], direct=direct)
            output += channel.take_output()
            assert len(channel._output) <= MAX_OUTPUT
        ends(channel)
    except DOCUMENTED as found:
        error = found
        stays_dead(channel, found)
    stream = channel._stream
    handler = channel._handler
    assert isinstance(handler, Recorder)
    if isinstance(channel, MainChannel):
        assert len(channel.channels) <= 0x10000
    return Said(error, output, bytes(stream.data) if isinstance(stream, Stream) else b"", handler.events)


def receive(channel: Channel, data: bytes, *, direct: bool) -> None:
    if not direct:
        channel.feed(data)
        return
    view = memoryview(data)
    while view:
        target = channel.buffer()
        n = min(len(target), len(view))
        target[:n] = view[:n]
        view = view[n:]
        channel.received(n)


def ends(channel: Channel) -> None:
    """The server closes the connection: what that means is always an error, but not of what came before."""
    try:
        channel.eof()
    except (*DOCUMENTED, LinkError) as error:
        stays_dead(channel, error)


def stays_dead(channel: Channel, error: Exception) -> None:
    """What has failed once fails in the same way for ever."""
    again: Exception | None = None
    try:
        channel.feed(b"x")
    except (*DOCUMENTED, LinkError) as found:
        again = found
    assert again is error, "a dead channel takes bytes, or finds another error"


def check_output(result: LinkResult, output: bytes) -> None:
    """All that we send is what a client may say."""
    head = 6 if result.mini_header else 18
    at = serial = 0
    while at < len(output):
        header = parse_header(result.mini_header, output, at)
        serial += 1
        assert ANSWER_SIZES[header.type] == header.size
        assert header.sub_list == 0
        if not result.mini_header:
            assert int.from_bytes(output[at : at + 8], "little") == serial
        at += head + header.size
    assert at == len(output)


# ---- messages


def script(source: Source, *, mini: bool) -> bytes:
    """Messages by type and body; their headers are right, apart from a size now and then."""
    said, serial = b"", 0
    while source and len(said) < 4 * MAX_UNCOMPRESSED:
        serial += 1
        type_ = source.pick(TYPES)
        content = body(source)
        head = message(type_, content) if mini else full_message(serial, type_, content, source.number())
        said += head
    return said


def body(source: Source) -> bytes:
    """A body: plain, long, compressed, or a list of messages."""
    match source.number() & 3:
        case 0:
            return source.take(source.number())
        case 1:
            return source.take(source.number()) + bytes(source.number(2))
        case 2:
            packed = lz4.block.compress(source.take(8) * source.number(2), store_size=False)
            lie = source.number(4) if source.flag() else 8 * 0x100
            return struct.pack("<BI", source.below(3), lie) + packed
        case _:
            parts = [message(source.pick(TYPES), source.take(source.number())) for _ in range(source.below(70))]
            return sub_messages(*parts)


# ---- seeds

STAMP: Final = struct.pack("<IQ", 5, 6)
SAID: Final = (
    (3, struct.pack("<II", 1, 2)),
    (4, STAMP),
    (4, STAMP + bytes(2000)),
    (5, b"\1\x09\0" + bytes(8)),
    (7, struct.pack("<QIIII", 1, 2, 1, 9, 4) + b"text\0"),
    (8, sub_messages(message(4, STAMP), message(3, struct.pack("<II", 2, 3)))),
    (999, b"unknown" * 9),
)
MAIN_SAID: Final = (
    (103, struct.pack("<8I", 7, 1, 3, 1, 0, 10, 99, 0)),
    (104, struct.pack("<I", 3) + b"\x09\1\x09\0\3\0"),
    (105, b"\3\0\2\0"),
    (106, bytes(4)),
    (113, struct.pack("<I", 3) + b"vm\0"),
    (114, bytes(16)),
)
USBREDIR_SAID: Final = (
    (101, b"stream"),
    (101, b"long" * 600),
    (101, b""),
    (102, struct.pack("<BI", 1, 9000) + lz4.block.compress(b"usbredir " * 1000, store_size=False)),
    (6, struct.pack("<QI", 1, 7)),
)


def seeds() -> Iterator[bytes]:
    """Link stages that go well and not, every message alone, and all of them in a row."""
    reply = LinkReply(0, KEY, frozenset({0, 1, 3}), frozenset({0}))
    refused = [LinkReply(code, KEY, frozenset(), frozenset()) for code in (1, 4, 5, 6, 7, 8, 9)]
    sasl, old = (LinkReply(0, KEY, frozenset(common), frozenset()) for common in ((0, 2), ()))
    data = message(4, STAMP) + message(101, b"data")
    yield bytes((LINK, 200)) + link_message(reply.pack()) + bytes(4) + data
    yield bytes((LINK, 200)) + link_message(reply.pack()) + b"\7\0\0\0"
    yield bytes((LINK | MAIN, 3)) + link_message(reply.pack()) + bytes(4) + message(*MAIN_SAID[0])
    yield from (bytes((LINK, 20)) + link_message(each.pack()) for each in refused)
    yield bytes((LINK, 20)) + link_message(reply.pack()) + link_message(refused[0].pack())
    yield bytes((LINK, 20)) + link_message(sasl.pack())
    yield bytes((LINK, 20)) + link_message(old.pack()) + bytes(4) + data
    yield bytes((0, 3))
    yield bytes((LINK, 20)) + link_message(reply.pack())
    yield bytes((LINK, 20)) + link_message(reply.pack())[:100]
    for rubbish in (b"HTTP/1.1 400 Bad Request\r\n", b"\x15\3\3\0\2\2\x46", b""):
        yield bytes((LINK, 20)) + rubbish
    for how, messages in ((MAIN, SAID + MAIN_SAID), (0, SAID + USBREDIR_SAID)):
        for type_, content in messages:
            yield bytes((how, 3)) + message(type_, content)
            yield bytes((how | FULL | DIRECT, 60)) + full_message(1, type_, content)
        yield bytes((how | DIRECT, 9)) + b"".join(message(*each) for each in messages)
    yield bytes((SCRIPT, 9)) + b"\3\2streams!\0\1\0\1" + b"\2\1\4data\x40\x01" + b"\1\0\x0c" + STAMP
    yield bytes((SCRIPT | DIRECT, 9)) + b"\x09\3\2\1\x0c" + STAMP + b"\0\x08" + bytes(8)


DICTIONARY: Final[tuple[bytes, ...]] = (
    b"REDQ",
    b"\2\0\0\0\2\0\0\0",
    *(struct.pack("<H", type_) for type_ in TYPES),
    *(struct.pack("<I", number) for number in (18, 178, 186, 0x100000, 0x7FFFFFFF, 0xFFFFFFFF, MAX_CHANNELS)),
)
