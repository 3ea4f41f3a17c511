"""Control, the process: from its configuration to its end by a signal.

SIGTERM and SIGINT take every device back in order and end it, a second one at once; SIGHUP reads the configuration
again. It runs without any privilege: started by root, it becomes another user first.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Final

from usbbridge.config import Config
from usbbridge.control.dispatch import Control
from usbbridge.errors import UsbBridgeError
from usbbridge.ipc.listener import listen
from usbbridge.ipc.notify import is_journal, notify, watchdog_seconds

log = logging.getLogger("usbbridge.control")

SOCKET_MODE: Final = {True: 0o666, False: 0o600}
"""Of the API's socket, by whether it is the system's: there everyone may connect, and what each may do is decided by
his credentials; a user's own service is his alone."""
TAKE_BACK_SECONDS: Final = 20.0
"""From the first signal until encoders are killed: they have 8 s to stop each, all at the same time, and the monitor
then some to give the devices back. systemd waits 90 s."""

_PRIORITIES: Final = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
"syslog(3) levels, as sd-daemon(3) wants them in front of a line."


class _JournalFormatter(logging.Formatter):
    """One line an event, with its priority in front; the journal adds time and process itself."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "\n".join(f"<{_PRIORITIES.get(record.levelno, 6)}>{line}" for line in text.splitlines())


def set_up_logging() -> None:
    """To standard error, for the journal if that is at its other end."""
    handler = logging.StreamHandler()
    if is_journal():
        handler.setFormatter(_JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s control: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def run(config: Config, *, ready: Callable[[], None] | None = None) -> int:
    """Run until a signal ends it; the exit status. `ready` is called when clients can connect.

    Raises UsbBridgeError for what keeps it from starting: another instance, no such user, no permission.
    """
    set_up_logging()
    if os.geteuid() == 0:
        from usbbridge.control.privileges import drop

        drop(config.monitor.user, config.paths)
    return asyncio.run(_serve(config, ready))


async def _serve(config: Config, ready: Callable[[], None] | None) -> int:
    listener = listen(config.paths.control_socket, socket.SOCK_STREAM, SOCKET_MODE[config.paths.system])
    control: Control | None = None
    try:
        control = Control(config)
        process = _Process(control)
        await control.begin(listener)
        notify(f"READY=1\nSTATUS=Serving {config.paths.control_socket}")
        if ready is not None:
            ready()
        log.info("ready: %s", config.paths.control_socket)
        await process.until_told()
        log.info("taking the devices back")
        notify("STOPPING=1\nSTATUS=Taking the devices back")
        await process.take_back()
    finally:
        if control is not None:
            await control.close()
        listener.close()
    log.info("ended")
    return 0


class _Process:
    """Signals and the service manager's watchdog."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._told, self._at_once = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(signum, self._stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._watchdog = watchdog_seconds()
        if self._watchdog is not None:
            self._alive(self._watchdog / 2)

    async def until_told(self) -> None:
        """Until the first signal."""
        await self._told.wait()

    async def take_back(self) -> None:
        """Until the devices are back, or it takes too long, or a second signal comes."""
        self._control.ending = True
        taking = asyncio.ensure_future(self._control.take_back())
        hurry = asyncio.ensure_future(self._at_once.wait())
        await asyncio.wait((taking, hurry), timeout=TAKE_BACK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not taking.done():
            log.warning("ending at once: what an encoder still has goes back when it is gone")
            self._control.encoders.kill()
        for task in (taking, hurry):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _stop(self) -> None:
        if self._told.is_set():
            self._at_once.set()
            self._control.encoders.kill()
        self._told.set()

    def _reload(self) -> None:
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")  # systemd.service(5), notify-reload
        try:
            self._control.reload()
        except (UsbBridgeError, OSError) as error:
            log.error("the configuration is left as it was: %s", error)
        notify("READY=1")

    def _alive(self, seconds: float) -> None:
        notify("WATCHDOG=1")
        self._loop.call_later(seconds, self._alive, seconds)
