"""What is said where bulk streams can't be had; libusb's answers stand in for a device, which is not here."""

import ctypes
from types import SimpleNamespace

import pytest

from usbbridge.backend.libusb_streams import FEWEST, BulkStreams
from usbbridge.errors import DeviceError, DeviceLostError
from usbbridge.usb.ch9 import Speed

ENDPOINTS = [0x81, 0x02]


@pytest.fixture
def streams() -> BulkStreams:
    return BulkStreams(SimpleNamespace(_USBDeviceHandle__handle=ctypes.c_void_p(0)), "2-1 stick")


def answer(streams: BulkStreams, code: int) -> list[tuple[object, ...]]:
    """Have libusb answer with this number; what it is asked."""
    asked: list[tuple[object, ...]] = []

    def call(*arguments: object) -> int:
        asked.append(arguments)
        return code

    streams._alloc = streams._free = call
    return asked


def test_a_device_below_super_speed_is_not_asked(streams: BulkStreams) -> None:
    asked = answer(streams, 16)
    with pytest.raises(DeviceError, match=r"^2-1 stick runs at high speed, and bulk streams need super speed$"):
        streams.alloc(16, ENDPOINTS, Speed.HIGH)
    assert asked == []


@pytest.mark.parametrize(("wanted", "made", "told"), [(16, 16, 16), (16, 4, 4), (1, FEWEST, 1)])
def test_as_many_as_wanted_or_as_there_are(streams: BulkStreams, wanted: int, made: int, told: int) -> None:
    asked = answer(streams, made)
    assert streams.alloc(wanted, ENDPOINTS, Speed.SUPER) == told
    assert asked == [(None, max(wanted, FEWEST), b"\x81\x02", 2)]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (-12, "this system's kernel or libusb has no bulk streams"),
        (-6, "another program uses the interface"),
        (-2, "the host controller it is plugged into has none"),
        (0, "the host controller it is plugged into has none"),
        (-99, "the host controller it is plugged into has none"),
    ],
)
def test_whose_lack_it_is_is_told(streams: BulkStreams, code: int, reason: str) -> None:
    answer(streams, code)
    with pytest.raises(DeviceError, match=f"^2-1 stick: making bulk streams on endpoints 0x81, 0x02 failed: {reason}"):
        streams.alloc(16, ENDPOINTS, Speed.SUPER)


def test_a_device_that_has_gone_is_lost(streams: BulkStreams) -> None:
    answer(streams, -4)
    with pytest.raises(DeviceLostError, match="was unplugged while making bulk streams"):
        streams.alloc(16, ENDPOINTS, Speed.SUPER)
    with pytest.raises(DeviceLostError, match="was unplugged while freeing bulk streams"):
        streams.free(ENDPOINTS)
