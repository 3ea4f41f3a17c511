"""A SPICE session as control keeps it: the MAIN channel, alive for as long as USBREDIR channels are used under its
session id.

spice-server drops a client whose MAIN channel does not answer pings for 30 s, and with it every USBREDIR channel.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

from usbbridge.errors import ConnectionLostError, UsbBridgeError
from usbbridge.spice.connection import Linked, open_main
from usbbridge.spice.main import MainChannel
from usbbridge.spice.sockets import TlsOptions, as_secure
from usbbridge.spice.targets import SpiceTarget

_Opened = tuple[Linked, MainChannel]
_T = TypeVar("_T")

MAX_OUTPUT = 1 << 20
"Answers the server does not take before it is given up: pongs are 20 bytes, so this is thousands of unread ones."

READS_IN_A_ROW = 64
"Reads before others get their turn: a server that never stops talking must not stop everything else."


async def in_thread(blocking: Callable[[], _T], discard: Callable[[_T], None] = lambda _: None) -> _T:
    """Run a blocking call in a daemon thread: a dead server must not hold up the end of the process. What it brings
    after the caller was cancelled goes to `discard`."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def succeed(result: _T) -> None:
        if future.done():  # cancelled: nobody wants it any more
            discard(result)
        else:
            future.set_result(result)

    def fail(error: Exception) -> None:
        if not future.done():
            future.set_exception(error)

    def work() -> None:
        try:
            result = blocking()
        except Exception as error:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
                loop.call_soon_threadsafe(fail, error)
            return
        try:
            loop.call_soon_threadsafe(succeed, result)
        except RuntimeError:  # the same
            discard(result)

    threading.Thread(target=work, daemon=True).start()
    return await future


def _close(opened: _Opened) -> None:
    opened[0].sock.close()


class Session:
    """MAIN, linked and answering. `on_lost` is called once, with the reason, when it ends by itself."""

    def __init__(self, sock: socket.socket, channel: MainChannel, on_lost: Callable[[UsbBridgeError], None]) -> None:
        self._sock, self._channel, self._on_lost = sock, channel, on_lost
        self._secure = as_secure(sock)
        self._output = bytearray()
        self._ended = False
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)
        self._loop.call_soon(self._readable)  # TLS may have decrypted more already, which no poll shows

    @classmethod
    async def open(
        cls,
        target: SpiceTarget,
        password: str,
        tls: TlsOptions,
        on_lost: Callable[[UsbBridgeError], None],
    ) -> "Session":
        """Link MAIN and wait for the session to begin. Raises LinkError subclasses."""
        linked, channel = await in_thread(lambda: open_main(target, password=password, tls=tls), _close)
        return cls(linked.sock, channel, on_lost)

    @property
    def session_id(self) -> int:
        """What other channels of the session have to present."""
        assert self._channel.init is not None
        return self._channel.init.session_id

    def usb_channels(self) -> tuple[int, ...]:
        """Ids of the VM's USBREDIR channels, free or not."""
        return self._channel.usb_channels()

    def close(self) -> None:
        """End the session; every channel under its id ends with it."""
        if not self._ended:
            self._ended = True
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()

    def _readable(self) -> None:
        if self._ended:
            return
        try:
            self._receive()
        except BlockingIOError:
            pass
        except UsbBridgeError as error:
            self._lose(error)
        except OSError as error:
            self._lose(ConnectionLostError(f"the SPICE session was lost: {error}"))

    def _receive(self) -> None:
        for _ in range(READS_IN_A_ROW):
            view = self._channel.buffer()
            n = self._sock.recv_into(view)
            if not n:
                self._channel.eof()
            self._channel.received(n)
            self._output += self._channel.take_output()
            if len(self._output) > MAX_OUTPUT:
                raise ConnectionLostError("the SPICE server does not read our answers")
            self._write()
        self._loop.call_soon(self._readable)

    def _write(self) -> None:
        try:
            while self._output:
                del self._output[: self._sock.send(self._output)]
            if self._secure is not None and not self._secure.flush():
                raise BlockingIOError
        except BlockingIOError:
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _writable(self) -> None:
        self._loop.remove_writer(self._sock.fileno())
        try:
            self._write()
        except OSError as error:
            self._lose(ConnectionLostError(f"the SPICE session was lost: {error}"))

    def _lose(self, error: UsbBridgeError) -> None:
        self.close()
        self._on_lost(error)
