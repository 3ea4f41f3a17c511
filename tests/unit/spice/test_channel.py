import struct

import pytest

from tests.unit.spice.samples import (
    SPLITS,
    WHERE,
    Recorder,
    Split,
    Stream,
    full_message,
    linked,
    message,
    sub_messages,
)
from usbbridge.errors import ConnectionLostError, RefusedError, RemoteProtocolError
from usbbridge.spice.channel import MAX_NOTIFY, MAX_OUTPUT, MAX_PING, Channel
from usbbridge.spice.errors import (
    ChannelBusyError,
    MalformedMessageError,
    MessageTooLargeError,
    MigrationError,
    ServerDisconnectingError,
)
from usbbridge.spice.messages import MAX_TEXT, Notify, printable
from usbbridge.spice.reader import FITTING, MAX_STREAM, MAX_SUB_MESSAGES, MAX_UNKNOWN, WINDOW

SET_ACK, PING, WAIT, DISCONNECTING, NOTIFY, LIST = 3, 4, 5, 6, 7, 8
ACK_SYNC, ACK, PONG = 1, 2, 3
DATA = 101
STAMP = struct.pack("<IQ", 5, 0x1122334455667788)


def channel(stream: Stream | None = None, handler: Recorder | None = None, *, mini: bool = True) -> Channel:
    return Channel(linked(mini=mini), handler, stream=stream, stream_type=DATA if stream else -1)


def receive(target: Channel, data: bytes, split: Split = SPLITS[0]) -> bytes:
    """Deliver `data` through the channel's own buffer; everything it answered."""
    output = b""
    for piece in split(data):
        target.feed(piece)
        output += target.take_output()
    return output


def notify(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<QIIII", 1, 2, 1, 9, len(text) if length is None else length) + text + b"\0"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("padding", [0, 1, 5000, 256_000, 1024 * 1024])
def test_a_ping_is_answered_without_its_padding(padding: int, split: Split) -> None:
    """spice-server's network test pads one PING with 250 KiB."""
    if split is SPLITS[1]:
        padding = min(padding, 20_000)
    answer = receive(channel(), message(PING, STAMP + bytes(padding)), split)
    assert answer == message(PONG, STAMP)


def test_the_padding_of_a_ping_is_not_kept() -> None:
    target = channel()
    target.feed(message(PING, STAMP + bytes(500_000))[:-1])
    assert len(target.buffer()) == WINDOW
    assert target.take_output() == b""  # the server measures the time until it has all arrived


def test_a_ping_over_the_limit() -> None:
    receive(channel(), struct.pack("<HI", PING, MAX_PING))
    with pytest.raises(MessageTooLargeError) as caught:
        receive(channel(), struct.pack("<HI", PING, MAX_PING + 1))
    assert (caught.value.message_type, caught.value.size, caught.value.limit) == (PING, MAX_PING + 1, MAX_PING)


@pytest.mark.parametrize("split", SPLITS)
def test_acks_follow_the_window(split: Split) -> None:
    target = channel()
    assert receive(target, message(SET_ACK, struct.pack("<II", 77, 3)), split) == message(ACK_SYNC, b"\x4d\0\0\0")
    assert receive(target, message(200) * 2, split) == b""
    assert receive(target, message(200), split) == message(ACK)
    assert receive(target, message(200) * 6, split) == message(ACK) * 2


def test_a_second_set_ack_counts_against_the_old_window() -> None:
    target = channel()
    receive(target, message(SET_ACK, struct.pack("<II", 1, 1)))
    answer = receive(target, message(SET_ACK, struct.pack("<II", 2, 2)))
    assert answer == message(ACK) + message(ACK_SYNC, b"\2\0\0\0")
    assert receive(target, message(200)) == b""
    assert receive(target, message(200)) == message(ACK)


def test_a_window_of_zero_means_no_acks() -> None:
    target = channel()
    receive(target, message(SET_ACK, struct.pack("<II", 1, 1)))
    receive(target, message(SET_ACK, struct.pack("<II", 2, 0)))
    assert receive(target, message(200) * 50) == b""


def test_pieces_of_the_stream_are_acknowledged_too() -> None:
    stream = Stream()
    target = channel(stream)
    receive(target, message(SET_ACK, struct.pack("<II", 1, 2)))
    assert receive(target, message(DATA, b"ab") * 2) == message(ACK)
    assert bytes(stream.data) == b"abab"


@pytest.mark.parametrize("split", SPLITS)
def test_notify_becomes_an_event(split: Split) -> None:
    handler = Recorder()
    receive(channel(handler=handler), message(NOTIFY, notify(b"keyboard channel is insecure")), split)
    assert handler.events == [Notify(2, 1, 9, "keyboard channel is insecure")]


@pytest.mark.parametrize("split", [SPLITS[0], SPLITS[2]])
def test_a_long_notify_is_cut(split: Split) -> None:
    handler = Recorder()
    target = channel(handler=handler)
    assert receive(target, message(NOTIFY, notify(b"x" * 100_000)) + message(PING, STAMP), split)
    assert handler.events == [Notify(2, 1, 9, "x" * MAX_TEXT)]
    with pytest.raises(MessageTooLargeError):
        receive(channel(), struct.pack("<HI", NOTIFY, MAX_NOTIFY + 1))


def test_a_notify_that_lies_about_its_length_shows_what_is_there() -> None:
    handler = Recorder()
    receive(channel(handler=handler), message(NOTIFY, notify(b"short", 0xFFFFFFFF)))
    assert handler.events == [Notify(2, 1, 9, "short")]


def test_a_peers_text_cannot_steer_a_terminal() -> None:
    assert printable(b"\x1b[2Jred\r\n\xff\0secret") == "\ufffd[2Jred\ufffd\ufffd\ufffd"


def test_an_event_without_a_handler_is_dropped() -> None:
    assert receive(channel(), message(NOTIFY, notify(b"x"))) == b""


@pytest.mark.parametrize("split", SPLITS)
def test_disconnecting_ends_the_channel(split: Split) -> None:
    with pytest.raises(ServerDisconnectingError, match="ended channel usbredir 0") as caught:
        receive(channel(), message(DISCONNECTING, struct.pack("<QI", 1, 4)), split)
    assert caught.value.reason == 4
    assert isinstance(caught.value, ConnectionLostError)


def test_migration_is_an_error_of_its_own() -> None:
    with pytest.raises(MigrationError, match="moves to another host"):
        receive(channel(), message(1, b"\3\0\0\0"))


@pytest.mark.parametrize("split", SPLITS)
def test_other_messages_are_skipped(split: Split) -> None:
    wait = message(WAIT, b"\1\x09\0" + bytes(8))
    unknown = message(9999, b"?" * 3000) + message(2, b"migrate data") + message(201)
    assert receive(channel(), wait + unknown + message(PING, STAMP), split) == message(PONG, STAMP)


def test_an_unknown_message_over_the_limit() -> None:
    receive(channel(), struct.pack("<HI", 9999, MAX_UNKNOWN))
    with pytest.raises(MessageTooLargeError):
        receive(channel(), struct.pack("<HI", 9999, MAX_UNKNOWN + 1))


@pytest.mark.parametrize(("type_", "least"), [(SET_ACK, 8), (PING, 12), (DISCONNECTING, 12), (NOTIFY, 24), (LIST, 2)])
def test_messages_that_are_too_short(type_: int, least: int) -> None:
    with pytest.raises(MalformedMessageError, match=f"{least} is the least"):
        receive(channel(), message(type_, bytes(least - 1)))


# ---- lists of sub-messages


@pytest.mark.parametrize("split", SPLITS)
def test_a_list_is_taken_in_its_order(split: Split) -> None:
    stream = Stream()
    body = sub_messages(message(PING, STAMP), message(DATA, b"data"), message(9999, b"?"), message(DATA))
    assert receive(channel(stream), message(LIST, body), split) == message(PONG, STAMP)
    assert bytes(stream.data) == b"data"


@pytest.mark.parametrize("split", SPLITS)
def test_sub_messages_of_a_full_header_go_first(split: Split) -> None:
    handler = Recorder()
    target = channel(handler=handler, mini=False)
    main = notify(b"main")
    body = main + sub_messages(message(NOTIFY, notify(b"sub")), offset=len(main))
    receive(target, full_message(1, NOTIFY, body, len(main)) + full_message(2, NOTIFY, notify(b"next")), split)
    assert [event.text for event in handler.events if isinstance(event, Notify)] == ["sub", "main", "next"]


def test_a_ping_with_sub_messages_is_answered_without_them() -> None:
    body = STAMP + sub_messages(message(9999), offset=len(STAMP))
    answer = receive(channel(mini=False), full_message(1, PING, body, sub_list=len(STAMP)))
    assert answer == full_message(1, PONG, STAMP)


def test_a_piece_of_the_stream_with_sub_messages() -> None:
    """As in the reference client, the whole body is the piece."""
    stream = Stream()
    target = channel(stream, mini=False)
    body = b"stream" + sub_messages(message(PING, STAMP), offset=6)
    assert receive(target, full_message(1, DATA, body, 6)) == full_message(1, PONG, STAMP)
    assert bytes(stream.data) == body


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("<H", 1),
        struct.pack("<HI", 1, 0xFFFFFFFF),
        struct.pack("<HI", 1, 2),
        struct.pack("<HI", 1, 6) + struct.pack("<HI", 200, 1),
        struct.pack("<HI", 1, 6) + struct.pack("<HI", 200, 0xFFFFFFFF),
        sub_messages(message(PING, STAMP[:-1])),
        sub_messages(message(LIST, sub_messages())),
        struct.pack("<H", MAX_SUB_MESSAGES + 1) + struct.pack("<I", 262) * 65 + message(200),
    ],
)
def test_a_list_that_contradicts_itself(body: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        receive(channel(), message(LIST, body))


def test_a_list_that_is_not_in_its_body() -> None:
    with pytest.raises(MalformedMessageError, match="a list at 12 of 12"):
        receive(channel(mini=False), full_message(1, PING, STAMP, 12))


@pytest.mark.parametrize("type_", [LIST, PING, DATA, 9999])
def test_a_body_with_sub_messages_has_a_small_limit(type_: int) -> None:
    head = struct.pack("<QHII", 1, type_, FITTING + 1, 1)
    with pytest.raises(MessageTooLargeError):
        receive(channel(Stream(), mini=False), head)


# ---- the stream


@pytest.mark.parametrize("mini", [True, False])
@pytest.mark.parametrize("split", SPLITS)
def test_pieces_of_the_stream_in_any_split(split: Split, mini: bool) -> None:
    stream = Stream()
    pieces = [b"a", b"", b"b" * 5000, bytes(range(256)) * 300, b"c" * 16_378, b"d" * 16_379, b"e"]
    wire = b"".join(message(DATA, p) if mini else full_message(i + 1, DATA, p) for i, p in enumerate(pieces))
    ping = message(PING, STAMP) if mini else full_message(9, PING, STAMP)
    answer = receive(channel(stream, mini=mini), wire + ping, split)
    assert bytes(stream.data) == b"".join(pieces)
    assert answer == (message(PONG, STAMP) if mini else full_message(1, PONG, STAMP))


def test_a_big_piece_is_received_without_a_copy() -> None:
    stream = Stream()
    target = channel(stream)
    body = bytes(range(256)) * 256
    target.feed(message(DATA, body) + message(PING, STAMP))
    assert bytes(stream.data) == body
    assert stream.direct > 45_000
    assert target.take_output() == message(PONG, STAMP)


def test_the_streams_buffer_is_cut_to_what_belongs_to_it() -> None:
    stream = Stream(size=1_000_000)
    target = channel(stream)
    target.feed(struct.pack("<HI", DATA, 50_000))
    assert len(target.buffer()) == 50_000


def test_a_piece_over_the_limit() -> None:
    with pytest.raises(MessageTooLargeError):
        receive(channel(Stream()), struct.pack("<HI", DATA, MAX_STREAM + 1))


# ---- the end


def test_an_end_before_any_message_means_busy() -> None:
    with pytest.raises(ChannelBusyError, match=r"usbredir 0 of vm\.example:5900 is busy") as caught:
        channel().eof()
    assert isinstance(caught.value, RefusedError)


def test_an_end_after_a_message_is_a_lost_connection() -> None:
    target = channel()
    target.feed(message(200))
    with pytest.raises(ConnectionLostError, match=f"{WHERE} closed channel usbredir 0$"):
        target.eof()


@pytest.mark.parametrize("part", [b"\1", message(200, b"xx")[:-1], message(PING, bytes(50_000))[:-1]])
def test_an_end_in_the_middle_is_told(part: bytes) -> None:
    target = channel()
    target.feed(part)
    with pytest.raises(ConnectionLostError, match="in the middle of a message"):
        target.eof()


def test_a_channel_is_dead_after_an_error() -> None:
    target = channel()
    with pytest.raises(MalformedMessageError) as first:
        target.feed(message(PING))
    with pytest.raises(MalformedMessageError) as second:
        target.feed(message(PING, STAMP))
    assert second.value is first.value
    with pytest.raises(MalformedMessageError):
        target.eof()
    assert target.take_output() == b""


def test_an_error_of_the_streams_receiver_ends_the_channel() -> None:
    class Picky(Stream):
        def feed(self, data: memoryview) -> None:
            raise RemoteProtocolError("no usbredir")

    target = channel(Picky())
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="no usbredir"):
            target.feed(message(DATA, b"x"))


def test_answers_that_nobody_takes_are_bounded() -> None:
    target = channel()
    pings = message(PING, STAMP) * 100
    for _ in range(MAX_OUTPUT // len(pings)):
        target.feed(pings)
    with pytest.raises(RemoteProtocolError, match="more answers than it takes"):
        target.feed(pings * 2)
    assert len(target.take_output()) <= MAX_OUTPUT + 18


def test_answers_have_the_header_that_was_agreed_on() -> None:
    answers = receive(channel(mini=False), full_message(1, PING, STAMP) + full_message(2, PING, STAMP))
    assert answers == full_message(1, PONG, STAMP) + full_message(2, PONG, STAMP)
