"""A UAS disk whose streams are not to be had looks to the guest like one for Bulk-Only Transport."""

import pytest

from tests.fakes.device import BULK, UAS, FakeDevice
from tests.fakes.guest import Rig
from usbbridge.backend.base import Status
from usbbridge.errors import DeviceError, RefusedError
from usbbridge.redirect.quirks import NO_STREAMS
from usbbridge.redirect.uas import hide
from usbbridge.usb.ch9 import Speed
from usbbridge.usb.descriptors import Configuration, Endpoint, Interface, SuperSpeedCompanion
from usbbridge.usbredir.packets import ControlPacket
from usbbridge.usbredir.proto import ALL_CAPS, Cap
from usbbridge.usbredir.proto import Status as RedirStatus

HEAD = bytes((9, 2, 44, 0, 1, 1, 0, 0x80, 50))
ENDPOINT = bytes((7, 5, 0x81, 2, 0, 4, 0, 6, 0x30, 15, 5, 0, 0))
GET_CONFIGURATION = (0x80, 6, 0x0200, 0)


def interface(number: int, alternate: int, protocol: int, class_: int = 8, subclass: int = 6) -> bytes:
    return bytes((9, 4, number, alternate, 1, class_, subclass, protocol, 0)) + ENDPOINT


DISK = HEAD + interface(0, 0, 0x50) + interface(0, 1, 0x62)
HIDDEN = HEAD + interface(0, 0, 0x50) + interface(0, 1, 0xFF)


def hidden(configuration: bytes) -> bytes:
    data = bytearray(configuration)
    hide(memoryview(data))
    return bytes(data)


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice(UAS, speed=Speed.SUPER)


def read(rig: Rig, device: FakeDevice, data: bytes = DISK, value: int = 0x0200) -> bytes:
    """What the guest sees of a descriptor."""
    rig.guest.control(7, 0x80, 6, value, 0, len(data))
    rig.settle()
    device.finish(device.flying[-1], data=data)
    ((packet_id, packet),) = rig.answers()
    assert isinstance(packet, ControlPacket)
    assert (packet_id, packet.status, packet.length) == (7, RedirStatus.SUCCESS, len(data))
    return packet.data


def test_the_uas_setting_of_a_disk_that_has_another_is_hidden() -> None:
    assert hidden(DISK) == HIDDEN
    several = interface(1, 0, 0x62) + interface(1, 1, 0x50) + interface(2, 0, 1, class_=3)
    assert hidden(DISK + several) == HIDDEN + interface(1, 0, 0xFF) + several[len(interface(1, 0, 0)) :]


@pytest.mark.parametrize(
    "rest",
    [
        interface(0, 0, 0x62),
        interface(0, 0, 0x50) + interface(1, 0, 0x62),
        interface(0, 0, 0x50, class_=255) + interface(0, 1, 0x62),
        interface(0, 0, 0x50) + interface(0, 1, 0x62, subclass=4),
        b"",
    ],
)
def test_what_is_no_second_setting_of_a_disk_is_left_alone(rest: bytes) -> None:
    assert hidden(HEAD + rest) == HEAD + rest


@pytest.mark.parametrize("end", range(len(DISK)))
def test_the_beginning_of_a_descriptor_is_changed_as_far_as_its_settings_are_whole(end: int) -> None:
    whole = end >= len(DISK) - len(ENDPOINT)
    assert hidden(DISK[:end]) == (HIDDEN if whole else DISK)[:end]


@pytest.mark.parametrize("length", [0, 1, 2, 8, 255])
def test_descriptors_that_lie_about_their_length_do_no_harm(length: int) -> None:
    lie = bytes((length, 4, 0, 0, 1, 8, 6, 0x62, 0))
    assert len(hidden(DISK + lie)) == len(DISK + lie)
    assert len(hidden(lie)) == len(lie)


@pytest.mark.parametrize("why", ["kernel", "quirk", "guest"])
def test_it_is_hidden_when_the_streams_are_not_to_be_had(device: FakeDevice, why: str) -> None:
    if why == "kernel":
        device.failures["alloc_streams"] = DeviceError("no streams")
    caps = ALL_CAPS & ~Cap.BULK_STREAMS if why == "guest" else ALL_CAPS
    rig = Rig(device, caps=caps, quirks=(NO_STREAMS,) if why == "quirk" else ()).attach()
    assert read(rig, device) == HIDDEN
    assert read(rig, device, DISK[:9]) == DISK[:9]
    assert read(rig, device, DISK, value=0x0100) == DISK, "another descriptor"
    assert rig.host.pending_bytes == 0


STREAMING = tuple(Endpoint(address, 2, 1024, 0, SuperSpeedCompanion(15, 5, 0)) for address in (0x81, 0x02))
NOTHING_ELSE = Interface(0, 0, 8, 6, 0x62, 0, STREAMING)
KEYBOARD = Interface(1, 0, 3, 1, 1, 0, ())


@pytest.mark.parametrize("why", ["kernel", "quirk", "guest"])
def test_disk_that_is_nothing_else_is_refused_before_the_guest_sees_it(why: str) -> None:
    device = FakeDevice(Configuration(1, 0x80, 50, 0, (NOTHING_ELSE,)), speed=Speed.SUPER)
    device.most_streams = 0 if why == "kernel" else device.most_streams
    caps = ALL_CAPS & ~Cap.BULK_STREAMS if why == "guest" else ALL_CAPS
    rig = Rig(device, caps=caps, quirks=(NO_STREAMS,) if why == "quirk" else ())
    with pytest.raises(RefusedError, match="only with bulk streams") as caught:
        rig.attach()
    assert "USB 2 port" in (caught.value.hint or "")
    rig.host.disconnect()
    assert rig.host.acknowledged
    rig.host.close()
    assert ("close",) in device.log


def test_disk_beside_something_else_or_with_its_streams_is_not_refused() -> None:
    both = FakeDevice(Configuration(1, 0x80, 50, 0, (NOTHING_ELSE, KEYBOARD)), speed=Speed.SUPER)
    Rig(both, quirks=(NO_STREAMS,)).attach()
    Rig(FakeDevice(Configuration(1, 0x80, 50, 0, (NOTHING_ELSE,)), speed=Speed.SUPER)).attach()


def test_it_is_shown_when_they_are(device: FakeDevice) -> None:
    assert read(Rig(device).attach(), device) == DISK


@pytest.mark.parametrize(
    "device",
    [
        FakeDevice(UAS, speed=Speed.HIGH),
        FakeDevice(Configuration(1, 0x80, 50, 0, (Interface(0, 0, 8, 6, 0x62, 0, BULK),)), speed=Speed.SUPER),
    ],
    ids=["high speed", "without streams"],
)
def test_it_is_shown_where_no_streams_are_needed(device: FakeDevice) -> None:
    assert read(Rig(device, quirks=(NO_STREAMS,)).attach(), device) == DISK


def test_a_descriptor_that_is_not_read_is_answered_as_ever(device: FakeDevice) -> None:
    rig = Rig(device, quirks=(NO_STREAMS,)).attach()
    rig.guest.control(7, *GET_CONFIGURATION, 9)
    rig.settle()
    device.finish(device.flying[-1], Status.STALL)
    (first,) = rig.answers()
    device.refuse = Status.ERROR
    rig.guest.control(8, *GET_CONFIGURATION, 9)
    (second,) = rig.answers()
    rig.host.disconnect()
    rig.answers()
    rig.guest.control(9, *GET_CONFIGURATION, 9)
    (third,) = rig.answers()
    statuses = [(packet_id, packet.status) for packet_id, packet in (first, second, third)]
    assert statuses == [(7, RedirStatus.STALL), (8, RedirStatus.IOERROR), (9, RedirStatus.IOERROR)]
