"""Both sides of the data stage against each other, and the server's side against what no client of ours would send."""

import os
from struct import pack

import lz4.block
import pytest

from usbbridge.errors import RemoteProtocolError
from usbbridge.loopback.channels import COMPRESSED_DATA, MAIN_CAPS, MAX_CHUNK, MainServer, ServerChannel, UsbredirServer
from usbbridge.loopback.link import CHANNEL_MAIN, CHANNEL_USBREDIR, ClientLink
from usbbridge.spice.framing import MessageWriter
from usbbridge.spice.link import LinkResult
from usbbridge.spice.main import MAIN_CAPS as CLIENT_MAIN_CAPS
from usbbridge.spice.main import MainChannel
from usbbridge.spice.usbredir import UsbredirChannel

SESSION = 77
LISTED = ((9, 0), (9, 1))
LZ4 = 1
SQUEEZABLE = b"the same again " * 8000
RANDOM = os.urandom(len(SQUEEZABLE))


class Stream:
    """Takes a USBREDIR channel's byte stream down."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._area = bytearray(4096)

    def buffer(self) -> memoryview:
        return memoryview(self._area)

    def received(self, n: int) -> None:
        self.data += self._area[:n]

    def feed(self, data: bytes | memoryview) -> None:
        self.data += data


def link(kind: int, *, mini: bool = True, caps: int = 0) -> ClientLink:
    return ClientLink(SESSION, kind, 0, 8 if mini else 0, caps)


def main(*, mini: bool = True) -> tuple[MainServer, MainChannel]:
    caps = sum(1 << cap for cap in CLIENT_MAIN_CAPS)
    server = MainServer(link(CHANNEL_MAIN, mini=mini, caps=caps), SESSION, LISTED, "a VM")
    server_caps = frozenset(bit for bit in range(4) if MAIN_CAPS >> bit & 1)
    return server, MainChannel(LinkResult(CHANNEL_MAIN, 0, mini, frozenset(), server_caps))


def usbredir(*, mini: bool = True, lz4_caps: int = 1) -> tuple[UsbredirServer, UsbredirChannel, Stream, Stream]:
    """Server's and client's side of a channel, and what each has received."""
    to_server, to_client = Stream(), Stream()
    server = UsbredirServer(link(CHANNEL_USBREDIR, mini=mini, caps=lz4_caps), to_server.feed)
    result = LinkResult(CHANNEL_USBREDIR, 0, mini, frozenset(), frozenset({0} if lz4_caps else ()))
    return server, UsbredirChannel(result, to_client), to_server, to_client


def carry(server: ServerChannel, client: MainChannel | UsbredirChannel, step: int = 1 << 20) -> None:
    """Bytes both ways, `step` at a time, until neither has more to say."""
    while True:
        down = b"".join(server.take_output())
        for start in range(0, len(down), step):
            client.feed(down[start : start + step])
        up = client.take_output()
        for start in range(0, len(up), step):
            server.feed(up[start : start + step])
        if not (down or up):
            return


@pytest.mark.parametrize("mini", [True, False], ids=["mini headers", "full headers"])
@pytest.mark.parametrize("step", [1 << 20, 5], ids=["whole", "in pieces"])
def test_main_begins_the_session_and_lists_its_channels(mini: bool, step: int) -> None:
    server, client = main(mini=mini)
    assert sorted(server.pings) == [1, 2, 3]
    carry(server, client, step)
    assert client.init is not None
    assert client.init.session_id == SESSION
    assert client.channels == LISTED
    assert server.attached
    assert server.pings == {}


def test_channels_added_later_are_announced_alone() -> None:
    server, client = main()
    carry(server, client)
    server.announce([(9, 2)])
    carry(server, client)
    assert client.channels == (*LISTED, (9, 2))


@pytest.mark.parametrize("mini", [True, False], ids=["mini headers", "full headers"])
@pytest.mark.parametrize("content", [SQUEEZABLE, RANDOM], ids=["squeezable", "random"])
def test_what_the_vm_says_arrives(mini: bool, content: bytes) -> None:
    server, client, _, stream = usbredir(mini=mini)
    server.send([content[:10], memoryview(content)[10:]])
    carry(server, client)
    assert stream.data == content
    assert bool(server.compressed_out) == (content is SQUEEZABLE)


@pytest.mark.parametrize("content", [SQUEEZABLE[:1000], SQUEEZABLE[:1001]], ids=["1000 bytes", "1001 bytes"])
def test_only_more_than_1000_bytes_are_compressed(content: bytes) -> None:
    server, _, _, _ = usbredir()
    server.send([content])
    assert server.compressed_out == len(content) - 1000


def test_nothing_is_compressed_for_a_client_that_can_not() -> None:
    server, client, _, stream = usbredir(lz4_caps=0)
    server.send([SQUEEZABLE])
    carry(server, client)
    assert stream.data == SQUEEZABLE
    assert server.compressed_out == 0


def test_no_message_holds_more_than_spice_server_puts_in_one() -> None:
    server, _, _, _ = usbredir(lz4_caps=0)
    server.send([bytes(3 * MAX_CHUNK + 1)])
    sizes = [len(part) for part in server.take_output()[1::2]]
    assert sizes == [MAX_CHUNK] * 3 + [1]


@pytest.mark.parametrize("step", [1 << 20, 5], ids=["whole", "in pieces"])
def test_what_the_client_says_arrives(step: int) -> None:
    server, client, stream, _ = usbredir()
    packed = client.compress([SQUEEZABLE], len(SQUEEZABLE))
    assert packed is not None
    sent = client.frame(len(RANDOM)) + RANDOM + packed
    for start in range(0, len(sent), step):
        server.feed(sent[start : start + step])
    assert stream.data == RANDOM + SQUEEZABLE
    assert server.compressed_in == 1


def test_a_ping_of_the_server_is_answered() -> None:
    server, client, _, _ = usbredir()
    server.ping(1, 123456789)
    carry(server, client)
    assert server.pings == {}


# What a client must not do


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (101, bytes(8)),
        (3, pack("<IQ", 1, SESSION + 1) + bytes(4)),
        (3, pack("<IQ", 9, 0)),
        (3, pack("<IQ", 1, 0)),
        (105, bytes(1 << 20)),
    ],
    ids=["CLIENT_INFO", "pong with padding", "pong to no ping", "pong with another stamp", "too large"],
)
def test_main_ends_by_a_message_it_does_not_take(kind: int, body: bytes) -> None:
    server, _ = main()
    with pytest.raises(RemoteProtocolError):
        server.feed(MessageWriter(mini=True).message(kind, body))


@pytest.mark.parametrize(
    "body",
    [
        b"\x01",
        pack("<BI", 0, 4) + b"data",
        pack("<BI", LZ4, 5) + lz4.block.compress(b"data", store_size=False),
        pack("<BI", LZ4, 3) + lz4.block.compress(b"data", store_size=False),
        pack("<BI", LZ4, 4) + b"\xff\xff\xff",
        pack("<BI", LZ4, 1 << 31) + lz4.block.compress(b"data", store_size=False),
    ],
    ids=["no header", "type NONE", "size too large", "size too small", "no LZ4", "a bomb"],
)
def test_compressed_data_that_is_none_ends_the_channel(body: bytes) -> None:
    server, _, _, _ = usbredir()
    with pytest.raises(RemoteProtocolError):
        server.feed(MessageWriter(mini=True).message(COMPRESSED_DATA, body))
