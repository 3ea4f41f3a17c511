"""Becoming the user that control runs as: for good, and before anything comes from the network."""

import ctypes
import grp
import os
import pwd
from pathlib import Path
from typing import Final

from usbbridge.config import Paths
from usbbridge.errors import NotFoundError, NotPermittedError

_PR_SET_NO_NEW_PRIVS: Final = 38  # linux/prctl.h


def drop(user: str, paths: Paths) -> None:
    """Become `user`, with its groups and no others, and never again anybody else: nor do the processes we start.

    The folders that are control's own are made before, as only root can. Raises NotFoundError if there is no such user.
    There is no falling back to `nobody`: what other services of the machine run as that user could then use our rights.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise NotFoundError(
            f"there is no user {user!r} for control to run as",
            hint=f"`usbbridge install-service` makes it, or `useradd --system --user-group {user}`; "
            "[monitor] user in the configuration names another",
        ) from None
    if entry.pw_uid == 0:
        raise NotPermittedError(f"control does not run as {user}, who is root: it speaks to the network")
    for folder in (paths.control_socket.parent, paths.choices.parent):
        _make(folder, entry)
    os.setgroups(_groups(entry))
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    no_new_privileges()
    os.environ.update(HOME=entry.pw_dir, USER=user, LOGNAME=user, USBBRIDGE_MODE="system" if paths.system else "user")


def no_new_privileges() -> None:
    """Nothing that is run from here on gains rights by set-user-ID or file capabilities (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")


def _groups(entry: pwd.struct_passwd) -> list[int]:
    """Its own group, and those it is a member of, the one with its name among them: the monitor's socket is of that."""
    found = {entry.pw_gid, *(group.gr_gid for group in grp.getgrall() if entry.pw_name in group.gr_mem)}
    return sorted(found)


def _make(folder: Path, entry: pwd.struct_passwd) -> None:
    """One that is there stays as it is: that it is another's is noticed when it is used."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o755)
    except FileExistsError:
        return
    os.chown(folder, entry.pw_uid, entry.pw_gid)
