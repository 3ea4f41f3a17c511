"""What a capture begins with that starts in the middle: the device's descriptors, as if they had just been read.

A dissector knows what the transfers of an endpoint mean by the class of its interface, which it learns when the host
reads the descriptors and chooses a configuration. All that was over before the capture began; so it is told again, and
each packet of it says that it was not on the bus.
"""

from collections.abc import Iterator
from typing import Final

from usbbridge.capture.usbmon import COMPLETE, EINPROGRESS, SUBMIT, Event, Urb
from usbbridge.usb.ch9 import DIR_IN, SETUP_STRUCT, DescriptorType, Request, TransferType

COMMENT: Final = "Not from the bus: what was known of the device when the capture began"
FIRST_ID: Final = 1 << 63
"Ids of transfers that never were: far from those that are."

_CONFIGURATION_HEAD: Final = 4


def split(descriptors: bytes) -> list[bytes]:
    """The device descriptor and each whole configuration (USB 2.0 §9.6.1, §9.6.3) of what sysfs has in one file, as far
    as it makes sense."""
    length = descriptors[0] if descriptors else 0
    pieces, start = [descriptors[:length]], length
    while start + _CONFIGURATION_HEAD <= len(descriptors):
        total = int.from_bytes(descriptors[start + 2 : start + _CONFIGURATION_HEAD], "little")
        if descriptors[start + 1] != DescriptorType.CONFIGURATION or total < _CONFIGURATION_HEAD:
            break
        pieces.append(descriptors[start : start + total])
        start += total
    return [piece for piece in pieces if piece]


def introduction(descriptors: bytes, configuration: int) -> Iterator[Event]:
    """The events of reading these descriptors and choosing a configuration; 0: there is none."""
    device, *configurations = split(descriptors) or [b""]
    yield from _read(FIRST_ID, DescriptorType.DEVICE << 8, device)
    for index, whole in enumerate(configurations):
        yield from _read(FIRST_ID + 1 + index, DescriptorType.CONFIGURATION << 8 | index, whole)
    if configuration:
        urb = Urb(FIRST_ID + 1 + len(configurations), TransferType.CONTROL, 0)
        setup = SETUP_STRUCT.pack(0x00, Request.SET_CONFIGURATION, configuration, 0, 0)
        yield Event(urb, SUBMIT, EINPROGRESS, 0, setup=setup)
        yield Event(urb, COMPLETE, 0, 0)


def _read(number: int, value: int, data: bytes) -> Iterator[Event]:
    urb = Urb(number, TransferType.CONTROL, DIR_IN)
    setup = SETUP_STRUCT.pack(DIR_IN, Request.GET_DESCRIPTOR, value, 0, len(data))
    yield Event(urb, SUBMIT, EINPROGRESS, len(data), setup=setup)
    yield Event(urb, COMPLETE, 0, len(data), data)
