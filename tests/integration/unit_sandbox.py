"""Runs a command under the system call filter of a unit, put together with libseccomp as systemd does it:

    python unit_sandbox.py UNIT COMMAND [ARGUMENT ...]

Of the unit (systemd.exec(5)) SystemCallFilter=, SystemCallErrorNumber=EPERM, MemoryDenyWriteExecute= and
NoNewPrivileges= are obeyed.
"""

import ctypes
import errno
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

ALLOW = 0x7FFF0000  # SCMP_ACT_ALLOW
REFUSE = 0x00050000 | errno.EPERM  # SCMP_ACT_ERRNO(EPERM)
MASKED_EQUAL = 7  # SCMP_CMP_MASKED_EQ
EXEC, WRITE_EXEC = 4, 6  # PROT_EXEC, PROT_WRITE | PROT_EXEC
SHM_EXEC = 0o100000


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp: an argument of the call, masked, against a number."""

    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    ]


class Filter:
    """A seccomp filter that is being put together."""

    def __init__(self, default: int) -> None:
        self._lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._lib.seccomp_init(ctypes.c_uint32(default)))

    def add(self, action: int, call: str, *comparisons: Comparison) -> None:
        number = self._lib.seccomp_syscall_resolve_name(call.encode())
        if number < 0:  # not a call of this machine's architecture
            return
        array = (Comparison * len(comparisons))(*comparisons)
        done = self._lib.seccomp_rule_add_array(self._context, ctypes.c_uint32(action), number, len(array), array)
        assert done == 0, f"{call}: {os.strerror(-done)}"

    def load(self) -> None:
        """For this thread and what it executes; sets no_new_privs, as libseccomp does unless told otherwise."""
        done = self._lib.seccomp_load(self._context)
        assert done == 0, os.strerror(-done)


@cache
def members(group: str) -> frozenset[str]:
    """The system calls of one of systemd's groups."""
    found = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    words = [line.strip() for line in found if line.startswith("    ") and not line.strip().startswith("#")]
    return frozenset().union(*(members(word) if word.startswith("@") else {word} for word in words))


def allowed(unit: str) -> set[str]:
    """What the SystemCallFilter= lines allow, the first of them an allow list."""
    calls = set(members("@default"))  # always: what any program needs to start and end
    for line in unit.splitlines():
        key, _, value = line.partition("=")
        if key == "SystemCallFilter":
            groups = value.removeprefix("~").split()
            named = set().union(*(members(group) for group in groups))
            calls = calls - named if value.startswith("~") else calls | named
    return calls


def confine(unit: str) -> None:
    if "MemoryDenyWriteExecute=yes" in unit:
        rules = Filter(ALLOW)
        rules.add(REFUSE, "mmap", Comparison(2, MASKED_EQUAL, WRITE_EXEC, WRITE_EXEC))
        rules.add(REFUSE, "mprotect", Comparison(2, MASKED_EQUAL, EXEC, EXEC))
        rules.add(REFUSE, "pkey_mprotect", Comparison(2, MASKED_EQUAL, EXEC, EXEC))
        rules.add(REFUSE, "shmat", Comparison(2, MASKED_EQUAL, SHM_EXEC, SHM_EXEC))
        rules.load()
    rules = Filter(REFUSE)
    for call in sorted(allowed(unit) | {"execve"}):
        rules.add(ALLOW, call)
    rules.load()


if __name__ == "__main__":
    confine(Path(sys.argv[1]).read_text())
    os.execv(sys.argv[2], sys.argv[2:])
