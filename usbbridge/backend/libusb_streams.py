"""Bulk streams: the two calls of libusb's that make and free them, which python-libusb1 does not wrap.

Whether a device has streams is the least of it. Linux knows them since 3.15; the host controller must be an xHCI that
has them (its HCCPARAMS1.MaxPSASize is not 0: xHCI 1.2 §5.3.6), and a virtual controller never has.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, Final

from usbbridge.backend import libusb_library
from usbbridge.errors import DeviceError, DeviceLostError
from usbbridge.usb.ch9 import Speed

FEWEST: Final = 2
"usbfs takes no smaller number (Linux, drivers/usb/core/devio.c, parse_usbdevfs_streams)."
NO_DEVICE: Final = -4
BUSY: Final = -6
NOT_SUPPORTED: Final = -12
"Of enum libusb_error."

_REASONS: Final = {
    NOT_SUPPORTED: "this system's kernel or libusb has no bulk streams",
    BUSY: "another program uses the interface",
}
_BY_DEFAULT: Final = "the host controller it is plugged into has none, or these endpoints have none, or theirs already"


class BulkStreams:
    """The streams of one opened device handle."""

    def __init__(self, handle: Any, name: str) -> None:
        """`name` is what the device is called in messages."""
        library = libusb_library.load()
        self._alloc, self._free = library.libusb_alloc_streams, library.libusb_free_streams
        self._alloc.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_char_p, ctypes.c_int]
        self._free.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
        # python-libusb1 keeps the pointer in a private attribute
        self._handle = ctypes.cast(handle._USBDeviceHandle__handle, ctypes.c_void_p).value
        self._name = name

    def alloc(self, count: int, endpoints: Sequence[int], speed: Speed) -> int:
        """As `Device.alloc_streams`, for a device that runs at this speed."""
        if speed < Speed.SUPER:
            raise DeviceError(f"{self._name} runs at {speed.name.lower()} speed, and bulk streams need super speed")
        made: int = self._alloc(self._handle, max(count, FEWEST), bytes(endpoints), len(endpoints))
        if made <= 0:
            raise self._error(made, endpoints, "making")
        return min(made, count)

    def free(self, endpoints: Sequence[int]) -> None:
        """As `Device.free_streams`."""
        code = self._free(self._handle, bytes(endpoints), len(endpoints))
        if code:
            raise self._error(code, endpoints, "freeing")

    def _error(self, code: int, endpoints: Sequence[int], doing: str) -> DeviceError:
        if code == NO_DEVICE:
            return DeviceLostError(f"{self._name} was unplugged while {doing} bulk streams")
        listed = ", ".join(f"{address:#04x}" for address in endpoints)
        reason = _REASONS.get(code, _BY_DEFAULT)
        return DeviceError(f"{self._name}: {doing} bulk streams on endpoints {listed} failed: {reason}")
