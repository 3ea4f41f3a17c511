"""Transfers on bulk streams."""

import pytest

from tests.fakes.device import BULK_OUT, UAS, UAS_COMMAND, UAS_IN, UAS_OUT, FakeDevice
from tests.fakes.guest import Rig
from tests.unit.redirect.streams import ALL, INVAL, IOERROR, SUCCESS, uas, with_streams
from usbbridge.backend.base import Status
from usbbridge.errors import DeviceLostError
from usbbridge.redirect.limits import MAX_PENDING, MAX_TRANSFER
from usbbridge.usb.ch9 import Speed
from usbbridge.usbredir.packets import BulkPacket, CancelDataPacket, FreeBulkStreams, SetAltSetting
from usbbridge.usbredir.proto import Status as RedirStatus


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice(UAS, speed=Speed.SUPER)


def test_a_packet_for_a_stream_goes_to_it_and_its_answer_names_it(rig: Rig, device: FakeDevice) -> None:
    with_streams(rig)
    rig.guest.bulk(1, UAS_IN, 512, stream_id=8)
    rig.guest.bulk(2, UAS_OUT, data=b"written", stream_id=1)
    rig.settle()
    first, second = device.flying
    assert (first.kind, first.endpoint, first.stream, first.length) == ("bulk stream", UAS_IN, 8, 512)
    assert (second.stream, bytes(second.data[:7])) == (1, b"written")
    device.finish(second)
    device.finish(first, data=b"read")
    assert rig.answers() == [
        (2, BulkPacket(UAS_OUT, SUCCESS, 7, 1)),
        (1, BulkPacket(UAS_IN, SUCCESS, 4, 8, b"read")),
    ]
    assert rig.host.pending_bytes == 0


def test_large_data_is_neither_copied_in_nor_out(device: FakeDevice) -> None:
    rig = Rig(device, step=1000).attach()
    with_streams(rig)
    rig.guest.bulk(1, UAS_OUT, data=bytes(range(256)) * 400, stream_id=2)
    rig.settle()
    (out,) = device.flying
    assert bytes(out.data[: out.length]) == bytes(range(256)) * 400
    device.finish(out)
    rig.answers()
    rig.guest.bulk(2, UAS_IN, 100_000, stream_id=2)
    rig.to_host()
    device.finish(device.flying[0], data=b"x" * 100_000)
    device.reap()
    assert [len(part) for part in rig.host.outbox.parts][-1] == 100_000
    assert rig.answers() == [(2, BulkPacket(UAS_IN, SUCCESS, 100_000, 2, b"x" * 100_000))]
    assert rig.host.pending_bytes == device.outstanding == 0


@pytest.mark.parametrize(
    ("status", "told"),
    [(Status.STALL, RedirStatus.STALL), (Status.ERROR, IOERROR), (Status.OVERFLOW, RedirStatus.BABBLE)],
)
def test_a_transfer_that_ends_badly_is_told_with_its_stream(
    rig: Rig, device: FakeDevice, status: Status, told: RedirStatus
) -> None:
    with_streams(rig)
    rig.guest.bulk(1, UAS_IN, 512, stream_id=8)
    rig.settle()
    device.finish(device.flying[0], status)
    assert rig.answers() == [(1, BulkPacket(UAS_IN, told, 0, 8))]


@pytest.mark.parametrize("keeps", [False, True])
def test_a_transfer_is_cancelled_with_its_stream(rig: Rig, device: FakeDevice, keeps: bool) -> None:
    with_streams(rig)
    device.keeps_cancelled = keeps
    rig.guest.bulk(1, UAS_IN, 512, stream_id=8)
    rig.guest.bulk(1, UAS_OUT, data=b"x", stream_id=8)
    assert rig.ask(CancelDataPacket(), 1) == [(1, BulkPacket(UAS_IN, RedirStatus.CANCELLED, 0, 8))]
    if keeps:
        device.finish(device.flying[0], data=b"late")
        assert rig.answers() == []
    assert [t.endpoint for t in device.flying] == [UAS_OUT]
    device.keeps_cancelled = False


@pytest.mark.parametrize("data", [b"x", bytes(20_000)])
def test_a_packet_for_a_stream_that_does_not_exist_is_invalid(rig: Rig, device: FakeDevice, data: bytes) -> None:
    uas(rig)
    rig.guest.bulk(1, UAS_OUT, data=data, stream_id=1)
    with_streams(rig)
    for stream_id in (9, 0xFFFF_FFFF):
        rig.guest.bulk(2, UAS_OUT, data=data, stream_id=stream_id)
    rig.guest.bulk(3, UAS_COMMAND, data=data, stream_id=1)
    rig.guest.bulk(4, 0x0F, data=data, stream_id=1)
    rig.guest.bulk(5, UAS_IN, MAX_TRANSFER + 1, stream_id=1)
    assert [(packet_id, packet.status, packet.stream_id) for packet_id, packet in rig.answers()] == [
        (2, INVAL, 9),
        (2, INVAL, 0xFFFF_FFFF),
        (3, INVAL, 1),
        (4, INVAL, 1),
        (5, INVAL, 1),
    ]
    assert device.flying == []
    assert rig.host.pending_bytes == 0


@pytest.mark.parametrize("data", [b"x", bytes(20_000)])
def test_a_packet_without_a_stream_is_invalid_where_there_are_some(rig: Rig, device: FakeDevice, data: bytes) -> None:
    with_streams(rig)
    rig.guest.bulk(1, UAS_OUT, data=data)
    assert rig.answers() == [(1, BulkPacket(UAS_OUT, INVAL, 0, 0))]
    assert rig.host.pending_bytes == device.outstanding == 0
    rig.ask(FreeBulkStreams(ALL))
    rig.guest.bulk(2, UAS_OUT, data=data)
    assert rig.answers() == []


def test_a_device_that_refuses_a_transfer_of_a_stream(rig: Rig, device: FakeDevice) -> None:
    with_streams(rig)
    device.refuse = Status.STALL
    rig.guest.bulk(1, UAS_IN, 512, stream_id=8)
    assert rig.answers() == [(1, BulkPacket(UAS_IN, RedirStatus.STALL, 0, 8))]


def test_a_device_that_goes_with_transfers_on_streams_ends_the_session(rig: Rig, device: FakeDevice) -> None:
    with_streams(rig)
    rig.guest.bulk(1, UAS_IN, 512, stream_id=8)
    rig.settle()
    device.unplug()
    with pytest.raises(DeviceLostError, match="was unplugged"):
        rig.settle()
    rig.to_guest()
    assert rig.guest.ear.take() == [(1, BulkPacket(UAS_IN, IOERROR, 0, 8))]


def test_a_control_transfer_that_is_too_slow_is_found_among_those_on_streams(rig: Rig, device: FakeDevice) -> None:
    with_streams(rig)
    rig.guest.bulk(1, UAS_IN, 512, stream_id=8)
    rig.guest.control(2, 0x80, 6, 0x0100, 0, 18)
    rig.settle()
    rig.now += 5
    rig.host.expire()
    assert [(packet_id, packet.status) for packet_id, packet in rig.answers()] == [(2, RedirStatus.TIMEOUT)]


def test_transfers_on_streams_count_as_all_others(device: FakeDevice) -> None:
    rig = Rig(device).attach()
    with_streams(rig)
    for packet_id in range(MAX_PENDING + 1):
        rig.guest.bulk(packet_id, UAS_IN, 512, stream_id=1 + packet_id % 8)
    assert rig.answers() == [(MAX_PENDING, BulkPacket(UAS_IN, IOERROR, 0, 1))]
    rig.host.disconnect()
    rig.settle()
    assert rig.host.pending_bytes == device.outstanding == 0


def test_the_other_setting_is_a_disk_like_any_other(rig: Rig, device: FakeDevice) -> None:
    with_streams(rig)
    rig.ask(SetAltSetting(0, 0))
    rig.guest.bulk(1, BULK_OUT, data=b"USBC")
    assert rig.answers() == []
    assert device.flying[0].kind == "bulk"
