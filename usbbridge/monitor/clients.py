"""A process that is connected to the monitor, and what waits to be sent to it."""

import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from usbbridge.errors import RemoteProtocolError
from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.codec import encode
from usbbridge.ipc.listener import Peer
from usbbridge.ipc.monitoring import REQUESTS, Answer, Request
from usbbridge.ipc.permissions import Role, Stage, is_permitted
from usbbridge.monitor.log import Level, say
from usbbridge.monitor.loop import READ, WRITE, Loop

MAX_BACKLOG: Final = 4 << 20
"Bytes that wait for a client: the list of 127 devices with all their descriptors, and again as much."

OnRequest = Callable[["Client", Request, tuple[int, ...]], None]


class Client:
    """One connection. `on_request` is called with what is permitted, and is given the descriptors beside it; `on_end`
    when the connection is over, for whatever reason."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        peer: Peer,
        role: Role,
        on_request: OnRequest,
        on_end: Callable[["Client"], None],
    ) -> None:
        self.peer = peer
        self.stage = Stage.NEW
        self.is_open = True
        self._loop, self._sock, self._role = loop, sock, role
        self._channel = MessageChannel(sock, REQUESTS)
        self._on_request, self._on_end = on_request, on_end
        self._queue: deque[tuple[bytes, int | None]] = deque()
        self._queued = 0
        loop.watch(sock.fileno(), self._ready)

    def send(self, message: Answer, fd: int | None = None) -> None:
        """Send it as soon as the client reads, with a descriptor, which is then ours to close. A client for which too
        much waits is disconnected."""
        if not self.is_open:
            _close(fd)
            return
        data = encode(message)
        self._queue.append((data, fd))
        self._queued += len(data)
        if len(self._queue) == 1:
            self._flush()
        if self._queued > MAX_BACKLOG:
            self.end(f"it does not read: {self._queued} bytes wait for it")

    def end(self, why: str = "") -> None:
        """Disconnect it; what can be sent at once has been."""
        if not self.is_open:
            return
        self.is_open = False
        if why:
            say(Level.WARNING, f"the connection of {self.peer} was ended: {why}")
        self._loop.unwatch(self._sock.fileno())
        for _, fd in self._queue:
            _close(fd)
        self._queue.clear()
        self._channel.close()
        self._on_end(self)

    def _ready(self) -> None:
        """It has said something, has ended, or takes more."""
        if self._queue:
            self._flush()
        if not self.is_open:
            return
        try:
            received = self._channel.receive()
        except BlockingIOError:
            return
        except RemoteProtocolError as error:
            self.end(error.message)
        except OSError:
            self.end()
        else:
            if received is None:
                self.end()
            else:
                self._judge(*received)

    def _judge(self, request: Request, fds: tuple[int, ...]) -> None:
        if is_permitted(self._role, self.stage, request, len(fds)):
            self._on_request(self, request, fds)
            return
        for fd in fds:
            os.close(fd)
        self.end(f"{request.kind!r} with {len(fds)} descriptors is not permitted to it at this stage")

    def _flush(self) -> None:
        while self._queue:
            data, fd = self._queue[0]
            try:
                socket.send_fds(self._sock, [data], () if fd is None else (fd,))
            except BlockingIOError:
                break
            except OSError:
                self.end()
                return
            self._queue.popleft()
            self._queued -= len(data)
            _close(fd)
        self._loop.expect(self._sock.fileno(), READ | WRITE if self._queue else READ)


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
