"""One encoder process: how it is started, what it holds, and how it ended."""

import asyncio
import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from usbbridge.control.actions import Failure
from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.messages import Ended, Stats

COMMAND: Final = (sys.executable, "-P", "-m", "usbbridge.encoder")
"-P: the folder one is in is nowhere to import from."
_OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"Environment that the service manager has meant for us alone (sd_notify(3), sd_listen_fds(3))."


class EncoderProcess:
    """One encoder process, and where it is on its way (`usbbridge.control.encoders`)."""

    def __init__(self, command: Sequence[str]) -> None:
        """Raises OSError if no process, or no descriptor, is to be had."""
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as undo:
            channel, told = _pair(undo, theirs)
            self.lease, held = _pair(undo, theirs)
            self.process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                [*command, str(told.fileno()), "spare"],
                pass_fds=[told.fileno(), held.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if name not in _OURS},
                process_group=0,  # Ctrl-C in a terminal is for us
            )
            undo.pop_all()
        channel.setblocking(False)
        self.channel = MessageChannel(channel)
        self.key: int | None = None
        self.usbfs: int | None = None
        self.started = self.stopping = self.asked = self.silent = self.broken = self.attached = False
        self.ended: Ended | None = None
        self.stats: Stats | None = None
        self.said = 0
        self.timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Let go of everything but the process itself, which has been reaped."""
        if self.timer is not None:
            self.timer.cancel()
        self.channel.close()
        self.lease.close()
        self.drop_usbfs()

    def drop_usbfs(self) -> None:
        """Close our copy of the device's descriptor."""
        if self.usbfs is not None:
            os.close(self.usbfs)
            self.usbfs = None

    def failure(self) -> Failure | None:
        """How it ended, after it has been reaped; None if it was told to, or is ended as it should be."""
        ended = self.ended
        if ended is not None:
            return Failure(ended.status, ended.error, ended.message, ended.hint) if ended.status else None
        if self.stopping and not self.started:
            return None
        what = "did not end in time" if self.stopping and not self.broken else "ended unexpectedly"
        return Failure(1, "EncoderError", f"the encoder process {what} ({_how(self.process.returncode)})")


def _pair(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours.enter_context(pair[0]), theirs.enter_context(pair[1])


@functools.cache
def _signal_names() -> dict[int, str]:
    return {number.value: number.name for number in signal.Signals}  # real-time signals have no names


def _how(code: int) -> str:
    return f"status {code}" if code >= 0 else f"signal {_signal_names().get(-code, -code)}"
