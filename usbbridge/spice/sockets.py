"""What connections with and without TLS have in common: a deadline, and the question which of both it is.

TLS is loaded only where it is in use; see `usbbridge.spice.tls`.
"""

import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usbbridge.spice.secure import SecureSocket


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


def as_secure(sock: socket.socket) -> "SecureSocket | None":
    """The socket, if it speaks TLS."""
    if "usbbridge.spice.secure" not in sys.modules:
        return None
    from usbbridge.spice.secure import SecureSocket

    return sock if isinstance(sock, SecureSocket) else None


_DELIVERY_RATE = struct.Struct("=160xQ")
"tcpi_delivery_rate of struct tcp_info (linux/tcp.h, since Linux 4.9), bytes a second; the same on 32-bit systems."


def delivery_rate(sock: socket.socket) -> float:
    """Bytes a second that the connection has lately carried at the most, as TCP has measured it; 0 if it has not."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _DELIVERY_RATE.size)
        (rate,) = _DELIVERY_RATE.unpack(info)
    except (OSError, AttributeError, struct.error):
        rate = 0
    return float(rate)
