"""Where a part of the service is reached: an AF_UNIX socket at a path, at most one process behind it, and who connects.

A lock beside the socket (PATH.lock, flock(2)) belongs to the process that serves the path and ends with it, however it
ends; so a socket file without a holder of the lock is a dead process's, and is removed.
"""

import contextlib
import fcntl
import os
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usbbridge.errors import NotPermittedError, RefusedError, UsageError

BACKLOG: Final = 16
"Connections that the kernel keeps until they are accepted; a client that finds no room waits, or is told so."

MAX_PATH: Final = 107
"Bytes: sockaddr_un has room for 108 with the terminating zero (unix(7))."

MAX_PEER_GROUPS: Final = 256
"""Supplementary groups of a peer that are looked at: Python takes no more than 1024 bytes from getsockopt(2). Of a peer
with more than these, only the primary group counts."""

_CREDENTIALS: Final = struct.Struct("@iII")  # struct ucred
_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h, Linux 4.13; Python has no name for it
_PRIVATE: Final = 0o177
"umask of a new socket: nobody else may connect before mode and group are as wanted."


@dataclass(frozen=True, slots=True)
class Peer:
    """Who connected, as the kernel says: the credentials that the process had when it called connect(2)."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    "Supplementary groups."

    def __str__(self) -> str:
        return f"process {self.pid} of user {self.uid}"


def peer_of(sock: socket.socket) -> Peer:
    """Who is at the other end of a connected AF_UNIX socket (SO_PEERCRED, SO_PEERGROUPS)."""
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * MAX_PEER_GROUPS)
    except OSError:  # more of them (ERANGE), or an older kernel (ENOPROTOOPT)
        return Peer(pid, uid, gid)
    return Peer(pid, uid, gid, struct.unpack(f"@{len(found) // 4}I", found))


class Listener:
    """A listening socket, non-blocking, and the lock on its path. Made by `listen`."""

    def __init__(self, sock: socket.socket, path: Path, lock: int) -> None:
        self.sock, self.path = sock, path
        self._lock = lock

    def fileno(self) -> int:
        """The socket's descriptor, for a poll loop."""
        return self.sock.fileno()

    def accept(self) -> tuple[socket.socket, Peer] | None:
        """The next connection, non-blocking, and whose it is; None if there is none (any more)."""
        try:
            sock, _ = self.sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        sock.setblocking(False)
        return sock, peer_of(sock)

    def close(self) -> None:
        """Stop listening and leave nothing behind: neither socket nor lock."""
        self.sock.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
            _lock_of(self.path).unlink()  # while it is held: `_take_lock` notices
        os.close(self._lock)


def listen(path: Path, kind: int, mode: int = 0o600, group: int | None = None) -> Listener:
    """Listen at `path` with a socket of `kind` (SOCK_STREAM, SOCK_SEQPACKET); its file has `mode` and `group`, a gid.

    Folders that are missing are made: for this user alone if the socket is. Raises RefusedError if another process
    serves the path, NotPermittedError if it can't be made, UsageError if it is too long or something else is there.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise UsageError(f"{path} is too long for a socket: {MAX_PATH} bytes at most", hint="set a shorter path")
    try:
        path.parent.mkdir(mode=0o755 if mode & 0o077 else 0o700, parents=True, exist_ok=True)
        lock = _take_lock(path)
    except OSError as error:
        raise NotPermittedError(f"{path} can't be made: {error.strerror}", hint="is this the right user?") from error
    try:
        return Listener(_bound(path, kind, mode, group), path, lock)
    except OSError as error:
        os.close(lock)
        raise NotPermittedError(f"can't listen at {path}: {error.strerror}", hint="is this the right user?") from error
    except BaseException:
        os.close(lock)
        raise


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _take_lock(path: Path) -> int:
    """The lock's descriptor. A file that was unlinked between open and lock is nobody's: try the next."""
    file = _lock_of(path)
    while True:
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(file)):  # noqa: PTH116  # the pair of fstat
                return lock
        except BlockingIOError as error:
            os.close(lock)
            raise RefusedError(f"another process serves {path}", hint="it runs already; stop it first") from error
        except FileNotFoundError:
            pass
        os.close(lock)


def _bound(path: Path, kind: int, mode: int, group: int | None) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(f"{path} is there, and is no socket", hint="move it away, or set another path")
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        before = os.umask(_PRIVATE)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(mode)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
