"""A device's node: opening it for somebody, and giving the device back to its kernel driver when that somebody has
died.

An encoder gives a device back by itself. If it is killed, the kernel releases the interfaces but binds no driver to
them: that is up to whoever still may open the node.
"""

import contextlib
import fcntl
import os
import struct
from typing import Final

from usbbridge.errors import DeviceLostError, NotPermittedError
from usbbridge.monitor.inventory import devices
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

    Closing our descriptor comes first: it shares the dead process's claims, and the last copy's end drops them. If the
    VM had chosen another configuration, the one that was active before is set again.
    """
    os.close(fd)
    with contextlib.suppress(OSError):
        again = os.open(entry.node, os.O_RDWR | os.O_CLOEXEC)
        try:
            _restore(again, entry)
        finally:
            os.close(again)


def _restore(fd: int, entry: DeviceEntry) -> None:
    now = next((device for device in devices() if device.bus_port == entry.bus_port), None)
    if now is None:
        return
    if entry.configuration and now.configuration != entry.configuration:
        fcntl.ioctl(fd, _SETCONFIGURATION, struct.pack("@I", entry.configuration))  # binds the drivers as well
        return
    for interface in entry.interfaces:
        if interface.driver:
            with contextlib.suppress(OSError):  # a driver has it already, or none wants it
                fcntl.ioctl(fd, _USBDEVFS_IOCTL, _IOCTL.pack(interface.number, _CONNECT, 0))
