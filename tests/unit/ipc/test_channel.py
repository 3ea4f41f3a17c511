"""A connection between processes: messages and descriptors, and how its end shows."""

import array
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from usbbridge.errors import RemoteProtocolError
from usbbridge.ipc.channel import MessageChannel, pair
from usbbridge.ipc.codec import MAX_MESSAGE, encode
from usbbridge.ipc.messages import AskStats, Progressed, Start, Stop

End = tuple[MessageChannel, socket.socket]


@pytest.fixture
def ends() -> Iterator[End]:
    ours, theirs = pair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def send(sock: socket.socket, data: bytes, *fds: int) -> None:
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


def test_messages_keep_their_order_and_borders(ends: End) -> None:
    ours, theirs = ends
    other = MessageChannel(theirs)
    for message in (Stop(), Progressed("a", "b" * 10_000), AskStats()):
        ours.send(message)
    assert [other.receive() for _ in range(3)] == [
        (Stop(), ()),
        (Progressed("a", "b" * 10_000), ()),
        (AskStats(), ()),
    ]


def test_a_message_of_the_longest_length_passes(ends: End) -> None:
    ours, theirs = ends
    longest = Progressed("x" * (MAX_MESSAGE - len(encode(Progressed("")))))
    ours.send(longest)
    assert MessageChannel(theirs).receive() == (longest, ())


def test_a_descriptor_travels_beside_its_message_and_is_not_inherited(ends: End, file: int) -> None:
    ours, theirs = ends
    ours.send(Start("x", usbfs=True), file)
    ours.send(Stop())
    other = MessageChannel(theirs)
    message, (fd,) = other.receive()
    assert message == Start("x", usbfs=True)
    assert fd != file
    assert os.read(fd, 100) == b"content"
    assert not os.get_inheritable(fd)
    os.close(fd)
    assert other.receive() == (Stop(), ())


def test_the_end_is_none(ends: End) -> None:
    ours, theirs = ends
    theirs.close()
    assert ours.receive() is None
    assert ours.receive() is None


def test_what_was_said_before_the_end_is_heard_first(ends: End) -> None:
    ours, theirs = ends
    MessageChannel(theirs).send(Stop())
    theirs.close()
    assert ours.receive() == (Stop(), ())
    assert ours.receive() is None


def test_a_reset_is_an_end_too(ends: End) -> None:
    ours, theirs = ends
    ours.send(Stop())
    theirs.close()  # with a message unread
    assert ours.receive() is None


def test_the_last_word_is_heard_although_the_end_came_with_ours_unread(ends: End) -> None:
    ours, theirs = ends
    ours.send(Stop())
    MessageChannel(theirs).send(Progressed("last"))
    theirs.close()
    assert ours.receive() == (Progressed("last"), ())
    assert ours.receive() is None


def test_to_send_to_nobody_is_an_error(ends: End) -> None:
    ours, theirs = ends
    theirs.close()
    with pytest.raises(BrokenPipeError):
        ours.send(Stop())


@pytest.mark.parametrize("data", [b"nonsense", b'{"kind":"stop"}' + b" " * MAX_MESSAGE])
def test_descriptors_that_come_with_nonsense_are_closed(ends: End, file: int, data: bytes) -> None:
    ours, theirs = ends
    before = open_descriptors()
    send(theirs, data, file)
    with pytest.raises(RemoteProtocolError):
        ours.receive()
    assert open_descriptors() == before


@pytest.mark.parametrize("count", [2, 3, 100])
def test_more_descriptors_than_one_are_refused_and_closed(ends: End, file: int, count: int) -> None:
    ours, theirs = ends
    before = open_descriptors()
    send(theirs, encode(Stop()), *[file] * count)
    with pytest.raises(RemoteProtocolError, match="too many descriptors"):
        ours.receive()
    assert open_descriptors() == before


def test_a_message_that_is_too_long_is_refused_whole(ends: End) -> None:
    ours, theirs = ends
    theirs.send(b'{"kind":"stop"}'.ljust(MAX_MESSAGE + 1))
    theirs.send(encode(AskStats()))
    with pytest.raises(RemoteProtocolError, match="too long"):
        ours.receive()
    assert ours.receive() == (AskStats(), ())


def test_its_own_end_is_not_inherited_and_the_others_is_so_on_request(ends: End) -> None:
    ours, theirs = ends
    assert not os.get_inheritable(ours.fileno())
    assert not os.get_inheritable(theirs.fileno())
