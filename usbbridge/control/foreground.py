"""One attachment without a service: this process keeps the SPICE session and the terminal, a child encodes.

    usbbridge attach --foreground          this process: finds and opens the device, MAIN channel, signals
      └─ python -m usbbridge.encoder       the device's descriptor, USBREDIR channel

When the child dies in whatever way, `Request.give_back` returns the device to its kernel driver; when this process
dies, the child sees the end of its connection and does so itself.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from usbbridge.control.session import Session
from usbbridge.errors import NotFoundError, UsbBridgeError
from usbbridge.ipc.channel import MessageChannel, pair
from usbbridge.ipc.messages import AskStats, Ended, Message, Progressed, Start, Stats, Stop
from usbbridge.spice.connection import TlsOptions
from usbbridge.spice.targets import SpiceTarget, parse_target

STOP_SECONDS = 5.0
"""From the wish to stop until the child is killed: one second for the guest's acknowledgement, two for cancelled
transfers."""

STATS_SECONDS = 1.0
"How often rates are asked for while somebody watches."


@dataclass(frozen=True, slots=True)
class Request:
    """What to attach where. Device and target fields are those of `usbbridge.ipc.messages.Start`."""

    name: str
    target: str
    usbfs_fd: int | None = None
    selector: str = ""
    disk: str = ""
    password: str = ""
    ca_file: str = ""
    host_subject: str = ""
    compression: str = "auto"
    watch: bool = False
    "Ask for Stats all the time and report them."
    give_back: Callable[[], None] | None = None
    "Returns the device to its kernel driver if the child could not."


def attach(request: Request, report: Callable[[Message], None]) -> Ended:
    """Attach and stay until it ends; `report` is told every Progressed and Stats. Raises LinkError before a child was
    told."""
    return asyncio.run(_Foreground(request, report).run())


class EncoderError(UsbBridgeError):
    """The encoder process died without a word."""


class _Foreground:
    def __init__(self, request: Request, report: Callable[[Message], None]) -> None:
        self._request, self._report = request, report
        self._ended: Ended | None = None
        self._over = asyncio.Event()
        self._started = self._stopping = False

    async def run(self) -> Ended:
        process, channel = _spawn()  # first: it starts while the session is being opened
        self._channel, self._process = channel, process
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signum, self._stop)
        loop.add_reader(channel.fileno(), self._heard)
        session: Session | None = None
        clean = False
        try:
            session, start = await self._open_session()
            self._started = True
            with contextlib.suppress(OSError):  # it has died: its end is noticed below
                channel.send(start, self._request.usbfs_fd)
            await self._wait()
            clean = self._ended is not None
        finally:
            loop.remove_reader(channel.fileno())
            channel.close()
            await asyncio.to_thread(_reap, process)
            if session is not None:
                session.close()
            if not clean and self._request.give_back is not None:
                self._request.give_back()
        if self._ended is None:
            raise EncoderError(
                f"the encoder process ended unexpectedly ({_how(process)}); the device was given back to the system"
            )
        return self._ended

    async def _open_session(self) -> tuple[Session | None, Start]:
        r = self._request
        target = parse_target(r.target)
        session: Session | None = None
        if isinstance(target, SpiceTarget):
            tls = TlsOptions(ca_file=r.ca_file or None, host_subject=r.host_subject or None)
            session = await self._unless_stopped(Session.open(target, r.password, tls, self._session_lost))
            if not session.usb_channels():
                session.close()
                raise NotFoundError(
                    f"the VM at {target} has no USB redirection channel",
                    hint="add one or more to it: -chardev spicevmc,name=usbredir,id=u1 -device usb-redir,chardev=u1 "
                    "(libvirt: <redirdev bus='usb' type='spicevmc'/>)",
                )
        return session, Start(
            name=r.name,
            usbfs=r.usbfs_fd is not None,
            selector=r.selector,
            disk=r.disk,
            target=r.target,
            session_id=session.session_id if session else 0,
            channels=session.usb_channels() if session else (),
            password=r.password,
            ca_file=r.ca_file,
            host_subject=r.host_subject,
            compression=r.compression,
        )

    async def _unless_stopped(self, opening: Coroutine[Any, Any, Session]) -> Session:
        """Ctrl-C while the server is being waited for ends the wait."""
        task = asyncio.ensure_future(opening)
        over = asyncio.ensure_future(self._over.wait())
        await asyncio.wait((task, over), return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        if not task.done():
            task.cancel()
            raise KeyboardInterrupt
        return task.result()

    async def _wait(self) -> None:
        """Until the child has said how it ended, or is gone."""
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STATS_SECONDS if self._request.watch else None):
                    await self._over.wait()
            if not self._over.is_set():
                self._tell(AskStats())

    def _tell(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # it has just ended: its last word is on the way
            self._channel.send(message)

    def _heard(self) -> None:
        received = self._channel.receive()
        if received is None:
            self._over.set()
            return
        message, fd = received
        if fd is not None:
            os.close(fd)
        if isinstance(message, Ended):
            if self._ended is None:  # the loss of the session, if that came first, says more
                self._ended = message
            self._over.set()
        elif isinstance(message, Progressed | Stats):
            self._report(message)

    def _session_lost(self, error: UsbBridgeError) -> None:
        self._ended = Ended(error.exit_status, error.message, error.hint, type(error).__name__)
        self._tell(Stop())

    def _stop(self) -> None:
        """A signal: stop in an orderly way; at the second one, or if that takes too long, at once."""
        if not self._started:
            self._over.set()  # nothing is attached yet: only the wait for the server is to end
        elif self._stopping:
            self._process.kill()
        else:
            self._stopping = True
            self._tell(Stop())
            asyncio.get_running_loop().call_later(STOP_SECONDS, self._process.kill)


def _spawn() -> tuple["subprocess.Popen[bytes]", MessageChannel]:
    ours, theirs = pair()
    with theirs:
        command = [sys.executable, "-m", "usbbridge.encoder", str(theirs.fileno())]
        process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0
        )
    return process, ours


def _reap(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the child, whose connection is closed; kill it if it does not take the hint."""
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _how(process: "subprocess.Popen[bytes]") -> str:
    code = process.returncode
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
