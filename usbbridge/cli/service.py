"""`usbbridge service`: the whole service in one process tree, for machines without a service manager, and for trying.

    usbbridge service
      ├─ usbbridge.monitor       as who started it
      └─ usbbridge.control       the same; root's becomes another user
           └─ encoders

Where systemd runs, the two units that `usbbridge install-service` installs do this better: each in a sandbox.
"""

import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

import click

from usbbridge.errors import UsbBridgeError
from usbbridge.ipc.notify import notify

RESTART: Final = (0.2, 2.0)
"""Seconds until a part that ended is started again: at first, doubled each time, and at most."""
STEADY_SECONDS: Final = 10.0
"A part that ran so long has not failed because of how it was started: the next wait is the first again."
END_SECONDS: Final = {"control": 30.0, "monitor": 15.0}
"From SIGTERM until SIGKILL. Control needs 8 s for its encoders, and then the monitor to give the devices back."
_LIMIT: Final = 4096
"Bytes of a part's notification."
_CREDENTIALS: Final = struct.Struct("@iII")  # struct ucred
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@click.command("service")
def command() -> int:
    """Run the service: monitor, control and their encoders, in the foreground.

    As root, devices are opened by the monitor, and control runs as the user that the configuration names. As another
    user, it serves the devices that this user may open. A part that dies is started again. SIGTERM and Ctrl-C take
    every device back and end everything; SIGHUP has the configuration and the rules read again.
    """
    from usbbridge.config import load

    load()  # what is wrong with it is said once, and here
    return Supervisor(
        {name: [sys.executable, "-P", "-m", f"usbbridge.{name}"] for name in ("monitor", "control")}
    ).run()


class PartError(UsbBridgeError):
    """A part can't be started, or has ended at once."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = status if 0 < status < 126 else 1


class _Part:
    """A child process, and when to start it again."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name, self._command = name, command
        self.process: subprocess.Popen[bytes] | None = None
        self.was_ready = self.ready = self._hangs_up = False
        self.restart_at: float | None = None
        self.kill_at: float | None = None
        self._delay = RESTART[0]
        self._started_at = 0.0

    def start(self, environment: Mapping[str, str]) -> None:
        self.restart_at, self._started_at = None, time.monotonic()
        self.process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            self._command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for us: control ends first, while the monitor can still give devices back
        )

    def hang_up(self) -> None:
        """Have it read its configuration again, as soon as it is ready: before, it would end by the signal."""
        if self.ready:
            self.send(signal.SIGHUP)
        else:
            self._hangs_up = True

    def says_ready(self) -> None:
        """It is."""
        self.ready = self.was_ready = True
        if self._hangs_up:
            self._hangs_up = False
            self.send(signal.SIGHUP)

    def send(self, signum: int) -> None:
        if self.process is not None:
            self.process.send_signal(signum)

    def terminate(self) -> None:
        self.send(signal.SIGTERM)
        if self.kill_at is None:
            self.kill_at = time.monotonic() + END_SECONDS.get(self.name, STEADY_SECONDS)

    def ended(self) -> int | None:
        """Its exit status, once, if it has ended."""
        status = None if self.process is None else self.process.poll()
        if status is not None:
            self.process, self.ready, self.kill_at = None, False, None
        return status

    def start_later(self) -> float:
        """Returns in how many seconds."""
        now = time.monotonic()
        if now - self._started_at >= STEADY_SECONDS:
            self._delay = RESTART[0]
        delay, self._delay = self._delay, min(self._delay * 2, RESTART[1])
        self.restart_at = now + delay
        return delay


class Supervisor:
    """Keeps parts running, in the order of `commands`, and ends them in the reverse order."""

    def __init__(self, commands: Mapping[str, Sequence[str]]) -> None:
        self._parts = [_Part(name, command) for name, command in commands.items()]
        self._ending = self._said_ready = False
        self._failure: PartError | None = None
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Until a signal ends it: 0. Raises PartError if a part ends before it was ever ready."""
        wakeup, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        handlers = {signum: signal.signal(signum, lambda *_: None) for signum in _SIGNALS}
        before = signal.set_wakeup_fd(writer)
        try:
            told.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            told.bind("")  # the kernel chooses a name in the abstract namespace (unix(7), autobind)
            self._selector.register(wakeup, selectors.EVENT_READ, lambda: self._signalled(os.read(wakeup, _LIMIT)))
            self._selector.register(told, selectors.EVENT_READ, lambda: self._notified(told))
            self._run(_environment(told))
        finally:
            signal.set_wakeup_fd(before)
            for signum, handler in handlers.items():
                signal.signal(signum, handler)
            self._selector.close()
            told.close()
            os.close(wakeup)
            os.close(writer)
        if self._failure is not None:
            raise self._failure
        return 0

    def _run(self, environment: Mapping[str, str]) -> None:
        for part in self._parts:
            if not self._ending:
                self._start(part, environment)
        while any(part.process for part in self._parts) or not self._ending:
            for key, _ in self._selector.select(self._timeout()):
                key.data()
            self._look_after(environment)

    def _timeout(self) -> float | None:
        times = [t for part in self._parts for t in (part.restart_at, part.kill_at) if t is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _look_after(self, environment: Mapping[str, str]) -> None:
        now = time.monotonic()
        for part in self._parts:
            if part.kill_at is not None and part.kill_at <= now:
                part.send(signal.SIGKILL)
                part.kill_at = None
            if part.restart_at is not None and part.restart_at <= now and not self._ending:
                self._start(part, environment)

    def _start(self, part: _Part, environment: Mapping[str, str]) -> None:
        """No process to be had now: later, or, if it never ran, not at all; the others must not be left alone."""
        try:
            part.start(environment)
        except OSError as error:
            why = f"{part.name} can't be started: {error.strerror or error}"
            if part.was_ready:
                click.echo(f"usbbridge: {why}; tried again in {part.start_later():g} s", err=True)
            else:
                self._failure = PartError(why)
                self._end()

    def _signalled(self, signals: bytes) -> None:
        if signal.SIGCHLD in signals:
            for part in self._parts:
                status = part.ended()
                if status is not None:
                    self._part_ended(part, status)
        if signal.SIGHUP in signals:
            for part in self._parts:
                part.hang_up()
        if {signal.SIGTERM, signal.SIGINT} & set(signals):
            self._end()

    def _part_ended(self, part: _Part, status: int) -> None:
        if self._ending:
            self._end_next()
        elif part.was_ready:
            delay = part.start_later()
            click.echo(f"usbbridge: {part.name} ended ({_how(status)}); started again in {delay:g} s", err=True)
        else:
            what = f"{part.name} ended as soon as it was started ({_how(status)}); what it said is above"
            self._failure = PartError(what, status)
            self._end()

    def _end(self) -> None:
        """The last part that still runs is to end; asked again, it hears it again."""
        if not self._ending:
            self._ending = True
            notify("STOPPING=1")
            for part in self._parts:
                part.restart_at = None
        self._end_next()

    def _end_next(self) -> None:
        running = [part for part in self._parts if part.process is not None]
        if running:
            running[-1].terminate()

    def _notified(self, told: socket.socket) -> None:
        """A part says how it is (sd_notify(3)): only a part's own process is believed."""
        data, control, _, _ = told.recvmsg(_LIMIT, socket.CMSG_SPACE(_CREDENTIALS.size))
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and b"READY=1" in data.split(b"\n"):
                pid = _CREDENTIALS.unpack(payload)[0]
                for part in self._parts:
                    if part.process is not None and part.process.pid == pid:
                        part.says_ready()
        if not self._said_ready and all(part.ready for part in self._parts):
            self._said_ready = True
            notify("READY=1")


def _environment(told: socket.socket) -> dict[str, str]:
    name: bytes = told.getsockname()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WATCHDOG_")}
    return kept | {"NOTIFY_SOCKET": "@" + name[1:].decode()}


def _how(status: int) -> str:
    return f"status {status}" if status >= 0 else f"signal {-status}"
