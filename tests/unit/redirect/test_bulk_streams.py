"""Bulk streams: offered only if they are to be had, made, and freed."""

import pytest

from tests.fakes.device import BULK_IN, UAS, UAS_COMMAND, UAS_IN, UAS_OUT, UAS_STATUS, UAS_STREAMS, FakeDevice
from tests.fakes.guest import Rig
from tests.unit.redirect.streams import ALL, INVAL, IOERROR, OFFERED, SUCCESS, TRIED, mask, uas, with_streams
from usbbridge.backend.base import Status
from usbbridge.errors import DeviceError, DeviceLostError, RefusedError
from usbbridge.redirect.limits import MAX_BULK_STREAMS
from usbbridge.redirect.quirks import NO_RESET, NO_STREAMS
from usbbridge.usb.ch9 import Speed, TransferType
from usbbridge.usb.descriptors import Configuration, Endpoint, Interface, SuperSpeedCompanion
from usbbridge.usbredir.packets import (
    AllocBulkStreams,
    AltSettingStatus,
    BulkPacket,
    BulkStreamsStatus,
    CancelDataPacket,
    EpInfo,
    FilterReject,
    FreeBulkStreams,
    Packet,
    Reset,
    SetAltSetting,
    SetConfiguration,
)
from usbbridge.usbredir.proto import ALL_CAPS, Cap
from usbbridge.usbredir.proto import Status as RedirStatus


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice(UAS, speed=Speed.SUPER)


def offered(answers: list[tuple[int, Packet]]) -> dict[int, int]:
    (info,) = (packet for _, packet in answers if isinstance(packet, EpInfo))
    found = {(i & 16) << 3 | i & 15: entry.max_streams for i, entry in enumerate(info.endpoints)}
    return {endpoint: streams for endpoint, streams in found.items() if streams}


# ---- what is offered


def test_streams_are_offered_when_a_trial_of_them_has_succeeded(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    assert offered(rig.answers()) == {}, "the first setting has none"
    assert device.log == [
        ("claim",),
        ("set_interface", 0, 1),
        ("alloc_streams", *TRIED),
        ("free_streams", *TRIED[1:]),
        ("set_interface", 0, 0),
        ("reset",),
    ]
    answers = uas(rig)
    assert offered(answers) == OFFERED
    assert answers[-1] == (0, AltSettingStatus(SUCCESS, 0, 1))
    assert device.calls("alloc_streams") == [TRIED]
    assert device.streams == {}


def test_they_are_tried_out_once(rig: Rig, device: FakeDevice) -> None:
    for _ in range(3):
        assert offered(uas(rig)) == OFFERED
        assert offered(rig.ask(SetAltSetting(0, 0))) == {}
    assert device.calls("alloc_streams") == [TRIED]


def test_a_device_that_starts_with_streams_has_them_tried_out_before_it_is_announced() -> None:
    endpoint = Endpoint(0x81, TransferType.BULK, 1024, 0, SuperSpeedCompanion(15, 4, 0))
    device = FakeDevice(
        Configuration(1, 0x80, 50, 0, (Interface(0, 0, 8, 6, 98, 0, (endpoint,)),)), speed=Speed.SUPER_PLUS
    )
    rig = Rig(device)
    rig.host.start()
    assert offered(rig.answers()) == {0x81: 16}
    assert [name for name, *_ in device.log] == ["claim", "alloc_streams", "free_streams", "reset"]


@pytest.mark.parametrize("method", ["alloc_streams", "free_streams"])
def test_streams_that_are_not_to_be_had_are_not_offered(device: FakeDevice, method: str) -> None:
    device.failures[method] = DeviceError("not supported")
    rig = Rig(device).attach()
    assert offered(uas(rig)) == {}
    device.failures.clear()
    device.streams.clear()
    assert rig.ask(AllocBulkStreams(ALL, 4)) == [(0, BulkStreamsStatus(ALL, 4, INVAL))]
    rig.guest.bulk(1, UAS_IN, 512)
    assert rig.answers() == [], "without them it is a bulk endpoint"


def test_as_many_are_offered_as_the_controller_has(device: FakeDevice) -> None:
    device.most_streams = 15
    rig = Rig(device).attach()
    assert offered(uas(rig)) == dict.fromkeys(OFFERED, 15)


def test_no_more_are_offered_than_the_limit() -> None:
    endpoint = Endpoint(0x81, TransferType.BULK, 1024, 0, SuperSpeedCompanion(15, 16, 0))
    device = FakeDevice(Configuration(1, 0x80, 50, 0, (Interface(0, 0, 8, 6, 98, 0, (endpoint,)),)), speed=Speed.SUPER)
    rig = Rig(device)
    rig.host.start()
    assert offered(rig.answers()) == {0x81: MAX_BULK_STREAMS}
    assert device.calls("alloc_streams") == [[MAX_BULK_STREAMS, 0x81]]


@pytest.mark.parametrize("speed", [Speed.HIGH, Speed.UNKNOWN])
def test_a_device_that_is_not_at_superspeed_has_none(speed: Speed) -> None:
    device = FakeDevice(UAS, speed=speed)
    assert offered(uas(Rig(device).attach())) == {}
    assert device.calls("alloc_streams") == []


def test_a_device_whose_streams_are_known_not_to_work_has_none(device: FakeDevice) -> None:
    rig = Rig(device, quirks=(NO_STREAMS,)).attach()
    assert offered(uas(rig)) == {}
    assert device.calls("alloc_streams") == []
    assert rig.ask(AllocBulkStreams(ALL, 4)) == [(0, BulkStreamsStatus(ALL, 4, INVAL))]


def test_a_guest_without_streams_is_offered_none(device: FakeDevice) -> None:
    rig = Rig(device, caps=ALL_CAPS & ~Cap.BULK_STREAMS).attach()
    assert offered(uas(rig)) == {}
    assert device.calls("alloc_streams") == []


@pytest.mark.parametrize("method", ["alloc_streams", "free_streams", "set_interface"])
def test_a_device_that_goes_while_they_are_tried_out_ends_the_session(device: FakeDevice, method: str) -> None:
    device.failures[method] = DeviceLostError("gone")
    rig = Rig(device)
    rig.host.start()
    with pytest.raises(DeviceLostError):
        rig.settle()


def test_a_setting_that_cannot_be_selected_has_none(device: FakeDevice) -> None:
    device.failures["set_interface"] = DeviceError("stalled")
    rig = Rig(device).attach()
    assert device.calls("alloc_streams") == []
    device.failures.clear()
    assert offered(uas(rig)) == OFFERED, "tried out again when the guest could select it"


def test_a_second_interface_with_streams_is_tried_out_when_the_guest_selects_its_setting() -> None:
    def setting(number: int, alternate: int, *addresses: int) -> Interface:
        companion = SuperSpeedCompanion(15, 4, 0)
        endpoints = tuple(Endpoint(a, TransferType.BULK, 1024, 0, companion) for a in addresses)
        return Interface(number, alternate, 8, 6, 98 if endpoints else 80, 0, endpoints)

    settings = (setting(0, 0), setting(0, 1, 0x81), setting(1, 0), setting(1, 1, 0x82, 0x03))
    device = FakeDevice(Configuration(1, 0x80, 50, 0, settings), speed=Speed.SUPER)
    rig = Rig(device).attach()
    assert device.calls("alloc_streams") == [[16, 0x81]]
    assert offered(rig.ask(SetAltSetting(1, 1))) == {0x82: 16, 0x03: 16}
    assert device.calls("alloc_streams") == [[16, 0x81], [16, 0x03, 0x82]]
    assert offered(rig.ask(SetAltSetting(0, 1))) == {0x81: 16, 0x82: 16, 0x03: 16}


# ---- alloc and free


def test_streams_are_made_and_freed(rig: Rig, device: FakeDevice) -> None:
    uas(rig)
    assert rig.ask(AllocBulkStreams(ALL, 8), 5) == [(5, BulkStreamsStatus(ALL, 8, SUCCESS))]
    assert device.streams == dict.fromkeys(OFFERED, 8)
    assert rig.ask(FreeBulkStreams(ALL), 6) == [(6, BulkStreamsStatus(ALL, 0, SUCCESS))]
    assert device.streams == {}
    with_streams(rig, UAS_STREAMS)


@pytest.mark.parametrize(
    ("endpoints", "count"),
    [
        (ALL, 0),
        (ALL, UAS_STREAMS + 1),
        (ALL, 0xFFFF_FFFF),
        (0, 4),
        (mask(UAS_COMMAND), 4),
        (ALL | mask(UAS_COMMAND), 4),
        (ALL | 1, 4),
        (mask(0x8F), 4),
        (0xFFFF_FFFF, 4),
    ],
)
def test_what_was_not_offered_is_not_made(rig: Rig, device: FakeDevice, endpoints: int, count: int) -> None:
    uas(rig)
    assert rig.ask(AllocBulkStreams(endpoints, count)) == [(0, BulkStreamsStatus(endpoints, count, INVAL))]
    assert device.calls("alloc_streams") == [TRIED]


def test_streams_are_not_made_twice(rig: Rig, device: FakeDevice) -> None:
    with_streams(rig)
    one = mask(UAS_IN)
    assert rig.ask(AllocBulkStreams(one, 4)) == [(0, BulkStreamsStatus(one, 4, INVAL))]
    assert device.streams == dict.fromkeys(OFFERED, 8)


def test_streams_are_not_made_while_the_guest_waits_for_the_endpoint(rig: Rig, device: FakeDevice) -> None:
    uas(rig)
    rig.guest.bulk(1, UAS_IN, 512)
    assert rig.ask(AllocBulkStreams(ALL, 4)) == [(0, BulkStreamsStatus(ALL, 4, INVAL))]
    rig.guest.say(CancelDataPacket(), 1)
    assert rig.ask(AllocBulkStreams(ALL, 4))[-1] == (0, BulkStreamsStatus(ALL, 4, SUCCESS))


def test_streams_are_not_made_while_a_cancelled_transfer_does_not_come_back(rig: Rig, device: FakeDevice) -> None:
    uas(rig)
    device.keeps_cancelled = True
    rig.guest.bulk(1, UAS_IN, 512)
    rig.guest.say(CancelDataPacket(), 1)
    assert rig.ask(AllocBulkStreams(ALL, 4))[-1] == (0, BulkStreamsStatus(ALL, 4, IOERROR))
    rig.guest.bulk(2, UAS_IN, 512)
    assert rig.answers() == []


@pytest.mark.parametrize("why", ["error", "fewer"])
def test_what_cannot_be_made_leaves_the_endpoints_as_they_were(rig: Rig, device: FakeDevice, why: str) -> None:
    uas(rig)
    if why == "error":
        device.failures["alloc_streams"] = DeviceError("no memory")
    else:
        device.most_streams = 3
    assert rig.ask(AllocBulkStreams(ALL, 4)) == [(0, BulkStreamsStatus(ALL, 4, IOERROR))]
    assert device.streams == {}
    rig.guest.bulk(1, UAS_IN, 512)
    rig.guest.bulk(2, UAS_IN, 512, stream_id=1)
    assert rig.answers() == [(2, BulkPacket(UAS_IN, INVAL, 0, 1))]


def test_a_guest_that_gives_up_for_want_of_streams_is_told_how_to_do_without(rig: Rig, device: FakeDevice) -> None:
    uas(rig)
    device.failures["alloc_streams"] = DeviceError("no memory")
    rig.ask(AllocBulkStreams(ALL, 4))
    rig.guest.say(FilterReject())
    with pytest.raises(RefusedError, match="the VM refused") as caught:
        rig.settle()
    assert "usbbridge rules add id=1234:5678 quirks=no-streams" in caught.value.hint


def test_to_free_what_has_none_is_no_error(rig: Rig, device: FakeDevice) -> None:
    uas(rig)
    for endpoints in (0, ALL, 0xFFFF_FFFF):
        assert rig.ask(FreeBulkStreams(endpoints)) == [(0, BulkStreamsStatus(endpoints, 0, SUCCESS))]
    with_streams(rig)
    rig.ask(FreeBulkStreams(mask(UAS_IN)))
    assert set(device.streams) == {UAS_STATUS, UAS_OUT}
    assert rig.ask(FreeBulkStreams(ALL)) == [(0, BulkStreamsStatus(ALL, 0, SUCCESS))]
    assert device.streams == {}


def test_what_is_under_way_is_cancelled_before_streams_are_freed(rig: Rig, device: FakeDevice) -> None:
    with_streams(rig)
    rig.guest.bulk(1, UAS_IN, 512, stream_id=3)
    rig.guest.bulk(2, UAS_COMMAND, data=b"command")
    assert rig.ask(FreeBulkStreams(ALL)) == [
        (1, BulkPacket(UAS_IN, RedirStatus.CANCELLED, 0, 3)),
        (0, BulkStreamsStatus(ALL, 0, SUCCESS)),
    ]
    assert [t.id for t in device.flying] == [2]


def test_streams_are_not_freed_while_a_transfer_does_not_come_back(rig: Rig, device: FakeDevice) -> None:
    with_streams(rig)
    device.keeps_cancelled = True
    rig.guest.bulk(1, UAS_IN, 512, stream_id=3)
    assert rig.ask(FreeBulkStreams(ALL))[-1] == (0, BulkStreamsStatus(ALL, 0, IOERROR))
    assert set(device.streams) == set(OFFERED)


@pytest.mark.parametrize("packet", [AllocBulkStreams(ALL, 4), FreeBulkStreams(ALL)])
@pytest.mark.parametrize("error", [DeviceError("no"), DeviceLostError("gone")])
def test_a_device_that_fails_is_told_and_one_that_is_gone_ends_the_session(
    rig: Rig, device: FakeDevice, packet: AllocBulkStreams | FreeBulkStreams, error: DeviceError
) -> None:
    uas(rig)
    count = 4 if isinstance(packet, AllocBulkStreams) else 0
    if not count:
        rig.ask(AllocBulkStreams(ALL, 4))
    device.failures |= {"alloc_streams": error, "free_streams": error}
    rig.guest.say(packet)
    if isinstance(error, DeviceLostError):
        with pytest.raises(DeviceLostError):
            rig.settle()
    else:
        rig.settle()
    rig.to_guest()
    assert rig.guest.ear.take()[-1] == (0, BulkStreamsStatus(ALL, count, IOERROR))


def test_alloc_and_free_without_a_device(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.to_guest()
    rig.guest.ear.take()
    rig.guest.say(AllocBulkStreams(ALL, 4), 5)
    rig.guest.say(FreeBulkStreams(ALL), 6)
    rig.to_host()
    rig.to_guest()
    refused = [(5, BulkStreamsStatus(ALL, 4, IOERROR)), (6, BulkStreamsStatus(ALL, 0, IOERROR))]
    assert rig.guest.ear.take() == refused
    rig.settle()
    rig.host.disconnect()
    rig.answers()
    assert rig.ask(AllocBulkStreams(ALL, 4), 5) + rig.ask(FreeBulkStreams(ALL), 6) == refused
    assert device.calls("alloc_streams") == [TRIED]


def test_a_refusal_of_the_systems_is_an_answer_too(rig: Rig, device: FakeDevice) -> None:
    uas(rig)
    device.failures = {"alloc_streams": RefusedError("busy"), "free_streams": RefusedError("busy")}
    assert rig.ask(AllocBulkStreams(ALL, 4), 5) == [(5, BulkStreamsStatus(ALL, 4, IOERROR))]
    del device.failures["alloc_streams"]
    with_streams(rig)
    assert rig.ask(FreeBulkStreams(ALL), 6) == [(6, BulkStreamsStatus(ALL, 0, IOERROR))]


def test_streams_end_with_the_disconnect(rig: Rig, device: FakeDevice) -> None:
    with_streams(rig)
    rig.host.disconnect()
    rig.answers()
    rig.guest.bulk(3, UAS_IN, 512, stream_id=1)
    rig.guest.bulk(4, UAS_OUT, data=b"x", stream_id=1)
    refused = [(3, BulkPacket(UAS_IN, IOERROR, 0, 1, b"")), (4, BulkPacket(UAS_OUT, IOERROR, 0, 1, b""))]
    assert rig.answers() == refused
    assert device.flying == []


def test_a_guest_that_has_not_said_that_it_can_is_not_answered(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.to_guest()
    rig.guest.out[12 + 64] &= ~Cap.BULK_STREAMS  # in its hello: it says less than it does
    rig.to_host()
    rig.work()
    rig.take_outbox()
    packet = (18).to_bytes(4, "little") + (8).to_bytes(4, "little") + bytes(8) + bytes(8)
    rig.receive(packet)
    assert rig.host.outbox.size == 0


# ---- what changes the device


@pytest.mark.parametrize("packet", [Reset(), SetConfiguration(0), SetAltSetting(0, 0), SetAltSetting(0, 1)])
def test_what_changes_the_device_frees_the_streams(rig: Rig, device: FakeDevice, packet: Packet) -> None:
    with_streams(rig)
    rig.guest.bulk(1, UAS_IN, 512, stream_id=3)
    answers = rig.ask(packet)
    assert answers[0] == (1, BulkPacket(UAS_IN, RedirStatus.CANCELLED, 0, 3))
    assert device.streams == {}
    assert device.calls("free_streams")[-1] == TRIED[1:]
    rig.ask(SetConfiguration(1))
    with_streams(rig)


def test_streams_make_the_next_reset_real(rig: Rig, device: FakeDevice) -> None:
    with_streams(rig)
    rig.ask(Reset())
    assert device.calls("reset") == [[], []]


def test_streams_are_forgotten_at_a_reset_also_if_a_transfer_does_not_come_back(rig: Rig, device: FakeDevice) -> None:
    with_streams(rig)
    device.keeps_cancelled = True
    rig.guest.bulk(1, UAS_IN, 512, stream_id=3)
    rig.ask(Reset())
    assert device.streams == {}
    device.finish(device.flying[0], Status.CANCELLED)
    rig.settle()
    rig.guest.bulk(2, UAS_IN, 512)
    assert rig.answers() == []


@pytest.mark.parametrize(
    ("packet", "method"), [(SetAltSetting(0, 0), "set_interface"), (SetConfiguration(2), "set_configuration")]
)
def test_streams_that_neither_are_freed_nor_go_with_a_change_are_still_there(
    rig: Rig, device: FakeDevice, packet: Packet, method: str
) -> None:
    with_streams(rig)
    device.failures = {"free_streams": DeviceError("no"), method: DeviceError("no")}
    rig.ask(packet)
    assert set(device.streams) == {UAS_STATUS, UAS_IN, UAS_OUT}
    assert rig.ask(AllocBulkStreams(ALL, 4)) == [(0, BulkStreamsStatus(ALL, 4, INVAL))]
    device.failures = {}
    assert rig.ask(FreeBulkStreams(ALL)) == [(0, BulkStreamsStatus(ALL, 0, SUCCESS))]
    assert device.streams == {}


def test_a_device_that_is_spared_a_reset_keeps_streams_that_could_not_be_freed(device: FakeDevice) -> None:
    rig = Rig(device, quirks=(NO_RESET,)).attach()
    with_streams(rig)
    device.failures = {"free_streams": DeviceError("no"), "set_interface": DeviceError("no")}
    rig.ask(Reset())
    assert rig.ask(AllocBulkStreams(ALL, 4)) == [(0, BulkStreamsStatus(ALL, 4, INVAL))]


def test_a_change_goes_on_although_the_streams_cannot_be_freed(rig: Rig, device: FakeDevice) -> None:
    with_streams(rig)
    device.failures["free_streams"] = DeviceError("no")
    assert rig.ask(SetAltSetting(0, 0))[-1] == (0, AltSettingStatus(SUCCESS, 0, 0))
    rig.guest.bulk(1, BULK_IN, 512)
    assert rig.answers() == []
