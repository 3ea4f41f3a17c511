"""Whether those who need the files that the configuration names can read them, and nobody else can."""

import grp
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from usbbridge.config.checking import VM, Origin, Problem
from usbbridge.config.lines import Key
from usbbridge.config.model import Config
from usbbridge.config.reach import Reader, obstacle

HIDDEN: Final = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108  # only names
"What the unit of control hides from it (ProtectHome=, PrivateTmp=)."


def warnings(config: Config, origins: Mapping[tuple[Key, str], Origin]) -> list[Problem]:
    """What deserves a look. None of it keeps the service from running: a file may be put there later."""
    found = []
    for vm in config.vms:
        for key, file, is_secret in (("password-file", vm.password_file, True), ("ca-file", vm.ca_file, False)):
            if file is not None:
                origin = origins.get(((VM, vm.name), key), Origin(config.paths.config))
                reasons = _reasons(file, config, is_secret=is_secret)
                found += [Problem(origin, f"{VM}.{vm.name}.{key}", reason) for reason in reasons]
    return found


def _reasons(file: Path, config: Config, *, is_secret: bool) -> Iterator[str]:
    user = config.monitor.user
    try:
        status = file.stat()
        reader = Reader.named(user)
        blocked = obstacle(file, reader) if reader else None
    except OSError as error:
        yield f"{file} can't be looked at: {error.strerror}"
        return
    if not stat.S_ISREG(status.st_mode):
        yield f"{file} is not a file"
        return
    if config.paths.system and any(file.is_relative_to(folder) for folder in HIDDEN):
        yield f"{file} is not seen by the service, from which its unit hides that folder: put it into {_home(config)}"
    elif blocked is not None:
        what = "read it" if blocked == file else f"go through {blocked}"
        yield f"control runs as {user}, which can't {what} (chown root:{user} {file}; chmod 640 {file})"
    if is_secret:
        yield from _exposed(file, status.st_mode, status.st_gid, user)


def _exposed(file: Path, mode: int, gid: int, user: str) -> Iterator[str]:
    """Who else can read a secret."""
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        yield f"everybody on this machine can read the password in {file} (chmod o= {file})"
    group = _group_name(gid)
    if mode & stat.S_IRGRP and gid != 0 and group != user:
        yield f"the group {group} can read the password in {file} (chgrp {user} {file})"


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _home(config: Config) -> Path:
    return config.paths.config.parent
