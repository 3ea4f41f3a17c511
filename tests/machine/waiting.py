"""Waiting inside a machine, for what its kernel, a process, a device or a service tells of; there is no udevd.

Who waits is woken by what it waits for. `poll_for` is for the few things that nothing tells of.
"""

import contextlib
import ctypes
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:  # what it needs takes long to import on an emulated machine
    from usbbridge.backend.base import Device

T = TypeVar("T")

SECONDS: Final = 20.0
"For what takes one: the machine may be slow."
RELOOK: Final = 1.0
"""Seconds after which one looks again all the same: what is waited for may follow its event, as the end of a device's
folder in sysfs does (Linux, drivers/base/core.c, device_del)."""
PAUSE: Final = 0.02
"Seconds between two looks at what nothing tells of."

NETLINK_KOBJECT_UEVENT: Final = 15
KERNEL_EVENTS: Final = 1
"The multicast group of the kernel's own uevents (Linux, lib/kobject_uevent.c)."
IN_MODIFY: Final = 0x02
"Linux, include/uapi/linux/inotify.h."
CHUNK: Final = 1 << 16


def wait(look: Callable[[], T], seconds: float = SECONDS, *told: int) -> T:
    """The first true result of `look`, called again after each of the kernel's uevents, and whenever there is something
    to read from one of the descriptors `told`, which must not block. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    with netlink(NETLINK_KOBJECT_UEVENT, KERNEL_EVENTS) as uevents:
        while not (found := look()):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"not within {seconds:g} s")
            for fd in select.select([uevents, *told], [], [], min(left, RELOOK))[0]:
                with contextlib.suppress(OSError):  # all has been read, or some was lost: one looks in either case
                    while os.read(fd, CHUNK):
                        pass
    return found


@contextlib.contextmanager
def netlink(family: int, groups: int) -> Iterator[int]:
    """A descriptor from which the events of a netlink family's multicast groups are read (netlink(7))."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, family) as events:
        events.bind((0, groups))
        yield events.fileno()


@contextlib.contextmanager
def writes(file: Path) -> Iterator[int]:
    """A descriptor from which something is read whenever something was written to a file (inotify(7))."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        watch = libc.inotify_add_watch(fd, os.fsencode(file), IN_MODIFY)
        assert watch >= 0, f"{file}: {os.strerror(ctypes.get_errno())}"
        yield fd
    finally:
        os.close(fd)


def wait_end(pid: int, seconds: float = SECONDS) -> bool:
    """Whether a process, which may be somebody else's, has ended in time."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], seconds)[0])
    finally:
        os.close(fd)


def reap_until(done: Callable[[], object], device: "Device", seconds: float = SECONDS) -> bool:
    """Reap what ends at the device until `done`; whether that was so in time."""
    deadline = time.monotonic() + seconds
    while not done():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        poller = select.poll()
        for fd, events in device.pollfds():
            poller.register(fd, events)
        poller.poll(min(left, RELOOK) * 1000)
        device.reap()
    return True


def poll_for(look: Callable[[], T], seconds: float = SECONDS, pause: float = PAUSE) -> T:
    """The first true result of `look` at something that nothing tells of; say at each use why that is so. Raises
    TimeoutError."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(pause)
    return found


class Manager:
    """In the place of a service manager: hears a service say that it is ready (sd_notify(3)), on a socket at this path,
    or on one that has no file."""

    def __init__(self, path: str = "") -> None:
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told.bind(path)
        self.environment = {"NOTIFY_SOCKET": path or "@" + self._told.getsockname()[1:].decode()}
        "For the service."

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Until the service is. Raises TimeoutError."""
        self._told.settimeout(seconds)
        while b"READY=1" not in self._told.recv(CHUNK).split(b"\n"):
            pass

    def close(self) -> None:
        """Hear no more."""
        self._told.close()
