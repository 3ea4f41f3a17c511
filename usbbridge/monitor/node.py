"""A device's node: opening it for somebody, and giving the device back to its kernel driver when that somebody has
died.

An encoder gives a device back by itself. If it is killed, the kernel releases the interfaces but binds no driver to
them: that is up to whoever still may open the node.
"""

import contextlib
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from usbbridge.errors import DeviceLostError, NotPermittedError
from usbbridge.monitor.inventory import ROOT, read_device
from usbbridge.monitor.usbids import Names
from usbbridge.usb.entry import DeviceEntry

# linux/usbdevice_fs.h: struct usbdevfs_ioctl { int ifno; int ioctl_code; void *data; }
_IOCTL: Final = struct.Struct("@iiP")
_CONNECT: Final = 0x5517
"USBDEVFS_CONNECT, _IO('U', 23): let a kernel driver bind to an interface."
_USBDEVFS_IOCTL: Final = 3 << 30 | _IOCTL.size << 16 | 0x5512
"_IOWR('U', 18, struct usbdevfs_ioctl)."
_SETCONFIGURATION: Final = 2 << 30 | 4 << 16 | 0x5505
"USBDEVFS_SETCONFIGURATION, _IOR('U', 5, unsigned int)."


def open_node(entry: DeviceEntry) -> int:
    """Open the device for reading and writing. Raises NotPermittedError or DeviceLostError."""
    try:
        return os.open(entry.node, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError as error:
        hint = entry.obstacle.hint if entry.obstacle else "run as root"
        raise NotPermittedError(f"{entry}: no permission to open {entry.node}", hint=hint) from error
    except OSError as error:
        raise DeviceLostError(f"{entry} can't be opened: {error.strerror}") from error


def give_back(fd: int, entry: DeviceEntry) -> None:
    """Close the device and let the kernel's drivers have it again; nothing to do for what has gone meanwhile.

    Closing our descriptor comes first: it shares the dead process's claims, and the last copy's end drops them.
    """
    os.close(fd)
    restore(entry)


def restore(entry: DeviceEntry, root: Path = ROOT) -> bool:
    """Let the kernel's drivers have what nobody uses of the device. If another configuration was chosen since `entry`
    was read, the one that was active then is set again. False if somebody still has a claim on the device.

    Interfaces that had no driver before are offered to the drivers too: a driver that udev was just loading when the
    device was handed out would have had its turn by now.

    This may take as long as the drivers' first words with the device: the kernel gives a control transfer 5 s, and
    reading sysfs waits for the same lock. It is done in the monitor's own thread, as all that waits meanwhile is other
    devices' being plugged in.
    """
    now = read_device(root, entry.bus_port, Names(root))
    if now is None or not is_same(now, entry):
        return True
    is_claimed = "usbfs" in now.drivers
    with contextlib.suppress(OSError):
        fd = os.open(now.node, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not entry.configuration or now.configuration == entry.configuration:
                _connect(fd, now)
            elif not is_claimed:
                fcntl.ioctl(fd, _SETCONFIGURATION, struct.pack("@I", entry.configuration))  # binds the drivers as well
        finally:
            os.close(fd)
    return not is_claimed


def is_same(one: DeviceEntry, other: DeviceEntry) -> bool:
    """Whether two descriptions are of the same device that has stayed plugged in; its interfaces may have changed."""
    return (one.bus_port, one.devnum, one.ids) == (other.bus_port, other.devnum, other.ids)


def _connect(fd: int, now: DeviceEntry) -> None:
    for interface in now.interfaces:
        if not interface.driver:
            with contextlib.suppress(OSError):  # none wants it
                fcntl.ioctl(fd, _USBDEVFS_IOCTL, _IOCTL.pack(interface.number, _CONNECT, 0))
