"""Which libusb-1.0 is used: python-libusb1 is told before it looks for one itself.

1. `USBBRIDGE_LIBUSB=PATH`, whatever version that is;
2. the system's, if it is 1.0.27 or newer: older ones cannot start without device discovery, which a process that was
   handed a file descriptor needs (`LIBUSB_OPTION_NO_DEVICE_DISCOVERY`);
3. the one in the Python package `libusb-package`.
"""

import ctypes
import functools
import importlib.util
import os
from pathlib import Path

import usb1

from usbbridge.errors import DeviceError

MINIMUM = (1, 0, 27)
SYSTEM_NAMES = ("libusb-1.0.so.0", "libusb-1.0.so")  # Debian and friends; Termux has the second only


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_uint16), ("minor", ctypes.c_uint16), ("micro", ctypes.c_uint16))


def version(library: ctypes.CDLL) -> tuple[int, int, int]:
    """The (major, minor, micro) that a loaded libusb says it is."""
    get_version = library.libusb_get_version
    get_version.restype = ctypes.POINTER(_Version)
    found = get_version().contents
    return found.major, found.minor, found.micro


def needs_discovery(library: ctypes.CDLL) -> bool:
    """Whether it can't start without looking for devices, as before 1.0.27."""
    return not hasattr(library, "libusb_init_context")


def _open(path: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(path, use_errno=True)
    except OSError:
        return None


def _packaged() -> str | None:
    """Where libusb-package keeps its library; found without importing it, which would cost 30 ms at every start."""
    spec = importlib.util.find_spec("libusb_package")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "libusb-1.0.so"
    return str(path) if path.exists() else None


def choose() -> ctypes.CDLL:
    """Load the libusb to use. Raises DeviceError, saying what was tried, if there is none that serves."""
    override = os.environ.get("USBBRIDGE_LIBUSB")
    if override:
        library = _open(override)
        if library is None or not hasattr(library, "libusb_init"):
            raise DeviceError(f"USBBRIDGE_LIBUSB={override} cannot be loaded", hint="unset it, or name a libusb-1.0.so")
        return library
    for name in SYSTEM_NAMES:
        library = _open(name)
        if library is not None and version(library) >= MINIMUM:
            return library
    packaged = _packaged()
    library = _open(packaged) if packaged else None
    if library is None:
        raise DeviceError(
            "no libusb 1.0.27 or newer was found", hint="pip install libusb-package, or set USBBRIDGE_LIBUSB=PATH"
        )
    return library


@functools.cache
def load() -> ctypes.CDLL:
    """The chosen library, of which python-libusb1 has been told; loaded once a process."""
    library = choose()
    usb1.loadLibrary(library)
    return library
