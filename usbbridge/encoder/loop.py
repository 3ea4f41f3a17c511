"""The encoder's one loop: epoll over the VM's socket, libusb's descriptors and the connection to whoever started us.

Nothing is logged for a packet, and timers run only while an answer is owed: for a control transfer, and for a minute
after the VM has gone quiet. After that an idle encoder sleeps in epoll until a byte arrives.
"""

import select
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from usbbridge.backend.base import Device
from usbbridge.encoder.linking import Stopped, hear
from usbbridge.encoder.spin import MAX_EVENTS, Bet, Spin
from usbbridge.encoder.writer import Parts, Writer
from usbbridge.errors import DeviceLostError, UsbBridgeError
from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.messages import Capture, Stats
from usbbridge.redirect.host import Host
from usbbridge.redirect.transfers import NEVER
from usbbridge.spice.sockets import as_secure

if TYPE_CHECKING:
    from usbbridge.encoder.capturing import Capturing

ACK_SECONDS = 1.0
"How long the guest has to acknowledge a device_disconnect: a running one needs a millisecond, a paused one never does."

READS_IN_A_ROW = 16
"Reads from the socket before the device is looked at again: no more than 256 KiB, or one large transfer."

FIRST_NUDGE_SECONDS, NUDGE_GROWTH, LAST_NUDGE_SECONDS = 1.0, 1.5, 20.0
"""On SPICE, when to nudge a VM that has gone quiet: after 1, 2.5, 4.8, ... 56 seconds. Then it is left in peace, and
this process never wakes up again until something happens: a pause of more than a minute is for the guest to handle."""

HANG_UP = select.EPOLLHUP | select.EPOLLERR


class Link(Protocol):
    """The usbredir byte stream to the VM: raw, or in a SPICE channel."""

    sock: socket.socket

    def buffer(self) -> memoryview:
        """Where the next bytes are to be received."""

    def received(self, n: int) -> None:
        """`n` bytes were put there."""

    def take_replies(self) -> bytes:
        """What the link itself has to say (SPICE pongs), whole messages."""

    def lost(self) -> Exception:
        """What it means that the connection has ended here."""

    @property
    def frame(self) -> Callable[[Parts, int], Parts] | None:
        """What puts messages around a batch; None if none are needed."""


class Loop:
    """Joins one host (device) to one link (VM) until one of them ends."""

    def __init__(self, host: Host, device: Device, link: Link, starter: MessageChannel, wakeup_fd: int) -> None:
        self._host, self._device, self._link, self._starter = host, device, link, starter
        self._sock, self._secure = link.sock, as_secure(link.sock)
        self._sock.setblocking(False)
        self._writer = Writer(self._sock, host.outbox, link.frame, host.sent)
        self._outbox, self._blocked = host.outbox, False
        self._replies = link.frame is not None  # a raw stream has nothing of its own to say
        self._received = 0
        self._first_quiet = FIRST_NUDGE_SECONDS if link.frame is not None else -1.0
        self._quiet = -1.0  # seconds without a word from the VM after which to nudge it; -1: never
        self._at_once = Bet()
        # what was received with the end of the link stage and not read yet, epoll does not see
        self._more = self._secure is not None and self._secure.unread
        self._epoll = select.epoll()
        self._sock_fd, self._starter_fd, self._wakeup_fd = self._sock.fileno(), starter.fileno(), wakeup_fd
        self._epoll.register(self._sock_fd, select.EPOLLIN)
        self._interest = select.EPOLLIN
        self._epoll.register(self._starter_fd, select.EPOLLIN)
        self._epoll.register(wakeup_fd, select.EPOLLIN)
        self._capturing: Capturing | None = None
        self._usb_fds = {fd for fd, _ in device.pollfds()}
        for fd, events in device.pollfds():
            self._epoll.register(fd, events)

    def run(self) -> None:
        """Until the end. Raises Stopped, or the error that ended it."""
        self._host.start()
        self._after()
        poll, sock_fd, usb_fds, after = self._epoll.poll, self._sock_fd, self._usb_fds, self._after
        host, device, pending = self._host, self._device, self._host.pending
        guest_soon, device_soon, spin, unasked = Bet(), Bet(), Spin(poll), self._host.unasked
        guest_fds = {sock_fd}
        while True:
            bet, awaited = (device_soon, usb_fds) if pending else (guest_soon, guest_fds)
            events = spin(bet, awaited, usb_fds if unasked else awaited) if bet.worth_it() else None
            if not events:
                wait = self._may_sleep() if self._more or host.deadline != NEVER else self._quiet
                events = poll(wait, MAX_EVENTS)
                if not events and wait == self._quiet > 0:
                    self._nudge()
            reap = asked = False
            for fd, event in events:
                if fd == sock_fd:
                    if event & ~select.EPOLLOUT:
                        self._read()
                        asked = True
                elif fd in usb_fds:
                    reap = True
                    if event & HANG_UP:
                        self._usb_gone(fd)
                else:
                    self._told(fd)
            if reap:
                device.reap()
            elif asked:
                self._reap_early()
            if self._more and not host.congested:
                self._read()
            after()

    def _may_sleep(self) -> float:
        """Seconds to wait for an event: for ever (-1), unless there is something to read or an answer to be missed."""
        if self._more and not self._host.congested:
            return 0
        if self._host.deadline == NEVER:
            return self._quiet
        left = self._host.deadline - time.monotonic()
        if left <= 0:
            self._host.expire()
            self._after()
        return max(left, 0)

    def _nudge(self) -> None:
        """Nothing was heard for a while: send something that means nothing, and wait longer the next time.

        When a VM that was paused goes on, QEMU does not look whether its SPICE server has something for it: the answer
        to what the guest asked last would lie there until more comes, and the guest's driver would reset the device.
        """
        self._host.nudge()
        longer = self._quiet * NUDGE_GROWTH
        self._quiet = longer if longer <= LAST_NUDGE_SECONDS else -1

    # ---- the socket

    def _read(self) -> None:
        """Read until the socket is empty, or for a while: what is left makes epoll return at once."""
        recv_into, link, secure = self._sock.recv_into, self._link, self._secure
        self._more = False
        for _ in range(READS_IN_A_ROW):
            view = link.buffer()
            try:
                n = recv_into(view)
            except BlockingIOError:
                return
            except OSError as error:  # ConnectionError, TimeoutError, SSLError, no route to the host any more, ...
                raise link.lost() from error
            if not n:
                raise link.lost()
            self._received += n
            self._quiet = self._first_quiet
            link.received(n)
            if n < len(view) and (secure is None or not secure.unread):
                return
        self._more = secure is not None and secure.unread

    def _reap_early(self) -> None:
        """Look whether the device has answered at once, as an emulated one does: that saves a wait. One that does not
        is soon left alone, but for a look now and then."""
        if self._at_once.worth_it():
            if self._device.reap():
                self._at_once.hit()
            else:
                self._at_once.missed()

    def _after(self) -> None:
        """What follows each round: deferred work, then all that is to be written, in one go."""
        host = self._host
        if not self._usb_fds:
            while self._device.reap():
                pass
        if host.due:
            self._serve()
        if self._blocked:
            self._flush(b"")
            if self._blocked:
                return  # what the link has to say waits, within the link's own limit
        replies = self._link.take_replies() if self._replies else b""
        if self._outbox.parts or replies:
            self._flush(replies)
        if host.foreseen:
            host.read_ahead()

    def _serve(self) -> None:
        """Deferred work; what takes long of it is left for another time, when the guest has been told the rest."""
        self._host.service()
        while self._host.due:
            self._flush(b"")
            self._host.service()

    def _flush(self, replies: bytes) -> None:
        try:
            blocked = not self._writer.flush(replies)
        except OSError as error:
            raise self._link.lost() from error
        if blocked or self._blocked:
            self._blocked = blocked
            self._wait_for(select.EPOLLOUT if self._host.congested else select.EPOLLIN | blocked * select.EPOLLOUT)

    def _wait_for(self, interest: int) -> None:
        if interest != self._interest:
            self._interest = interest
            self._epoll.modify(self._sock_fd, interest)

    # ---- the others

    def _usb_gone(self, fd: int) -> None:
        """The kernel hung up the device's node: every transfer has ended, and no more can be started."""
        self._epoll.unregister(fd)
        self._device.reap()
        raise DeviceLostError(f"{self._device.name} was unplugged")

    def _told(self, fd: int) -> None:
        """A message of the starter's, its end, or a signal; or something about the connection of a capture."""
        if fd == self._starter_fd:
            hear(self._starter, self.stats, self.capture)
        elif self._capturing is None or not self._capturing.ready(fd):
            raise Stopped

    def capture(self, capture: Capture, fd: int) -> None:
        """Write what happens from now on to the connection `fd`, which belongs to us now."""
        if self._capturing is None:
            from usbbridge.encoder.capturing import Capturing  # hardly ever needed: an encoder has to start quickly

            self._capturing = Capturing(self._host, self._device, self._epoll)
        self._capturing.begin(capture, fd)

    def end_captures(self) -> None:
        """The attachment is over, and the device given back: what was captured is whole."""
        if self._capturing is not None:
            self._capturing.close()

    def stats(self) -> Stats:
        """The counters as of now."""
        host = self._host
        return Stats(self._writer.written, self._received, host.dropped, host.resets)

    # ---- the end

    def say_goodbye(self) -> None:
        """Take the device away from the guest and wait a bounded time for it to agree. Raises nothing that matters."""
        host = self._host
        host.disconnect()
        deadline = time.monotonic() + ACK_SECONDS
        try:
            while not (self._writer.flush(self._link.take_replies()) and host.acknowledged):
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._device.reap()
                self._await_socket(left)
        except (OSError, UsbBridgeError):
            return  # the VM is gone too, or talks nonsense: nobody is left to be told

    def _await_socket(self, seconds: float) -> None:
        poller = select.poll()
        poller.register(self._sock_fd, select.POLLIN | (0 if not self._host.outbox.size else select.POLLOUT))
        if self._more or poller.poll(seconds * 1000):
            self._read()
