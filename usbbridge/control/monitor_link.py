"""The connection to the monitor, made again whenever it is lost."""

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from usbbridge.errors import RemoteProtocolError
from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.listener import peer_of
from usbbridge.ipc.monitoring import ANSWERS, VERSION, Answer, Hello, Request, Welcome

log = logging.getLogger(__name__)

RETRY: Final = (0.1, 1.0)
"""Seconds until the next try while there is no connection: at first, doubled each time, and at most. A device has to be
where it belongs two seconds after a monitor was restarted; beyond this, nothing wakes up for it."""
MAX_QUEUE: Final = 1024
"Messages that the monitor has not taken yet: it has 127 devices, and a handful of messages goes to each."

OnMessage = Callable[[Answer, tuple[int, ...]], None]


class MonitorLink:
    """`on_message` is told every answer, `Welcome` first, with the descriptors that came beside it, which are then its
    own; `on_lost`, that the connection over which a `Welcome` had come is no more."""

    def __init__(self, path: Path, on_message: OnMessage, on_lost: Callable[[], None]) -> None:
        self._path, self._on_message, self._on_lost = path, on_message, on_lost
        self._channel: MessageChannel | None = None
        self._queue: deque[tuple[Request, tuple[int, ...]]] = deque()
        self._welcome, self._since = False, 0.0
        self._delay = RETRY[0]
        self._said = ""
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()

    @property
    def connected(self) -> bool:
        """Whether the monitor has answered."""
        return self._welcome

    def begin(self) -> None:
        """Connect, now or as soon as the monitor is there."""
        self._retry = None
        try:
            self._connect()
        except OSError as error:
            self._try_later(f"the monitor can't be reached at {self._path}: {error.strerror or error}")

    def send(self, request: Request, *fds: int) -> None:
        """Send it, with copies of the descriptors. What is sent to no connection, or to one that breaks, is lost:
        `on_lost` tells."""
        if self._channel is None:
            return
        if len(self._queue) >= MAX_QUEUE:
            self._loop.call_soon(self._lose, "the monitor does not read")  # not while somebody sends
            return
        try:
            copies = tuple(os.dup(fd) for fd in fds)
        except OSError as error:  # an answer to this would be waited for, and never come
            self._loop.call_soon(self._lose, f"the monitor can't be told of a device: {error.strerror}")
            return
        self._queue.append((request, copies))
        self._flush()

    def close(self) -> None:
        """End it for good. `on_lost` is not told."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        self._disconnect()

    def _connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            sock.connect(str(self._path))
            uid = peer_of(sock).uid
            if uid not in (0, os.geteuid()):  # whoever could put a socket there before the monitor did
                raise PermissionError(0, f"user {uid} listens there, who is neither root nor we")
        except BaseException:
            sock.close()
            raise
        self._channel = MessageChannel(sock, ANSWERS)
        self._loop.add_reader(sock.fileno(), self._readable)
        self.send(Hello(VERSION))

    def _readable(self) -> None:
        assert self._channel is not None
        try:
            received = self._channel.receive()
        except BlockingIOError:
            return
        except (OSError, RemoteProtocolError) as error:
            self._lose(f"the connection to the monitor was lost: {error}")
            return
        if received is None:
            self._lose("the monitor has closed the connection")
        elif not self._welcome:
            self._greet(*received)
        else:
            self._on_message(*received)

    def _greet(self, message: Answer, fds: tuple[int, ...]) -> None:
        for fd in fds:
            os.close(fd)
        if not isinstance(message, Welcome) or message.version != VERSION:
            self._delay = RETRY[1]
            self._lose(f"the monitor is of another version: {message!r:.80}")
            return
        log.info("connected to the monitor")
        self._welcome, self._since, self._said = True, self._loop.time(), ""
        self._on_message(message, ())

    def _flush(self) -> None:
        while self._queue and self._channel is not None:
            request, fds = self._queue[0]
            try:
                self._channel.send(request, *fds)
            except BlockingIOError:
                self._loop.add_writer(self._channel.fileno(), self._flush)
                return
            except OSError as error:
                # Deferred: whoever has sent something is in the middle of it. What it has said before is read first.
                log.debug("sending to the monitor failed: %s", error)
                self._drop_queue()
                return
            self._queue.popleft()
            for fd in fds:
                os.close(fd)
        if self._channel is not None:
            self._loop.remove_writer(self._channel.fileno())

    def _drop_queue(self) -> None:
        while self._queue:
            for fd in self._queue.popleft()[1]:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def _disconnect(self) -> None:
        self._drop_queue()
        if self._channel is not None:
            self._loop.remove_reader(self._channel.fileno())
            self._loop.remove_writer(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def _lose(self, why: str) -> None:
        if self._channel is None:
            return
        welcome, self._welcome = self._welcome, False
        if welcome and self._loop.time() - self._since >= RETRY[1]:  # else it throws us out again and again
            self._delay = RETRY[0]
        self._disconnect()
        self._try_later(why)
        if welcome:
            self._on_lost()

    def _try_later(self, why: str) -> None:
        if self._closed:
            return
        if why != self._said:  # said once, however often it is tried
            self._said = why
            log.warning("%s; trying again until it is there", why)
        self._retry = self._loop.call_later(self._delay, self.begin)
        self._delay = min(self._delay * 2, RETRY[1])
