"""Whether a user could read a file, by the modes of the file and of the folders on the way to it.

Access control lists are not asked: they can permit what the modes don't, so a no is worth a warning, not more.
"""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Reader:
    """Who wants to read."""

    uid: int
    gids: frozenset[int] = frozenset()

    @classmethod
    def named(cls, user: str) -> "Reader | None":
        """The user of this name, with all its groups; None if there is none."""
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            return None
        return cls(entry.pw_uid, frozenset(os.getgrouplist(user, entry.pw_gid)))


ANYBODY: Final = Reader(uid=-1)
"Somebody who owns nothing and is in no group."


def obstacle(path: Path, reader: Reader) -> Path | None:
    """The folder that `reader` can't go through on the way to `path`, or `path` itself if it can't be read.

    None if nothing is in the way. Raises OSError if there is no such file, or if we can't see ourselves.
    """
    resolved = path.resolve(strict=True)
    for folder in reversed(resolved.parents):
        if not _has(folder.stat(), reader, stat.S_IXOTH):
            return folder
    needed = stat.S_IROTH | (stat.S_IXOTH if resolved.is_dir() else 0)
    return None if _has(resolved.stat(), reader, needed) else path


def _has(status: os.stat_result, reader: Reader, needed: int) -> bool:
    """Whether the bits that `needed` names for others are set for the class of `reader` (path_resolution(7))."""
    if reader.uid == 0:
        return True
    shift = 6 if status.st_uid == reader.uid else 3 if status.st_gid in reader.gids else 0
    return status.st_mode >> shift & needed == needed
