"""A server on loopback that plays a part: one thread, one connection after another, each with what the test says."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

Part = Callable[[socket.socket], None]


class Listener:
    """Runs `parts` in turn, one for each connection, and the last for all that come after."""

    def __init__(self, *parts: Part, tls: Path | None = None, unix: Path | None = None) -> None:
        self._parts = parts
        self._context: ssl.SSLContext | None = None
        if tls is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(tls / "server-cert.pem", tls / "server-key.pem")
        if unix is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.bind(str(unix))
            self._socket.listen()
            self.port = 0
        else:
            self._socket = socket.create_server(("127.0.0.1", 0))
            self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._socket.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        count = 0
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(10)
                self._play(self._parts[min(count, len(self._parts) - 1)], connection)
            count += 1

    def _play(self, part: Part, connection: socket.socket) -> None:
        if self._context is None:
            part(connection)
            return
        with self._context.wrap_socket(connection, server_side=True) as secure:
            part(secure)


def answering(*answers: bytes) -> Part:
    """Reads something before each answer, and then until the client leaves."""

    def part(connection: socket.socket) -> None:
        for answer in answers:
            connection.recv(65536)
            connection.sendall(answer)
        while connection.recv(65536):
            pass

    return part


def closing(*answers: bytes) -> Part:
    """Reads something before each answer, and closes after the last."""

    def part(connection: socket.socket) -> None:
        for answer in answers or [b""]:
            connection.recv(65536)
            connection.sendall(answer)

    return part


def greeting(banner: bytes) -> Part:
    """Speaks first, as many protocols have it."""

    def part(connection: socket.socket) -> None:
        connection.sendall(banner)
        while connection.recv(65536):
            pass

    return part


def dribbling(data: bytes, pause: float) -> Part:
    """Sends a byte, and another, and another, `pause` seconds apart."""

    def part(connection: socket.socket) -> None:
        for index in range(len(data)):
            connection.sendall(data[index : index + 1])
            connection.settimeout(pause)
            with contextlib.suppress(TimeoutError):
                while connection.recv(65536):
                    pass

    return part
