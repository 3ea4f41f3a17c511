"""The service as it is installed: its units, its user, its processes and whose they are."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from usbbridge.config.paths import SERVICE_USER
from usbbridge.doctor.case import Case, user_name
from usbbridge.doctor.examination import guarded
from usbbridge.doctor.finding import Finding, ok, problem, warning

UNITS: Final = ("usbbridge-monitor.service", "usbbridge-control.service")
UNIT_FOLDERS: Final = tuple(f"{folder}/systemd/system" for folder in ("etc", "run", "usr/local/lib", "usr/lib", "lib"))
"Of systemd.unit(5), those that somebody may have installed them in."
SYSTEMCTL_SECONDS: Final = 1.0
"It asks the service manager over D-Bus, which answers in milliseconds, or is stuck."
SLEEP_UNIT: Final = "usbbridge-sleep.service"
USER_UNIT: Final = "usbbridge.service"
"Of a user's own service, which is the parts in one."
PARTS: Final = ("monitor", "control", "service", "encoder")

_PROPERTIES: Final = ("LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "NRestarts")


def findings(case: Case) -> Iterator[Finding]:
    """Units, the service's user, processes."""
    yield from guarded("units", lambda: _units(case))
    yield from guarded("processes", lambda: _processes(case))


# ---- units


@dataclass(frozen=True, slots=True)
class Installed:
    """The units that are there."""

    system: tuple[str, ...]
    "Of `UNITS`."
    own: bool
    "Whether there is this user's `USER_UNIT`."

    def __bool__(self) -> bool:
        return bool(self.system) or self.own

    def restart(self, case: Case, *units: str) -> tuple[str, ...]:
        """Commands that start the units again (or all), and show what they have to say; none where there are none."""
        if self.system:
            words = " ".join(units or UNITS)
            return (case.sudo(f"systemctl restart {words}"), case.sudo(_journal(units[0] if units else UNITS[1])))
        own = (f"systemctl --user restart {USER_UNIT}", f"journalctl --user -u {USER_UNIT} -n 50 --no-pager")
        return own if self.own else ()


def installed(case: Case) -> Installed:
    """The units that are installed on this machine, for the system and for this user."""
    system = [unit for unit in UNITS if any((case.root / folder / unit).exists() for folder in UNIT_FOLDERS)]
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user" / USER_UNIT
    return Installed(tuple(system), own.exists())


def _journal(unit: str) -> str:
    return f"journalctl -u {unit} -n 50 --no-pager"


def _units(case: Case) -> Iterator[Finding]:
    there = installed(case)
    if there.system:
        yield from _system_units(case, there.system)
    elif there.own:
        yield from guarded(USER_UNIT, lambda: [_judged(case, USER_UNIT, _shown(USER_UNIT, "--user"), own=True)])
    elif case.served:
        yield ok("units", "not installed; the service that runs was started by hand")
    else:
        why = "devices go to their VMs by themselves only while the service runs"
        remedy = "install it, or do without it: usbbridge attach --foreground"
        install = case.sudo("usbbridge install-service")
        yield warning("units", "the service is not installed", why, remedy, install)


def _system_units(case: Case, there: tuple[str, ...]) -> Iterator[Finding]:
    install = case.sudo("usbbridge install-service")
    missing = [unit for unit in UNITS if unit not in there]
    if missing:
        why = "monitor and control are of no use without each other"
        yield problem("units", f"not installed: {', '.join(missing)}", why, "install it again", install)
    yield from _user(install)
    if not (case.root / "run/systemd/system").is_dir():
        yield ok("units", "installed; systemd does not run here, so start `usbbridge service` by other means")
        return
    for unit in there:
        yield from guarded(unit, partial(_system_unit, case, unit))
    if not (case.root / "etc/systemd/system/sleep.target.wants" / SLEEP_UNIT).is_symlink():
        why = "VMs find their devices dead after this machine has slept, instead of unplugged and plugged in again"
        yield warning(SLEEP_UNIT, "it is not enabled", why, "", case.sudo(f"systemctl enable {SLEEP_UNIT}"))


def _system_unit(case: Case, unit: str) -> Iterator[Finding]:
    yield _judged(case, unit, _shown(unit))


def _user(install: str) -> Iterator[Finding]:
    try:
        pwd.getpwnam(SERVICE_USER)
    except KeyError:
        why = "control and the encoders run as this user, which may nothing"
        yield problem("user", f"there is no user {SERVICE_USER}", why, "install the service again", install)


def _shown(unit: str, *options: str) -> dict[str, str]:
    """The unit's properties. Raises OSError and subprocess.SubprocessError."""
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        raise FileNotFoundError("there is no systemctl")
    command = [systemctl, *options, "show", unit, f"--property={','.join(_PROPERTIES)}", "--no-pager"]
    done = subprocess.run(  # noqa: S603  # nothing in it is anybody's input
        command, capture_output=True, text=True, timeout=SYSTEMCTL_SECONDS, check=True, stdin=subprocess.DEVNULL
    )
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return {name: value for name, _, value in pairs}


def _judged(case: Case, unit: str, shown: dict[str, str], *, own: bool = False) -> Finding:
    """A unit by its properties, as systemctl shows them."""
    state = f"{shown.get('ActiveState', 'unknown')} ({shown.get('SubState', '')})"

    def systemctl(words: str) -> str:
        return f"systemctl --user {words}" if own else case.sudo(f"systemctl {words}")

    log = f"journalctl --user -u {unit} -n 50 --no-pager" if own else case.sudo(_journal(unit))
    active = shown.get("ActiveState")
    if shown.get("LoadState") == "masked":
        return problem(unit, "it is masked, and can't be started", "", "", systemctl(f"unmask {unit}"))
    if shown.get("LoadState") != "loaded":
        why = "systemd has not read it since it was installed"
        found = f"systemd does not know it ({shown.get('LoadState')})"
        return problem(unit, found, why, "", systemctl("daemon-reload"))
    if active == "failed":
        found = f"it has failed: {shown.get('Result', '')}"
        return problem(unit, found, "", "its log says why", log, systemctl(f"restart {unit}"))
    if active != "active":
        start = systemctl(f"enable --now {unit}")
        return problem(unit, f"it does not run: {state}", "", "start it", start, log)
    if shown.get("UnitFileState") not in ("enabled", "static", "indirect", "alias", "enabled-runtime"):
        why = "it runs now, but will not after a restart of this machine"
        return warning(unit, "it is not enabled", why, "", systemctl(f"enable {unit}"))
    restarts = shown.get("NRestarts", "0")
    if restarts not in ("", "0"):
        why = "systemd has started it again each time after it had ended by an error"
        return warning(unit, f"it runs, but has been restarted {restarts} times", why, "its log says why", log)
    return ok(unit, f"{state}, enabled")


# ---- processes


@dataclass(frozen=True, slots=True)
class Process:
    """A process of ours."""

    pid: int
    part: str
    "One of `PARTS`."
    uid: int

    def __str__(self) -> str:
        return f"{self.part} (process {self.pid}, user {user_name(self.uid)})"


def processes(root: Path) -> list[Process]:
    """Those of our processes that /proc shows us; with hidepid, only our own user's."""
    found = []
    for folder in sorted(root.glob("proc/[0-9]*"), key=lambda path: int(path.name)):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            uid = folder.stat().st_uid
        except OSError:  # it has ended
            continue
        part = part_of([os.fsdecode(word) for word in words if word])
        if part:
            found.append(Process(int(folder.name), part, uid))
    return found


def part_of(command: list[str]) -> str:
    """The part of usbbridge that a command line runs; empty if it is none."""
    for index, word in enumerate(command[:5]):
        following = command[index + 1] if index + 1 < len(command) else ""
        module, _, part = word.removesuffix(".main").rpartition(".")
        if module == "usbbridge" and part in PARTS:
            return part
        if (word == "usbbridge" or word.endswith("/usbbridge")) and following in PARTS:
            return following
    return ""


def _processes(case: Case) -> Iterator[Finding]:
    running = processes(case.root)
    if not running:
        return
    as_root = [each for each in running if each.uid == 0 and each.part in ("control", "encoder")]
    if as_root and installed(case):
        why = f"they talk to the network, and are made to run as {SERVICE_USER} without any right"
        remedy = "stop them, and let systemd run them"
        yield warning("processes", f"run as root: {', '.join(map(str, as_root))}", why, remedy)
        return
    shown = [str(each) for each in running if each.part != "encoder"]
    encoders = sum(each.part == "encoder" for each in running)
    yield ok("processes", ", ".join([*shown, f"{encoders} encoder{'s' * (encoders != 1)}"]))
