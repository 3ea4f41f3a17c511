"""The Linux kernel's own USB test suite, usbtest, on a device that is a gadget zero (source and sink).

    python -m tests.e2e.checks.usbtest [--cases 0-14,17-21] [--iterations 100] [--limit 60] [--alt 1]

The tests are the kernel's (drivers/usb/misc/usbtest.c); this only asks for them one by one, as its tools/usb/testusb.c
does, with that program's sizes. Facts: each case's result, by number: `passed`, the name of the error that the kernel
gives, or `hangs`. A case that hangs is the last, as nothing ends it but the device's removal. Whether the results are
good is for who runs this to say.
"""

import argparse
import ctypes
import errno
import fcntl
import os
import select
import struct
from pathlib import Path

from tests.e2e.checks.common import expect, load, report, usb_device, wait_for
from tests.machine.usb import node

VENDOR, PRODUCT = 0x0525, 0xA4A0
"Gadget zero's, which usbtest knows (NetChip's, given to Linux)."

PARAMETERS = struct.Struct("@IIIIIqq")
"struct usbtest_param_64: test_num, iterations, length, vary, sglen, duration."
USBTEST_REQUEST = 0xC0285564
IOCTL = struct.Struct("@iIP")
"struct usbdevfs_ioctl: ifno, ioctl_code, data."
USBDEVFS_IOCTL = 0xC0105512

LENGTH, VARY, SCATTERED = 1024, 512, 32
"testusb's defaults, but for iterations."

CASES = range(30)

DRIVER = Path("/sys/bus/usb/drivers/usbtest")
ALTERNATE = Path("/sys/module/usbtest/parameters/alt")


def numbers(text: str) -> list[int]:
    """`0-3,7` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def ask(path: Path, case: int, iterations: int) -> int:
    """Run a case, in this process; 0 or an errno."""
    parameters = ctypes.create_string_buffer(PARAMETERS.pack(case, iterations, LENGTH, VARY, SCATTERED, 0, 0))
    with path.open("r+b", buffering=0) as device:
        try:
            fcntl.ioctl(device, USBDEVFS_IOCTL, IOCTL.pack(0, USBTEST_REQUEST, ctypes.addressof(parameters)))
        except OSError as error:
            return error.errno or errno.EIO
    return 0


def result(path: Path, case: int, iterations: int, limit: float) -> str:
    """Run a case in a process of its own: one that hangs can't be ended."""
    reader, writer = os.pipe()
    if not os.fork():
        os.write(writer, struct.pack("i", ask(path, case, iterations)))
        os._exit(0)
    os.close(writer)
    if not select.select([reader], [], [], limit)[0]:
        return "hangs"
    (code,) = struct.unpack("i", os.read(reader, 4))
    os.wait()
    return errno.errorcode[code] if code else "passed"


def bind(device: Path, alternate: int | None) -> None:
    """The driver at the device, and at this alternate setting if it is not to choose itself."""
    if not DRIVER.exists():
        load("usbtest")
    (interface,) = wait_for(lambda: [*DRIVER.glob(f"{device.name}:*")], "usbtest at the device")
    if alternate is not None:
        (DRIVER / "unbind").write_text(interface.name)
        ALTERNATE.write_text(str(alternate))
        (DRIVER / "bind").write_text(interface.name)
        ALTERNATE.write_text("-1")  # the driver's own choice again, for the next device


def main() -> None:
    """The check."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=numbers, default=list(CASES))
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds a case may take")
    parser.add_argument("--alt", type=int, help="the alternate setting; without it, the driver chooses")
    options = parser.parse_args()
    device = usb_device(VENDOR, PRODUCT)
    bind(device, options.alt)
    results = {}
    for case in options.cases:
        results[case] = result(node(device), case, options.iterations, options.limit)
        if results[case] == "hangs":
            break
    expect(results, "no case was run")
    report(cases=results)


if __name__ == "__main__":
    main()
