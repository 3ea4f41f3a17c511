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
from usbbridge.errors import NotFoundError, RemoteProtocolError, UsbBridgeError
from usbbridge.ipc.channel import MessageChannel, pair
from usbbridge.ipc.messages import AskStats, Capture, Ended, Message, Progressed, Start, Stats, Stop
from usbbridge.spice.sockets import TlsOptions
from usbbridge.spice.targets import SpiceTarget, parse_target

STOP_SECONDS = 8.0
"""From the wish to stop until the child is killed: one second for the guest's acknowledgement, two for cancelled
transfers, and again two if they have not come back when the device is closed."""

SECOND_SIGNAL_SECONDS = 1.0
"""A signal so long after the first means impatience. Two at once are one wish: `timeout` and some terminals send both
to the process and to its group."""

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
    capture: Capture | None = None
    "What is to be captured, from the first transfer on, to the connection `capture_fd`."
    capture_fd: int | None = None
    watch: bool = False
    "Ask for Stats all the time and report them."
    check: Callable[[], None] | None = None
    """Raises what speaks against taking the device from its kernel driver; called when that is about to happen, as a
    password prompt or a slow server may have taken minutes since the device was chosen."""
    give_back: Callable[[], None] | None = None
    "Returns the device to its kernel driver if the child could not."


def attach(request: Request, report: Callable[[Message], None]) -> Ended:
    """Attach and stay until it ends; `report` is told every Progressed and Stats.

    Raises LinkError before a child was told, EncoderError, KeyboardInterrupt if a signal came before anything was
    attached, and the OSError that `report` raised.
    """
    foreground = _Foreground(request, report)
    asyncio.run(foreground.run())
    return foreground.result()


class EncoderError(UsbBridgeError):
    """The encoder process died without a word."""


class _Foreground:
    def __init__(self, request: Request, report: Callable[[Message], None]) -> None:
        self._request, self._report = request, report
        self._session: Session | None = None
        self._over = asyncio.Event()
        self._started = self._linked = self._stopping = self._asked = False
        self._interrupted = self._clean = False
        self._stopped_at = 0.0
        self._ended: Ended | None = None
        self._unreported: OSError | None = None

    async def run(self) -> None:
        self._process, self._channel = _spawn()  # first: it starts while the session is being opened
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signum, self._stop)
        loop.add_reader(self._channel.fileno(), self._heard)
        try:
            start = await self._prepare()
            if start is not None:
                if self._request.check is not None:
                    self._request.check()
                self._started, fd = True, self._request.usbfs_fd
                with contextlib.suppress(OSError):  # it has died: its end is noticed below
                    self._channel.send(start, *([] if fd is None else [fd]))
                    if self._request.capture is not None and self._request.capture_fd is not None:
                        self._channel.send(self._request.capture, self._request.capture_fd)
                await self._wait()
        finally:
            loop.remove_reader(self._channel.fileno())
            self._channel.close()
            if self._interrupted:
                self._process.kill()  # it may be waiting for an answer from the VM
            await asyncio.to_thread(_reap, self._process)
            if self._session is not None:
                self._session.close()
            if self._started and not self._clean and self._request.give_back is not None:
                self._request.give_back()

    def result(self) -> Ended:
        """How it ended, when it has; raises as `attach` does."""
        if self._interrupted:
            raise KeyboardInterrupt
        if self._unreported is not None:
            raise self._unreported
        if self._ended is None:
            what = "did not end in time" if self._stopping else "ended unexpectedly"
            after = "; the device was given back to the system" if self._request.give_back else ""
            raise EncoderError(f"the encoder process {what} ({_how(self._process)}){after}")
        return self._ended

    async def _prepare(self) -> Start | None:
        """Open the session, if the target has such. None if a signal or the child's death came first."""
        r = self._request
        target = parse_target(r.target)
        if isinstance(target, SpiceTarget):
            tls = TlsOptions(ca_file=r.ca_file or None, host_subject=r.host_subject or None)
            self._session = await self._unless_over(Session.open(target, r.password, tls, self._session_lost))
            if self._session is None:
                return None
            if not self._session.usb_channels():
                raise NotFoundError(
                    f"the VM at {target} has no USB redirection channel",
                    hint="add one or more to it: -chardev spicevmc,name=usbredir,id=u1 -device usb-redir,chardev=u1 "
                    "(libvirt: <redirdev bus='usb' type='spicevmc'/>)",
                )
        return Start(
            name=r.name,
            usbfs=r.usbfs_fd is not None,
            selector=r.selector,
            disk=r.disk,
            target=r.target,
            session_id=self._session.session_id if self._session else 0,
            channels=self._session.usb_channels() if self._session else (),
            password=r.password,
            ca_file=r.ca_file,
            host_subject=r.host_subject,
            compression=r.compression,
        )

    async def _unless_over(self, opening: Coroutine[Any, Any, Session]) -> Session | None:
        task = asyncio.ensure_future(opening)
        over = asyncio.ensure_future(self._over.wait())
        await asyncio.wait((task, over), return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        if task.done():
            return task.result()
        task.cancel()
        return None

    async def _wait(self) -> None:
        """Until the child has said how it ended, or is gone."""
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STATS_SECONDS if self._request.watch else None):
                    await self._over.wait()
            if not self._over.is_set() and not self._asked:
                self._asked = True  # one question at a time: a child that hangs must not fill its connection
                self._tell(AskStats())

    def _tell(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # it has just ended: its last word is on the way
            self._channel.send(message)

    def _heard(self) -> None:
        try:
            received = self._channel.receive()
        except RemoteProtocolError:  # what it says can't be trusted any more
            self._process.kill()
            received = None
        if received is None:
            self._over.set()
            return
        message, fds = received
        for fd in fds:
            os.close(fd)
        if isinstance(message, Ended):
            self._clean = True
            if self._ended is None:  # the loss of the session, if that came first, says more
                self._ended = message
            self._over.set()
        elif isinstance(message, Progressed | Stats):
            self._linked = True
            self._asked = self._asked and not isinstance(message, Stats)
            self._show(message)

    def _show(self, message: Message) -> None:
        try:
            self._report(message)
        except OSError as error:  # nobody reads what we write any more
            self._unreported = error
            self._end_child()

    def _session_lost(self, error: UsbBridgeError) -> None:
        self._ended = Ended(error.exit_status, error.message, error.hint, type(error).__name__)
        self._end_child()

    def _stop(self) -> None:
        """A signal: stop in an orderly way; if that takes too long, or at another one after a while, at once."""
        if not self._linked:
            self._interrupted = True  # nothing is attached yet: only the wait for the VM is to end
            self._over.set()
        elif self._stopping:
            if asyncio.get_running_loop().time() - self._stopped_at >= SECOND_SIGNAL_SECONDS:
                self._process.kill()
        else:
            self._end_child()

    def _end_child(self) -> None:
        if not self._stopping:
            self._stopping, self._stopped_at = True, asyncio.get_running_loop().time()
            self._tell(Stop())
            asyncio.get_running_loop().call_later(STOP_SECONDS, self._process.kill)


def _spawn() -> tuple["subprocess.Popen[bytes]", MessageChannel]:
    ours, theirs = pair()
    with theirs:
        # -P: the folder one is in is nowhere to import from; whoever may write there would be run, perhaps as root
        command = [sys.executable, "-P", "-m", "usbbridge.encoder", str(theirs.fileno())]
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
    if code >= 0:
        return f"status {code}"
    names = {number.value: number.name for number in signal.Signals}  # real-time signals have no names
    return f"signal {names.get(-code, -code)}"
