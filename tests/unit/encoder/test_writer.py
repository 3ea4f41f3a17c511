"""What is written to the VM: whole, in order, in few calls, and buffers are free again only when they are written."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fakes.device import FakeTransfer
from tests.unit.spice.secured import connected
from usbbridge.encoder import writer
from usbbridge.encoder.writer import IOV_MAX, MAX_BATCH, Parts, Writer
from usbbridge.redirect.outbox import Outbox
from usbbridge.spice.secure import SecureSocket


class Trickle:
    """A socket that takes as many bytes at a time as the test says, and then none."""

    def __init__(self, *takes: int) -> None:
        self.takes = list(takes)
        self.got = bytearray()
        self.calls: list[int] = []
        "Parts in each call."

    def sendmsg(self, parts: Parts) -> int:
        assert parts, "a call with nothing to write"
        self.calls.append(len(parts))
        if not self.takes:
            raise BlockingIOError
        whole = b"".join(parts)
        taken = whole[: self.takes.pop(0)]
        self.got += taken
        return len(taken)


class Bench:
    """A writer with its outbox and what it has given back."""

    def __init__(self, sock: object, frame: object = None) -> None:
        self.outbox = Outbox()
        self.released: list[FakeTransfer] = []
        self.writer = Writer(sock, self.outbox, frame, self.released.extend)
        self.expected = bytearray()

    def put(self, packet: bytes) -> None:
        self.outbox.put(packet)
        self.expected += packet

    def put_data(self, header: bytes, size: int) -> FakeTransfer:
        transfer = FakeTransfer(max(size, 1))
        transfer.data[:] = bytes(i * 7 % 251 for i in range(transfer.capacity))
        self.outbox.put_data(header, transfer.data[:size], transfer)
        self.expected += header + bytes(transfer.data[:size])
        return transfer


def framed(parts: Parts, size: int) -> Parts:
    """A SPICE message's header, as one would put it there."""
    assert sum(map(len, parts)) == size
    return [b"[%d]" % size, *parts]


def test_everything_goes_out_in_one_call_when_the_socket_takes_it() -> None:
    sock = Trickle(1000)
    bench = Bench(sock)
    bench.put(b"hello")
    first = bench.put_data(b"header", 100)
    second = bench.put_data(b"header", 200)
    assert bench.writer.flush()
    assert (sock.got, sock.calls) == (bench.expected, [5])
    assert bench.released == [first, second]
    assert bench.outbox.size == 0
    assert bench.writer.written == len(bench.expected)


def test_nothing_to_write_is_no_call() -> None:
    sock = Trickle()
    assert Bench(sock).writer.flush()
    assert sock.calls == []


@pytest.mark.parametrize("frame", [None, framed], ids=["raw", "framed"])
@pytest.mark.parametrize("first", range(1, 65))
def test_a_write_may_be_cut_anywhere(first: int, frame: object) -> None:
    sock = Trickle(first)
    bench = Bench(sock, frame)
    bench.put(b"hello")
    bench.put_data(b"header", 30)
    bench.put(b"end")
    bench.put_data(b"12345678", 8)
    expected = (b"[60]" if frame else b"") + bytes(bench.expected)
    done = bench.writer.flush()
    assert done == (first >= len(expected))
    assert bool(bench.released) == done
    assert (bench.outbox.size == 0) == done
    sock.takes = [1000]
    assert bench.writer.flush()
    assert sock.got == expected
    assert len(bench.released) == 2
    assert bench.writer.written == 60


@pytest.mark.parametrize("frame", [None, framed], ids=["raw", "framed"])
def test_a_socket_that_takes_a_byte_at_a_time_gets_all_of_them(frame: object) -> None:
    sock = Trickle(*[1] * 100)
    bench = Bench(sock, frame)
    bench.put(b"hello")
    bench.put_data(b"header", 30)
    assert bench.writer.flush()
    assert sock.got == (b"[41]" if frame else b"") + bench.expected


def test_what_comes_while_a_batch_is_being_written_is_a_message_of_its_own() -> None:
    sock = Trickle(3)
    bench = Bench(sock, framed)
    bench.put(b"first")
    assert not bench.writer.flush()
    bench.put(b"second")
    late = bench.put_data(b"third", 10)
    sock.takes = [1, 1000, 1000]
    assert bench.writer.flush()
    assert sock.got == b"[5]first[21]second" + b"third" + bytes(late.data[:10])


@pytest.mark.parametrize("cut", range(1, 9))
def test_urgent_messages_go_between_batches_and_never_into_one(cut: int) -> None:
    sock = Trickle(cut)
    bench = Bench(sock, framed)
    bench.put(b"first")
    done = bench.writer.flush()
    bench.put(b"second")
    sock.takes = [1000, 1000]
    assert bench.writer.flush(b"<pong>")
    assert sock.got == b"[5]first<pong>[6]second"
    assert done == (cut == 8)
    assert bench.writer.written == 11, "what the link says is not counted"


def test_urgent_messages_alone_are_written_too() -> None:
    sock = Trickle(3)
    bench = Bench(sock, framed)
    assert not bench.writer.flush(b"<pong>")
    assert not bench.writer.flush(b"<ack>")
    sock.takes = [100]
    assert bench.writer.flush()
    assert sock.got == b"<pong><ack>"
    assert bench.outbox.size == bench.writer.written == 0


def test_more_parts_than_one_call_takes_go_in_several() -> None:
    sock = Trickle(*[1 << 20] * 10)
    bench = Bench(sock)
    for number in range(IOV_MAX * 2 + 5):
        bench.put(b"%d," % number)
    assert bench.writer.flush()
    assert sock.got == bench.expected
    assert sock.calls == [IOV_MAX, IOV_MAX, 5]


@pytest.mark.parametrize("sizes", [[MAX_BATCH + 1], [MAX_BATCH // 2] * 5, [3 * MAX_BATCH, 1, MAX_BATCH]])
def test_a_large_outbox_goes_in_several_messages(sizes: list[int]) -> None:
    sock = Trickle(*[1 << 30] * 100)
    batches: list[int] = []

    def frame(parts: Parts, size: int) -> Parts:
        assert sum(map(len, parts)) == size
        batches.append(size)
        return [b"", *parts]

    bench = Bench(sock, frame)
    for size in sizes:
        bench.put_data(b"header", size)
    assert bench.writer.flush()
    assert sock.got == bench.expected
    assert max(batches) <= MAX_BATCH
    assert len(bench.released) == len(sizes)
    assert bench.outbox.size == 0


def test_a_buffer_is_free_when_its_last_byte_is_written_however_much_waits_behind_it() -> None:
    """Else a guest that always has more than a batch under way never gets its buffers back."""
    sock = Trickle()
    bench = Bench(sock)
    transfers = [bench.put_data(b"header", MAX_BATCH // 2) for _ in range(6)]
    sock.takes = [1 << 30]
    assert not bench.writer.flush()
    assert bench.released == transfers[:1], "the second one's last bytes are in the next batch"
    sock.takes = [1 << 30]
    assert not bench.writer.flush()
    assert bench.released == transfers[:3]
    sock.takes = [1 << 30] * 10
    assert bench.writer.flush()
    assert bench.released == transfers
    assert sock.got == bench.expected


def test_a_buffer_whose_header_was_cut_is_not_free_early() -> None:
    sock = Trickle(1 << 30)
    bench = Bench(sock)
    bench.put(bytes(MAX_BATCH - 3))
    last = bench.put_data(b"header", 50)
    assert not bench.writer.flush()
    assert bench.released == []
    sock.takes = [1 << 30]
    assert bench.writer.flush()
    assert bench.released == [last]


def test_a_message_that_was_compressed_is_written_instead_and_buffers_held_all_the_same() -> None:
    sock = Trickle(3)
    bench = Bench(sock, lambda parts, size: [b"packed"])
    transfer = bench.put_data(b"header", 5000)
    assert not bench.writer.flush()
    assert bench.released == []
    assert bench.outbox.size == 5006 - 3
    sock.takes = [100]
    assert bench.writer.flush()
    assert sock.got == b"packed"
    assert bench.released == [transfer]
    assert (bench.outbox.size, bench.writer.written) == (0, 5006)


def test_a_broken_connection_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        bench = Bench(ours)
        bench.put(b"hello")
        with pytest.raises(BrokenPipeError):
            bench.writer.flush()


def test_a_real_socket_with_a_small_buffer_gets_everything_in_order() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        bench = Bench(ours, framed)
        for size in (10, 100_000, 1, 5000):
            bench.put_data(b"header", size)
        expected = b"[%d]" % len(bench.expected) + bytes(bench.expected)
        got = bytearray()
        while not bench.writer.flush():
            got += theirs.recv(1 << 16)
        while len(got) < len(expected):
            got += theirs.recv(1 << 16)
        assert got == expected


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[SecureSocket, ssl.SSLSocket]]:
    """Both ends of a TLS connection, ours not blocking."""
    with connected(tmp_path) as ends:
        ends[0].setblocking(False)
        yield ends


def readable(sock: ssl.SSLSocket) -> bytes:
    """What can be read without waiting: of a TLS record all or nothing."""
    data = b""
    with suppress(ssl.SSLWantReadError):
        while piece := sock.recv(1 << 14):
            data += piece
    return data


def test_tls_gets_everything_in_order_though_it_wants_to_wait_in_the_middle(
    tls: tuple[SecureSocket, ssl.SSLSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "TLS_CHUNK", 30_000)
    ours, theirs = tls
    bench = Bench(ours, framed)
    for size in (10, 100_000, 1, 50_000):
        bench.put_data(b"header", size)
    expected = b"[%d]" % len(bench.expected) + bytes(bench.expected) + b"<pong>[5]after"
    theirs.setblocking(False)
    assert not bench.writer.flush()
    bench.put(b"after")
    got, urgent = bytearray(), b"<pong>"
    while not bench.writer.flush(urgent):
        urgent = b""
        got += readable(theirs)
    got += readable(theirs)
    assert got == expected
    assert len(bench.released) == 4


@pytest.mark.parametrize("frame", [None, framed], ids=["raw", "framed"])
def test_bytes_count_as_waiting_until_they_are_written_not_until_their_batch_is(frame: object) -> None:
    head = len(b"[506]") if frame else 0
    sock = Trickle(head + 100)
    bench = Bench(sock, frame)
    bench.put_data(b"header", 500)
    assert not bench.writer.flush()
    assert (bench.outbox.size, bench.writer.written) == (406, 100)
