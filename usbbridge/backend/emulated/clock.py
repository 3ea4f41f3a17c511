"""A timer as a file descriptor, which an event loop waits for beside others: Linux's timerfd_create(2).

Called through ctypes: Python has it from 3.13 on.
"""

import ctypes
import os
from typing import Final

CLOCK_MONOTONIC: Final = 1
TFD_TIMER_ABSTIME: Final = 1
NANOSECONDS: Final = 1_000_000_000

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """Its `fd` is readable from the time on that it is set to, until it is set anew."""

    def __init__(self) -> None:
        """Raises OSError where there is none to be had."""
        self.fd = _libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _Itimerspec()
        self._reference = ctypes.byref(self._spec)

    def set(self, when: int) -> None:
        """To a time of `time.monotonic_ns()`, which may be over; 0 for never."""
        self._spec.value.seconds, self._spec.value.nanoseconds = divmod(when, NANOSECONDS)
        _libc.timerfd_settime(self.fd, TFD_TIMER_ABSTIME, self._reference, None)

    def close(self) -> None:
        """Not to be called again, as `os.close`."""
        os.close(self.fd)
