"""TLS by the flight: what comes out of our end is what an ordinary TLS server put in, and the other way round."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.unit.spice.secured import connected
from usbbridge.spice.secure import SecureSocket

BYTES = bytes(range(256)) * 400  # seven records
Ends = tuple[SecureSocket, ssl.SSLSocket]


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    """Ours blocks, with a time limit."""
    with connected(tmp_path) as found:
        found[0].settimeout(10)
        found[1].settimeout(10)
        yield found


def sent_by(theirs: ssl.SSLSocket, data: bytes) -> threading.Thread:
    thread = threading.Thread(target=theirs.sendall, args=(data,))
    thread.start()
    return thread


def test_both_ways_while_it_blocks(ends: Ends) -> None:
    ours, theirs = ends
    thread = sent_by(theirs, BYTES)
    got = bytearray()
    while len(got) < len(BYTES):
        got += ours.recv(10_000)
    thread.join()
    assert got == BYTES
    ours.sendall(b"")
    ours.sendall(b"an answer")
    assert theirs.recv(100) == b"an answer"


def test_what_was_received_and_not_read_yet_is_known(ends: Ends) -> None:
    ours, theirs = ends
    theirs.sendall(b"x" * 1000)
    assert not ours.unread
    assert ours.recv_into(bytearray(600)) == 600
    assert ours.unread
    assert ours.recv_into(bytearray(600)) == 400
    assert not ours.unread


def test_several_records_that_came_together_are_read_at_once(ends: Ends) -> None:
    ours, theirs = ends
    for piece in (b"one", b"two", b"three"):
        theirs.sendall(piece)
    ours.setblocking(False)
    assert ours.recv(100) == b"onetwothree"
    assert not ours.unread
    with pytest.raises(BlockingIOError):
        ours.recv(100)


def test_a_record_may_come_in_pieces(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = ends
    monkeypatch.setattr(ours, "_raw", memoryview(bytearray(7)))
    theirs.sendall(b"whole" * 100)
    assert ours.recv(1000) == b"whole" * 100


def test_what_the_socket_has_no_room_for_waits_and_goes_first(ends: Ends) -> None:
    ours, theirs = ends
    ours.setblocking(False)
    assert ours.send(BYTES) == len(BYTES)
    assert not ours.flush()
    with pytest.raises(BlockingIOError):
        ours.send(b"more")
    got = bytearray()
    theirs.setblocking(False)
    more = b"more"
    while len(got) < len(BYTES) + 4:
        if ours.flush() and more:
            more = more[ours.send(more) :]
        with suppress(ssl.SSLWantReadError):  # of a record, all or nothing
            got += theirs.recv(1 << 14)
    assert got == BYTES + b"more"


@pytest.mark.parametrize("goodbye", [True, False], ids=["said", "unsaid"])
def test_the_end_is_the_end_with_and_without_a_goodbye(ends: Ends, *, goodbye: bool) -> None:
    ours, theirs = ends
    theirs.sendall(b"last words")
    if goodbye:
        theirs.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):  # it would wait for ours
            theirs.unwrap()
    else:
        socket.socket.shutdown(theirs, socket.SHUT_WR)
    assert ours.recv(100) == b"last words"
    assert ours.recv(100) == b""


def test_bytes_that_are_no_tls_end_it(ends: Ends) -> None:
    ours, theirs = ends
    socket.socket.send(theirs, b"no record at all" * 10)
    with pytest.raises(ssl.SSLError):
        ours.recv(100)


def test_its_parts_cannot_be_sent_one_by_one(ends: Ends) -> None:
    with pytest.raises(NotImplementedError):
        ends[0].sendmsg([b"head", b"data"])
