"""A socket at a path: one process behind it, nothing stale in its way, and who connects."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from usbbridge.errors import NotPermittedError, RefusedError, UsageError
from usbbridge.ipc.listener import Listener, Peer, listen, peer_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run/part.sock"


@pytest.fixture
def listener(path: Path) -> Iterator[Listener]:
    made = listen(path, socket.SOCK_SEQPACKET)
    yield made
    made.close()


def connected(path: Path, kind: int = socket.SOCK_SEQPACKET) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.connect(str(path))
    return sock


def test_the_socket_and_its_folder_are_for_this_user_alone(listener: Listener, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_mode_and_group_are_as_wanted(path: Path) -> None:
    made = listen(path, socket.SOCK_STREAM, 0o660, os.getgid())
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert path.stat().st_gid == os.getgid()
    made.close()


def test_a_connection_is_accepted_with_its_peer(listener: Listener, path: Path) -> None:
    assert listener.accept() is None
    with connected(path):
        accepted = listener.accept()
        assert accepted is not None
        sock, peer = accepted
        assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.getuid(), os.getgid())
        assert set(peer.groups) == set(os.getgroups())
        assert sock.getblocking() is False
        sock.close()


def test_a_peer_is_who_connected_not_who_it_is_now(listener: Listener, path: Path) -> None:
    code = f"import socket; s = socket.socket(1, 5); s.connect({str(path)!r}); s.recv(1)"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        listener.sock.setblocking(True)
        accepted = listener.accept()
        assert accepted is not None
        accepted[0].close()
        assert accepted[1].pid == process.pid


def test_peers_say_who_they_are() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    assert peer_of(one).uid == os.getuid()
    assert str(Peer(7, 1000, 1000)) == "process 7 of user 1000"
    one.close()
    other.close()


def test_a_second_process_is_refused(listener: Listener, path: Path) -> None:
    with pytest.raises(RefusedError, match="another process serves"):
        listen(path, socket.SOCK_SEQPACKET)
    connected(path).close()


def test_the_socket_of_a_process_that_was_killed_is_replaced(path: Path) -> None:
    code = f"""
import os, pathlib, socket
from usbbridge.ipc.listener import listen
listen(pathlib.Path({str(path)!r}), socket.SOCK_STREAM)
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert path.is_socket()
    made = listen(path, socket.SOCK_STREAM)
    connected(path, socket.SOCK_STREAM).close()
    made.close()


def test_nothing_is_left_when_it_ends(path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    listen(path, socket.SOCK_STREAM).close()
    assert list(path.parent.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_that_is_no_socket_is_not_touched(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(UsageError, match="is no socket"):
        listen(path, socket.SOCK_STREAM)
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too long"):
        listen(tmp_path / ("x" * 108), socket.SOCK_STREAM)


def test_a_folder_that_can_not_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotPermittedError, match="can't be made"):
        listen(tmp_path / "file/part.sock", socket.SOCK_STREAM)
