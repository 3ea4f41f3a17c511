"""From the hello to the announced device, and the guest's word in it: filters and rejections."""

import pytest

from tests.fakes.device import BULK_ONLY, FakeDevice
from tests.fakes.guest import Rig
from usbbridge.errors import DeviceError, DeviceLostError, NotPermittedError, RefusedError
from usbbridge.redirect.host import Progress
from usbbridge.redirect.quirks import NO_RESET
from usbbridge.usb.ch9 import Speed
from usbbridge.usbredir.packets import (
    ControlPacket,
    DeviceConnect,
    DeviceDisconnect,
    DeviceDisconnectAck,
    EpInfo,
    FilterFilter,
    FilterReject,
    Hello,
    InterfaceInfo,
    Reset,
)
from usbbridge.usbredir.proto import ALL_CAPS, Cap, EndpointType, Status

DENY_ALL = "-1,-1,-1,-1,0"
ALLOW_ALL = "-1,-1,-1,-1,1"


def test_nothing_but_hello_is_said_and_nothing_is_done_before_the_guests_hello(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.to_guest()
    assert [type(packet) for _, packet in rig.guest.ear.take()] == [Hello]
    rig.work()
    assert not rig.to_guest()
    assert device.log == []
    assert rig.progress == []


def test_the_guest_is_told_before_the_reset_which_takes_long(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.to_host()
    rig.host.service()
    rig.to_guest()
    assert [type(packet) for _, packet in rig.guest.ear.take()] == [Hello, InterfaceInfo, EpInfo, DeviceConnect]
    assert device.log == [("claim",)]
    assert rig.host.due
    rig.host.service()
    assert device.log == [("claim",), ("reset",)]
    assert not rig.host.due


def test_a_device_that_does_not_bear_that_reset_is_taken_away_again(device: FakeDevice) -> None:
    device.failures["reset"] = DeviceLostError("gone")
    rig = Rig(device)
    rig.host.start()
    with pytest.raises(DeviceLostError):
        rig.settle()
    rig.host.disconnect()
    rig.settle_quietly()
    assert isinstance(rig.guest.ear.take()[-1][1], DeviceDisconnect)


def test_the_device_is_claimed_and_announced_in_order_and_reset(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.settle()
    assert device.log == [("claim",), ("reset",)]
    assert [type(packet) for _, packet in rig.guest.ear.take()] == [Hello, InterfaceInfo, EpInfo, DeviceConnect]
    assert rig.progress == [Progress.HELLO, Progress.ANNOUNCED]
    assert rig.host.guest_version == "guest"


def test_what_is_announced_is_the_active_configuration(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.settle()
    _, interfaces, endpoints, connect = (packet for _, packet in rig.guest.ear.take())
    assert [entry.interface for entry in interfaces.interfaces] == [0, 1, 2]
    found = {i: (e.type, e.interval, e.interface, e.max_packet_size) for i, e in enumerate(endpoints.endpoints)}
    used = {i: entry for i, entry in found.items() if entry[0] != EndpointType.INVALID}
    assert used == {
        0: (EndpointType.CONTROL, 0, 0, 0),
        16: (EndpointType.CONTROL, 0, 0, 0),
        17: (EndpointType.BULK, 0, 0, 512),
        2: (EndpointType.BULK, 0, 0, 512),
        19: (EndpointType.INTERRUPT, 4, 1, 64),
        4: (EndpointType.INTERRUPT, 4, 1, 64),
        21: (EndpointType.ISO, 1, 2, 192),
        6: (EndpointType.ISO, 1, 2, 192),
    }
    assert connect == DeviceConnect(2, 0, 0, 0, 0x1234, 0x5678, 0x0102)


@pytest.mark.parametrize(
    ("speed", "announced"), [(Speed.LOW, 0), (Speed.SUPER, 3), (Speed.SUPER_PLUS, 3), (Speed.UNKNOWN, 255)]
)
def test_every_speed_has_a_code(speed: Speed, announced: int) -> None:
    rig = Rig(FakeDevice(speed=speed))
    rig.host.start()
    rig.settle()
    (connect,) = (packet for _, packet in rig.guest.ear.take() if isinstance(packet, DeviceConnect))
    assert connect.speed == announced


def test_an_unconfigured_device_is_announced_without_interfaces() -> None:
    device = FakeDevice()
    device.active = None
    rig = Rig(device)
    rig.host.start()
    rig.settle()
    _, interfaces, endpoints, connect = (packet for _, packet in rig.guest.ear.take())
    assert interfaces == InterfaceInfo(())
    assert {entry.type for entry in endpoints.endpoints} == {EndpointType.CONTROL, EndpointType.INVALID}
    assert isinstance(connect, DeviceConnect)


def test_an_old_guest_without_capabilities_gets_its_device_too(device: FakeDevice) -> None:
    rig = Rig(device, caps=Cap(0))
    rig.host.start()
    rig.settle()
    *_, connect = (packet for _, packet in rig.guest.ear.take())
    assert connect == DeviceConnect(2, 0, 0, 0, 0x1234, 0x5678, 0)


@pytest.mark.parametrize("error", [RefusedError("busy"), NotPermittedError("no"), DeviceError("broken")])
def test_a_device_that_cannot_be_claimed_ends_the_session_without_being_announced(
    device: FakeDevice, error: Exception
) -> None:
    device.failures["claim"] = error
    rig = Rig(device)
    rig.host.start()
    with pytest.raises(type(error)) as caught:
        rig.settle()
    assert caught.value is error
    rig.host.disconnect()
    rig.to_guest()
    assert rig.host.acknowledged
    assert [type(packet) for _, packet in rig.guest.ear.take()] == [Hello]


def test_a_device_that_does_not_come_back_from_its_first_reset_is_lost(device: FakeDevice) -> None:
    device.failures["reset"] = DeviceError("no answer")
    rig = Rig(device)
    rig.host.start()
    with pytest.raises(DeviceLostError, match="did not come back from a reset: no answer"):
        rig.settle()


@pytest.mark.parametrize(
    ("product", "quirks"),
    [(0x001C, ()), (0x001D, (NO_RESET,)), (0x001D, ("something-new", NO_RESET))],
    ids=["known by its ids", "said by the list", "among quirks that are not known"],
)
def test_a_device_that_does_not_bear_a_reset_is_not_reset(product: int, quirks: tuple[str, ...]) -> None:
    device = FakeDevice(BULK_ONLY)
    device.descriptor = device.descriptor.__class__(0x0200, 0, 0, 0, 64, 0x1210, product, 0x0100, 0, 0, 0, 1)
    rig = Rig(device, quirks=quirks).attach()
    rig.guest.control(1, 0x80, 6, 0x0100, 0, 18)
    rig.guest.say(Reset())
    rig.settle()
    rig.host.close()
    assert device.calls("reset") == []


def test_the_guests_first_request_says_that_the_vm_uses_the_device(rig: Rig) -> None:
    assert rig.progress == [Progress.HELLO, Progress.ANNOUNCED]
    rig.ask(Reset())
    rig.ask(Reset())
    assert rig.progress == [Progress.HELLO, Progress.ANNOUNCED, Progress.ATTACHED]


# ---- filters


def filtered(rules: str, device: FakeDevice, *, late: bool) -> Rig:
    """A guest that sends a filter right behind its hello, or when the device has been announced."""
    rig = Rig(device)
    rig.host.start()
    if late:
        rig.settle()
    rig.to_guest()
    rig.guest.say(FilterFilter(rules))
    return rig


@pytest.mark.parametrize("late", [False, True], ids=["before the announcement", "after it"])
def test_a_device_the_guests_filter_allows_is_attached(device: FakeDevice, late: bool) -> None:
    rig = filtered(ALLOW_ALL, device, late=late)
    assert DeviceConnect in [type(packet) for _, packet in rig.answers()]


def test_a_device_the_guests_filter_denies_is_left_alone(device: FakeDevice) -> None:
    rig = filtered(DENY_ALL, device, late=False)
    reason = r"filter does not allow 1-1 1234:5678 Fake \(rule -1,-1,-1,-1,0, interface 0"
    with pytest.raises(RefusedError, match=reason):
        rig.settle()
    assert device.log == []
    rig.host.disconnect()
    rig.to_guest()
    assert [type(packet) for _, packet in rig.guest.ear.take()] == [Hello]


def test_a_filter_without_a_matching_rule_denies(device: FakeDevice) -> None:
    rig = filtered("8,-1,-1,-1,1", device, late=False)
    with pytest.raises(RefusedError, match="no rule of it is about this device"):
        rig.settle()


def test_a_filter_that_comes_late_takes_the_device_away_again(device: FakeDevice) -> None:
    rig = filtered(DENY_ALL, device, late=True)
    with pytest.raises(RefusedError, match="filter does not allow"):
        rig.settle()
    rig.host.disconnect()
    rig.settle_quietly()
    assert rig.guest.ear.take()[-1] == (0, DeviceDisconnect())
    rig.guest.say(DeviceDisconnectAck())
    rig.settle_quietly()
    assert rig.host.acknowledged


def test_a_filter_that_cannot_be_read_denies(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.to_guest()
    text = b"everything, please\0"
    rig.guest.out += (23).to_bytes(4, "little") + len(text).to_bytes(4, "little") + bytes(8) + text
    with pytest.raises(RefusedError, match="filter does not allow"):
        rig.settle()


def test_a_guest_that_rejects_the_device_ends_the_session(rig: Rig) -> None:
    rig.guest.say(FilterReject())
    rig.guest.say(FilterReject())
    with pytest.raises(RefusedError, match="the VM refused 1-1 1234:5678 Fake") as caught:
        rig.settle()
    assert "qemu-xhci" in caught.value.hint


def test_a_rejection_of_no_device_means_nothing(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.to_guest()
    rig.guest.say(FilterReject())
    assert DeviceConnect in [type(packet) for _, packet in rig.answers()]


# ---- requests before there is a device


def test_requests_before_the_announcement_are_answered_with_errors(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.to_guest()
    rig.guest.control(1, 0x80, 6, 0x0100, 0, 18)
    rig.guest.bulk(2, 0x81, 512)
    rig.guest.interrupt(3, 0x04, b"x")
    rig.to_host()
    rig.to_guest()
    answers = rig.guest.ear.take()[1:]
    assert [(packet_id, packet.status) for packet_id, packet in answers] == [(n, Status.IOERROR) for n in (1, 2, 3)]
    assert answers[0][1] == ControlPacket(0x80, 6, 0x80, Status.IOERROR, 0x0100, 0, 0)
    assert device.flying == []


def test_capabilities_are_those_that_are_carried_out(device: FakeDevice) -> None:
    rig = Rig(device).attach()
    assert rig.guest.codec.peer_caps == ALL_CAPS
