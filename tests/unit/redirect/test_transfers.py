"""Control and bulk packets become transfers and each gets one reply, whatever happens to it."""

import pytest

from tests.fakes.device import BULK_IN, BULK_OUT, INTERRUPT_IN, ISO_IN, FakeDevice
from tests.fakes.guest import Rig
from usbbridge.backend.base import Status
from usbbridge.errors import DeviceError, DeviceLostError, NotPermittedError
from usbbridge.usb.ch9 import Request
from usbbridge.usbredir.packets import BulkPacket, CancelDataPacket, ControlPacket, GetConfiguration, Packet, Reset
from usbbridge.usbredir.proto import Cap
from usbbridge.usbredir.proto import Status as RedirStatus

STATUSES = [
    (Status.COMPLETED, RedirStatus.SUCCESS),
    (Status.ERROR, RedirStatus.IOERROR),
    (Status.TIMED_OUT, RedirStatus.TIMEOUT),
    (Status.CANCELLED, RedirStatus.CANCELLED),
    (Status.STALL, RedirStatus.STALL),
    (Status.OVERFLOW, RedirStatus.BABBLE),
]
BIG_ID = 0x1234_5678_9ABC_DEF0
"Guests use addresses in their memory."
GET_DESCRIPTOR = (0x80, Request.GET_DESCRIPTOR, 0x0100, 0)
SET_REPORT = (0x21, 9, 0x0200, 1)


def control_reply(
    packet_id: int, setup: tuple[int, int, int, int], status: RedirStatus, data: bytes = b"", length: int | None = None
) -> tuple[int, Packet]:
    requesttype, request, value, index = setup
    size = len(data) if length is None else length
    return packet_id, ControlPacket(requesttype & 0x80, request, requesttype, status, value, index, size, data)


def bulk_reply(packet_id: int, endpoint: int, status: RedirStatus, data: bytes = b"", length: int = 0) -> object:
    return packet_id, BulkPacket(endpoint, status, length or len(data), 0, data)


# ---- control


def test_a_control_in_transfer_brings_data(rig: Rig, device: FakeDevice) -> None:
    rig.guest.control(BIG_ID, *GET_DESCRIPTOR, 18)
    rig.settle()
    (transfer,) = device.flying
    assert (bytes(transfer.setup), transfer.length) == (bytes.fromhex("8006000100001200"), 18)
    device.finish(transfer, data=b"descriptor")
    assert rig.answers() == [control_reply(BIG_ID, GET_DESCRIPTOR, RedirStatus.SUCCESS, b"descriptor")]


def test_a_control_out_transfer_takes_data_and_says_how_much(rig: Rig, device: FakeDevice) -> None:
    rig.guest.control(3, *SET_REPORT, 5, b"hello")
    rig.settle()
    (transfer,) = device.flying
    assert bytes(transfer.setup) + bytes(transfer.data[:5]) == bytes.fromhex("2109000201000500") + b"hello"
    device.finish(transfer)
    assert rig.answers() == [control_reply(3, SET_REPORT, RedirStatus.SUCCESS, length=5)]


def test_a_control_transfer_without_data(rig: Rig, device: FakeDevice) -> None:
    setup = (0x21, 0xFF, 0, 0)  # mass storage reset
    rig.guest.control(3, *setup, 0)
    rig.settle()
    device.finish(device.flying[0])
    assert rig.answers() == [control_reply(3, setup, RedirStatus.SUCCESS)]


@pytest.mark.parametrize(("ended", "answered"), STATUSES[1:])
@pytest.mark.parametrize(("setup", "data"), [(GET_DESCRIPTOR, b""), (SET_REPORT, b"12345")])
def test_a_control_transfer_that_fails_has_no_data_and_length_0(
    rig: Rig, device: FakeDevice, ended: Status, answered: RedirStatus, setup: tuple[int, int, int, int], data: bytes
) -> None:
    rig.guest.control(3, *setup, 5, data)
    rig.settle()
    device.finish(device.flying[0], ended, data=b"part" if setup is GET_DESCRIPTOR else b"", actual=4)
    assert rig.answers() == [control_reply(3, setup, answered)]


@pytest.mark.parametrize("endpoint", [0x81, 0x02])
def test_a_control_packet_is_for_endpoint_0_only(rig: Rig, device: FakeDevice, endpoint: int) -> None:
    rig.guest.out += rig.guest.codec.encode(ControlPacket(endpoint, 6, endpoint & 0x80, 0, 0, 0, 0), 9)
    assert rig.answers() == [(9, ControlPacket(endpoint, 6, endpoint & 0x80, RedirStatus.INVAL, 0, 0, 0))]


def test_a_data_stage_against_the_direction_of_its_request_is_invalid(rig: Rig, device: FakeDevice) -> None:
    rig.guest.out += rig.guest.codec.encode(ControlPacket(0x80, 6, 0x00, 0, 0, 0, 64), 9)
    rig.guest.out += rig.guest.codec.encode(ControlPacket(0x00, 6, 0x80, 0, 0, 0, 4, b"data"), 10)
    assert [packet.status for _, packet in rig.answers()] == [RedirStatus.INVAL] * 2
    assert device.flying == []


def test_the_status_of_a_request_means_nothing(rig: Rig, device: FakeDevice) -> None:
    rig.guest.control(3, *GET_DESCRIPTOR, 18)
    rig.guest.out[16 + 3] = 0xCC  # behind the header, endpoint, request, requesttype
    rig.guest.bulk(4, BULK_IN, 512)
    rig.guest.out[-26 + 16 + 1] = 0x55
    rig.settle()
    assert len(device.flying) == 2


# ---- control requests the kernel must know of


def test_clear_halt_is_carried_out_as_such(rig: Rig, device: FakeDevice) -> None:
    setup = (0x02, Request.CLEAR_FEATURE, 0, BULK_IN)
    rig.guest.control(3, *setup, 0)
    assert rig.answers() == [control_reply(3, setup, RedirStatus.SUCCESS)]
    assert device.calls("clear_halt") == [[BULK_IN]]
    assert device.flying == []


def test_a_halt_that_cannot_be_cleared_is_a_stall(rig: Rig, device: FakeDevice) -> None:
    device.failures["clear_halt"] = DeviceError("no such endpoint")
    setup = (0x02, Request.CLEAR_FEATURE, 0, 0x8F)
    rig.guest.control(3, *setup, 0)
    assert rig.answers() == [control_reply(3, setup, RedirStatus.STALL)]


@pytest.mark.parametrize("error", [DeviceLostError("gone"), NotPermittedError("sandboxed")])
def test_what_else_goes_wrong_there_is_answered_and_ends_the_session(
    rig: Rig, device: FakeDevice, error: Exception
) -> None:
    device.failures["clear_halt"] = error
    setup = (0x02, Request.CLEAR_FEATURE, 0, BULK_IN)
    rig.guest.control(3, *setup, 0)
    with pytest.raises(type(error)) as caught:
        rig.settle()
    assert caught.value is error
    rig.to_guest()
    assert rig.guest.ear.take() == [control_reply(3, setup, RedirStatus.IOERROR)]


def test_other_features_of_an_endpoint_go_to_the_device(rig: Rig, device: FakeDevice) -> None:
    rig.guest.control(3, 0x02, Request.CLEAR_FEATURE, 7, BULK_IN, 0)
    rig.settle()
    assert bytes(device.flying[0].setup) == bytes.fromhex("0201070081000000")


def test_a_raw_set_configuration_is_carried_out_as_one(rig: Rig, device: FakeDevice) -> None:
    setup = (0x00, Request.SET_CONFIGURATION, 2, 0)
    rig.guest.control(3, *setup, 0)
    assert rig.answers()[-1] == control_reply(3, setup, RedirStatus.SUCCESS)
    assert device.calls("set_configuration") == [[2]]


def test_a_raw_set_interface_is_carried_out_as_one(rig: Rig, device: FakeDevice) -> None:
    setup = (0x01, Request.SET_INTERFACE, 1, 1)
    rig.guest.control(3, *setup, 0)
    assert rig.answers()[-1] == control_reply(3, setup, RedirStatus.SUCCESS)
    assert device.calls("set_interface") == [[1, 1]]


def test_set_address_is_refused(rig: Rig, device: FakeDevice) -> None:
    setup = (0x00, Request.SET_ADDRESS, 5, 0)
    rig.guest.control(3, *setup, 0)
    assert rig.answers() == [control_reply(3, setup, RedirStatus.STALL)]
    assert device.flying == []


@pytest.mark.parametrize(
    ("requesttype", "request_", "value", "index"),
    [(0, Request.SET_CONFIGURATION, 1, 0), (0, Request.SET_ADDRESS, 5, 0), (2, Request.CLEAR_FEATURE, 0, BULK_IN)],
)
def test_data_behind_such_a_request_is_not_taken_for_the_next_packets(
    rig: Rig, device: FakeDevice, requesttype: int, request_: int, value: int, index: int
) -> None:
    rig.guest.control(3, requesttype, request_, value, index, 600, bytes(600))
    rig.guest.bulk(4, BULK_IN, 1 << 20)
    rig.settle()
    assert rig.guest.ear.take()[0][0] == 3
    (transfer,) = device.flying
    assert transfer.capacity >= 1 << 20


# ---- bulk


def test_a_bulk_in_transfer_brings_data(rig: Rig, device: FakeDevice) -> None:
    rig.guest.bulk(BIG_ID, BULK_IN, 4096)
    rig.settle()
    (transfer,) = device.flying
    assert (transfer.endpoint, transfer.length) == (BULK_IN, 4096)
    data = bytes(range(256)) * 16
    device.finish(transfer, data=data)
    assert rig.answers() == [bulk_reply(BIG_ID, BULK_IN, RedirStatus.SUCCESS, data)]


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 2049, 70_000])
def test_a_short_bulk_in_is_a_success_of_any_size(rig: Rig, device: FakeDevice, size: int) -> None:
    rig.guest.bulk(1, BULK_IN, 131072)
    rig.settle()
    device.finish(device.flying[0], data=bytes(size))
    assert rig.answers() == [bulk_reply(1, BULK_IN, RedirStatus.SUCCESS, bytes(size))]


@pytest.mark.parametrize("size", [0, 1, 512, 20_000, 70_000])
def test_a_bulk_out_transfer_takes_data_and_says_how_much(rig: Rig, device: FakeDevice, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    rig.guest.bulk(1, BULK_OUT, data=data)
    rig.settle()
    (transfer,) = device.flying
    assert (transfer.endpoint, transfer.length, bytes(transfer.data[:size])) == (BULK_OUT, size, data)
    device.finish(transfer)
    assert rig.answers() == [bulk_reply(1, BULK_OUT, RedirStatus.SUCCESS, length=size)]


@pytest.mark.parametrize(("ended", "answered"), STATUSES)
def test_a_bulk_in_keeps_what_came_before_it_failed(
    rig: Rig, device: FakeDevice, ended: Status, answered: RedirStatus
) -> None:
    rig.guest.bulk(1, BULK_IN, 512)
    rig.settle()
    device.finish(device.flying[0], ended, data=b"begun")
    assert rig.answers() == [bulk_reply(1, BULK_IN, answered, b"begun")]


@pytest.mark.parametrize(("ended", "answered"), STATUSES)
def test_a_bulk_out_says_how_far_it_came(rig: Rig, device: FakeDevice, ended: Status, answered: RedirStatus) -> None:
    rig.guest.bulk(1, BULK_OUT, data=bytes(512))
    rig.settle()
    device.finish(device.flying[0], ended, actual=100)
    assert rig.answers() == [bulk_reply(1, BULK_OUT, answered, length=100)]


@pytest.mark.parametrize("endpoint", [INTERRUPT_IN, ISO_IN, 0x8F, 0x80, 0x07])
def test_a_bulk_packet_for_another_kind_of_endpoint_is_invalid(rig: Rig, endpoint: int) -> None:
    data = b"" if endpoint & 0x80 else b"1234"
    rig.guest.bulk(1, endpoint, 4, data)
    assert rig.answers() == [bulk_reply(1, endpoint, RedirStatus.INVAL)]


def test_a_large_packet_for_an_endpoint_that_does_not_exist_leaves_the_next_alone(rig: Rig, device: FakeDevice) -> None:
    rig.guest.bulk(1, 0x07, data=bytes(40_000))
    rig.guest.bulk(2, BULK_OUT, data=b"next")
    assert rig.answers() == [bulk_reply(1, 0x07, RedirStatus.INVAL)]
    assert bytes(device.flying[0].data[:4]) == b"next"


@pytest.mark.parametrize("data", [b"", bytes(40_000)])
def test_a_bulk_stream_that_was_never_allocated_is_invalid(rig: Rig, device: FakeDevice, data: bytes) -> None:
    rig.guest.bulk(1, BULK_OUT if data else BULK_IN, 512 if not data else 0, data, stream_id=5)
    (answer,) = rig.answers()
    assert answer == (1, BulkPacket(BULK_OUT if data else BULK_IN, RedirStatus.INVAL, 0, 5))


def test_transfers_are_answered_in_the_order_they_end(rig: Rig, device: FakeDevice) -> None:
    for packet_id in (1, 2, 3):
        rig.guest.bulk(packet_id, BULK_IN, 512)
    rig.guest.control(4, *GET_DESCRIPTOR, 18)
    rig.settle()
    assert [t.id for t in device.flying] == [1, 2, 3, 4]
    first, second, third, fourth = device.flying
    for transfer in (fourth, first, second, third):
        device.finish(transfer)
    assert [packet_id for packet_id, _ in rig.answers()] == [4, 1, 2, 3]


@pytest.mark.parametrize(
    ("refused", "answered"), [(Status.ERROR, RedirStatus.IOERROR), (Status.STALL, RedirStatus.STALL)]
)
def test_a_refused_submit_is_answered_at_once(
    rig: Rig, device: FakeDevice, refused: Status, answered: RedirStatus
) -> None:
    device.refuse = refused
    rig.guest.bulk(1, BULK_IN, 512)
    rig.guest.bulk(2, BULK_OUT, data=bytes(20_000))
    rig.guest.control(3, *GET_DESCRIPTOR, 18)
    rig.guest.control(4, *SET_REPORT, 600, bytes(600))
    assert [(packet_id, packet.status) for packet_id, packet in rig.answers()] == [(n, answered) for n in (1, 2, 3, 4)]
    assert rig.host.pending_bytes == 0


def test_a_guest_of_16_bit_lengths_and_32_bit_ids_is_served(device: FakeDevice) -> None:
    rig = Rig(device, caps=Cap(0)).attach()
    rig.guest.bulk(0xFFFF_FFFF, BULK_IN, 0xFFFF)
    rig.settle()
    device.finish(device.flying[0], data=bytes(0xFFFF))
    assert rig.answers() == [bulk_reply(0xFFFF_FFFF, BULK_IN, RedirStatus.SUCCESS, bytes(0xFFFF))]


# ---- without a copy


def test_large_data_is_received_straight_into_the_transfers_buffer(device: FakeDevice) -> None:
    rig = Rig(device).attach()
    rig.guest.bulk(1, BULK_OUT, data=bytes(range(256)) * 400)
    packet = rig.guest.take_out()
    rig.receive(packet[:1000])
    place = rig.host.codec.buffer()
    rig.receive(packet[1000:])
    (transfer,) = device.flying
    assert place.obj is transfer.data.obj
    assert bytes(transfer.data[: transfer.length]) == bytes(range(256)) * 400


def test_large_data_is_sent_straight_from_the_transfers_buffer(device: FakeDevice) -> None:
    rig = Rig(device).attach()
    rig.guest.bulk(1, BULK_IN, 1 << 16)
    rig.settle()
    (transfer,) = device.flying
    device.finish(transfer, data=bytes(1 << 16))
    device.reap()
    (_, data), held = rig.take_outbox()
    assert data.obj is transfer.data.obj
    assert held == [transfer]
    assert rig.host.pending_bytes == transfer.capacity
    rig.host.sent(held)
    assert rig.host.pending_bytes == device.outstanding == 0


def test_a_device_that_goes_while_data_for_it_comes_in(rig: Rig, device: FakeDevice) -> None:
    rig.guest.bulk(1, BULK_OUT, data=bytes(20_000))
    packet = rig.guest.take_out()
    rig.receive(packet[:10_000])
    device.unplug()
    rig.host.disconnect()
    rig.receive(packet[10_000:])
    rig.to_guest()
    assert rig.guest.ear.take()[-1] == bulk_reply(1, BULK_OUT, RedirStatus.IOERROR)
    assert rig.host.pending_bytes == device.outstanding == 0


# ---- cancel


@pytest.mark.parametrize("keeps", [False, True], ids=["at once", "later"])
def test_a_cancelled_transfer_is_answered_once_whenever_the_device_lets_go_of_it(
    rig: Rig, device: FakeDevice, keeps: bool
) -> None:
    device.keeps_cancelled = keeps
    rig.guest.bulk(1, BULK_IN, 512)
    rig.guest.bulk(2, BULK_OUT, data=b"x")
    rig.guest.control(3, *GET_DESCRIPTOR, 18)
    rig.settle()
    for packet_id in (3, 1, 2):
        rig.guest.say(CancelDataPacket(), packet_id)
    assert rig.answers() == [
        control_reply(3, GET_DESCRIPTOR, RedirStatus.CANCELLED),
        bulk_reply(1, BULK_IN, RedirStatus.CANCELLED),
        bulk_reply(2, BULK_OUT, RedirStatus.CANCELLED),
    ]
    for transfer in list(device.flying):
        device.finish(transfer, data=b"late" if transfer.endpoint & 0x80 else b"")
    assert rig.answers() == []
    assert rig.host.pending_bytes == 0


def test_to_cancel_nothing_has_no_answer(rig: Rig) -> None:
    assert rig.ask(CancelDataPacket(), 77) == []


def test_a_transfer_that_has_ended_meanwhile_is_answered_once(rig: Rig, device: FakeDevice) -> None:
    rig.guest.bulk(1, BULK_IN, 512)
    rig.settle()
    device.finish(device.flying[0], data=b"in time")
    device.reap()
    assert rig.ask(CancelDataPacket(), 1) == [bulk_reply(1, BULK_IN, RedirStatus.SUCCESS, b"in time")]


def test_a_transfer_that_has_ended_unseen_is_answered_once(rig: Rig, device: FakeDevice) -> None:
    rig.guest.bulk(1, BULK_IN, 512)
    rig.settle()
    device.finish(device.flying[0], data=b"in time")
    assert rig.ask(CancelDataPacket(), 1) == [bulk_reply(1, BULK_IN, RedirStatus.CANCELLED)]


def test_an_id_may_be_used_again_right_after_its_cancel(rig: Rig, device: FakeDevice) -> None:
    device.keeps_cancelled = True
    rig.guest.bulk(1, BULK_IN, 512)
    rig.settle()
    rig.guest.say(CancelDataPacket(), 1)
    rig.guest.bulk(1, BULK_IN, 1024)
    rig.settle()
    old, new = device.flying
    device.finish(new, data=b"new")
    device.finish(old, data=b"old")
    assert rig.answers() == [
        bulk_reply(1, BULK_IN, RedirStatus.CANCELLED),
        bulk_reply(1, BULK_IN, RedirStatus.SUCCESS, b"new"),
    ]


def test_the_second_of_one_id_can_be_cancelled_while_the_first_is_not_back(rig: Rig, device: FakeDevice) -> None:
    device.keeps_cancelled = True
    for _ in range(2):
        rig.guest.bulk(1, BULK_IN, 512)
        rig.guest.say(CancelDataPacket(), 1)
    assert rig.answers() == [bulk_reply(1, BULK_IN, RedirStatus.CANCELLED)] * 2
    assert device.cancelled == device.flying


# ---- a device that goes


@pytest.mark.parametrize("what", ["in flight", "not yet"])
def test_a_device_that_is_unplugged_answers_with_errors_and_ends_the_session(
    rig: Rig, device: FakeDevice, what: str
) -> None:
    if what == "not yet":
        device.unplug()
    rig.guest.bulk(1, BULK_IN, 512)
    rig.guest.control(2, *GET_DESCRIPTOR, 18)
    rig.to_host()
    if what == "in flight":
        device.unplug()
    with pytest.raises(DeviceLostError, match="1-1 1234:5678 Fake was unplugged"):
        rig.settle()
    rig.to_guest()
    assert rig.guest.ear.take() == [
        bulk_reply(1, BULK_IN, RedirStatus.IOERROR),
        control_reply(2, GET_DESCRIPTOR, RedirStatus.IOERROR),
    ]


def test_a_lost_device_is_not_reset_when_it_is_given_back(rig: Rig, device: FakeDevice) -> None:
    rig.guest.bulk(1, BULK_IN, 512)
    rig.settle()
    device.unplug()
    with pytest.raises(DeviceLostError):
        rig.settle()
    rig.host.disconnect()
    device.log.clear()
    rig.host.close()
    assert device.log == [("close",)]


# ---- disturbing the order of packets does no harm


def test_requests_behind_a_failed_one_are_still_answered(rig: Rig, device: FakeDevice) -> None:
    device.failures["reset"] = DeviceError("no")
    rig.guest.control(1, *GET_DESCRIPTOR, 18)
    rig.guest.say(Reset())
    rig.guest.say(GetConfiguration(), 5)
    with pytest.raises(DeviceLostError):
        rig.settle()
    rig.to_guest()
    assert [packet_id for packet_id, _ in rig.guest.ear.take()] == [1, 5]


# ---- time


def test_a_control_transfer_that_takes_too_long_is_answered_timeout_and_its_end_swallowed(
    rig: Rig, device: FakeDevice
) -> None:
    rig.guest.control(3, *GET_DESCRIPTOR, 18)
    rig.settle()
    assert rig.host.deadline == rig.now + 5.0
    rig.now += 2.0
    rig.guest.control(4, *GET_DESCRIPTOR, 18)
    rig.settle()
    rig.now += 3.0
    rig.host.expire()
    assert rig.answers() == [control_reply(3, GET_DESCRIPTOR, RedirStatus.TIMEOUT)]
    assert rig.host.deadline == rig.now + 2.0
    assert len(device.cancelled) == 1
    (in_time,) = device.flying
    device.finish(in_time, data=b"descriptor")
    assert rig.answers() == [control_reply(4, GET_DESCRIPTOR, RedirStatus.SUCCESS, b"descriptor")]
    assert rig.host.deadline == float("inf")


def test_bulk_and_interrupt_transfers_have_no_time_limit(rig: Rig, device: FakeDevice) -> None:
    rig.guest.bulk(3, 0x81, length=512)
    rig.settle()
    assert rig.host.deadline == float("inf")


def test_a_control_packet_that_follows_one_that_was_too_slow_has_its_own_time(device: FakeDevice) -> None:
    device.keeps_cancelled = True
    rig = Rig(device).attach()
    rig.guest.control(3, *GET_DESCRIPTOR, 18)
    rig.settle()
    rig.now += 5.0
    rig.host.expire()
    rig.guest.control(4, *GET_DESCRIPTOR, 18)
    rig.settle()
    assert rig.host.deadline == rig.now + 5.0
