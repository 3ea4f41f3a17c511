"""The program itself: Python, usbbridge and what they need, libusb first of all."""

import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from usbbridge import __version__
from usbbridge.doctor.case import Case
from usbbridge.doctor.examination import guarded
from usbbridge.doctor.finding import Finding, ok, problem

PYTHON: Final = (3, 11)
"What pyproject.toml asks for."

_PACKAGES: Final = {
    "usb1": "libusb1",
    "construct": "construct",
    "cryptography": "cryptography",
    "lz4": "lz4",
    "pyudev": "pyudev",
    "click": "click",
    "rich": "rich",
}
"Module → the PyPI package it comes in."

_DISCOVERY: Final = "a process that is handed a device, and may not look for any itself, needs 1.0.27 or newer"


def findings(case: Case) -> Iterator[Finding]:
    """Python, usbbridge, the packages, libusb."""
    del case
    yield _python(sys.version_info[:2])
    yield ok("usbbridge", f"{__version__} in {Path(__file__).parents[1]}")
    yield from guarded("Python packages", _packages)
    yield from guarded("libusb", _libusb)


def _python(version: tuple[int, ...]) -> Finding:
    found = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    if version < PYTHON:
        wanted = ".".join(map(str, PYTHON))
        return problem("Python", found, f"usbbridge needs {wanted} or newer", "install it with a newer Python")
    return ok("Python", found)


def _packages() -> Iterator[Finding]:
    missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        command = f"{sys.executable} -m pip install {' '.join(missing)}"
        found = f"missing: {', '.join(missing)}"
        yield problem("Python packages", found, "usbbridge is installed by half", "", command)
    else:
        yield ok("Python packages", "all there")


def _libusb() -> Iterator[Finding]:
    from usbbridge.backend import libusb_library
    from usbbridge.errors import DeviceError

    try:
        library = libusb_library.choose()
    except DeviceError as error:
        yield problem("libusb", error.message, "no USB device can be attached without it", error.hint)
        return
    version = ".".join(map(str, libusb_library.version(library)))
    found = f"{version} ({_origin(library._name)})"
    if libusb_library.needs_discovery(library):
        yield problem("libusb", found, _DISCOVERY, "unset USBBRIDGE_LIBUSB")
    else:
        yield ok("libusb", found)


def _origin(name: str) -> str:
    if os.environ.get("USBBRIDGE_LIBUSB"):
        return f"USBBRIDGE_LIBUSB={name}"
    return f"that of the Python package libusb-package, {name}" if "libusb_package" in name else f"the system's {name}"
