"""Whatever a SPICE server sends, in whatever pieces: documented errors only, and no memory but what is stated."""

import struct
import tracemalloc
from collections.abc import Callable

import lz4.block
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.spice.samples import (
    Recorder,
    Stream,
    full_message,
    linked,
    message,
    reply,
    result,
    server_key,
    sub_messages,
)
from usbbridge.errors import ConnectionLostError, LinkError, RemoteProtocolError
from usbbridge.spice.channel import Channel
from usbbridge.spice.link import LinkClient
from usbbridge.spice.main import MainChannel
from usbbridge.spice.messages import MAX_LINK_BYTES, ChannelType
from usbbridge.spice.reader import WINDOW
from usbbridge.spice.usbredir import MAX_UNCOMPRESSED, UsbredirChannel

server_key()  # made once, outside of any example's time

STAMP = struct.pack("<IQ", 5, 6)
NOTIFY = struct.pack("<QIIII", 1, 2, 1, 9, 4) + b"text\0"
PACKED = lz4.block.compress(b"usbredir " * 1000, store_size=False)
COMMON = [
    (3, struct.pack("<II", 1, 2)),
    (4, STAMP),
    (4, STAMP + bytes(40_000)),
    (5, b"\1\x09\0" + bytes(8)),
    (7, NOTIFY),
    (8, sub_messages(message(4, STAMP), message(7, NOTIFY))),
    (999, b"unknown" * 9),
]
MAIN = [
    (103, struct.pack("<8I", 7, 1, 3, 1, 0, 10, 99, 0)),
    (104, struct.pack("<I", 3) + b"\x09\1\x09\0\3\0"),
    (105, b"\3\0\2\0"),
    (106, bytes(4)),
    (109, b"agent" * 100),
    (113, struct.pack("<I", 3) + b"vm\0"),
    (114, bytes(16)),
]
USBREDIR = [
    (101, b"stream"),
    (101, b"long" * 5000),
    (101, b""),
    (102, struct.pack("<BI", 1, 9000) + PACKED),
]
LINK = reply(channel=frozenset({0})) + result()
DOCUMENTED = (RemoteProtocolError, ConnectionLostError)
STATED = 2 * MAX_UNCOMPRESSED + 256 * 1024
"A COMPRESSED_DATA, what it becomes, the window and the answers."

Messages = list[tuple[int, bytes]]
Edits = list[tuple[int, bytes, int]]
"(where, what to put there, how many bytes it replaces)."


def wire(messages: Messages, mini: bool) -> bytes:
    if mini:
        return b"".join(message(type_, body) for type_, body in messages)
    return b"".join(full_message(serial + 1, type_, body) for serial, (type_, body) in enumerate(messages))


def messages_of(kinds: Messages) -> st.SearchStrategy[Messages]:
    return st.lists(st.sampled_from(kinds), max_size=8)


def mutated(data: bytes, changes: Edits) -> bytes:
    """Each change puts its bytes in the place of so many others."""
    changed = bytearray(data)
    for at, new, removed in changes:
        start = at % (len(changed) + 1)
        changed[start : start + removed] = new
    return bytes(changed)


numbers = st.sampled_from([0, 1, 0x7F, 0xFF, 0xFFFF, 0x100000, 0x7FFFFFFF, 0xFFFFFFFF])
replacements = numbers.map(lambda number: struct.pack("<I", number)) | st.binary(max_size=6)
places = st.integers(0, 300) | st.integers(0, 100_000)
edits = st.lists(st.tuples(places, replacements, st.integers(0, 6)), max_size=4)
cuts = st.lists(st.integers(1, 50_000) | st.integers(1, 30), max_size=12)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    found, start = [], 0
    for size in sizes:
        found.append(data[start : start + size])
        start += size
    return [piece for piece in [*found, data[start:]] if piece]


def deliver(channel: Channel, data: bytes, sizes: list[int]) -> bytes:
    """Everything the channel answered."""
    output = b""
    for piece in pieces(data, sizes):
        channel.feed(piece)
        output += channel.take_output()
    return output


@given(messages=messages_of(COMMON + USBREDIR), mini=st.booleans(), sizes=cuts)
def test_a_stream_means_the_same_in_all_pieces(messages: Messages, mini: bool, sizes: list[int]) -> None:
    def outcome(sizes: list[int]) -> tuple[bytes, bytes, list[object]]:
        stream, handler = Stream(), Recorder()
        channel = UsbredirChannel(linked(mini=mini), stream, handler=handler)
        output = deliver(channel, wire(messages, mini), sizes)
        return output, bytes(stream.data), handler.events

    assert outcome(sizes) == outcome([])


@given(messages=messages_of(COMMON + MAIN[1:]), mini=st.booleans(), sizes=cuts)
def test_a_session_means_the_same_in_all_pieces(messages: Messages, mini: bool, sizes: list[int]) -> None:
    def outcome(sizes: list[int]) -> tuple[bytes, object, object, list[object]]:
        handler = Recorder()
        channel = MainChannel(linked(ChannelType.MAIN, mini=mini), handler)
        output = deliver(channel, wire([MAIN[0], *messages], mini), sizes)
        return output, channel.init, channel.channels, handler.events

    assert outcome(sizes) == outcome([])


def survives(make: Callable[[], Channel], data: bytes, sizes: list[int]) -> None:
    """Only documented errors, the same again after the first, and no more memory than stated."""
    channel, failure = make(), None
    tracemalloc.start()
    try:
        for piece in pieces(data, sizes):
            channel.feed(piece)
            channel.take_output()
    except DOCUMENTED as error:
        failure = error
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < STATED + 2 * len(data)
    if failure is not None:
        with pytest.raises(DOCUMENTED) as again:
            channel.feed(b"x")
        assert again.value is failure


@settings(max_examples=200)
@given(messages=messages_of(COMMON + USBREDIR), mini=st.booleans(), changes=edits, sizes=cuts)
def test_a_hostile_usbredir_channel(messages: Messages, mini: bool, changes: Edits, sizes: list[int]) -> None:
    data = mutated(wire(messages, mini), changes)
    survives(lambda: UsbredirChannel(linked(mini=mini), Stream()), data, sizes)


@settings(max_examples=200)
@given(messages=messages_of(COMMON + MAIN), mini=st.booleans(), changes=edits, sizes=cuts)
def test_a_hostile_main_channel(messages: Messages, mini: bool, changes: Edits, sizes: list[int]) -> None:
    data = mutated(wire(messages, mini), changes)
    survives(lambda: MainChannel(linked(ChannelType.MAIN, mini=mini), Recorder()), data, sizes)


@given(type_=st.integers(0, 300), size=st.integers(0, 0xFFFFFFFF), tail=st.binary(max_size=100), mini=st.booleans())
def test_no_size_in_a_header_makes_anything_grow(type_: int, size: int, tail: bytes, mini: bool) -> None:
    head = struct.pack("<HI", type_, size) if mini else struct.pack("<QHII", 1, type_, size, 0)
    survives(lambda: UsbredirChannel(linked(mini=mini), Stream()), head + tail, [])


@given(changes=edits, sizes=cuts, tail=st.binary(max_size=50))
def test_a_hostile_link_stage(changes: Edits, sizes: list[int], tail: bytes) -> None:
    data = mutated(LINK, [(at % 220, new, removed) for at, new, removed in changes]) + tail
    link = LinkClient(ChannelType.USBREDIR, 0, 7)
    link.bytes_to_send()
    try:
        for piece in pieces(data, sizes):
            link.receive(piece)
            assert len(link._input) < MAX_LINK_BYTES + WINDOW
            if link.done is not None:
                assert len(link.rest) <= len(data)
                return
        link.eof()
    except LinkError:
        pass


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5), st.integers(1, 3000))
def test_what_is_compressed_arrives(parts: list[bytes], times: int) -> None:
    data = b"".join(parts) * times
    sender = UsbredirChannel(linked(), Stream(), compression="always")
    stream = Stream()
    packed = sender.compress([data], len(data))
    UsbredirChannel(linked(), stream).feed(packed if packed is not None else sender.frame(len(data)) + data)
    assert packed is None or len(packed) < len(data) + 6
    assert bytes(stream.data) == data
