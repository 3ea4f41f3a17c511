"""What a capture tells of a device that was there before it began."""

from usbbridge.capture.introduction import introduction, split
from usbbridge.capture.usbmon import COMPLETE, SUBMIT
from usbbridge.usb.ch9 import SetupPacket
from usbbridge.usb.descriptors import Configuration, DeviceDescriptor, Interface, configuration_bytes, device_bytes

DEVICE = device_bytes(DeviceDescriptor(0x0200, 0, 0, 0, 64, 0x1234, 0x5678, 0x0100, 0, 0, 0, 2))
FIRST = configuration_bytes(Configuration(1, 0x80, 50, 0, (Interface(0, 0, 8, 6, 80),)))
SECOND = configuration_bytes(Configuration(2, 0x80, 50, 0, (Interface(0, 0, 0xFF, 0, 0),)))


def test_descriptors_are_read_and_a_configuration_chosen() -> None:
    events = list(introduction(DEVICE + FIRST + SECOND, 2))
    setups = [SetupPacket.parse(event.setup) for event in events if event.type == SUBMIT]
    asked = [(setup.request, setup.value, setup.length) for setup in setups]
    assert asked == [(6, 0x100, 18), (6, 0x200, 18), (6, 0x201, 18), (9, 2, 0)]
    assert [bytes(event.data) for event in events if event.type == COMPLETE] == [DEVICE, FIRST, SECOND, b""]


def test_each_transfer_has_an_id_of_its_own_in_both_events() -> None:
    ids = [event.urb.id for event in introduction(DEVICE + FIRST, 1)]
    assert ids[::2] == ids[1::2]
    assert len(set(ids)) == 3


def test_an_unconfigured_device_has_no_configuration_chosen() -> None:
    assert len(list(introduction(DEVICE + FIRST, 0))) == 4


def test_what_makes_no_sense_is_told_as_far_as_it_does() -> None:
    assert split(b"") == []
    assert split(DEVICE + b"\x09\x04\x00\x00") == [DEVICE]
    assert split(DEVICE + FIRST[:-3]) == [DEVICE, FIRST[:-3]]
    assert split(DEVICE + b"\x09\x02\x00\x00" + FIRST) == [DEVICE]
    assert next(introduction(b"", 0)).length == 0
