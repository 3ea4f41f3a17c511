"""Writing to the VM: what collected in the outbox goes out in as few system calls as it can, without copying the data.

Everything that is ready together is one SPICE message and one `sendmsg`; what the socket does not take waits here, and
transfers stay held until the last byte of their batch is written.
"""

import socket
from collections.abc import Callable

from usbbridge.backend.base import Transfer
from usbbridge.redirect.outbox import Outbox
from usbbridge.spice.sockets import as_secure

Parts = list[bytes | memoryview]

MAX_BATCH = 1 << 20
"usbredir bytes in one SPICE message: QEMU takes up to 1 MiB from the server at a time. Larger outboxes go in several."

IOV_MAX = 1024
"Parts of one sendmsg: Linux's UIO_MAXIOV."

TLS_CHUNK = 256 << 10
"""Bytes joined for one TLS write: a copy costs a hundredth of the encryption, a record of its own for each header
costs more."""


class Writer:
    """Writes an outbox to a non-blocking socket. `frame` puts a SPICE message around a batch; None if raw."""

    def __init__(
        self,
        sock: socket.socket,
        outbox: Outbox,
        frame: Callable[[Parts, int], Parts] | None,
        release: Callable[[list[Transfer]], None],
    ) -> None:
        self.written = 0
        "usbredir bytes written so far."
        self._outbox, self._frame, self._release = outbox, frame, release
        self._parts: Parts = []  # the batch that is being written
        self._left = 0  # bytes of it that are not written yet
        self._size = 0  # usbredir bytes of it that still count as waiting
        self._head = 0  # bytes of the message's header that are not written yet
        self._held: list[Transfer] = []
        self._sock, self._sendmsg = sock, sock.sendmsg
        self._secure = as_secure(sock)
        self._send: Callable[[Parts], int] = sock.sendmsg if self._secure is None else self._send_joined

    def flush(self, urgent: bytes = b"") -> bool:
        """Write what is there, `urgent` (whole SPICE messages) before the next batch. False if the socket is full.

        Raises OSError when the connection is broken.
        """
        if urgent:
            self._parts.append(urgent)
            self._left += len(urgent)
        outbox = self._outbox
        while self._left or outbox.parts:
            if not self._left:
                self._load(outbox)
            try:
                sent = self._send(self._parts)
            except BlockingIOError:
                return False
            self._left -= sent
            if self._left:
                _advance(self._parts, sent)
                head = min(sent, self._head)
                self._head -= head
                self._count(outbox, min(sent - head, self._size))
            else:
                self._batch_written(outbox)
        return self._secure is None or self._secure.flush()

    def _load(self, outbox: Outbox) -> None:
        """Make the outbox's content the next batch; if that is too much, the front of it."""
        size = outbox.size
        if size <= MAX_BATCH:
            parts, outbox.parts = outbox.parts, []
            if outbox.held:
                self._held, outbox.held = outbox.held, []
        else:
            parts, size, outbox.parts = _split(outbox.parts, MAX_BATCH)
            # data behind the cut is still held; a view of a header is read-only
            front = len(outbox.held) - sum(isinstance(p, memoryview) and not p.readonly for p in outbox.parts)
            self._held, outbox.held = outbox.held[:front], outbox.held[front:]
        self._size = self._left = size
        if self._frame is not None:
            parts = self._frame(parts, size)
            self._left = sum(map(len, parts))
            self._head = max(self._left - size, 0)
        self._parts = parts
        if self._secure is None:  # urgent messages may join the parts: room is left for them
            self._send = self._sendmsg if len(parts) <= IOV_MAX // 2 else self._send_many

    def _batch_written(self, outbox: Outbox) -> None:
        self._parts = []
        self._count(outbox, self._size)
        if self._held:
            held, self._held = self._held, []
            self._release(held)

    def _count(self, outbox: Outbox, size: int) -> None:
        """So many usbredir bytes no longer wait; of a compressed batch, most are counted at its end."""
        outbox.size -= size
        self.written += size
        self._size -= size

    def _send_many(self, parts: Parts) -> int:
        return self._sock.sendmsg(parts[:IOV_MAX])

    def _send_joined(self, parts: Parts) -> int:
        chunk, _, _ = _split(parts, TLS_CHUNK)
        return self._sock.send(b"".join(chunk))


def _split(parts: Parts, size: int) -> tuple[Parts, int, Parts]:
    """The first `size` bytes of the parts, how many they are, and the rest; one part may be cut."""
    total = 0
    for i, part in enumerate(parts):
        if total + len(part) >= size:
            view = memoryview(part)
            cut = size - total
            rest = parts[i + 1 :] if cut == len(part) else [view[cut:], *parts[i + 1 :]]
            return [*parts[:i], view[:cut]], size, rest
        total += len(part)
    return parts, total, []


def _advance(parts: Parts, sent: int) -> None:
    """Drop `sent` bytes from the front, in place."""
    done = 0
    for part in parts:
        if sent < len(part):
            break
        sent -= len(part)
        done += 1
    del parts[:done]
    if sent:
        parts[0] = memoryview(parts[0])[sent:]
