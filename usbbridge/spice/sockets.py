"""What connections with and without TLS have in common: a deadline, and what their sockets raise.

The errors of TLS are looked up only where TLS is in use; see `usbbridge.spice.tls`.
"""

import socket
import sys
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How the server's certificate is verified. It always is."""

    ca_file: str | None = None
    "PEM file with the CA certificates to trust, instead of the system's."
    host_subject: str | None = None
    "Subject the certificate must have, in place of the host's name; see `usbbridge.spice.subject`."


class Deadline:
    """One time limit for a chain of operations."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, more than zero: zero would mean "do not block" to a socket."""
        return max(self._end - time.monotonic(), 0.001)

    def passed(self) -> bool:
        """Whether it is over."""
        return time.monotonic() >= self._end


def is_secure(sock: socket.socket) -> bool:
    """Whether the socket speaks TLS."""
    if "ssl" not in sys.modules:
        return False
    import ssl

    return isinstance(sock, ssl.SSLSocket)


def would_block(sock: socket.socket) -> tuple[type[OSError], ...]:
    """What the socket raises, if it does not block, where it would have to wait."""
    if not is_secure(sock):
        return (BlockingIOError,)
    import ssl

    return (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def has_ended(sock: socket.socket) -> tuple[type[OSError], ...]:
    """What the socket raises when the connection is over."""
    if not is_secure(sock):
        return (ConnectionError,)
    import ssl

    return (ConnectionError, ssl.SSLEOFError)
