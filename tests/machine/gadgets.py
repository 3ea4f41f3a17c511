"""A device that a machine's kernel plays itself, by dummy_hcd and configfs: a drive or a keyboard, at port 1-1."""

import hashlib
import os
from pathlib import Path

from tests.machine.usb import DEVICES
from tests.machine.waiting import wait

GADGETS = Path("/sys/kernel/config/usb_gadget")
DEVICE, INTERFACE = DEVICES / "1-1", DEVICES / "1-1:1.0"
IMAGE = Path("/dev/shm/image")
SIZE = 8 << 20
REPORT_DESCRIPTOR = bytes.fromhex(
    "05010906a101050719e029e715002501750195088102750895018101" + "95067508150025650507190029658100c0"
)
"A boot keyboard's (HID 1.11 appendix B.1)."
KEYBOARD = {"protocol": "1", "subclass": "1", "report_length": "8", "report_desc": REPORT_DESCRIPTOR}
"Attributes of such a gadget."


def gadget(name: str, function: str, attributes: dict[str, str | bytes]) -> Path:
    folder = GADGETS / name
    for part in ("strings/0x409", "configs/c.1", f"functions/{function}"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    words = {"idVendor": "0x1d6b", "idProduct": "0x0104", "strings/0x409/serialnumber": name}
    for attribute, value in words.items() | {(f"functions/{function}/{k}", v) for k, v in attributes.items()}:
        (folder / attribute).write_bytes(value if isinstance(value, bytes) else value.encode())
    (folder / f"configs/c.1/{function}").symlink_to(folder / f"functions/{function}")
    return folder


def plug_in(folder: Path, driver_name: str) -> None:
    (folder / "UDC").write_text("dummy_udc.0")
    wait(lambda: driver() == driver_name)


def plug_in_stick() -> Path:
    """A drive with random content; its gadget."""
    IMAGE.write_bytes(os.urandom(SIZE))
    stick = gadget("stick", "mass_storage.0", {"lun.0/file": str(IMAGE)})
    plug_in(stick, "usb-storage")
    wait(Path("/dev/sda").exists)
    return stick


def unplug(folder: Path) -> None:
    (folder / "UDC").write_text("\n")
    wait(lambda: not INTERFACE.exists())


def driver() -> str:
    """The driver of the device's interface; "" for none."""
    try:
        return (INTERFACE / "driver").readlink().name
    except OSError:
        return ""


def digest() -> str:
    """SHA-256 of the drive's content."""
    return hashlib.sha256(IMAGE.read_bytes()).hexdigest()
