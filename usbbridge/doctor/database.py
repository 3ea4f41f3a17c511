"""The compatibility list: its sources, its database, and what it says of a device when no service can be asked."""

import contextlib
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from usbbridge.doctor.case import Case
from usbbridge.doctor.examination import guarded
from usbbridge.doctor.finding import Finding, ok, problem, warning
from usbbridge.doctor.installation import UNITS, installed
from usbbridge.usb.entry import DeviceEntry

if TYPE_CHECKING:
    from usbbridge.compat.rule import Decision
    from usbbridge.compat.store import Store


def sources(case: Case) -> list[Path]:
    """Where the rules come from, in their order; folders that nobody has made hold none."""
    from usbbridge.compat.source import shipped_rules

    own = case.config.monitor.rules if case.config else ()
    return [folder for folder in (shipped_rules(), *own) if folder.exists()]


def findings(case: Case) -> Iterator[Finding]:
    """The sources, and the database made of them."""
    yield from guarded("rules", lambda: _sources(case))
    yield from guarded("database", lambda: _database(case))


def _sources(case: Case) -> Iterator[Finding]:
    from usbbridge.compat import source

    shipped = source.shipped_rules()
    folders = sources(case)
    if shipped not in folders:
        why = "what no rule is about is attached when somebody asks for it: nothing by itself, and nothing is refused"
        yield problem("rules", f"those of usbbridge itself are missing ({shipped})", why, "install usbbridge again")
    read = source.read(folders)
    for each in read.problems:
        level = problem if each.fatal else warning
        yield level("rules", str(each), "", "correct it, then:", "usbbridge rules check")
    if not any(each.fatal for each in read.problems):
        yield ok("rules", f"{len(read.rules)} in {', '.join(map(str, folders)) or 'no folder'}")


def _database(case: Case) -> Iterator[Finding]:
    path = case.paths.database
    if not path.exists():
        yield ok("database", f"{path} is not there; the monitor makes it when it is first started")
        return
    mode = path.stat().st_mode
    if mode & (stat.S_IWOTH | stat.S_IWGRP):
        why = "who can write it decides which devices may leave this machine"
        command = case.sudo(f"chmod go-w {shlex.quote(str(path))}")
        yield warning("database", f"{path} can be written by others", why, "", command)
    with contextlib.closing(_open(case)) as store:
        for notice in store.notices:
            why = "local rules and what was learned do not count until it can be read"
            remedy = "the monitor repairs it when it is started"
            yield warning("database", notice, why, remedy, *installed(case).restart(case, UNITS[0]))
        if not store.notices:
            yield ok("database", f"{path} is sound")


def _open(case: Case) -> "Store":
    from usbbridge.compat.store import Store

    return Store.open(case.paths.database, sources(case), read_only=True)


class Judge:
    """Asks the compatibility list itself. Opened when it is first asked; for use in one thread, in a `with`."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._store: Store | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store is not None:
            self._store.close()

    def decide(self, entry: DeviceEntry) -> "Decision":
        """What it says of the device. Raises UsbBridgeError if the rules can't be read."""
        if self._store is None:
            self._store = _open(self._case)
        return self._store.decide(entry)
