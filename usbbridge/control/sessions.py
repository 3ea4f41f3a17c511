"""The SPICE sessions that control keeps: opened as the configuration says, and looked into when they are lost."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usbbridge.config import Vm
from usbbridge.control.actions import Failure
from usbbridge.control.session import Session, in_thread
from usbbridge.errors import NotPermittedError, UsageError, UsbBridgeError
from usbbridge.spice.connection import open_raw
from usbbridge.spice.sockets import TlsOptions
from usbbridge.spice.targets import SpiceTarget, TcpTarget, UnixTarget, parse_target

log = logging.getLogger(__name__)

PROBE_SECONDS: Final = 1.0
"""Within which a server that is alive accepts a connection, so that a session it ended was ended by intent; a network
that is down takes longer, and so does a machine."""
REACH_SECONDS: Final = 10.0
"Within which a raw port that is checked accepts a connection."
MAX_PASSWORD_FILE: Final = 4096
"Bytes of a password file that are read; a SPICE password has at most 60."


@dataclass(frozen=True, slots=True)
class Ticket:
    """What an encoder needs to link a channel of a session."""

    session_id: int = 0
    password: str = ""


class _Entry:
    """A VM's session, or the attempt to open it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.session: Session | None = None
        self.password = ""


class Sessions:
    """By the VM's name. Told: `on_opened` with the channels' ids, `on_failed`, and `on_lost`, with whether the server
    still takes connections."""

    def __init__(
        self,
        on_opened: Callable[[str, tuple[int, ...]], None],
        on_failed: Callable[[str, Failure], None],
        on_lost: Callable[[str, Failure, bool], None],
    ) -> None:
        self._on_opened, self._on_failed, self._on_lost = on_opened, on_failed, on_lost
        self._entries: dict[str, _Entry] = {}

    def open(self, vm: str, settings: Vm) -> None:
        """Begin to open a session; what becomes of it is told."""
        self.close(vm)
        entry = self._entries[vm] = _Entry()
        entry.task = asyncio.get_running_loop().create_task(self._open(vm, settings, entry))

    def close(self, vm: str) -> None:
        """End the session, or the attempt to open it: nothing more is told of it."""
        entry = self._entries.pop(vm, None)
        if entry is None:
            return
        if entry.task is not None:
            entry.task.cancel()
        if entry.session is not None:
            entry.session.close()

    def close_all(self) -> None:
        """End them all."""
        for vm in list(self._entries):
            self.close(vm)

    def ticket(self, vm: str) -> Ticket:
        """What goes into the encoder's Start; an empty one if there is no session."""
        entry = self._entries.get(vm)
        if entry is None or entry.session is None:
            return Ticket()
        return Ticket(entry.session.session_id, entry.password)

    async def _open(self, vm: str, settings: Vm, entry: _Entry) -> None:
        try:
            target = parse_target(settings.targets[0])
            if not isinstance(target, SpiceTarget):  # raw connections have no session; each target is a channel
                self._on_opened(vm, tuple(range(len(settings.targets))))
                return
            entry.password = read_password(settings.password_file)
            tls = TlsOptions(str(settings.ca_file) if settings.ca_file else None, settings.host_subject or None)
            entry.session = await Session.open(
                target, entry.password, tls, lambda error: self._lost(vm, entry, target, error)
            )
        except UsbBridgeError as error:
            self._failed(vm, entry, error)
        except OSError as error:  # no descriptors left, ...
            self._failed(vm, entry, UsbBridgeError(f"the VM {vm} can't be reached: {error.strerror or error}"))
        except Exception as error:  # ours to mend; the others' sessions go on
            log.exception("opening the session with %s", vm)
            self._failed(vm, entry, UsbBridgeError(f"opening the session failed: {error!r:.200}"))
        else:
            log.info("session with %s at %s: channels %s", vm, target, entry.session.usb_channels())
            self._on_opened(vm, entry.session.usb_channels())

    def _failed(self, vm: str, entry: _Entry, error: UsbBridgeError) -> None:
        entry.task = None
        if self._entries.get(vm) is entry:
            self.close(vm)
            self._on_failed(vm, Failure.of(error))

    def _lost(self, vm: str, entry: _Entry, target: SpiceTarget, error: UsbBridgeError) -> None:
        if self._entries.get(vm) is entry:
            log.warning("the session with %s was lost: %s", vm, error)
            entry.session = None
            entry.task = asyncio.get_running_loop().create_task(self._look(vm, entry, target, Failure.of(error)))

    async def _look(self, vm: str, entry: _Entry, target: SpiceTarget, failure: Failure) -> None:
        alive = await in_thread(lambda: answers(target))
        entry.task = None
        if self._entries.get(vm) is entry:
            del self._entries[vm]
            self._on_lost(vm, failure, alive)


def answers(target: SpiceTarget) -> bool:
    """Whether the server takes connections. Blocks, for PROBE_SECONDS at most."""
    port = target.tls_port if target.port is None else target.port
    where = UnixTarget(target.socket_path) if target.socket_path else TcpTarget(target.host, port or 0)
    try:
        open_raw(where, timeout=PROBE_SECONDS).close()
    except UsbBridgeError:
        return False
    return True


def reach(target: TcpTarget | UnixTarget) -> None:
    """Connect to a raw port, and leave without a word. Blocks, for REACH_SECONDS at most. Raises UsbBridgeError."""
    open_raw(target, timeout=REACH_SECONDS).close()


def read_password(file: Path | None) -> str:
    """The first line of the file; no password without one. Raises NotPermittedError, and UsageError for what can only
    be put right by hand."""
    if file is None:
        return ""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_PASSWORD_FILE)
    except PermissionError as error:
        hint = "control reads it: it has to be readable for the user or the group that control runs as"
        raise NotPermittedError(f"the password file {file} may not be read", hint=hint) from error
    except OSError as error:
        raise UsageError(f"the password file {file} can't be read: {error.strerror}") from error
    line = data.partition(b"\n")[0].removesuffix(b"\r")
    if not line:
        raise UsageError(f"the password file {file} has nothing in its first line")
    return line.decode(errors="surrogateescape")
