"""A TLS connection whose records come and go by the flight: one system call each way, however many they are.

OpenSSL on a socket writes each record of 16 KiB by itself and reads its header and its body apart: 64 KiB cost five
writes, and their receiver is woken five times. Here OpenSSL works on memory, and what it made or wants goes over the
socket in one piece; it also leaves no doubt whether something decrypted is still to be read, which a poll can't see.

Loaded only with TLS; see `usbbridge.spice.tls`.
"""

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any

from usbbridge.spice.sockets import Deadline

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

RECEIVE = 64 * 1024
"Bytes of ciphertext received at once: four whole records."


class SecureSocket(socket.socket):
    """Takes over a connected socket. It sends and receives plaintext, with what else a socket of its kind raises."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        timeout = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self.settimeout(timeout)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._raw = memoryview(bytearray(RECEIVE))
        self._unsent = memoryview(b"")  # ciphertext that the socket has not taken
        self._ended = False
        self.unread = False
        "Whether there may be more to read than the socket itself has: what a poll can't tell."

    def handshake(self, deadline: Deadline) -> None:
        """Raises TimeoutError, ssl.SSLError and OSError, like that of an SSLSocket."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._exchange(deadline)
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    super().sendall(self._outgoing.read())  # what is wrong, for the other side
                raise
            else:
                break
        super().sendall(self._outgoing.read())
        self.unread = self._incoming.pending > 0

    def _exchange(self, deadline: Deadline) -> None:
        self.settimeout(deadline.left())
        super().sendall(self._outgoing.read())
        self.settimeout(deadline.left())
        self._receive()

    def certificate(self) -> bytes:
        """The other side's, DER."""
        return self._tls.getpeercert(binary_form=True) or b""

    def version(self) -> str:
        """Of TLS, as ssl.SSLSocket's."""
        return self._tls.version() or ""

    # ---- receiving

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int = 0, flags: int = 0) -> int:
        """As a socket's: of all records that are there; 0 also if the connection ended without TLS's own goodbye, as
        SPICE servers end it."""
        place = memoryview(buffer)[: nbytes or None]
        while not self.unread or not (n := self._read(place)):
            if self._ended:
                return 0
            self._receive()
        if self._outgoing.pending:
            self._push()  # it was asked for new keys
        return n

    def _read(self, place: memoryview) -> int:
        """What has been received already; a read of OpenSSL's is one record."""
        read, total = self._tls.read, 0
        try:
            while self.unread and total < len(place):
                n: int = read(len(place) - total, place[total:])  # type: ignore[assignment]  # bytes without a buffer
                total += n
                self.unread = bool(self._incoming.pending or self._tls.pending())
                if not n:
                    self._ended, self.unread = True, False  # it said goodbye
        except ssl.SSLWantReadError:
            self.unread = False
        except ssl.SSLEOFError:
            self._ended, self.unread = True, False
        return total

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """As a socket's."""
        buffer = bytearray(bufsize)
        return bytes(buffer[: self.recv_into(buffer)])

    def _receive(self) -> None:
        n = super().recv_into(self._raw)
        if n:
            self._incoming.write(self._raw[:n])
        else:
            self._incoming.write_eof()
            self._ended = True
        self.unread = True

    # ---- sending

    def send(self, data: "ReadableBuffer", flags: int = 0) -> int:
        """As a socket's; all of `data`, if any. What the socket has no room for waits here: see `flush`."""
        if not self.flush():
            raise BlockingIOError
        self._tls.write(data)
        self._push()
        return len(memoryview(data))

    def sendall(self, data: "ReadableBuffer", flags: int = 0) -> None:
        """As a socket's that blocks."""
        if len(memoryview(data)):
            self._tls.write(data)
            flight, self._unsent = bytes(self._unsent) + self._outgoing.read(), memoryview(b"")
            super().sendall(flight)

    def flush(self) -> bool:
        """Send what waits here, as far as it goes. False if some of it does not."""
        if self._unsent:
            self._push()
        return not self._unsent

    def _push(self) -> None:
        """The rest of a flight first: nothing is encrypted while that waits but the answer to new keys."""
        data = memoryview(bytes(self._unsent) + self._outgoing.read() if self._unsent else self._outgoing.read())
        sent = 0
        with contextlib.suppress(BlockingIOError):
            sent = super().send(data)
        self._unsent = data[sent:]

    def sendmsg(self, *_: Any, **__: Any) -> int:
        """Not by this: the parts are to be joined, or each would be a record of its own."""
        raise NotImplementedError
