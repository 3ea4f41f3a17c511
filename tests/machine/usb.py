"""A machine's USB devices, as its kernel shows them, and who has them open."""

import contextlib
from pathlib import Path

DEVICES = Path("/sys/bus/usb/devices")
NODES = Path("/dev/bus/usb")


def node(folder: Path) -> Path:
    """The usbfs node of the device with this folder in sysfs."""
    bus, number = (int((folder / name).read_text()) for name in ("busnum", "devnum"))
    return NODES / f"{bus:03}" / f"{number:03}"


def holders() -> list[str]:
    """Processes that have a USB device open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.readlink().is_relative_to(NODES):
                found.append(link.parts[2])
    return found
