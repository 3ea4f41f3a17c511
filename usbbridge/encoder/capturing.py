"""Captures of the device's transfers that are under way: who gets them, and the tap while there is anybody.

A capture is written to a connection whose other end somebody reads, as a pcapng file. The redirection never waits for
that: what happens while MAX_WAITING bytes wait for the reader is dropped, counted, and said in the file. The loop
writes when the connection takes something; the reader ends a capture by closing its end, or half of it.
"""

import contextlib
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final, Protocol

from usbbridge import __version__
from usbbridge.backend.base import Device, Transfer
from usbbridge.capture import pcapng
from usbbridge.capture.introduction import COMMENT, introduction
from usbbridge.capture.usbmon import Address, Event
from usbbridge.encoder.tap import TappedDevice
from usbbridge.errors import UsbBridgeError
from usbbridge.ipc.messages import Capture
from usbbridge.usb.descriptors import configuration_bytes, device_bytes

MAX_CAPTURES: Final = 4
"Of one device at a time: each costs what its copies cost."
MAX_WAITING: Final = 8 << 20
"Bytes that wait for one reader: some tens of milliseconds of a fast disk, minutes of a mouse."
MAX_PARTS: Final = 64
"Parts given to one write."
FLUSH_SECONDS: Final = 0.5
"How long the end of an attachment waits for all readers together to take what there still is."

_INTEREST: Final = {False: select.EPOLLIN, True: select.EPOLLIN | select.EPOLLOUT}


class Drives(Protocol):
    """A host whose device can be exchanged for one that stands before it."""

    def drive(self, device: Device) -> Iterable[Transfer]:
        """Give transfers to this device object from now on; those that are in flight now."""


class Reader:
    """One capture and the connection it goes to. `waits` is told whether there is something to be written."""

    def __init__(self, sock: socket.socket, capture: Capture, waits: Callable[[bool], None]) -> None:
        self._sock, self._waits = sock, waits
        self._address, self._payload = Address(capture.bus, capture.device), not capture.headers_only
        self._parts: deque[memoryview] = deque()
        self._size = 0
        self._broken = False
        self._received = self._dropped = self._missing = 0  # in all; of these, dropped; and since the last that was not

    def begin(self, name: str, events: Iterable[Event]) -> None:
        """The file's beginning, and what comes before anything happens."""
        self._put(pcapng.section_header(f"usbbridge {__version__}") + pcapng.interface(name.partition(" ")[0], name))
        now = _now()
        for event in events:
            parts, length = event.record(self._address, now, payload=True)  # descriptors: nothing that is private
            self._put(pcapng.packet(now, parts, length, comment=COMMENT))

    def hear(self, event: Event) -> None:
        """Something has happened to a transfer."""
        self._received += 1
        if self._size >= MAX_WAITING:
            self._dropped += 1
            self._missing += 1
            return
        now = _now()
        if self._missing:
            self._put(pcapng.statistics(now, self._received, self._dropped))
        parts, length = event.record(self._address, now, payload=self._payload)
        missing, self._missing = self._missing, 0
        self._put(pcapng.packet(now, parts, length, dropped=missing))

    def wants_more(self) -> bool:
        """Whether the other end is as it was: nothing is said there, so it is the end if something is, and also if it
        takes nothing any more."""
        if self._broken:
            return False
        try:
            self._sock.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def conclude(self) -> None:
        """Nothing more comes but what the capture came to. Nothing is said to `waits` any more."""
        self._waits = _ignore
        self._put(pcapng.statistics(_now(), self._received, self._dropped))

    def write(self) -> bool:
        """Write what the connection takes; whether something is left to be written."""
        try:
            self._write()
        except BlockingIOError:
            return True
        except OSError:  # nobody is at the other end: it has no use for the rest
            self._parts.clear()
            self._size, self._broken = 0, True
        return False

    def flush(self, deadline: float) -> None:
        """Write all, but for no longer than until then."""
        poller = select.poll()
        poller.register(self._sock, select.POLLOUT)
        while self.write():
            left = deadline - time.monotonic()
            if left <= 0 or not poller.poll(left * 1000):
                return

    def close(self) -> None:
        """End the connection."""
        self._sock.close()

    def _put(self, block: bytes) -> None:
        if not self._parts:
            self._waits(True)
        self._parts.append(memoryview(block))
        self._size += len(block)

    def _write(self) -> None:
        """Until nothing waits. Raises BlockingIOError when the connection is full, OSError when it has ended."""
        parts = self._parts
        if not parts:
            return
        while parts:
            sent = self._sock.sendmsg(list(islice(parts, MAX_PARTS)))
            self._size -= sent
            while parts and sent >= len(parts[0]):
                sent -= len(parts.popleft())
            if sent:
                parts[0] = parts[0][sent:]
        self._waits(False)


class Capturing:
    """All captures of one device. While there is none, the host drives the device itself, and this does nothing."""

    def __init__(self, host: Drives, device: Device, epoll: select.epoll) -> None:
        self._host, self._device, self._epoll = host, device, epoll
        self._readers: dict[int, Reader] = {}
        self._leaving: dict[int, Reader] = {}  # they want no more, and have not taken all of what there is
        self._tap: TappedDevice | None = None

    def begin(self, capture: Capture, fd: int) -> None:
        """Capture to a connection, which belongs to us now. One too many, or what is no connection, is closed."""
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            return
        if len(self._readers) + len(self._leaving) >= MAX_CAPTURES:
            sock.close()
            return
        sock.setblocking(False)
        self._epoll.register(fd, select.EPOLLIN)
        reader = self._readers[fd] = Reader(sock, capture, lambda waits: self._epoll.modify(fd, _INTEREST[waits]))
        reader.begin(self._device.name, self._introduction(capture.descriptors))
        if self._tap is None:
            self._tap = TappedDevice(self._device, self._hear)
            self._tap.adopt(self._host.drive(self._tap))

    def ready(self, fd: int) -> bool:
        """The loop's poll has found something about a descriptor; False if it is none of ours."""
        reader = self._readers.get(fd)
        if reader is not None and reader.wants_more():
            reader.write()
        elif reader is not None:
            self._leaving[fd] = self._readers.pop(fd)
            self._epoll.modify(fd, select.EPOLLOUT)
            reader.conclude()
            self._untap()
            self._go_on_leaving(fd)
        elif fd in self._leaving:
            self._go_on_leaving(fd)
        else:
            return False
        return True

    def _go_on_leaving(self, fd: int) -> None:
        reader = self._leaving[fd]
        if not reader.write():
            del self._leaving[fd]
            self._epoll.unregister(fd)
            reader.close()

    def close(self) -> None:
        """The attachment is over: end them all."""
        for reader in self._readers.values():
            reader.conclude()
        ending = self._readers | self._leaving
        self._readers, self._leaving = {}, {}
        deadline = time.monotonic() + FLUSH_SECONDS
        for fd, reader in ending.items():
            self._epoll.unregister(fd)
            reader.flush(deadline)
            reader.close()
        self._untap()

    def _untap(self) -> None:
        if self._tap is not None and not self._readers:
            tap, self._tap = self._tap, None
            tap.stop(self._host.drive(self._device))

    def _hear(self, event: Event) -> None:
        for reader in self._readers.values():
            reader.hear(event)

    def _introduction(self, descriptors: str) -> Iterable[Event]:
        """What is known of the device, from whoever knows all of its descriptors, or else from those that matter."""
        configuration = None
        with contextlib.suppress(UsbBridgeError):  # it is gone, or as good as gone, which shows elsewhere
            configuration = self._device.configuration()
        try:
            known = bytes.fromhex(descriptors)
        except ValueError:
            known = b""
        if not known:
            known = device_bytes(self._device.descriptor)
            known += configuration_bytes(configuration) if configuration else b""
        return introduction(known, configuration.value if configuration else 0)


def _ignore(waits: bool) -> None:
    """Nobody needs to know."""


def _now() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000
