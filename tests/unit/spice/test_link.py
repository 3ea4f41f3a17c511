import struct

import pytest

from tests.unit.spice.samples import SERVER_CAPS, SPLITS, WHERE, Split, decrypt, reply, result
from usbbridge.errors import LinkError, NotFoundError, NotPermittedError, RemoteProtocolError
from usbbridge.spice.errors import (
    BadSessionError,
    LinkClosedError,
    LinkRefusedError,
    MalformedLinkError,
    NeedPlainError,
    NeedSaslError,
    NeedTlsError,
    NoSuchChannelError,
    NotSpiceError,
    PasswordTooLongError,
    VersionMismatchError,
    WrongTicketError,
)
from usbbridge.spice.framing import link_message
from usbbridge.spice.link import LinkClient
from usbbridge.spice.messages import ChannelType, CommonCap


def client(type_: int = ChannelType.USBREDIR, id_: int = 2, connection_id: int = 7, password: str = "") -> LinkClient:
    return LinkClient(type_, id_, connection_id, password=password, channel_caps={0}, where=WHERE)


def talk(link: LinkClient, data: bytes, split: Split) -> bytes:
    """Deliver `data`; everything that was sent."""
    sent = link.bytes_to_send()
    for piece in split(data):
        link.receive(piece)
        sent += link.bytes_to_send()
    return sent


FIRST = bytes.fromhex(
    "52454451 02000000 02000000 1a000000"  # REDQ, 2.2, 26 bytes
    "07000000 09 02 01000000 01000000 12000000"  # session 7, usbredir 2, one word of capabilities each, at 18
    "0b000000 01000000"  # AUTH_SELECTION, AUTH_SPICE, MINI_HEADER; LZ4
)


@pytest.mark.parametrize("split", SPLITS)
def test_a_link_with_a_ticket(split: Split) -> None:
    link = client(password="secret")
    sent = talk(link, reply(channel=frozenset({0})) + result() + b"first message", split)
    assert sent[: len(FIRST)] == FIRST
    mechanism, ticket = sent[len(FIRST) :][:4], sent[len(FIRST) + 4 :]
    assert mechanism == struct.pack("<I", CommonCap.AUTH_SPICE)
    assert decrypt(ticket) == b"secret\0"
    assert link.done is not None
    assert (link.done.channel_type, link.done.channel_id, link.done.channel) == (9, 2, "usbredir 2")
    assert link.done.mini_header
    assert link.done.common_caps == SERVER_CAPS
    assert link.done.channel_caps == {0}
    assert link.rest == b"first message"


def test_without_a_password_the_empty_one_is_sent() -> None:
    sent = talk(client(), reply(), SPLITS[0])
    assert decrypt(sent[-128:]) == b"\0"


def test_a_server_that_cannot_select_gets_the_ticket_alone() -> None:
    link = client(password="secret")
    sent = talk(link, reply(common=frozenset()) + result(), SPLITS[0])
    assert decrypt(sent[len(FIRST) :]) == b"secret\0"
    assert link.done is not None
    assert not link.done.mini_header


def test_nothing_is_sent_for_a_password_that_is_too_long() -> None:
    with pytest.raises(PasswordTooLongError):
        client(password="x" * 61)


CODES = [
    (1, LinkRefusedError, "trouble of its own"),
    (2, LinkRefusedError, "did not recognise SPICE"),
    (3, LinkRefusedError, "did not accept the link message"),
    (4, VersionMismatchError, "another major version"),
    (5, NeedTlsError, "usbredir 2 over TLS only"),
    (6, NeedPlainError, "usbredir 2 over its plain port only"),
    (7, WrongTicketError, "wants a password, and none was given"),
    (8, BadSessionError, "does not know session 0x00000007"),
    (9, NoSuchChannelError, "has no channel usbredir 2"),
    (10, LinkRefusedError, "unknown to usbbridge"),
]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("code", "error", "text"), CODES)
def test_errors_of_the_link_reply(code: int, error: type[LinkError], text: str, split: Split) -> None:
    with pytest.raises(error, match=text):
        talk(client(), reply(error=code), split)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("code", "error", "text"), CODES)
def test_errors_of_the_link_result(code: int, error: type[LinkError], text: str, split: Split) -> None:
    with pytest.raises(error, match=text):
        talk(client(), reply() + result(code), split)


def test_a_wrong_password_is_told_from_a_missing_one() -> None:
    with pytest.raises(WrongTicketError, match="wrong or has expired") as caught:
        talk(client(password="guess"), reply() + result(7), SPLITS[0])
    assert isinstance(caught.value, NotPermittedError)
    assert caught.value.given


@pytest.mark.parametrize("split", SPLITS)
def test_a_reply_in_the_place_of_the_result_is_read_as_one(split: Split) -> None:
    """spice-server rejects a choice of mechanism like this; the naive result would be 0x51444552."""
    with pytest.raises(LinkRefusedError) as caught:
        talk(client(), reply() + reply(error=3), split)
    assert caught.value.code == 3


def test_a_server_with_sasl_only() -> None:
    with pytest.raises(NeedSaslError):
        talk(client(), reply(common=frozenset({0, 2, 3}), key=bytes(162)), SPLITS[0])


def test_a_server_that_offers_no_mechanism() -> None:
    with pytest.raises(MalformedLinkError, match="offers no way"):
        talk(client(), reply(common=frozenset({0, 3})), SPLITS[0])


def test_sasl_beside_the_ticket_is_passed_over() -> None:
    link = client()
    talk(link, reply(common=frozenset({0, 1, 2, 3})) + result(), SPLITS[0])
    assert link.done is not None


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
        (b"<html><body>Error", "web server"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (b"RFB 003.008\n", "VNC"),
        (b"220 mail.example ESMTP\r\n", "mail or FTP"),
        (b"\x00\x01\x02\x03\x04", "the bytes 00 01 02 03"),
        (b"REDX\x02\x00\x00\x00", "the bytes 52 45 44 58"),
    ],
)
def test_other_protocols_are_named(answer: bytes, found: str, split: Split) -> None:
    with pytest.raises(NotSpiceError, match=found):
        talk(client(), answer, split)


@pytest.mark.parametrize("record", [b"\x15\x03\x01\x00\x02\x02\x46", b"\x16\x03\x03\x00\x10"])
def test_a_tls_port_is_recognised(record: bytes) -> None:
    with pytest.raises(NeedTlsError, match="the port speaks TLS") as caught:
        talk(client(), record, SPLITS[0])
    assert "spice+tls://" in caught.value.hint


def ended(link: LinkClient, data: bytes) -> LinkError:
    with pytest.raises(LinkError) as caught:  # noqa: PT012  # where in the conversation it ends is the matter
        talk(link, data, SPLITS[0])
        link.eof()
    return caught.value


def test_a_close_without_a_byte_means_no_such_channel() -> None:
    error = ended(client(), b"")
    assert isinstance(error, NoSuchChannelError)
    assert isinstance(error, NotFoundError)
    assert "usb-redir" in error.hint


def test_a_close_without_a_byte_on_main_is_no_missing_channel() -> None:
    error = ended(client(ChannelType.MAIN, 0), b"")
    assert isinstance(error, LinkClosedError)
    assert "spice+tls" in error.hint


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"REDQ", LinkClosedError),
        (reply()[:100], LinkClosedError),
        (b"RE", LinkClosedError),
        (b"\r\n", NotSpiceError),
        (reply(), LinkClosedError),
        (reply() + b"\0", LinkClosedError),
    ],
)
def test_a_close_in_the_middle(data: bytes, error: type[LinkError]) -> None:
    assert type(ended(client(), data)) is error


HEAD = reply()[:16]
BODY = reply()[16:]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"REDQ" + struct.pack("<III", 3, 0, 178), VersionMismatchError),
        (b"REDQ" + struct.pack("<III", 0, 0, 178), VersionMismatchError),
        (b"REDQ" + struct.pack("<III", 2, 2, 177), MalformedLinkError),
        (b"REDQ" + struct.pack("<III", 2, 2, 4097), MalformedLinkError),
        (b"REDQ" + struct.pack("<III", 2, 2, 0xFFFFFFFF), MalformedLinkError),
        (HEAD + BODY[:166] + struct.pack("<III", 0xFFFFFFFF, 0, 178) + BODY[178:], MalformedLinkError),
        (HEAD + BODY[:166] + struct.pack("<III", 2, 0, 178) + BODY[178:], MalformedLinkError),
        (HEAD + BODY[:166] + struct.pack("<III", 1, 0, 0xFFFFFFFF) + BODY[178:], MalformedLinkError),
        (HEAD + BODY[:166] + struct.pack("<III", 1, 0, 0) + BODY[178:], MalformedLinkError),
        (reply(key=bytes(162)), MalformedLinkError),
    ],
)
def test_a_reply_that_contradicts_the_protocol(data: bytes, error: type[LinkError]) -> None:
    with pytest.raises(error):
        talk(client(), data, SPLITS[0])


def test_whose_fault_a_broken_reply_is() -> None:
    assert issubclass(MalformedLinkError, RemoteProtocolError)
    assert not issubclass(WrongTicketError, RemoteProtocolError)


def test_minor_versions_do_not_matter() -> None:
    link = client()
    talk(link, b"REDQ" + struct.pack("<III", 2, 9, len(BODY)) + BODY + result(), SPLITS[0])
    assert link.done is not None


def test_link_message_is_what_the_header_counts() -> None:
    assert link_message(b"12345")[12:16] == b"\5\0\0\0"
