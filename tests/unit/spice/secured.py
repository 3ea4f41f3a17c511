"""A TLS connection within the process: our end, and that of an ordinary TLS server."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.unit.spice.pki import Authority
from usbbridge.spice.secure import SecureSocket
from usbbridge.spice.sockets import Deadline


@contextmanager
def connected(folder: Path) -> Iterator[tuple[SecureSocket, ssl.SSLSocket]]:
    """Both ends; ours has a small buffer."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    authority = Authority(folder)
    made = authority.server("localhost")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made / "server-cert.pem", made / "server-key.pem")
    result: list[ssl.SSLSocket] = []
    thread = threading.Thread(target=lambda: result.append(server.wrap_socket(theirs, server_side=True)))
    thread.start()
    secure = SecureSocket(ours, ssl.create_default_context(cafile=str(authority.file)), "localhost")
    secure.handshake(Deadline(10))
    thread.join()
    with secure, result[0]:
        yield secure, result[0]
