"""A machine's processes: those that one has started, and one of another user."""

import contextlib
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOBODY = 65534


def children(pid: int) -> list[int]:
    """Process ids; the fourth field of /proc/PID/stat is the parent's."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return [child for child, parent in parents.items() if parent == pid]


def as_user(uid: int, work: Callable[[], object], *given: int) -> Any:
    """What `work` returns in a process of that user, which alone has the descriptors that it is given."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            answer = work()
        except BaseException:
            answer = traceback.format_exc()
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    for fd in (writer, *given):
        os.close(fd)
    answer = json.loads(os.read(reader, 1 << 16))
    os.waitpid(pid, 0)
    os.close(reader)
    return answer
