"""Receiving interrupt endpoints: reports, their numbers, and what becomes of a stalled or broken one."""

import pytest

from tests.fakes.device import BULK_IN, INTERRUPT_IN, INTERRUPT_OUT, REPORT_BYTES, FakeDevice
from tests.fakes.guest import Rig
from usbbridge.backend.base import Status
from usbbridge.errors import DeviceError, DeviceLostError
from usbbridge.redirect.layout import Layout
from usbbridge.redirect.limits import INTERRUPT_TRANSFERS, MAX_REPORT_TRANSFERS, MAX_STREAM_ERRORS, STREAM_DROP
from usbbridge.usbredir.packets import (
    BulkPacket,
    InterruptPacket,
    InterruptReceivingStatus,
    Packet,
    Reset,
    SetAltSetting,
    StartInterruptReceiving,
    StopInterruptReceiving,
)
from usbbridge.usbredir.proto import Cap
from usbbridge.usbredir.proto import Status as RedirStatus

START, STOP = StartInterruptReceiving(INTERRUPT_IN), StopInterruptReceiving(INTERRUPT_IN)
STARTED = STOPPED = (0, InterruptReceivingStatus(RedirStatus.SUCCESS, INTERRUPT_IN))
GAVE_UP = (0, InterruptReceivingStatus(RedirStatus.STALL, INTERRUPT_IN))


def report(number: int, data: bytes, status: RedirStatus = RedirStatus.SUCCESS) -> tuple[int, Packet]:
    return number, InterruptPacket(INTERRUPT_IN, status, len(data), data)


def stall(device: FakeDevice) -> None:
    """All transfers end with a STALL, as they do on a halted endpoint."""
    for transfer in list(device.flying):
        device.finish(transfer, Status.STALL)


def test_start_keeps_transfers_of_the_endpoints_packet_size_running(rig: Rig, device: FakeDevice) -> None:
    assert rig.ask(START) == [STARTED]
    assert [(t.endpoint, t.length) for t in device.flying] == [(INTERRUPT_IN, REPORT_BYTES)] * INTERRUPT_TRANSFERS
    device.finish(device.flying[0], data=b"key")
    rig.settle()
    assert len(device.flying) == INTERRUPT_TRANSFERS


@pytest.mark.parametrize(("seconds", "count"), [(1.0, 32), (1e-3, 32), (625e-6, 32), (250e-6, 80), (125e-6, 160)])
def test_the_more_reports_there_can_be_the_more_transfers_wait_for_them(
    rig: Rig, device: FakeDevice, monkeypatch: pytest.MonkeyPatch, seconds: float, count: int
) -> None:
    monkeypatch.setattr(Layout, "service_interval", lambda *_: seconds)
    rig.ask(SetAltSetting(0, 0))  # the layout is looked at again
    rig.guest.ear.take()
    assert rig.ask(START) == [STARTED]
    assert len(device.flying) == count


def test_reports_are_numbered_from_0_in_the_order_they_came(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    for data in (b"a", b"", b"ccc"):
        device.finish(device.flying[0], data=data)
    assert rig.answers() == [report(0, b"a"), report(1, b""), report(2, b"ccc")]


def test_stop_ends_all_of_them_and_a_new_start_counts_from_0_again(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.finish(device.flying[0], data=b"a")
    rig.settle()
    rig.guest.ear.take()
    assert rig.ask(STOP) == [STOPPED]
    assert device.flying == []
    assert device.outstanding == 0
    assert rig.ask(START) == [STARTED]
    device.finish(device.flying[0], data=b"b")
    assert rig.answers() == [report(0, b"b")]


def test_to_stop_what_does_not_run_is_no_error(rig: Rig) -> None:
    assert rig.ask(STOP) == [STOPPED]


def test_to_start_what_runs_is_invalid(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    assert rig.ask(START) == [(0, InterruptReceivingStatus(RedirStatus.INVAL, INTERRUPT_IN))]
    assert len(device.flying) == INTERRUPT_TRANSFERS


@pytest.mark.parametrize("endpoint", [BULK_IN, 0x8F, 0x80])
def test_an_endpoint_of_another_kind_does_not_start(rig: Rig, device: FakeDevice, endpoint: int) -> None:
    answer = rig.ask(StartInterruptReceiving(endpoint))
    assert answer == [(0, InterruptReceivingStatus(RedirStatus.STALL, endpoint))]
    assert device.flying == []


def test_start_and_stop_before_the_announcement(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.to_guest()
    rig.guest.ear.take()
    rig.guest.say(START)
    rig.guest.say(STOP)
    rig.to_host()
    rig.to_guest()
    assert rig.guest.ear.take() == [GAVE_UP]


def test_a_refused_submit_stops_the_endpoint(rig: Rig, device: FakeDevice) -> None:
    device.refuse = Status.ERROR
    assert rig.ask(START) == [GAVE_UP]
    device.refuse = Status.COMPLETED
    assert rig.ask(START) == [STARTED]
    device.finish(device.flying[0], data=b"a")
    device.refuse = Status.ERROR
    assert rig.answers() == [report(0, b"a"), GAVE_UP]
    assert device.flying == []


def test_a_stall_is_cleared_and_the_endpoint_started_anew_without_a_word(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.finish(device.flying[0], data=b"a")
    rig.settle()
    rig.guest.ear.take()
    stall(device)
    assert rig.answers() == []
    assert device.calls("clear_halt") == [[INTERRUPT_IN]]
    assert len(device.flying) == INTERRUPT_TRANSFERS
    device.finish(device.flying[0], data=b"b")
    assert rig.answers() == [report(0, b"b")]


def test_one_stalled_transfer_takes_the_others_with_it(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.finish(device.flying[0], Status.STALL)
    assert rig.answers() == []
    assert device.calls("clear_halt") == [[INTERRUPT_IN]]
    assert len(device.cancelled) == INTERRUPT_TRANSFERS - 1
    assert len(device.flying) == INTERRUPT_TRANSFERS


def test_a_halt_that_cannot_be_cleared_is_told(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.failures["clear_halt"] = DeviceError("no")
    stall(device)
    assert rig.answers() == [GAVE_UP]
    assert device.flying == []


def test_an_endpoint_that_was_stopped_while_it_stalled_stays_stopped(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    stall(device)
    device.reap()
    rig.guest.say(STOP)
    rig.to_host()
    assert rig.answers() == [STOPPED]
    assert device.flying == []


def test_a_device_that_goes_while_a_halt_is_cleared_is_lost(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    stall(device)
    device.failures["clear_halt"] = DeviceLostError("gone")
    with pytest.raises(DeviceLostError, match="1-1 1234:5678 Fake was unplugged"):
        rig.settle()


def test_an_endpoint_that_stalls_again_and_again_is_given_up(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    rounds = 0
    while device.flying and rounds < 1000:
        stall(device)
        rig.settle()
        rounds += 1
    assert rig.guest.ear.take() == [GAVE_UP]
    assert rounds <= MAX_STREAM_ERRORS


def test_errors_are_reported_and_too_many_in_a_row_end_it(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    for _ in range(MAX_STREAM_ERRORS + 1):
        device.finish(device.flying[0], Status.ERROR)
        device.reap()
    answers = rig.answers()
    assert answers[:-1] == [report(n, b"", RedirStatus.IOERROR) for n in range(MAX_STREAM_ERRORS)]
    assert answers[-1] == GAVE_UP
    assert device.flying == []


def test_a_good_report_in_between_starts_the_count_again(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    for status in [Status.ERROR] * MAX_STREAM_ERRORS + [Status.COMPLETED] + [Status.OVERFLOW] * MAX_STREAM_ERRORS:
        device.finish(device.flying[0], status)
        device.reap()
    assert len(device.flying) == INTERRUPT_TRANSFERS
    assert rig.answers()[-1] == report(2 * MAX_STREAM_ERRORS, b"", RedirStatus.BABBLE)


def test_an_unplugged_device_ends_the_session(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.unplug()
    with pytest.raises(DeviceLostError, match="1-1 1234:5678 Fake was unplugged"):
        rig.settle()
    assert device.flying == []


def test_a_device_found_gone_when_a_report_is_to_be_awaited_ends_the_session(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.finish(device.flying[0], data=b"a")
    device.refuse = Status.NO_DEVICE
    with pytest.raises(DeviceLostError):
        rig.settle()
    assert device.flying == []


def test_a_reset_stops_the_stream_and_says_so(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    assert rig.ask(Reset()) == [GAVE_UP]
    assert device.flying == []
    assert device.calls("reset") == [[], []]


def test_a_change_of_setting_stops_the_streams_of_that_interface_only(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    assert GAVE_UP not in rig.ask(SetAltSetting(0, 0))
    assert len(device.flying) == INTERRUPT_TRANSFERS
    assert rig.ask(SetAltSetting(1, 1))[0] == GAVE_UP
    assert device.flying == []


def test_reports_are_dropped_while_the_guest_reads_nothing_but_their_numbers_go_on(device: FakeDevice) -> None:
    rig = Rig(device).attach()
    rig.ask(START)
    sent = 0
    while not rig.host.dropped:
        device.finish(device.flying[0], data=bytes(REPORT_BYTES))
        device.reap()
        sent += 1
    assert STREAM_DROP < rig.host.outbox.size < STREAM_DROP + 1024
    rig.answers()
    device.finish(device.flying[0], data=b"now")
    assert rig.answers() == [report(sent, b"now")]
    assert rig.host.dropped == 1


def test_reports_are_not_dropped_for_the_data_of_another_endpoint(device: FakeDevice) -> None:
    rig = Rig(device).attach()
    rig.ask(START)
    rig.guest.bulk(1, BULK_IN, 2 * STREAM_DROP)
    rig.settle()
    device.finish(device.flying[-1], data=bytes(2 * STREAM_DROP))
    device.reap()
    assert rig.host.outbox.size > STREAM_DROP
    device.finish(device.flying[0], data=b"key up")
    assert report(0, b"key up") in rig.answers()
    assert rig.host.dropped == 0


def test_starts_and_stops_in_a_row_cannot_pile_up_transfers(device: FakeDevice) -> None:
    device.keeps_cancelled = True  # as a device does that has not been looked at yet
    rig = Rig(device).attach()
    for _ in range(MAX_REPORT_TRANSFERS):
        rig.guest.say(START)
        rig.guest.say(STOP)
    answers = rig.answers()
    assert len(device.flying) == MAX_REPORT_TRANSFERS
    assert answers[-2:] == [GAVE_UP, STOPPED]
    for transfer in list(device.flying):
        device.finish(transfer, Status.CANCELLED)
    device.reap()
    assert rig.ask(START) == [STARTED]


def test_report_numbers_stay_within_the_ids_of_a_guest_with_short_ones(device: FakeDevice) -> None:
    rig = Rig(device, caps=Cap.EP_INFO_MAX_PACKET_SIZE).attach()
    rig.ask(START)
    stream = device.flying[0].header
    stream.next_id = 0xFFFF_FFFF
    for data in (b"a", b"b"):
        device.finish(device.flying[0], data=data)
    assert rig.answers() == [report(0xFFFF_FFFF, b"a"), report(0, b"b")]


def test_answers_have_the_id_of_what_was_asked(rig: Rig) -> None:
    assert rig.ask(START, 77) == [(77, STARTED[1])]
    assert rig.ask(START, 78) == [(78, InterruptReceivingStatus(RedirStatus.INVAL, INTERRUPT_IN))]
    assert rig.ask(STOP, 79) == [(79, STOPPED[1])]
    assert rig.ask(StartInterruptReceiving(0x8F), 80) == [(80, InterruptReceivingStatus(RedirStatus.STALL, 0x8F))]


# ---- interrupt OUT, which is a transfer like any other


def test_an_interrupt_out_packet_is_carried_out_and_answered(rig: Rig, device: FakeDevice) -> None:
    rig.guest.interrupt(7, INTERRUPT_OUT, b"light on")
    rig.settle()
    (transfer,) = device.flying
    assert (transfer.endpoint, bytes(transfer.data[: transfer.length])) == (INTERRUPT_OUT, b"light on")
    device.finish(transfer)
    assert rig.answers() == [(7, InterruptPacket(INTERRUPT_OUT, RedirStatus.SUCCESS, 8))]


@pytest.mark.parametrize(("endpoint", "data"), [(INTERRUPT_OUT, bytes(REPORT_BYTES + 1)), (0x02, b"x"), (0x0F, b"x")])
def test_an_interrupt_packet_that_does_not_fit_the_endpoint_is_invalid(rig: Rig, endpoint: int, data: bytes) -> None:
    rig.guest.interrupt(7, endpoint, data)
    assert rig.answers() == [(7, InterruptPacket(endpoint, RedirStatus.INVAL, 0))]


def test_an_interrupt_out_packet_is_cancelled_once(rig: Rig, device: FakeDevice) -> None:
    rig.guest.interrupt(7, INTERRUPT_OUT, b"x")
    rig.settle()
    rig.host.disconnect()
    rig.settle_quietly()
    assert rig.guest.ear.take()[0] == (7, InterruptPacket(INTERRUPT_OUT, RedirStatus.CANCELLED, 0))


def test_an_interrupt_out_packet_to_a_device_that_goes(rig: Rig, device: FakeDevice) -> None:
    rig.guest.interrupt(7, INTERRUPT_OUT, b"x")
    rig.settle()
    device.unplug()
    with pytest.raises(DeviceLostError):
        rig.settle()
    rig.to_guest()
    assert rig.guest.ear.take() == [(7, InterruptPacket(INTERRUPT_OUT, RedirStatus.IOERROR, 0))]


def test_a_refused_interrupt_out_is_answered(rig: Rig, device: FakeDevice) -> None:
    device.refuse = Status.ERROR
    rig.guest.interrupt(7, INTERRUPT_OUT, b"x")
    assert rig.answers() == [(7, InterruptPacket(INTERRUPT_OUT, RedirStatus.IOERROR, 0))]


def test_bulk_on_an_interrupt_endpoint_is_invalid(rig: Rig) -> None:
    rig.guest.bulk(1, INTERRUPT_IN, 8)
    assert rig.answers() == [(1, BulkPacket(INTERRUPT_IN, RedirStatus.INVAL, 0, 0))]
