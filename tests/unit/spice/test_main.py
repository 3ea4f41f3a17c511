import struct

import pytest

from tests.unit.spice.samples import SPLITS, Recorder, Split, linked, message
from usbbridge.errors import ConnectionLostError
from usbbridge.spice.errors import MalformedMessageError, MessageTooLargeError, MigrationError, NoSessionError
from usbbridge.spice.main import MAIN_CAPS, MainChannel
from usbbridge.spice.messages import (
    MAX_CHANNELS,
    ChannelsList,
    ChannelType,
    Init,
    MainCap,
    MouseMode,
    MultiMediaTime,
    Name,
    Uuid,
)

INIT = message(103, struct.pack("<8I", 0x1234, 1, 3, 1, 0, 10, 99, 0))
STAMP = struct.pack("<IQ", 5, 6)
ATTACH = message(104)


def channels(*pairs: tuple[int, int]) -> bytes:
    return message(104, struct.pack("<I", len(pairs)) + b"".join(map(bytes, pairs)))


def main(handler: Recorder | None = None) -> MainChannel:
    return MainChannel(linked(ChannelType.MAIN), handler)


@pytest.mark.parametrize("split", SPLITS)
def test_a_session_begins(split: Split) -> None:
    """In the order spice-server was seen to do it."""
    handler = Recorder()
    target = main(handler)
    name = message(113, struct.pack("<I", 6) + b"my vm\0")
    uuid = message(114, bytes(range(16)))
    pings = message(4, STAMP) + message(4, STAMP + bytes(256_000 if split is not SPLITS[1] else 500))
    listed = channels((9, 1), (9, 0), (3, 0))
    output = b""
    for piece in split(INIT + name + uuid + pings + listed):
        target.feed(piece)
        output += target.take_output()
    assert output == ATTACH + message(3, STAMP) * 2
    assert target.init == Init(0x1234, 1, 3, 1, 0, 10, 99, 0)
    assert target.usb_channels() == (0, 1)
    assert handler.events == [
        target.init,
        Name("my vm"),
        Uuid("00010203-0405-0607-0809-0a0b0c0d0e0f"),
        ChannelsList(((9, 1), (9, 0), (3, 0))),
    ]


def test_lists_of_channels_add_up() -> None:
    target = main()
    target.feed(INIT)
    assert not target.listed
    target.feed(channels((9, 0), (3, 0)))
    assert target.listed
    target.feed(channels((9, 2)) + channels((9, 0), (3, 0), (9, 2)) + channels())
    assert target.channels == ((3, 0), (9, 0), (9, 2))


@pytest.mark.parametrize("body", [struct.pack("<I", 2) + b"\x09\0", struct.pack("<I", 0xFFFFFFFF) + bytes(100)])
def test_a_list_that_is_shorter_than_it_says(body: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        main().feed(message(104, body))


def test_a_list_with_more_channels_than_there_can_be() -> None:
    main().feed(channels(*[(9, 0)] * MAX_CHANNELS))
    with pytest.raises(MessageTooLargeError):
        main().feed(channels(*[(9, 0)] * (MAX_CHANNELS + 1)))


def test_other_news() -> None:
    handler = Recorder()
    main(handler).feed(message(105, b"\3\0\2\0") + message(106, b"\0\1\0\0"))
    assert handler.events == [MouseMode(3, 2), MultiMediaTime(256)]


def test_the_agent_is_let_talk() -> None:
    target = main()
    target.feed(INIT + message(107) + message(115, bytes(4)) + message(109, b"a" * 2048) + message(110, bytes(4)))
    target.feed(message(108, bytes(4)) + message(4, STAMP))
    assert target.take_output() == ATTACH + message(3, STAMP)


@pytest.mark.parametrize("type_", [1, 101, 111, 116])
def test_every_kind_of_migration_is_an_error(type_: int) -> None:
    with pytest.raises(MigrationError):
        main().feed(INIT + message(type_, bytes(24)))


def test_no_migration_is_announced() -> None:
    assert not MAIN_CAPS & {MainCap.SEMI_SEAMLESS_MIGRATE, MainCap.SEAMLESS_MIGRATE}


def test_a_session_begins_once() -> None:
    with pytest.raises(MalformedMessageError, match="begun already"):
        main().feed(INIT + INIT)


def test_an_end_before_the_session() -> None:
    target = main()
    target.feed(message(4, STAMP))
    with pytest.raises(NoSessionError, match="started no session"):
        target.eof()


def test_an_end_of_the_session() -> None:
    target = main()
    target.feed(INIT)
    with pytest.raises(ConnectionLostError, match="ended the session") as caught:
        target.eof()
    assert "Another SPICE client" in caught.value.hint


def test_a_long_name_is_cut_and_cleaned() -> None:
    handler = Recorder()
    main(handler).feed(message(113, struct.pack("<I", 60_000) + b"\x1bv" * 30_000))
    (name,) = handler.events
    assert isinstance(name, Name)
    assert name.name == "\ufffdv" * 2048
