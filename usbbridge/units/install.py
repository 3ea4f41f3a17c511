"""Writing the service's files and removing them again, and telling systemd and udev of it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usbbridge.errors import NotPermittedError, RefusedError, UsbBridgeError
from usbbridge.units.files import SYSTEM_UNITS, USER_UNITS, File, Found, Kind

Say = Callable[[str], None]

TOOL_SECONDS: Final = 60
"For stopping the service, which gives devices back; the rest takes none."
ALL_KINDS: Final = frozenset(Kind)
MODE: Final = 0o644
"Of the files: nothing in them is secret, and others' programs read them."
FOLDER_MODE: Final = 0o755


@dataclass(frozen=True, slots=True)
class Where:
    """The system that is installed into."""

    root: Path = Path("/")
    user: bool = False
    "Into a user's own service manager."

    @property
    def is_running(self) -> bool:
        """Whether it is the one we run on, and not the image of another."""
        return self.root == Path("/")

    @property
    def runs_systemd(self) -> bool:
        """sd_booted(3); for a user, whether a service manager of his own runs."""
        runtime = os.environ.get("XDG_RUNTIME_DIR", "/run/user/none")
        return self.is_running and Path(f"{runtime}/systemd" if self.user else "/run/systemd/system").is_dir()

    @property
    def runs_udev(self) -> bool:
        """Whether udevd listens."""
        return self.is_running and Path("/run/udev/control").exists()

    def kinds(self) -> frozenset[Kind]:
        """The files that are of use there. An image is taken to have everything."""
        if not self.is_running:
            return ALL_KINDS
        kinds = set(ALL_KINDS)
        if not self.runs_systemd and not shutil.which("systemctl"):
            kinds -= {Kind.UNIT, Kind.SYSUSERS}
        if not self.runs_udev and not shutil.which("udevadm"):
            kinds -= {Kind.UDEV}
        return frozenset(kinds)

    def systemctl(self, *arguments: str) -> list[str]:
        """The command line that does it here; where no service manager runs, systemctl makes and removes links."""
        if self.user:
            return ["systemctl", "--user", *arguments]
        return ["systemctl", *([] if self.is_running else [f"--root={self.root}"]), *arguments]


def demand_untouched(files: Iterable[File]) -> None:
    """Raises RefusedError if a file would be lost that we have not written, or that was changed since."""
    touched = [file.place for file in files if _is_touched(file)]
    if touched:
        names = ", ".join(map(str, touched))
        raise RefusedError(
            f"not written by this command, or changed since: {names}",
            hint="changes belong into drop-ins (systemctl edit); --force replaces and removes these files too",
        )


def install(files: Sequence[File], where: Where, say: Say) -> None:
    """Write what is missing or out of date, and have it noticed. Raises UsbBridgeError."""
    for file in files:
        found = file.found()
        if found is Found.SAME:
            say(f"unchanged  {file.place}")
        elif file.kind is Kind.CONFIG and found is not Found.NOTHING:
            say(f"yours      {file.place}")
        else:
            _write(file)
            say(f"written    {file.place}")
    _reload(files, where, say, users=True)


def uninstall(files: Sequence[File], where: Where, say: Say) -> None:
    """Stop and disable the service, and remove its files; the configuration stays. Raises UsbBridgeError."""
    there = [file for file in files if file.kind is not Kind.CONFIG and file.found() is not Found.NOTHING]
    units = [file.place.name for file in there if file.kind is Kind.UNIT]
    if units and shutil.which("systemctl"):
        now = ["--now"] if where.runs_systemd else []
        _run(where.systemctl("disable", *now, *units), say)
    for file in there:
        file.place.unlink()
        say(f"removed    {file.place}")
    if there:
        _reload(there, where, say, users=False)
    else:
        say("There is nothing to remove.")


def purge(folders: Iterable[Path], say: Say) -> None:
    """Remove the service's state and its configuration."""
    for folder in folders:
        if folder.is_dir():
            shutil.rmtree(folder)
            say(f"removed    {folder}")


def commands(files: Sequence[File], where: Where) -> list[list[str]]:
    """What has the files noticed, in order. In an image nothing runs that could notice; but a user can be made."""
    kinds = {file.kind: file for file in files}
    found = []
    if Kind.SYSUSERS in kinds:
        root = [] if where.is_running else [f"--root={where.root}"]
        found.append(["systemd-sysusers", *root, kinds[Kind.SYSUSERS].place.name])
    if Kind.UNIT in kinds and where.is_running:
        found.append(where.systemctl("daemon-reload"))
    if Kind.UDEV in kinds and where.is_running:
        found.append(["udevadm", "control", "--reload"])
    return found


def units(where: Where) -> tuple[str, ...]:
    """The units that are installed there."""
    return USER_UNITS if where.user else SYSTEM_UNITS


def _is_touched(file: File) -> bool:
    return file.kind is not Kind.CONFIG and file.found() in (Found.CHANGED, Found.FOREIGN)


def _make_folder(folder: Path) -> None:
    """With its parents; for everybody to enter, whatever root's umask is: control reads its configuration there."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir()
        folder.chmod(FOLDER_MODE)


def _write(file: File) -> None:
    """At once or not at all: a service manager that reads it meanwhile never sees half of it."""
    try:
        _make_folder(file.place.parent)
        descriptor, name = tempfile.mkstemp(dir=file.place.parent, prefix=".usbbridge-")
        try:
            with open(descriptor, "w") as stream:  # noqa: PTH123  # of a descriptor
                stream.write(file.text)
                os.fchmod(descriptor, MODE)
            Path(name).rename(file.place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except PermissionError as error:
        raise NotPermittedError(f"{file.place} can't be written: {error.strerror}") from error


def _reload(files: Sequence[File], where: Where, say: Say, *, users: bool) -> None:
    for command in commands(files, where):
        if command[0] == "systemd-sysusers" and not users:
            continue
        reason = _idle_reason(command[0], where)
        if reason:
            say(f"not run    {' '.join(command)}: {reason}")
        else:
            _run(command, say)


def _idle_reason(tool: str, where: Where) -> str:
    """Why there is nothing for this tool to do here; empty if there is."""
    if shutil.which(tool) is None:
        return "there is none here"
    if tool == "systemctl" and not where.runs_systemd:
        return "systemd does not run here"
    if tool == "udevadm" and not where.runs_udev:
        return "udevd does not run here"
    return ""


def _run(command: Sequence[str], say: Say) -> None:
    """Raises UsbBridgeError with what it said if it fails."""
    line = " ".join(command)
    try:
        done = subprocess.run(  # noqa: S603  # of `commands`
            command, capture_output=True, text=True, errors="replace", timeout=TOOL_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsbBridgeError(f"{line} failed: {error}") from error
    if done.returncode:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise UsbBridgeError(f"{line} failed: {said}", hint="the files are in place; mend this, and run it again")
    say(f"ran        {line}")
