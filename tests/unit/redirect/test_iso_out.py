"""Isochronous OUT streams: half is filled before anything is sent, what comes too fast is dropped, what comes too
slowly begins anew."""

import pytest

from tests.fakes.device import BULK_OUT, INTERRUPT_OUT, ISO_BYTES, ISO_IN, ISO_OUT, FakeDevice
from tests.fakes.guest import Rig
from usbbridge.backend.base import Status
from usbbridge.errors import DeviceError, DeviceLostError
from usbbridge.redirect.limits import (
    MAX_ISO_PACKETS,
    MAX_STREAM_ERRORS,
    MAX_STREAM_TRANSFERS,
    MAX_STREAM_URBS,
)
from usbbridge.usbredir.packets import (
    IsoStreamStatus,
    Packet,
    Reset,
    SetAltSetting,
    SetConfiguration,
    StartIsoStream,
    StopIsoStream,
)
from usbbridge.usbredir.proto import Status as RedirStatus

PACKETS, URBS = 2, 4
HALF = PACKETS * URBS // 2
START, STOP = StartIsoStream(ISO_OUT, PACKETS, URBS), StopIsoStream(ISO_OUT)
STARTED = STOPPED = (0, IsoStreamStatus(RedirStatus.SUCCESS, ISO_OUT))
GAVE_UP = (0, IsoStreamStatus(RedirStatus.STALL, ISO_OUT))


def status(status: RedirStatus, packet_id: int = 0) -> tuple[int, Packet]:
    return packet_id, IsoStreamStatus(status, ISO_OUT)


def play(rig: Rig, first: int, count: int) -> list[tuple[int, Packet]]:
    """Send packets whose id and content are a number; what is heard of it."""
    for number in range(first, first + count):
        rig.guest.iso(number, ISO_OUT, sample(number))
    return rig.answers()


def sample(number: int) -> bytes:
    """Packets of all lengths, also empty ones."""
    return bytes((number & 0xFF,)) * (number % 5 * 48)


def sent(device: FakeDevice) -> list[list[bytes]]:
    """The packets in flight, by URB."""
    return [transfer.sent for transfer in device.flying]


def samples(first: int, urbs: int, packets: int = PACKETS) -> list[list[bytes]]:
    return [[sample(first + urb * packets + n) for n in range(packets)] for urb in range(urbs)]


def finish_first(rig: Rig, device: FakeDevice) -> list[tuple[int, Packet]]:
    device.finish_iso(device.flying[0])
    return rig.answers()


def test_nothing_is_sent_before_half_is_filled(rig: Rig, device: FakeDevice) -> None:
    assert rig.ask(START) == [STARTED]
    assert play(rig, 0, HALF - 1) == []
    assert device.flying == []
    assert play(rig, HALF - 1, 1) == []
    assert sent(device) == samples(0, URBS // 2)


def test_from_then_on_an_urb_is_sent_when_it_is_full(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    play(rig, 0, HALF + 1)
    assert len(device.flying) == URBS // 2
    play(rig, HALF + 1, 1)
    assert sent(device) == samples(0, URBS // 2 + 1)
    assert finish_first(rig, device) == []
    play(rig, HALF + 2, 2 * PACKETS)
    assert sent(device) == samples(PACKETS, URBS)


def test_hours_of_it_are_in_order(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    heard: list[list[bytes]] = []
    play(rig, 0, HALF)
    for number in range(HALF, 200, PACKETS):
        heard.append(device.flying[0].sent)
        device.finish_iso(device.flying[0])
        play(rig, number, PACKETS)
    assert heard == samples(0, (200 - HALF) // PACKETS)
    assert rig.host.dropped == 0


def test_there_is_no_answer_to_a_packet(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    assert play(rig, 0, HALF) == []
    assert finish_first(rig, device) == []
    assert finish_first(rig, device) == []


@pytest.mark.parametrize(
    ("packets", "urbs", "needed", "started"),
    [
        (1, 1, 1, 1),
        (32, 1, 32, 1),
        (1, 2, 1, 1),
        (1, 3, 1, 1),
        (2, 3, 3, 1),
        (10, 3, 15, 1),
        (10, 5, 25, 2),
        (32, 16, 256, 8),
    ],
)
def test_half_of_a_stream_is_a_whole_urb_at_least(
    rig: Rig, device: FakeDevice, packets: int, urbs: int, needed: int, started: int
) -> None:
    assert rig.ask(StartIsoStream(ISO_OUT, packets, urbs)) == [STARTED]
    play(rig, 0, needed - 1)
    assert device.flying == []
    play(rig, needed - 1, 1)
    assert sent(device) == samples(0, started, packets)


def test_one_urb_of_one_packet_carries_packet_after_packet(rig: Rig, device: FakeDevice) -> None:
    rig.ask(StartIsoStream(ISO_OUT, 1, 1))
    for number in range(20):
        assert play(rig, number, 1) == []
        assert sent(device) == [[sample(number)]]
        assert finish_first(rig, device) == []


def test_one_urb_of_one_packet_bears_a_flood(rig: Rig, device: FakeDevice) -> None:
    rig.ask(StartIsoStream(ISO_OUT, 1, 1))
    assert play(rig, 0, 100) == []
    assert sent(device) == [[sample(0)]]
    assert rig.host.dropped == 99
    finish_first(rig, device)
    play(rig, 100, 1)
    assert sent(device) == [[sample(100)]]


# ---- too fast, too slow


def test_when_all_urbs_are_in_flight_half_a_streams_packets_are_dropped(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    play(rig, 0, PACKETS * URBS)
    assert len(device.flying) == URBS
    assert play(rig, 100, 1) == []
    for _ in range(URBS // 2):
        finish_first(rig, device)
    play(rig, 101, HALF)
    assert rig.host.dropped == 1 + HALF
    assert len(device.flying) == URBS // 2
    play(rig, 200, PACKETS)
    assert sent(device)[-1] == samples(200, 1)[0]


def test_when_no_urb_is_in_flight_it_begins_anew_with_an_empty_buffer(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    play(rig, 0, HALF + 1)
    for _ in range(URBS // 2):
        assert finish_first(rig, device) == []
    assert rig.host.dropped == 1, "the packet that had no URB of its own yet"
    play(rig, 100, HALF - 1)
    assert device.flying == []
    play(rig, 100 + HALF - 1, 1)
    assert sent(device) == samples(100, URBS // 2)


def test_packets_left_to_drop_are_forgotten_when_it_begins_anew(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    play(rig, 0, PACKETS * URBS + 1)
    while device.flying:
        finish_first(rig, device)
    play(rig, 100, HALF)
    assert sent(device) == samples(100, URBS // 2)


# ---- what is refused


@pytest.mark.parametrize("packets", [0, MAX_ISO_PACKETS + 1, 255])
def test_a_stream_with_urbs_of_no_or_too_many_packets_does_not_start(rig: Rig, packets: int) -> None:
    assert rig.ask(StartIsoStream(ISO_OUT, packets, URBS)) == [GAVE_UP]


@pytest.mark.parametrize("urbs", [0, MAX_STREAM_URBS + 1, 255])
def test_a_stream_of_no_or_too_many_urbs_does_not_start(rig: Rig, urbs: int) -> None:
    assert rig.ask(StartIsoStream(ISO_OUT, PACKETS, urbs)) == [GAVE_UP]


@pytest.mark.parametrize("endpoint", [BULK_OUT, INTERRUPT_OUT, 0x0F, 0x00])
def test_an_endpoint_of_another_kind_neither_starts_nor_takes_packets(rig: Rig, endpoint: int) -> None:
    assert rig.ask(StartIsoStream(endpoint, 4, 3)) == [(0, IsoStreamStatus(RedirStatus.STALL, endpoint))]
    rig.guest.iso(7, endpoint, b"x")
    assert rig.answers() == [(7, IsoStreamStatus(RedirStatus.INVAL, endpoint))]


def test_a_packet_for_a_stream_that_does_not_run_is_invalid(rig: Rig, device: FakeDevice) -> None:
    rig.guest.iso(7, ISO_OUT, b"x")
    assert rig.answers() == [status(RedirStatus.INVAL, 7)]
    rig.ask(START)
    rig.ask(STOP)
    rig.guest.iso(8, ISO_OUT, b"x" * 20_000)
    assert rig.answers() == [status(RedirStatus.INVAL, 8)]


def test_a_packet_longer_than_the_endpoints_is_invalid_and_the_stream_goes_on(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    play(rig, 0, HALF - 1)
    rig.guest.iso(7, ISO_OUT, bytes(ISO_BYTES + 1))
    assert rig.answers() == [status(RedirStatus.INVAL, 7)]
    play(rig, HALF - 1, 1)
    assert sent(device) == samples(0, URBS // 2)


def test_packets_before_the_announcement_and_after_the_disconnect(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.to_guest()
    rig.guest.ear.take()
    rig.guest.iso(1, ISO_OUT, b"x")
    rig.to_host()
    rig.to_guest()
    assert rig.guest.ear.take() == [status(RedirStatus.IOERROR, 1)]
    rig.settle()
    rig.ask(START)
    play(rig, 0, HALF)
    rig.host.disconnect()
    rig.answers()
    rig.guest.iso(2, ISO_OUT, b"x")
    assert rig.answers() == [status(RedirStatus.IOERROR, 2)]
    assert device.outstanding == 0


def test_to_start_what_runs_is_invalid_and_leaves_it_running(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    play(rig, 0, HALF - 1)
    assert rig.ask(START, 9) == [status(RedirStatus.INVAL, 9)]
    play(rig, HALF - 1, 1)
    assert sent(device) == samples(0, URBS // 2)


def test_the_two_directions_of_an_address_are_two_streams(rig: Rig, device: FakeDevice) -> None:
    assert rig.ask(START) == [STARTED]
    assert rig.ask(StartIsoStream(ISO_IN, 1, 1)) == [(0, IsoStreamStatus(RedirStatus.SUCCESS, ISO_IN))]
    assert rig.ask(STOP) == [STOPPED]
    assert [t.endpoint for t in device.flying] == [ISO_IN]


# ---- what goes wrong


def test_a_bad_urb_is_told_once_with_the_id_of_its_first_packet(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    play(rig, 10, PACKETS * URBS)
    device.finish_iso(device.flying[0], [Status.ERROR, Status.OVERFLOW])
    device.finish(device.flying[0], Status.TIMED_OUT)
    assert rig.answers() == [status(RedirStatus.IOERROR, 10), status(RedirStatus.TIMEOUT, 10 + PACKETS)]
    play(rig, 100, 2 * PACKETS)
    assert len(device.flying) == URBS, "it goes on"


def test_a_bad_last_urb_begins_anew_as_well(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    play(rig, 0, HALF)
    finish_first(rig, device)
    device.finish(device.flying[0], Status.ERROR)
    assert rig.answers() == [status(RedirStatus.IOERROR, PACKETS)]
    play(rig, 100, HALF - 1)
    assert device.flying == []


@pytest.mark.parametrize("in_packet", [False, True])
def test_a_stall_is_cleared_and_the_stream_begins_anew_without_a_word(
    rig: Rig, device: FakeDevice, in_packet: bool
) -> None:
    rig.ask(START)
    play(rig, 0, HALF + 1)
    if in_packet:
        device.finish_iso(device.flying[0], [Status.ERROR, Status.STALL])
    else:
        device.finish(device.flying[0], Status.STALL)
    assert rig.answers() == []
    assert device.calls("clear_halt") == [[ISO_OUT]]
    assert device.flying == []
    assert device.outstanding == URBS
    play(rig, 100, HALF)
    assert sent(device) == samples(100, URBS // 2)


def test_a_halt_that_cannot_be_cleared_is_told(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    play(rig, 0, HALF)
    device.failures["clear_halt"] = DeviceError("no")
    device.finish(device.flying[0], Status.STALL)
    assert rig.answers() == [GAVE_UP]
    assert device.outstanding == 0
    rig.guest.iso(7, ISO_OUT, b"x")
    assert rig.answers() == [status(RedirStatus.INVAL, 7)]


def test_a_refused_submit_stops_the_stream(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.refuse = Status.ERROR
    assert play(rig, 0, HALF) == [GAVE_UP]
    assert device.outstanding == 0
    device.refuse = Status.COMPLETED
    assert rig.ask(START) == [STARTED]


def test_a_refused_submit_in_the_middle_takes_everything_with_it(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    play(rig, 0, HALF + 1)
    device.refuse = Status.ERROR
    assert play(rig, HALF + 1, 1) == [GAVE_UP]
    assert device.flying == []
    assert device.outstanding == 0


def test_a_stream_that_fails_again_and_again_is_given_up(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    answers: list[tuple[int, Packet]] = []
    number = 0
    while GAVE_UP not in answers and number < 10_000:
        answers += play(rig, number, PACKETS)
        number += PACKETS
        if device.flying:
            device.finish(device.flying[0], Status.ERROR)
            answers += rig.answers()
    assert len([packet for _, packet in answers if packet.status == RedirStatus.IOERROR]) == MAX_STREAM_ERRORS
    assert device.outstanding == 0


@pytest.mark.parametrize("how", ["urb", "packet", "submit"])
def test_an_unplugged_device_ends_the_session(rig: Rig, device: FakeDevice, how: str) -> None:
    rig.ask(START)
    play(rig, 0, HALF + 1)
    match how:
        case "urb":
            device.unplug()
        case "packet":
            device.finish_iso(device.flying[0], [Status.NO_DEVICE])
        case _:
            device.refuse = Status.NO_DEVICE
            rig.guest.iso(1, ISO_OUT, b"x")
    with pytest.raises(DeviceLostError, match="1-1 1234:5678 Fake was unplugged"):
        rig.settle()
    device.reap()
    assert device.flying == []
    assert device.outstanding == 0


# ---- what changes the device


@pytest.mark.parametrize("packet", [Reset(), SetConfiguration(2), SetAltSetting(2, 0)])
@pytest.mark.parametrize("packets", [0, 1, HALF, PACKETS * URBS])
def test_what_changes_the_device_stops_the_stream_and_says_so(
    rig: Rig, device: FakeDevice, packet: Packet, packets: int
) -> None:
    rig.ask(START)
    play(rig, 0, packets)
    assert rig.ask(packet)[0] == GAVE_UP
    assert device.flying == []
    assert device.outstanding == 0


def test_a_stream_that_was_only_prepared_makes_the_next_reset_real(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    rig.ask(Reset())
    assert device.calls("reset") == [[], []]


# ---- limits


def test_starts_and_stops_in_a_row_cannot_pile_up_transfers(device: FakeDevice) -> None:
    device.keeps_cancelled = True
    rig = Rig(device).attach()
    while device.outstanding < MAX_STREAM_TRANSFERS:
        assert rig.ask(StartIsoStream(ISO_OUT, 1, MAX_STREAM_URBS)) == [STARTED]
        play(rig, 0, MAX_STREAM_URBS)
        rig.ask(STOP)
    assert rig.ask(StartIsoStream(ISO_OUT, 1, MAX_STREAM_URBS)) == [GAVE_UP]
    assert len(device.flying) == MAX_STREAM_TRANSFERS


def test_all_that_is_in_no_urb_comes_back_at_stop(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    play(rig, 0, HALF + 1)
    rig.ask(STOP)
    assert device.outstanding == 0
