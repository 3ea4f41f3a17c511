"""What tells of devices that come, change and go: udevd, or the kernel itself where no udevd runs.

An event says only where to look. What is there is read from sysfs then, so that events which come twice, late or in
another order do no harm; and when some were lost, everything is looked at.
"""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from usbbridge.errors import UsbBridgeError

UDEVD: Final = Path("/run/udev/control")
"udevd's socket: it is there when udevd is, or will be as soon as it is needed."

BUFFER: Final = 2 << 20
"""Bytes of events that may wait in the kernel: some 2000, several times what a dock makes when it is plugged in. It is
memory only while it is used."""

MAX_AT_ONCE: Final = 256
"Events taken before anything else has its turn."

SUBSYSTEMS: Final = ("usb", "block")
"Block devices because what is made of a disk (LVM, RAID, LUKS, loop) is announced as their change."

_SO_RCVBUFFORCE: Final = 33
"""asm-generic/socket.h; Python has no name for it. Unlike SO_RCVBUF, it may exceed net.core.rmem_max, which is 208 KiB
where nobody has raised it."""
_MAX_UEVENT: Final = 8 << 10
"Bytes: linux/kobject.h UEVENT_BUFFER_SIZE is 2048, and the header comes before."
_NETLINK_KOBJECT_UEVENT: Final = 15
"linux/netlink.h; Python has no name for it."
_KERNEL_GROUP: Final = 1
"Multicast group of the kernel's own events; udevd's is 2."


class EventsLost(UsbBridgeError):  # noqa: N818  # not a failure: a reason to look at everything
    """There was no room for some events (ENOBUFS): everything has to be looked at again."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a device or, with a name such as `1-2:1.0`, to an interface."""

    action: str
    "add, bind, change, unbind, remove ..."
    subsystem: str
    name: str
    "Last part of its path in sysfs."

    @property
    def bus_port(self) -> str:
        """The USB device that it is about."""
        return self.name.partition(":")[0]


class Source(Protocol):
    """Where events come from."""

    name: str
    "Who tells of them, in words."

    def fileno(self) -> int:
        """What is readable when there are events."""

    def events(self) -> Iterator[Event]:
        """Those that are there, at most MAX_AT_ONCE; does not wait. Raises EventsLost."""

    def close(self) -> None:
        """No more events."""


def open_source(wanted: str = "auto") -> Source:
    """The source that is wanted (`udev`, `kernel`), or the best there is. Raises UsbBridgeError if there is none.

    Where libudev is missing, as in Termux, the kernel is asked without it.
    """
    kind = wanted if wanted != "auto" else "udev" if UDEVD.exists() else "kernel"
    try:
        return UdevSource(kind)
    except (ImportError, MemoryError) as error:  # the latter is ctypes', where no memory may be executable
        if wanted == "udev":
            hint = 'install libudev, or set source = "kernel" under [monitor]'
            raise UsbBridgeError(f"udevd can't be listened to: {error}", hint=hint) from error
        return KernelSource()
    except OSError as error:
        raise UsbBridgeError(f"hotplug events can't be had: {error.strerror or error}") from error


class UdevSource:
    """libudev's monitor, through pyudev. Its `kernel` kind hears the kernel, its `udev` kind udevd, which speaks when
    its rules have been applied. Raises ImportError if libudev or pyudev is missing."""

    def __init__(self, kind: str) -> None:
        import pyudev  # here: it needs the library, which not every system has

        self.name = "udevd" if kind == "udev" else "the kernel"
        self._monitor: Any = pyudev.Monitor.from_netlink(pyudev.Context(), source=kind)
        for subsystem in SUBSYSTEMS:
            self._monitor.filter_by(subsystem)
        with suppress(OSError):  # that takes CAP_NET_ADMIN; without it, events are lost sooner
            self._monitor.set_receive_buffer_size(BUFFER)
        self._monitor.start()

    def fileno(self) -> int:
        return int(self._monitor.fileno())

    def events(self) -> Iterator[Event]:
        for _ in range(MAX_AT_ONCE):
            try:
                device = self._monitor.poll(0)
            except OSError as error:
                number = error.errno or self._pending_error()
                if number == errno.ENOBUFS:
                    raise EventsLost(f"events of {self.name} were lost") from error
                if number == errno.ENODEV:  # an event of something that has gone while libudev looked at it
                    continue
                raise
            if device is None:
                return
            yield Event(device.action or "", device.subsystem or "", device.sys_name)

    def _pending_error(self) -> int:
        """The socket's error, which is taken from it: pyudev only says that poll(2) has found one."""
        with socket.socket(fileno=os.dup(self.fileno())) as sock:
            return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        self._monitor = None  # pyudev closes it with its last reference


class KernelSource:
    """The kernel's events without a library: netlink(7), NETLINK_KOBJECT_UEVENT."""

    name = "the kernel"

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            self._sock = socket.socket(socket.AF_NETLINK, kind, _NETLINK_KOBJECT_UEVENT)
            self._sock.bind((0, _KERNEL_GROUP))
        except OSError as error:
            raise UsbBridgeError(f"the kernel's hotplug events can't be had: {error.strerror}") from error
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
        except OSError:  # that takes CAP_NET_ADMIN; without it, events are lost sooner
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)

    def fileno(self) -> int:
        return self._sock.fileno()

    def events(self) -> Iterator[Event]:
        for _ in range(MAX_AT_ONCE):
            try:
                data, (sender, _) = self._sock.recvfrom(_MAX_UEVENT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    raise EventsLost(f"events of {self.name} were lost") from error
                raise
            event = parse_uevent(data) if sender == 0 else None  # else it was no kernel that sent it
            if event is not None and event.subsystem in SUBSYSTEMS:
                yield event

    def close(self) -> None:
        self._sock.close()


def parse_uevent(data: bytes) -> Event | None:
    """An event as the kernel writes it: `ACTION@DEVPATH` and variables, each ended by a zero; None if it is not."""
    header, *variables = data.split(b"\0")
    fields = dict(variable.split(b"=", 1) for variable in variables if b"=" in variable)
    try:
        action, path, subsystem = fields[b"ACTION"], fields[b"DEVPATH"], fields[b"SUBSYSTEM"]
    except KeyError:
        return None
    if header != action + b"@" + path:
        return None
    return Event(os.fsdecode(action), os.fsdecode(subsystem), os.fsdecode(path.rpartition(b"/")[2]))
