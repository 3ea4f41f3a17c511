"""What the checks share. A check is a program that runs inside a machine, as root, and uses one device there as its
user would: through the kernel's driver and the usual tools. It prints its facts as one line of JSON and ends with 0, or
says what is wrong and ends with 1.

    cd REPOSITORY && python -m tests.e2e.checks.NAME
"""

import ctypes
import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn, TypeVar

from tests.machine import waiting
from tests.machine.usb import DEVICES, node

T = TypeVar("T")

PATIENCE = 120.0
"Seconds for what takes one or two on a quiet machine; an emulated one under load is many times slower."
USBDEVFS_CONTROL = 0xC0185500
CONTROL_TRANSFER = struct.Struct("@BBHHHIP")
"struct usbdevfs_ctrltransfer of 64-bit Linux; the timeout is in milliseconds."


def fail(message: str) -> NoReturn:
    """End the check."""
    sys.exit(f"check failed: {message}")


def expect(condition: object, message: str) -> None:
    """End the check unless the condition holds."""
    if not condition:
        fail(message)


def load(*modules: str) -> None:
    """Load kernel modules, as udevd would have done on seeing the device."""
    program(["/sbin/modprobe", "-a", *modules])


def program(argv: list[str], *, input: str = "", ok: Iterable[int] = (0,)) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; the check ends too when its status is none of those that are `ok`."""
    if not shutil.which(argv[0]):
        fail(f"{argv[0]} is not installed")
    done = subprocess.run(argv, input=input, capture_output=True, text=True, timeout=PATIENCE, check=False)
    expect(done.returncode in ok, f"{' '.join(argv)}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done


def wait_for(look: Callable[[], T], what: str, *told: int, seconds: float = PATIENCE) -> T:
    """The first true result of `look`, called again after each of the kernel's uevents, and whenever there is something
    to read from one of the descriptors `told`, which must not block."""
    try:
        return waiting.wait(look, seconds, *told)
    except TimeoutError:
        fail(f"no {what} within {seconds:.0f} s")


def usb_device(vendor: int, product: int) -> Path:
    """The sysfs folder of the device, once it is configured."""

    def look() -> Path | None:
        for folder in DEVICES.glob("*"):
            if _words(folder, "idVendor", "idProduct") == (vendor, product) and _words(folder, "bConfigurationValue"):
                return folder
        return None

    found = wait_for(look, f"device {vendor:04x}:{product:04x}")
    assert found is not None
    return found


def _words(folder: Path, *names: str) -> tuple[int, ...]:
    """Attributes in hexadecimal; empty if one of them is missing."""
    try:
        return tuple(int((folder / name).read_text(), 16) for name in names)
    except (OSError, ValueError):
        return ()


def control_in(folder: Path, kind: int, request: int, *, length: int, value: int = 0, index: int = 0) -> bytes:
    """A control transfer from the device, past its driver: what it answers. `kind` is bmRequestType."""
    data = ctypes.create_string_buffer(length)
    moved = _control(folder, data, kind, request, value, index, length)
    return data.raw[:moved]


def control_out(folder: Path, kind: int, request: int, data: bytes = b"", *, value: int = 0, index: int = 0) -> None:
    """A control transfer to the device, past its driver. `kind` is bmRequestType."""
    _control(folder, ctypes.create_string_buffer(data, len(data) + 1), kind, request, value, index, len(data))


def _control(folder: Path, data: "ctypes.Array[ctypes.c_char]", *fields: int) -> int:
    # A bytearray, because ioctl gives the call's own result for one that it may write to.
    packed = bytearray(CONTROL_TRANSFER.pack(*fields, int(PATIENCE * 1000), ctypes.addressof(data)))
    fd = os.open(node(folder), os.O_RDWR)
    try:
        return fcntl.ioctl(fd, USBDEVFS_CONTROL, packed)
    finally:
        os.close(fd)


def report(**facts: object) -> None:
    """Print what was found."""
    print(json.dumps(facts), flush=True)
