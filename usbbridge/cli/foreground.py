"""`usbbridge attach --foreground`: how it names and opens the device, and shows what happens."""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final, Protocol

import click

from usbbridge.cli.main import INTERRUPTED
from usbbridge.cli.tables import size_text
from usbbridge.errors import NotFoundError, RefusedError, UsageError, UsbBridgeError
from usbbridge.ipc.messages import Capture, Ended, Message, Progressed, Stats

PASSWORD_VARIABLE: Final = "USBBRIDGE_PASSWORD"  # noqa: S105  # a name, not a password
MAX_PASSWORD_FILE: Final = 4096
"Bytes: SPICE passwords have 60 at the most; more means that another file was meant."


def display_for(*, as_json: bool) -> "Display":
    """For programs, for people at a terminal, or for pipes."""
    return JsonLines() if as_json else Terminal() if sys.stdout.isatty() else Lines()


class Display(Protocol):
    """Where the progress of an attachment is shown."""

    watches: bool
    "Whether it wants Stats all the time."

    def show(self, message: Message) -> None:
        """Something has happened."""

    def end(self, ended: Ended) -> None:
        """It is over."""

    def close(self) -> None:
        """Nothing more comes, not even an end perhaps. May be called again."""


class Lines:
    """Plain lines, for pipes and logs."""

    watches = False
    _words: Final = {
        "linked": "connected to the VM",
        "hello": "the VM's USB port answers",
        "announced": "announced to the VM",
        "attached": "attached",
    }

    def __init__(self) -> None:
        self._stats = Stats(0, 0, 0)

    def show(self, message: Message) -> None:
        if isinstance(message, Progressed):
            detail = f" (channel {message.detail})" if message.step == "linked" and message.detail else ""
            detail = f": {message.detail}" if message.detail and not detail else detail
            click.echo(self._words.get(message.step, message.step) + detail)
        elif isinstance(message, Stats):
            self._stats = message

    def end(self, ended: Ended) -> None:
        if not ended.status:
            total = f"{size_text(self._stats.to_vm)} to the VM, {size_text(self._stats.from_vm)} from it"
            click.echo(f"detached ({total})")

    def close(self) -> None:
        """Nothing is held."""


class Terminal(Lines):
    """Lines for people, and below them one that shows the rates as they are."""

    watches = True

    def __init__(self) -> None:
        super().__init__()
        self._live: Any = None
        self._at = time.monotonic()

    def show(self, message: Message) -> None:
        if not isinstance(message, Stats):
            super().show(message)
            return
        now, before = time.monotonic(), self._stats
        seconds = max(now - self._at, 0.001)
        up, down = (message.to_vm - before.to_vm) / seconds, (message.from_vm - before.from_vm) / seconds
        totals = f"{size_text(message.to_vm)} and {size_text(message.from_vm)} in all"
        dropped = f", {message.dropped} reports dropped" if message.dropped else ""
        line = f"to the VM {size_text(up)}/s, from it {size_text(down)}/s; {totals}{dropped}. Ctrl-C takes it back."
        if self._live is None:
            self._live = _live_line()
        self._live.update(line, refresh=True)
        self._stats, self._at = message, now

    def end(self, ended: Ended) -> None:
        self.close()
        super().end(ended)

    def close(self) -> None:
        """Give the terminal its cursor back."""
        if self._live is not None:
            self._live.stop()


def _live_line() -> Any:
    """A line that can be changed, below those that are printed."""
    from rich.console import Console  # only for a terminal, and only now: it takes a while to import
    from rich.live import Live

    live = Live(console=Console(highlight=False), auto_refresh=False, transient=True)
    live.start()
    return live


class JsonLines:
    """One JSON object a line, for programs: its `event` is a step's name, `stats` or `ended`."""

    watches = True

    def show(self, message: Message) -> None:
        if isinstance(message, Progressed):
            self._print({"event": message.step, "detail": message.detail})
        elif isinstance(message, Stats):
            fields = {"to_vm": message.to_vm, "from_vm": message.from_vm, "dropped": message.dropped}
            self._print({"event": "stats", **fields})

    def end(self, ended: Ended) -> None:
        fields = {"status": ended.status, "error": ended.error or None, "message": ended.message or None}
        self._print({"event": "ended", **fields, "hint": ended.hint or None})

    def close(self) -> None:
        """Nothing is held."""

    @staticmethod
    def _print(fields: dict[str, Any]) -> None:
        click.echo(json.dumps(fields, ensure_ascii=False))


class AttachmentError(UsbBridgeError):
    """The attachment ended by itself: the status and the words are the encoder's."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.message, hint=ended.hint)
        self.exit_status = ended.status
        self.error = ended.error


def attach(request: Any, display: Display, *, may_ask: bool) -> int:
    """Run the attachment; ask for a password if the server wants one and somebody is there to ask."""
    import dataclasses

    from usbbridge.control import foreground
    from usbbridge.spice.errors import WrongTicketError

    try:
        ended = foreground.attach(request, display.show)
    except WrongTicketError as error:
        if not (may_ask and sys.stdin.isatty() and sys.stderr.isatty()):
            display.end(_as_ended(error))
            raise
        password = click.prompt(f"Password for {request.target}", hide_input=True, err=True)
        return attach(dataclasses.replace(request, password=password), display, may_ask=False)
    except UsbBridgeError as error:
        display.end(_as_ended(error))
        raise
    except KeyboardInterrupt:
        display.end(Ended(INTERRUPTED, "interrupted"))
        raise
    display.end(ended)
    if ended.status:
        raise AttachmentError(ended)
    return 0


def _as_ended(error: UsbBridgeError) -> Ended:
    return Ended(error.exit_status, error.message, error.hint, type(error).__name__)


def check_tls(target: Any, option: str | None) -> None:
    """Who says whom to trust must not be connected without anybody being checked. Raises UsageError."""
    if option and getattr(target, "tls_port", None) is None:
        raise UsageError(
            f"--ca-file and --host-subject are for TLS, which {target} does not use",
            hint="name the VM's TLS port: spice+tls://HOST:PORT",
        )


def choose(device: str | None, serial: str | None) -> dict[str, Any]:
    """The fields of a Request that name the device, after opening it if it is a real one."""
    if device and device.startswith("disk:"):
        if serial:
            raise UsageError("--serial is for USB devices; a disk image is named by its path")
        return {"name": device, "disk": _existing(device)}
    if os.environ.get("USBBRIDGE_LIBUSB") and not serial and device:
        _refuse_if_in_use(device)
        return {"name": device, "selector": device}  # that libusb may have devices of its own
    return _open(device, serial)


def _refuse_if_in_use(device: str) -> None:
    """A device of this machine is not to be had in this way either while it is in use (or a hub)."""
    from usbbridge.monitor.inventory import devices
    from usbbridge.usb.selection import find

    with contextlib.suppress(NotFoundError):  # that libusb's own, then
        entry = find(devices(), device)
        if entry.obstacle and isinstance(entry.obstacle.error(), RefusedError):
            raise entry.obstacle.error()


def _existing(spec: str) -> str:
    """The image with its absolute path, once it is there: a session that is opened ends the one of a running viewer."""
    prefix, rest = spec[:5], spec[5:]
    path = rest.removesuffix(",ro")
    if path and not Path(path).exists():
        raise NotFoundError(f"there is no disk image {path}")
    return prefix + str(Path(rest).absolute()) if path else spec


def _open(device: str | None, serial: str | None) -> dict[str, Any]:
    from usbbridge.monitor.inventory import devices
    from usbbridge.monitor.node import give_back, open_node
    from usbbridge.usb.selection import find

    entries = [entry for entry in devices() if not entry.is_root_hub]
    if not entries and device:
        raise NotFoundError("this machine has no USB devices", hint="usbbridge list shows what is plugged in")
    entry = find(entries, device, serial=serial)
    if entry.obstacle:
        raise entry.obstacle.error()
    fd = open_node(entry)

    def check() -> None:
        """Mounted or otherwise taken into use since it was chosen."""
        now = find(devices(), entry.bus_port)
        if now.obstacle:
            raise now.obstacle.error()

    given = {"name": str(entry), "usbfs_fd": fd, "check": check, "give_back": lambda: give_back(fd, entry)}
    return given | {"capture": Capture(entry.busnum, entry.devnum)}


def password_of(file: Path | None) -> str:
    """From the file, else from the environment, else none."""
    if file is None:
        return os.environ.get(PASSWORD_VARIABLE, "")
    with file.open("rb") as stream:
        data = stream.read(MAX_PASSWORD_FILE + 1)
    if len(data) > MAX_PASSWORD_FILE:
        raise UsageError(f"{file} is too long to be a password file", hint="it holds the password alone, in one line")
    try:
        return data.split(b"\n", 1)[0].rstrip(b"\r").decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text") from error
