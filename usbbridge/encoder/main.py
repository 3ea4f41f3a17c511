"""The encoder process: one device, one VM, from the message that starts it to the one that says how it ended.

It is started as `python -P -m usbbridge.encoder FD [spare]`, FD being its end of a connection to the process that
started it. It needs no access to /dev/bus/usb and opens nothing there: the device comes as a file descriptor. A `spare`
is started before there is a device for it: it loads all it may need, so that one that is plugged in need not wait.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
import time

from usbbridge import __version__
from usbbridge.backend.base import Device
from usbbridge.encoder.link import RawLink, SpiceLink, open_link
from usbbridge.encoder.linking import Stopped, unless_stopped
from usbbridge.encoder.loop import Loop
from usbbridge.errors import ConnectionLostError, ProtocolError, UsageError, UsbBridgeError
from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.messages import Capture, Ended, Message, Progressed, Start
from usbbridge.redirect.host import Host, Progress
from usbbridge.redirect.quirks import DELAY, SETTLE_SECONDS
from usbbridge.spice.errors import ChannelBusyError, NoSuchChannelError
from usbbridge.spice.targets import Target, parse_target

HELLO = f"usbbridge {__version__}"
MAX_EARLY_CAPTURES = 4
"Captures that may be asked for before the VM is connected: as many as there may be at a time."
STEPS = {Progress.HELLO: "hello", Progress.ANNOUNCED: "announced", Progress.ATTACHED: "attached"}


def open_device(start: Start, fds: tuple[int, ...]) -> Device:
    """The device that the message names; nothing is claimed yet. Raises UsbBridgeError subclasses."""
    if start.disk:
        from usbbridge.backend.emulated.disk import open_disk

        return open_disk(start.disk)
    from usbbridge.backend import libusb

    if start.usbfs and fds:
        return libusb.open_fd(fds[0], start.name, settle=SETTLE_SECONDS if DELAY in start.quirks else 0.0)
    return libusb.open_selected(start.selector)


def wake_on_sigterm() -> int:
    """A descriptor that becomes readable at SIGTERM. SIGINT is ignored: Ctrl-C is for the process that started us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer)
    return reader


class Encoder:
    """One attachment: tries the channels it was given until one is free."""

    def __init__(self, starter: MessageChannel, start: Start, device: Device, wakeup_fd: int) -> None:
        self._starter, self._start, self._device, self._wakeup_fd = starter, start, device, wakeup_fd
        self._target: Target = parse_target(start.target)
        self._captures: list[tuple[Capture, int]] = []  # asked for before there is anything to be captured

    def run(self) -> None:
        """Until the end. Raises what ended it; Stopped if that was wanted."""
        try:
            self._run()
        finally:
            for _, fd in self._captures:
                os.close(fd)

    def _run(self) -> None:
        channels = list(self._start.channels) or [0]
        for channel in channels:
            try:
                self._attach(channel)
            except (ChannelBusyError, NoSuchChannelError):
                if channel == channels[-1]:
                    raise

    def _attach(self, channel: int) -> None:
        host = Host(
            self._device,
            version=HELLO,
            on_progress=lambda progress: self._tell(progress, host),
            clock=time.monotonic,
            quirks=self._start.quirks,
        )
        link = unless_stopped(
            lambda: open_link(self._start, self._target, channel, host),
            lambda link: link.sock.close(),
            self._starter,
            self._wakeup_fd,
            self._capture_later,
        )
        try:
            self._say(Progressed("linked", str(channel) if isinstance(link, SpiceLink) else ""))
            link.begin()
            self._drive(host, link)
        finally:
            link.sock.close()

    def _capture_later(self, capture: Capture, fd: int) -> None:
        if len(self._captures) < MAX_EARLY_CAPTURES:
            self._captures.append((capture, fd))
        else:
            os.close(fd)

    def _drive(self, host: Host, link: RawLink | SpiceLink) -> None:
        loop = Loop(host, self._device, link, self._starter, self._wakeup_fd)
        gc.collect()
        gc.freeze()  # what was made up to here stays: no need to look at it again and again
        try:
            while self._captures:
                loop.capture(*self._captures.pop(0))
            loop.run()
        except (ConnectionLostError, ProtocolError):
            raise  # nobody is left to be told, or one that can't be talked to
        except (UsbBridgeError, Stopped):
            loop.say_goodbye()
            raise
        finally:
            self._say(loop.stats())
            host.close()
            loop.end_captures()

    def _tell(self, progress: Progress, host: Host) -> None:
        detail = {
            Progress.HELLO: host.guest_version,
            Progress.ANNOUNCED: self._device.name,
            Progress.ATTACHED: self._device.name,
        }[progress]
        self._say(Progressed(STEPS[progress], detail))

    def _say(self, message: Message) -> None:
        """Tell the starter. If it has gone, the loop notices and ends."""
        with contextlib.suppress(OSError):
            self._starter.send(message)


def load_everything() -> None:
    """Import what is otherwise imported when it turns out to be needed."""
    import lz4.block  # noqa: F401  # to have it is what is wanted

    import usbbridge.backend.libusb  # noqa: F401  # the same
    from usbbridge.backend import libusb_library

    libusb_library.load()


def _first_message(starter: MessageChannel) -> tuple[Start, tuple[int, ...]]:
    """Raises UsageError or RemoteProtocolError for anything but a start message."""
    received = starter.receive()
    if received is None or not isinstance(received[0], Start):
        raise UsageError("the first message has to be a start message")
    return received[0], received[1]


def attach(starter: MessageChannel, wakeup_fd: int) -> Ended:
    """Receive the start message and do what it says; how it ended."""
    try:
        start, fds = _first_message(starter)
        device = open_device(start, fds)
        try:
            Encoder(starter, start, device, wakeup_fd).run()
        finally:
            device.close()
    except Stopped:
        return Ended(0)
    except UsbBridgeError as error:
        return Ended(error.exit_status, error.message, error.hint, type(error).__name__)
    raise AssertionError("an attachment ends by Stopped or by an error")


def main() -> int:
    """The process: exit status 0 if it was told to stop, otherwise that of the error."""
    starter = MessageChannel(socket.socket(fileno=int(sys.argv[1])))
    wakeup_fd = wake_on_sigterm()
    if sys.argv[2:] == ["spare"]:
        load_everything()
    ended = attach(starter, wakeup_fd)
    with contextlib.suppress(OSError):  # the starter may be gone
        starter.send(ended)
    return ended.status
