"""A device with two faces, by dfu-util and its serial port: firmware there and back, and each of its ways to change.

Needs the Debian package dfu-util. Each time, the same device must come back on the same port as the other.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import usb1

from tests.e2e.checks import acm
from tests.e2e.checks.common import expect, load, program, report, usb_device
from tests.e2e.checks.drivers import attribute, interface_of
from tests.e2e.checks.serialport import SerialPort
from tools.lab.devices.bootloader import APPLICATION, BOOT_LOADER, START, TOUCH
from tools.lab.devices.describe import VENDOR

FIRMWARE_BYTES = 20_000
GONE = (0, 74)
"""Statuses of dfu-util when all went well: the second, EX_IOERR, is its comment on the reset that it was to end with,
during which the device has left."""


def name(product: int) -> str:
    return f"{VENDOR:04x}:{product:04x}"


def download(folder: Path, firmware: bytes) -> None:
    """Then the device is reset and runs it."""
    path = folder / "firmware"
    path.write_bytes(firmware)
    text = program(["dfu-util", "-d", name(BOOT_LOADER), "-D", str(path), "-R"], ok=GONE).stdout
    expect("Download done." in text, f"the download failed: {text}")


def upload(folder: Path) -> bytes:
    path = folder / "firmware-back"
    program(["dfu-util", "-d", name(BOOT_LOADER), "-U", str(path)])
    return path.read_bytes()


def detach() -> None:
    """DFU_DETACH and a reset."""
    program(["dfu-util", "-d", name(APPLICATION), "-e"], ok=GONE)


def start() -> None:
    """The vendor request, which is obeyed without a reset."""
    with usb1.USBContext() as context:
        handle = context.openByVendorIDAndProductID(VENDOR, BOOT_LOADER)
        expect(handle, "the boot loader cannot be opened")
        handle.controlWrite(*START, 0, 0, b"")


def touch(serial: str) -> None:
    """At 1200 baud let DTR fall, as closing the port does where the terminal is set to hang up."""
    with SerialPort(f"/dev/{acm.port_of(interface_of('cdc_acm', acm.port_of, serial))}") as port:
        port.configure(TOUCH)
        port.set_lines("DTR")
        port.set_lines()


def change(how: Callable[[], None], product: int, before: Path, serial: str) -> Path:
    """Do it; the device's folder once it has come back as this product."""
    how()
    folder = usb_device(VENDOR, product)
    expect(folder.name == before.name, f"the device has come back at {folder.name} instead of {before.name}")
    expect(attribute(folder, "serial") == serial, "the device has come back with another serial number")
    return folder


def main() -> None:
    """See the top."""
    load("cdc_acm")
    firmware = os.urandom(FIRMWARE_BYTES)
    device = usb_device(VENDOR, BOOT_LOADER)
    serial = attribute(device, "serial")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        device = change(lambda: download(folder, firmware), APPLICATION, device, serial)
        device = change(detach, BOOT_LOADER, device, serial)
        expect(upload(folder) == firmware, "the firmware came back changed")
    device = change(start, APPLICATION, device, serial)
    device = change(lambda: touch(serial), BOOT_LOADER, device, serial)
    report(port=device.name, serial=serial, changes=4, firmware=hashlib.sha256(firmware).hexdigest())


if __name__ == "__main__":
    main()
