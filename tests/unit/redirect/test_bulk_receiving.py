"""Receiving bulk endpoints: data without a request for it, of which nothing is lost."""

import pytest

from tests.fakes.device import BULK, BULK_IN, BULK_OUT, INTERRUPT_IN, ISO_IN, UAS, UAS_IN, FakeDevice
from tests.fakes.guest import Rig
from usbbridge.backend.base import Status
from usbbridge.errors import DeviceError, DeviceLostError
from usbbridge.redirect.limits import (
    BULK_BACKLOG,
    MAX_BULK_RECEIVING,
    MAX_STREAM_BYTES,
    MAX_STREAM_ERRORS,
    MAX_STREAM_TRANSFERS,
    MAX_STREAM_URBS,
    MAX_TRANSFER,
)
from usbbridge.usb.ch9 import Speed
from usbbridge.usb.descriptors import Configuration, Interface
from usbbridge.usbredir.packets import (
    AllocBulkStreams,
    BufferedBulkPacket,
    BulkPacket,
    BulkReceivingStatus,
    Packet,
    Reset,
    SetAltSetting,
    SetConfiguration,
    StartBulkReceiving,
    StopBulkReceiving,
)
from usbbridge.usbredir.proto import ALL_CAPS, Cap, endpoint_index
from usbbridge.usbredir.proto import Status as RedirStatus

SIZE, COUNT = 1024, 5
START, STOP = StartBulkReceiving(0, SIZE, BULK_IN, COUNT), StopBulkReceiving(0, BULK_IN)
STARTED = STOPPED = (0, BulkReceivingStatus(0, BULK_IN, RedirStatus.SUCCESS))
GAVE_UP = (0, BulkReceivingStatus(0, BULK_IN, RedirStatus.STALL))


def received(number: int, data: bytes, status: RedirStatus = RedirStatus.SUCCESS) -> tuple[int, Packet]:
    return number, BufferedBulkPacket(0, len(data), BULK_IN, status, data)


def test_start_keeps_the_transfers_that_were_asked_for_running(rig: Rig, device: FakeDevice) -> None:
    assert rig.ask(START) == [STARTED]
    assert [(t.kind, t.endpoint, t.length) for t in device.flying] == [("bulk", BULK_IN, SIZE)] * COUNT
    device.finish(device.flying[0], data=b"received")
    rig.settle()
    assert len(device.flying) == COUNT


def test_what_comes_is_numbered_from_0_in_the_order_it_came(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    for data in (b"a", b"", b"c" * SIZE):
        device.finish(device.flying[0], data=data)
    assert rig.answers() == [received(0, b"a"), received(1, b""), received(2, b"c" * SIZE)]


def test_stop_ends_it_and_a_new_start_counts_from_0_again(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.finish(device.flying[0], data=b"a")
    rig.answers()
    assert rig.ask(STOP, 3) == [(3, STOPPED[1])]
    assert device.flying == []
    assert device.outstanding == 0
    assert rig.ask(START, 4) == [(4, STARTED[1])]
    device.finish(device.flying[0], data=b"b")
    assert rig.answers() == [received(0, b"b")]


def test_to_stop_what_does_not_run_is_no_error_and_to_start_what_runs_is_invalid(rig: Rig) -> None:
    assert rig.ask(STOP) == [STOPPED]
    rig.ask(START)
    assert rig.ask(START, 8) == [(8, BulkReceivingStatus(0, BULK_IN, RedirStatus.INVAL))]


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (0, 5),
        (1, 5),
        (511, 5),
        (513, 5),
        (1024, 0),
        (1024, MAX_STREAM_URBS + 1),
        (1024, 255),
        (MAX_BULK_RECEIVING + 512, 1),
        (128 << 20, 16),
    ],
)
def test_transfers_of_odd_sizes_or_too_many_do_not_start(
    rig: Rig, device: FakeDevice, size: int, count: int
) -> None:
    assert rig.ask(StartBulkReceiving(0, size, BULK_IN, count)) == [GAVE_UP]
    assert device.flying == []


def test_the_largest_and_the_smallest_start(rig: Rig, device: FakeDevice) -> None:
    assert rig.ask(StartBulkReceiving(0, MAX_BULK_RECEIVING, BULK_IN, MAX_STREAM_URBS)) == [STARTED]
    rig.ask(STOP)
    assert rig.ask(StartBulkReceiving(0, 512, BULK_IN, 1)) == [STARTED]
    device.finish(device.flying[0], data=b"x")
    assert rig.answers() == [received(0, b"x")]


@pytest.mark.parametrize("endpoint", [INTERRUPT_IN, ISO_IN, 0x8F, 0x80])
def test_an_endpoint_of_another_kind_does_not_start(rig: Rig, endpoint: int) -> None:
    answer = rig.ask(StartBulkReceiving(0, SIZE, endpoint, COUNT))
    assert answer == [(0, BulkReceivingStatus(0, endpoint, RedirStatus.STALL))]


@pytest.mark.parametrize(("stream", "count"), [(0, 0), (3, COUNT)])
def test_a_bad_start_of_what_runs_is_invalid_too(rig: Rig, stream: int, count: int) -> None:
    rig.ask(START)
    bad = StartBulkReceiving(stream, SIZE, BULK_IN, count)
    assert rig.ask(bad, 6) == [(6, BulkReceivingStatus(stream, BULK_IN, RedirStatus.INVAL))]


def test_a_bulk_stream_is_not_received_from(rig: Rig, device: FakeDevice) -> None:
    answer = rig.ask(StartBulkReceiving(3, SIZE, BULK_IN, COUNT))
    assert answer == [(0, BulkReceivingStatus(3, BULK_IN, RedirStatus.STALL))]
    assert device.flying == []


def test_start_and_stop_without_a_device(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.to_guest()
    rig.guest.ear.take()
    rig.guest.say(START, 5)
    rig.guest.say(STOP, 6)
    rig.to_host()
    rig.to_guest()
    assert rig.guest.ear.take() == [(5, GAVE_UP[1])]
    rig.settle()
    rig.host.disconnect()
    rig.answers()
    assert rig.ask(START) == [GAVE_UP]
    assert rig.ask(STOP) == []


def test_a_guest_that_has_not_said_that_it_can_is_not_answered(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.to_guest()
    rig.guest.out[12 + 64] &= ~Cap.BULK_RECEIVING  # in its hello: it says less than it does
    rig.settle()
    rig.guest.ear.take()
    assert rig.ask(START) == []
    assert device.flying == []


# ---- beside it, bulk packets


def test_bulk_packets_on_a_receiving_endpoint_are_invalid_until_it_stops(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    rig.guest.bulk(1, BULK_IN, 512)
    assert rig.answers() == [(1, BulkPacket(BULK_IN, RedirStatus.INVAL, 0, 0))]
    assert len(device.flying) == COUNT
    rig.guest.bulk(2, BULK_OUT, data=b"x")
    assert rig.answers() == []
    device.finish(device.flying[-1])
    rig.answers()
    rig.ask(STOP)
    rig.guest.bulk(3, BULK_IN, 512)
    assert rig.answers() == []
    assert [t.id for t in device.flying] == [3]


@pytest.mark.parametrize("why", ["refused", "stalled", "too many"])
def test_bulk_packets_are_carried_out_again_when_receiving_could_not_start_or_go_on(
    rig: Rig, device: FakeDevice, why: str
) -> None:
    match why:
        case "refused":
            device.refuse = Status.ERROR
            assert rig.ask(START) == [GAVE_UP]
            device.refuse = Status.COMPLETED
        case "stalled":
            rig.ask(START)
            device.failures["clear_halt"] = DeviceError("no")
            device.finish(device.flying[0], Status.STALL)
            assert rig.answers() == [GAVE_UP]
        case _:
            device.keeps_cancelled = True
            while rig.ask(StartBulkReceiving(0, MAX_BULK_RECEIVING, BULK_IN, MAX_STREAM_URBS)) == [STARTED]:
                rig.ask(STOP)
    rig.guest.bulk(3, BULK_IN, 512)
    assert rig.answers() == []
    assert device.flying[-1].id == 3


def test_a_new_setting_of_another_interface_leaves_it_receiving() -> None:
    other = Interface(1, 0, 3, 0, 0, 0, ())
    device = FakeDevice(Configuration(1, 0x80, 50, 0, (Interface(0, 0, 255, 0, 0, 0, BULK), other)))
    rig = Rig(device).attach()
    rig.ask(START)
    rig.ask(SetAltSetting(1, 0))
    assert len(device.flying) == COUNT
    rig.guest.bulk(1, BULK_IN, 512)
    assert rig.answers() == [(1, BulkPacket(BULK_IN, RedirStatus.INVAL, 0, 0))]


def test_an_endpoint_with_bulk_streams_is_not_received_from() -> None:
    device = FakeDevice(UAS, speed=Speed.SUPER)
    rig = Rig(device).attach()
    rig.ask(SetAltSetting(0, 1))
    rig.ask(AllocBulkStreams(1 << endpoint_index(UAS_IN), 4))
    assert rig.ask(StartBulkReceiving(0, 1024, UAS_IN, 2)) == [GAVE_UP]
    rig.host.disconnect()
    rig.host.close()
    assert device.outstanding == 0


# ---- what goes wrong


def test_an_error_is_told_without_data_and_receiving_goes_on(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.finish(device.flying[0], Status.OVERFLOW)
    device.finish(device.flying[0], data=b"b")
    assert rig.answers() == [received(0, b"", RedirStatus.BABBLE), received(1, b"b")]
    assert len(device.flying) == COUNT


def test_too_many_errors_in_a_row_end_it(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    for _ in range(MAX_STREAM_ERRORS + 1):
        device.finish(device.flying[0], Status.ERROR)
        device.reap()
    answers = rig.answers()
    assert answers[:-1] == [received(n, b"", RedirStatus.IOERROR) for n in range(MAX_STREAM_ERRORS)]
    assert answers[-1] == GAVE_UP
    assert device.flying == []


def test_a_stall_is_cleared_and_receiving_started_anew_without_a_word(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.finish(device.flying[0], data=b"a")
    rig.answers()
    for transfer in list(device.flying):
        device.finish(transfer, Status.STALL)
    assert rig.answers() == []
    assert device.calls("clear_halt") == [[BULK_IN]]
    assert [t.length for t in device.flying] == [SIZE] * COUNT
    device.finish(device.flying[0], data=b"b")
    assert rig.answers() == [received(0, b"b")]
    rig.guest.bulk(1, BULK_IN, 512)
    assert rig.answers() == [(1, BulkPacket(BULK_IN, RedirStatus.INVAL, 0, 0))]


def test_a_refused_submit_stops_it(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.finish(device.flying[0], data=b"a")
    device.refuse = Status.ERROR
    assert rig.answers() == [received(0, b"a"), GAVE_UP]
    assert device.outstanding == 0


@pytest.mark.parametrize("how", ["in flight", "submit"])
def test_an_unplugged_device_ends_the_session(rig: Rig, device: FakeDevice, how: str) -> None:
    rig.ask(START)
    if how == "in flight":
        device.unplug()
    else:
        device.finish(device.flying[0], data=b"a")
        device.refuse = Status.NO_DEVICE
    with pytest.raises(DeviceLostError, match="1-1 1234:5678 Fake was unplugged"):
        rig.settle()


@pytest.mark.parametrize("packet", [Reset(), SetConfiguration(2), SetAltSetting(0, 0)])
def test_what_changes_the_device_stops_it_and_says_so(rig: Rig, device: FakeDevice, packet: Packet) -> None:
    rig.ask(START)
    assert rig.ask(packet)[0] == GAVE_UP
    assert device.flying == []
    rig.guest.bulk(3, BULK_IN, 512)
    assert rig.answers() == []


# ---- a guest that does not read


def clog(rig: Rig) -> None:
    """Something else waits to be written."""
    rig.host.outbox.put(bytes(BULK_BACKLOG + 1))


def test_when_much_waits_to_be_written_the_device_waits_and_nothing_is_lost(device: FakeDevice) -> None:
    rig = Rig(device).attach()
    rig.ask(START)
    clog(rig)
    for n in range(COUNT):
        device.finish(device.flying[0], data=bytes((n,)))
        device.reap()
    assert device.flying == []
    assert len(rig.host.outbox.held) == COUNT
    parts, held = rig.take_outbox()
    rig.host.sent(held)
    assert len(device.flying) == COUNT
    rig.guest.codec.feed(b"".join(parts[1:]))
    assert rig.guest.ear.take() == [received(n, bytes((n,))) for n in range(COUNT)]
    device.finish(device.flying[0], data=b"next")
    assert rig.answers() == [received(COUNT, b"next")]
    assert rig.host.dropped == 0


def test_the_outbox_does_not_grow_beyond_what_the_transfers_hold(device: FakeDevice) -> None:
    rig = Rig(device).attach()
    rig.ask(StartBulkReceiving(0, MAX_BULK_RECEIVING, BULK_IN, MAX_STREAM_URBS))
    while device.flying:
        device.finish(device.flying[0], data=bytes(MAX_BULK_RECEIVING))
        device.reap()
    assert rig.host.outbox.size < BULK_BACKLOG + (MAX_STREAM_URBS + 1) * (MAX_BULK_RECEIVING + 64)


@pytest.mark.parametrize("how", ["stop", "reset", "disconnect"])
def test_data_that_waits_when_it_is_stopped_is_still_sent_and_its_transfer_given_back(
    device: FakeDevice, how: str
) -> None:
    rig = Rig(device).attach()
    rig.ask(START)
    clog(rig)
    device.finish(device.flying[0], data=b"late")
    device.reap()
    match how:
        case "stop":
            rig.guest.say(STOP)
        case "reset":
            rig.guest.say(Reset())
        case _:
            rig.host.disconnect()
    rig.to_host()
    device.reap()
    assert device.outstanding == 1
    parts, held = rig.take_outbox()
    rig.guest.codec.feed(b"".join(parts[1:]))
    rig.host.sent(held)
    assert rig.guest.ear.take()[0] == received(0, b"late")
    assert device.outstanding == 0


def test_a_device_that_is_found_gone_when_data_has_been_written_ends_the_session(device: FakeDevice) -> None:
    rig = Rig(device).attach()
    rig.ask(START)
    clog(rig)
    device.finish(device.flying[0], data=b"a")
    device.reap()
    device.refuse = Status.NO_DEVICE
    rig.host.sent(rig.take_outbox()[1])
    with pytest.raises(DeviceLostError):
        rig.settle()


def test_replies_of_other_endpoints_are_given_back_as_ever(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    rig.guest.control(1, 0xC0, 1, 0, 0, 20_000)
    rig.settle()
    device.finish(device.flying[-1], data=bytes(20_000))
    rig.answers()
    assert rig.host.pending_bytes == 0
    assert device.outstanding == COUNT


def test_starts_and_stops_in_a_row_cannot_pile_up_transfers(device: FakeDevice) -> None:
    device.keeps_cancelled = True
    rig = Rig(device).attach()
    start = StartBulkReceiving(0, 512, BULK_IN, MAX_STREAM_URBS)
    for _ in range(MAX_STREAM_TRANSFERS):
        rig.guest.say(start)
        rig.guest.say(STOP)
    assert rig.answers()[-2:] == [GAVE_UP, STOPPED]
    assert len(device.flying) == MAX_STREAM_TRANSFERS


def test_all_of_them_together_hold_no_more_bytes_than_the_limit(device: FakeDevice) -> None:
    device.keeps_cancelled = True
    rig = Rig(device).attach()
    for _ in range(100):
        rig.guest.say(StartBulkReceiving(0, MAX_BULK_RECEIVING, BULK_IN, MAX_STREAM_URBS))
        rig.guest.say(STOP)
    assert rig.answers()[-2:] == [GAVE_UP, STOPPED]
    assert sum(t.length for t in device.flying) == MAX_STREAM_BYTES <= MAX_TRANSFER


def test_numbers_stay_within_the_ids_of_a_guest_with_short_ones(device: FakeDevice) -> None:
    rig = Rig(device, caps=ALL_CAPS & ~Cap.IDS_64BIT).attach()
    rig.ask(START)
    device.flying[0].header.next_id = 0xFFFF_FFFF
    for data in (b"a", b"b"):
        device.finish(device.flying[0], data=data)
    assert rig.answers() == [received(0xFFFF_FFFF, b"a"), received(0, b"b")]
