"""A connection between two processes of the bridge: whole messages and file descriptors over an AF_UNIX socket.

SOCK_SEQPACKET keeps message borders and the descriptors that belong to a message together, and tells of the other
end's death by end of file; so there is no framing of our own to get wrong.
"""

import array
import os
import socket
from collections.abc import Mapping
from typing import Any

from usbbridge.errors import RemoteProtocolError
from usbbridge.ipc import messages
from usbbridge.ipc.codec import MAX_MESSAGE, decode, encode

MAX_FDS = 1
"Descriptors beside one message: a device's, or a lease's."

Kinds = Mapping[str, type[Any]]
"The kinds of messages that are accepted, by name: a closed table."


def pair(kinds: Kinds = messages.KINDS) -> tuple["MessageChannel", socket.socket]:
    """Our end, and the other process's end as a socket to be inherited."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return MessageChannel(ours, kinds), theirs


class MessageChannel:
    """One end of the connection. Blocking by default; `fileno()` is for a poll loop."""

    def __init__(self, sock: socket.socket, kinds: Kinds = messages.KINDS) -> None:
        self._sock, self._kinds = sock, kinds

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def send(self, message: Any, *fds: int) -> None:
        """Send a message, and with it descriptors. Raises BrokenPipeError or ConnectionResetError if the other end
        is gone, BlockingIOError if it does not read and the socket is non-blocking."""
        socket.send_fds(self._sock, [encode(message)], fds)

    def receive(self) -> tuple[Any, tuple[int, ...]] | None:
        """The next message and its descriptors, which belong to the caller; None at the end.

        Raises RemoteProtocolError for what is no message; descriptors that came with that are closed.
        """
        fds = array.array("i")
        space = socket.CMSG_SPACE(MAX_FDS * fds.itemsize)
        try:
            data, control, flags, _ = self._sock.recvmsg(MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:  # it ended with something of ours unread; what it had said is behind that
            data, control, flags, _ = self._sock.recvmsg(MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        if not data and not fds:
            return None
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(fds) > MAX_FDS:  # alignment may make room for two
                raise RemoteProtocolError("a message that is too long, or has too many descriptors")
            message = decode(data, self._kinds)
            given, fds = tuple(fds), array.array("i")
            return message, given
        finally:
            for fd in fds:
                os.close(fd)

    def close(self) -> None:
        """Close our end."""
        self._sock.close()
