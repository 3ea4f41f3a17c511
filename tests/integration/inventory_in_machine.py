"""Run inside a machine that has a USB stack: puts a flash drive through its states and prints what the inventory says.

One JSON object on standard output: state → [reason, message] of the obstacle, or null where there is none.
"""

import fcntl
import json
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.machine.waiting import wait
from usbbridge.monitor.inventory import devices
from usbbridge.usb.entry import DeviceEntry
from usbbridge.usb.selection import find

GADGET = Path("/sys/kernel/config/usb_gadget/stick")
DEVICE = Path("/sys/bus/usb/devices/1-1")
IMAGE = Path("/tmp/image")
CLAIM_INTERFACE = 0x8004550F  # USBDEVFS_CLAIMINTERFACE of linux/usbdevice_fs.h


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def plug_in() -> None:
    with IMAGE.open("wb") as image:
        image.truncate(16 << 20)
    run("mkfs.ext4", "-q", str(IMAGE))
    for folder in ("strings/0x409", "configs/c.1", "functions/mass_storage.0"):
        (GADGET / folder).mkdir(parents=True, exist_ok=True)
    words = {"manufacturer": "Nobody\u202e", "product": "Flash [bold]Drive", "serialnumber": "LAB1"}
    attributes = {"idVendor": "0x1d6b", "idProduct": "0x0104", "functions/mass_storage.0/lun.0/file": str(IMAGE)}
    for name, value in attributes.items() | {(f"strings/0x409/{name}", value) for name, value in words.items()}:
        (GADGET / name).write_text(value)
    (GADGET / "configs/c.1/mass_storage.0").symlink_to(GADGET / "functions/mass_storage.0")
    (GADGET / "UDC").write_text("dummy_udc.0")
    wait(Path("/dev/sda").exists)


def stick() -> DeviceEntry:
    return find(devices(), None, serial="LAB1")


def obstacle() -> list[str] | None:
    found = stick().obstacle
    return [found.reason, found.message.removeprefix(str(stick())).strip(": ")] if found else None


@contextmanager
def without_rights() -> Iterator[None]:
    """access(2) judges by the real user, so that is who we stop being."""
    os.setresuid(65534, 0, 0)
    yield
    os.setresuid(0, 0, 0)


@contextmanager
def mounted(source: str, place: str) -> Iterator[None]:
    Path(place).mkdir()
    run("mount", source, place)
    yield
    run("umount", place)


@contextmanager
def claimed_by_a_program() -> Iterator[None]:
    Path("/sys/bus/usb/drivers/usb-storage/unbind").write_text("1-1:1.0")
    node = os.open(stick().node, os.O_RDWR)
    fcntl.ioctl(node, CLAIM_INTERFACE, struct.pack("I", 0))
    yield
    os.close(node)


def states() -> Iterator[tuple[str, object]]:
    entry = stick()
    yield "words", [entry.ids, entry.name, entry.serial, str(entry.node), entry.speed.name]
    yield "kind", [entry.classes, entry.drivers, entry.configuration, len(entry.interfaces)]
    yield "free", obstacle()
    with without_rights():
        yield "without rights", obstacle()
    with mounted("/dev/sda", "/tmp/my stick"):
        yield "mounted", obstacle()
    run("mkswap", "/dev/sda")
    run("swapon", "/dev/sda")
    yield "swap", obstacle()
    run("swapoff", "/dev/sda")
    with claimed_by_a_program():
        yield "claimed", obstacle()
    (DEVICE / "bConfigurationValue").write_text("-1")
    yield "unconfigured", [stick().configuration, obstacle()]
    (DEVICE / "authorized").write_text("0")
    yield "not authorized", obstacle()
    (GADGET / "UDC").write_text("\n")
    wait(lambda: not DEVICE.exists())
    yield "unplugged", [str(entry) for entry in devices() if not entry.is_root_hub]


if __name__ == "__main__":
    plug_in()
    print(json.dumps(dict(states())))
