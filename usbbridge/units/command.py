"""The command that the units start: where it is, and whether the service can run it."""

import os
import pwd
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

import usbbridge
from usbbridge.config.paths import SERVICE_USER
from usbbridge.config.reach import ANYBODY, obstacle
from usbbridge.config.secrets import HIDDEN
from usbbridge.errors import NotFoundError, RefusedError

ELSEWHERE: Final = (
    "install it where everybody may read, for example: "
    "python3 -m venv /opt/usbbridge && /opt/usbbridge/bin/pip install . (or: pipx install --global .)"
)
NOBODY: Final = 65534
"The uid that stands for nobody (kernel.overflowuid), if the service's own user is not there yet."
TRY_SECONDS: Final = 30
"For printing a version. It takes a fifth of one, but a thin client may be busy and its disk slow."


def installed_command() -> Path:
    """The `usbbridge` that belongs to this Python, absolute; in a virtual environment the one of that."""
    candidates = [Path(sysconfig.get_path("scripts")) / "usbbridge", Path(sys.argv[0]).absolute()]
    for candidate in candidates:
        if candidate.name == "usbbridge" and os.access(candidate, os.X_OK) and candidate.is_file():
            return candidate
    raise NotFoundError(f"there is no {candidates[0]}: usbbridge runs, but is not installed", hint=ELSEWHERE)


def demand_reach(command: Path) -> None:
    """Make sure, as root, that the service can run `command`, by running it as the service's user.

    Raises RefusedError saying what is in the way.
    """
    for needed in _needed(command):
        hidden = next((folder for folder in HIDDEN if needed.is_relative_to(folder)), None)
        if hidden is not None:
            raise RefusedError(f"the service can't use {needed}: its unit hides {hidden} from it", hint=ELSEWHERE)
    failure = _try(command)
    if failure:
        raise RefusedError(f"the service's user can't run {command}: {_why(command) or failure}", hint=ELSEWHERE)


def _needed(command: Path) -> list[Path]:
    """What the command consists of, links followed: a Python of a virtual environment may be far away from it."""
    package = Path(usbbridge.__file__).parent
    return [path.resolve() for path in (command, package, Path(sys.prefix), Path(sys.executable)) if path.exists()]


def _try(command: Path) -> str:
    """Why the service's user can't run it; empty if it can."""
    try:
        entry = pwd.getpwnam(SERVICE_USER)
        uid, gid = entry.pw_uid, entry.pw_gid
    except KeyError:
        uid = gid = NOBODY
    try:
        done = subprocess.run(  # noqa: S603  # root named it, or runs it already
            [command, "--version"],
            user=uid,
            group=gid,
            extra_groups=[],
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            cwd="/",
            capture_output=True,
            timeout=TRY_SECONDS,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return said[-1] if done.returncode else ""


def _why(command: Path) -> str:
    """The place on the way to it that others may not pass, by its mode."""
    for needed in _needed(command):
        blocked = obstacle(needed, ANYBODY)
        if blocked is not None:
            return f"others may not {'enter' if blocked != needed else 'read'} {blocked} (chmod o+rx would permit it)"
    return ""
