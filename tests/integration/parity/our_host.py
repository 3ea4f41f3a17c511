"""The host under test, joined to a device node and a guest's socket as the encoder does it, but with nothing else.

serve(fd_of_node, sock, "version")
"""

import contextlib
import select
import socket
import sys
import time

from usbbridge.backend import libusb
from usbbridge.encoder.writer import Writer
from usbbridge.errors import UsbBridgeError
from usbbridge.redirect.host import Host
from usbbridge.redirect.transfers import NEVER

ACK_SECONDS = 1.0


class Served:
    """Host, device and socket in one loop."""

    def __init__(self, node: int, sock: socket.socket, version: str) -> None:
        self._device, self._sock = libusb.open_fd(node, "the paragon"), sock
        self._host = Host(self._device, version=version, on_progress=lambda _: None, clock=time.monotonic)
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)
        for fd, events in self._device.pollfds():
            self._poller.register(fd, events)
        sock.setblocking(False)
        self._writer = Writer(sock, self._host.outbox, None, self._host.sent)
        self._ended = False

    def run(self) -> None:
        """Until the guest has hung up, or an error ends the session."""
        self._host.start()
        try:
            while not self._ended:
                self._write()
                self._host.read_ahead()
                self._turn(self._patience())
                while self._host.due:
                    self._host.service()
                    self._write()
        except (UsbBridgeError, ConnectionError) as error:
            sys.stderr.write(f"usbbridge: {type(error).__name__}: {error}\n")

    def _patience(self) -> float | None:
        left = self._host.deadline - time.monotonic()
        return None if self._host.deadline == NEVER else max(left, 0) * 1000 + 1

    def _turn(self, patience: float | None) -> None:
        ready = {fd for fd, _ in self._poller.poll(patience)}
        if self._sock.fileno() in ready:
            self._read()
        self._device.reap()
        if self._host.deadline <= time.monotonic():
            self._host.expire()

    def _read(self) -> None:
        try:
            count = self._sock.recv_into(self._host.codec.buffer())
        except BlockingIOError:
            return  # it is ready to be written to
        if count:
            self._host.codec.received(count)
        else:
            self._ended = True

    def _write(self) -> None:
        full = not self._writer.flush()
        self._poller.modify(self._sock, select.POLLIN | select.POLLOUT * full)

    def close(self) -> None:
        """Say goodbye as the encoder does: disconnect, wait for the guest's word, give the device back."""
        with contextlib.suppress(UsbBridgeError, OSError):
            self._host.disconnect()
            self._write()
            deadline = time.monotonic() + ACK_SECONDS
            while not self._ended and not self._host.acknowledged and time.monotonic() < deadline:
                self._turn((deadline - time.monotonic()) * 1000)
                self._write()
        self._host.close()
        self._device.close()


def serve(node: int, sock: socket.socket, version: str) -> None:
    """See the module's text."""
    served = Served(node, sock, version)
    served.run()
    served.close()
