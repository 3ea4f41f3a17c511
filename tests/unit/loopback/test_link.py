"""The link stage's two sides against each other, and the server's side against what no client of ours would send."""

from struct import pack, unpack_from

import pytest

from usbbridge.loopback.link import CHANNEL_MAIN, CHANNEL_USBREDIR, ClientLink, LinkPolicy, LinkServer, LinkStatus
from usbbridge.spice.errors import (
    BadSessionError,
    LinkClosedError,
    NeedTlsError,
    NoSuchChannelError,
    VersionMismatchError,
    WrongTicketError,
)
from usbbridge.spice.framing import link_message
from usbbridge.spice.link import LinkClient
from usbbridge.spice.ticket import encrypt_ticket

SESSION = 0x1234
POLICY = LinkPolicy(
    "secret", channels=[(CHANNEL_USBREDIR, 0)], channel_caps={CHANNEL_USBREDIR: 1}, sessions=SESSION.__eq__
)
ALL_CLIENT_CAPS = 0x0B
NO_AUTH_SELECTION = 0x08


def mess(connection: int = 0, kind: int = CHANNEL_MAIN, caps: int = ALL_CLIENT_CAPS) -> bytes:
    return link_message(pack("<IBBIIIII", connection, kind, 0, 1, 1, 18, caps, 0))


def converse(client: LinkClient, server: LinkServer, *, bytewise: bool = False) -> None:
    """Carry bytes both ways until neither has more to say; the server's closing is the client's end of file."""
    while request := client.bytes_to_send():
        for piece in [request[i : i + 1] for i in range(len(request))] if bytewise else [request]:
            server.receive(piece)
        answer = server.bytes_to_send()
        for piece in [answer[i : i + 1] for i in range(len(answer))] if bytewise else [answer]:
            client.receive(piece)
        if server.closed:
            client.eof()


def refusal(answer: bytes) -> int:
    """The error of a link reply that is nothing else."""
    assert len(answer) == 194
    (error,) = unpack_from("<I", answer, 16)
    return int(error)


def public_key(answer: bytes) -> bytes:
    return answer[20:182]


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "byte by byte"])
def test_a_client_with_the_ticket_is_linked(bytewise: bool) -> None:
    client, server = LinkClient(CHANNEL_MAIN, 0, password="secret"), LinkServer(POLICY)
    converse(client, server, bytewise=bytewise)
    assert client.done is not None
    assert server.linked is not None
    assert server.linked.mini_header
    assert not server.closed


def test_a_channel_of_a_live_session_is_linked_with_its_capabilities() -> None:
    client = LinkClient(CHANNEL_USBREDIR, 0, SESSION, password="secret", channel_caps=(0,))
    server = LinkServer(POLICY)
    converse(client, server)
    assert client.done is not None
    assert client.done.channel_caps == {0}
    assert server.linked is not None
    assert server.linked == ClientLink(SESSION, CHANNEL_USBREDIR, 0, server.linked.common_caps, 1)


def test_the_key_is_fresh_for_every_connection() -> None:
    keys = set()
    for _ in range(2):
        server = LinkServer(POLICY)
        server.receive(mess())
        keys.add(public_key(server.bytes_to_send()))
    assert len(keys) == 2


@pytest.mark.parametrize("ticket", [None, ""], ids=["off", "never set"])
def test_without_a_ticket_only_a_server_with_ticketing_off_lets_in(ticket: str | None) -> None:
    client, server = LinkClient(CHANNEL_MAIN, 0), LinkServer(LinkPolicy(ticket, channels=[]))
    if ticket is None:
        converse(client, server)
        assert client.done is not None
    else:
        with pytest.raises(WrongTicketError):
            converse(client, server)


@pytest.mark.parametrize(
    ("client", "policy", "error"),
    [
        (LinkClient(CHANNEL_MAIN, 0, password="wrong"), POLICY, WrongTicketError),
        (LinkClient(CHANNEL_USBREDIR, 0, 99, password="secret"), POLICY, BadSessionError),
        (LinkClient(CHANNEL_USBREDIR, 7, SESSION, password="secret"), POLICY, NoSuchChannelError),
        (
            LinkClient(CHANNEL_MAIN, 0),
            LinkPolicy(None, channels=[], security_error=LinkStatus.NEED_SECURED),
            NeedTlsError,
        ),
    ],
    ids=["wrong ticket", "unknown session", "no such channel", "wrong port for it"],
)
def test_a_client_hears_why_it_is_refused(client: LinkClient, policy: LinkPolicy, error: type[Exception]) -> None:
    with pytest.raises(error):
        converse(client, LinkServer(policy))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"RFB ", LinkStatus.INVALID_MAGIC),
        (pack("<4sIII", b"REDQ", 3, 0, 26), LinkStatus.VERSION_MISMATCH),
        (pack("<4sIII", b"REDQ", 2, 2, 17), LinkStatus.INVALID_DATA),
        (pack("<4sIII", b"REDQ", 2, 2, 4097), LinkStatus.INVALID_DATA),
        (link_message(pack("<IBBIII", 0, 1, 0, 1, 1, 18)), LinkStatus.INVALID_DATA),
        (link_message(pack("<IBBIIII", 0, 1, 0, 1, 0, 17, 0)), LinkStatus.INVALID_DATA),
        (link_message(pack("<IBBIII", 0, 1, 0, 0xFFFFFFFF, 1, 18)), LinkStatus.INVALID_DATA),
    ],
    ids=["magic", "version", "too short", "too long", "caps beyond the end", "caps in the header", "too many caps"],
)
def test_a_malformed_link_message_is_refused(data: bytes, error: LinkStatus) -> None:
    server = LinkServer(POLICY)
    server.receive(data)
    assert refusal(server.bytes_to_send()) == error
    assert server.closed


@pytest.mark.parametrize(
    "data", [pack("<4sIII", b"REDQ", 0, 0, 26), mess(SESSION, kind=3)], ids=["major version 0", "no such channel"]
)
def test_some_links_are_closed_without_a_byte(data: bytes) -> None:
    server = LinkServer(POLICY)
    server.receive(data)
    assert server.bytes_to_send() == b""
    assert server.closed


def test_a_silently_closed_channel_is_no_link_to_the_client() -> None:
    client, server = LinkClient(CHANNEL_MAIN, 0), LinkServer(POLICY)
    server.closed = True
    with pytest.raises(LinkClosedError):
        converse(client, server)


def test_an_unknown_mechanism_is_answered_by_a_second_link_reply() -> None:
    server = LinkServer(POLICY)
    server.receive(mess())
    server.bytes_to_send()
    server.receive(pack("<I", 5))
    assert refusal(server.bytes_to_send()) == LinkStatus.INVALID_DATA
    assert server.closed


def test_a_client_without_auth_selection_sends_the_ticket_at_once() -> None:
    server = LinkServer(POLICY)
    server.receive(mess(caps=NO_AUTH_SELECTION))
    server.receive(encrypt_ticket(public_key(server.bytes_to_send()), "secret"))
    assert server.bytes_to_send() == bytes(4)
    assert server.linked is not None


def test_a_ticket_is_compared_as_a_c_string() -> None:
    server = LinkServer(POLICY)
    server.receive(mess(caps=NO_AUTH_SELECTION))
    server.receive(encrypt_ticket(public_key(server.bytes_to_send()), "secret\0and more"))
    assert server.bytes_to_send() == bytes(4)


def test_what_is_no_ticket_at_all_is_refused_as_a_wrong_one() -> None:
    server = LinkServer(LinkPolicy(None, channels=[]))
    server.receive(mess(caps=NO_AUTH_SELECTION))
    server.bytes_to_send()
    server.receive(bytes(128))
    assert server.bytes_to_send() == pack("<I", LinkStatus.PERMISSION_DENIED)
    assert server.closed


def test_what_follows_the_link_stage_is_kept() -> None:
    server = LinkServer(POLICY)
    server.receive(mess(caps=NO_AUTH_SELECTION))
    server.receive(encrypt_ticket(public_key(server.bytes_to_send()), "secret") + b"more")
    assert server.rest == b"more"


def test_another_major_version_is_named_to_the_client() -> None:
    client = LinkClient(CHANNEL_MAIN, 0)
    server = LinkServer(POLICY)
    server.receive(b"REDQ" + pack("<III", 1, 3, 26))
    with pytest.raises(VersionMismatchError):
        client.receive(server.bytes_to_send())
