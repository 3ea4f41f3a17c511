import itertools
import os
import struct

import lz4.block
import pytest

from tests.unit.spice.samples import SPLITS, Split, Stream, full_message, linked, message
from usbbridge.errors import LocalProtocolError
from usbbridge.spice.errors import CompressedDataError, MalformedMessageError, MessageTooLargeError
from usbbridge.spice.usbredir import (
    AUTO_FIRST_PAUSE,
    AUTO_LAST_PAUSE,
    COMPRESS_ABOVE,
    MAX_FRAME,
    MAX_UNCOMPRESSED,
    Compression,
    UsbredirChannel,
    usbredir_caps,
)

DATA, COMPRESSED_DATA = 101, 102
TEXT = b"Compressible, compressible, compressible. " * 2000
NOISE = os.urandom(64 * 1024)


def channel(
    stream: Stream | None = None,
    compression: Compression = "auto",
    *,
    mini: bool = True,
    caps: frozenset[int] = frozenset({0}),
    unix_socket: bool = False,
    seconds: float = 0.0,
    rate: float = 0.0,
) -> UsbredirChannel:
    """`seconds`: what compressing takes; `rate`: what the link carries, in bytes a second."""
    times = itertools.count(0.0, seconds)
    return UsbredirChannel(
        linked(mini=mini, caps=caps),
        stream or Stream(),
        compression=compression,
        unix_socket=unix_socket,
        link_rate=lambda: rate,
        clock=lambda: next(times),
    )


def packed(data: bytes, size: int | None = None, type_: int = 1) -> bytes:
    block = lz4.block.compress(data, store_size=False)
    return message(COMPRESSED_DATA, struct.pack("<BI", type_, len(data) if size is None else size) + block)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("mini", [True, False])
def test_compressed_and_plain_data_make_one_stream(split: Split, mini: bool) -> None:
    stream = Stream()
    pieces = [b"a" * 70, b"b" * 65_568, NOISE[:1500], TEXT, bytes(MAX_UNCOMPRESSED), NOISE]
    wire = b"".join(packed(piece) + message(DATA, b"plain") for piece in pieces[: 4 if split is SPLITS[1] else 6])
    if not mini:
        wire = b"".join(full_message(1, type_, body) for type_, body in messages(wire))
    target = channel(stream, mini=mini)
    for piece in split(wire):
        target.feed(piece)
    assert bytes(stream.data) == b"".join(p + b"plain" for p in pieces[: 4 if split is SPLITS[1] else 6])


def messages(wire: bytes) -> list[tuple[int, bytes]]:
    """The messages with mini headers in `wire`."""
    found = []
    while wire:
        type_, size = struct.unpack_from("<HI", wire)
        found.append((type_, wire[6 : 6 + size]))
        wire = wire[6 + size :]
    return found


@pytest.mark.parametrize(
    ("wire", "what"),
    [
        (packed(TEXT, type_=0), "type is 0"),
        (packed(TEXT, type_=2), "type is 2"),
        (packed(TEXT, size=0), "to become 0 bytes"),
        (packed(TEXT, size=MAX_UNCOMPRESSED + 1), "to become 1048577 bytes"),
        (packed(TEXT, size=0xFFFFFFFF), "to become 4294967295 bytes"),
        (packed(TEXT, size=len(TEXT) - 1), "cannot be unpacked into"),
        (packed(TEXT, size=len(TEXT) + 1), f"became {len(TEXT)} bytes instead of {len(TEXT) + 1}"),
        (message(COMPRESSED_DATA, b"\1\x10\0\0\0"), "cannot be unpacked into"),
        (message(COMPRESSED_DATA, b"\1\x10\0\0\0" + b"\xff" * 40), "cannot be unpacked into"),
    ],
)
def test_compressed_data_that_lies(wire: bytes, what: str) -> None:
    stream = Stream()
    with pytest.raises(CompressedDataError, match=what):
        channel(stream).feed(wire)
    assert not stream.data


def test_compressed_data_that_is_too_short_or_too_long() -> None:
    with pytest.raises(MalformedMessageError):
        channel().feed(message(COMPRESSED_DATA, b"\1\x10\0\0"))
    with pytest.raises(MessageTooLargeError):
        channel().feed(struct.pack("<HI", COMPRESSED_DATA, MAX_UNCOMPRESSED + 6))


@pytest.mark.parametrize("mini", [True, False])
def test_what_is_compressed_comes_out_the_same(mini: bool) -> None:
    sent = channel(mini=mini).compress([b"head" * 5, memoryview(TEXT)], 20 + len(TEXT))
    assert sent is not None
    assert len(sent) < len(TEXT) // 10
    stream = Stream()
    channel(stream, mini=mini).feed(sent)
    assert bytes(stream.data) == b"head" * 5 + TEXT


def test_a_single_part_is_compressed_as_it_is() -> None:
    sent = channel().compress([TEXT], len(TEXT))
    assert sent == packed(TEXT)


def test_frames() -> None:
    target = channel()
    assert target.frame(44) == struct.pack("<HI", DATA, 44)
    full = channel(mini=False)
    assert full.frame(44) + full.frame(45) == struct.pack("<QHIIQHII", 1, DATA, 44, 0, 2, DATA, 45, 0)


@pytest.mark.parametrize("size", [0, -1, MAX_FRAME + 1])
def test_no_frame_is_made_for_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(LocalProtocolError):
        channel().frame(size)


@pytest.mark.parametrize("compression", ["auto", "always"])
def test_the_protocols_rule(compression: Compression) -> None:
    text = TEXT[:COMPRESS_ABOVE]
    assert channel(compression=compression).compress([text], len(text)) is None
    assert channel(compression=compression).compress([text + b"C"], len(text) + 1) is not None
    assert channel(compression=compression, caps=frozenset()).compress([TEXT], len(TEXT)) is None
    assert channel(compression=compression, unix_socket=True).compress([TEXT], len(TEXT)) is None
    assert channel(compression=compression).compress([NOISE], len(NOISE)) is None
    assert channel(compression=compression).compress([bytes(MAX_UNCOMPRESSED + 1)], MAX_UNCOMPRESSED + 1) is None


def test_never_means_never() -> None:
    assert channel(compression="never").compress([TEXT], len(TEXT)) is None
    assert usbredir_caps("never") == frozenset()
    assert usbredir_caps("auto") == usbredir_caps("always") == {0}


def passes(target: UsbredirChannel) -> int:
    """Bytes that go uncompressed until compressible data is compressed again."""
    count = 0
    while target.compress([TEXT[:4096]], 4096) is None:
        count += 4096
    return count


def test_auto_pauses_longer_and_longer_after_data_that_does_not_shrink() -> None:
    target = channel()
    pauses = []
    pause = AUTO_FIRST_PAUSE
    while pause < 4 * AUTO_LAST_PAUSE:
        assert target.compress([NOISE], len(NOISE)) is None
        left = min(pause, AUTO_LAST_PAUSE)
        pauses.append(left)
        while left > 0:  # what would shrink passes uncompressed, too
            assert target.compress([TEXT[:65536]], 65536) is None
            left -= 65536
        pause *= 2
    assert pauses[0] == AUTO_FIRST_PAUSE
    assert pauses[-1] == AUTO_LAST_PAUSE
    assert target.compress([TEXT], len(TEXT)) is not None


def test_auto_starts_afresh_after_data_that_did_shrink() -> None:
    target = channel()
    for _ in range(3):
        assert target.compress([NOISE], len(NOISE)) is None
        assert passes(target) == AUTO_FIRST_PAUSE


def test_auto_is_not_content_with_little() -> None:
    mixed = NOISE[:60_000] + bytes(5_000)
    target = channel()
    assert target.compress([mixed], len(mixed)) is not None
    assert target.compress([TEXT], len(TEXT)) is None


@pytest.mark.parametrize(
    ("rate", "worth_it"),
    [(1e6, True), (50e6, True), (70e6, False), (1e9, False), (0, False)],
    ids=["slow", "just slow enough", "just too fast", "fast", "unknown: a gigabit Ethernet"],
)
def test_auto_compresses_only_on_a_link_that_would_take_longer(rate: float, *, worth_it: bool) -> None:
    target = channel(seconds=900e-6, rate=rate)  # both sides: 1350 us for some 83 KB, or 62 MB/s
    assert target.compress([TEXT], len(TEXT)) is not None
    assert (target.compress([TEXT], len(TEXT)) is not None) is worth_it


def test_always_does_not_learn() -> None:
    target = channel(compression="always")
    assert target.compress([NOISE], len(NOISE)) is None
    assert target.compress([TEXT], len(TEXT)) is not None
