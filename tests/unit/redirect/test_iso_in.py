"""Isochronous IN streams: every packet and its number, what is dropped, and what becomes of a broken stream."""

import pytest

from tests.fakes.device import BULK_IN, INTERRUPT_IN, ISO_BYTES, ISO_IN, FakeDevice
from tests.fakes.guest import Rig
from usbbridge.backend.base import ISO_ACTUAL, ISO_FIELDS, Status
from usbbridge.errors import DeviceError, DeviceLostError
from usbbridge.redirect.limits import (
    ISO_BACKLOG,
    MAX_ISO_PACKETS,
    MAX_STREAM_BYTES,
    MAX_STREAM_ERRORS,
    MAX_STREAM_TRANSFERS,
    MAX_STREAM_URBS,
    OUTBOX_HIGH,
)
from usbbridge.usb.ch9 import Speed, TransferType
from usbbridge.usb.descriptors import Configuration, Endpoint, Interface, SuperSpeedCompanion
from usbbridge.usbredir.packets import (
    AltSettingStatus,
    ControlPacket,
    EpInfo,
    InterfaceInfo,
    InterruptPacket,
    IsoPacket,
    IsoStreamStatus,
    Packet,
    Reset,
    SetAltSetting,
    SetConfiguration,
    StartInterruptReceiving,
    StartIsoStream,
    StopIsoStream,
)
from usbbridge.usbredir.proto import Cap
from usbbridge.usbredir.proto import Status as RedirStatus

PACKETS, URBS = 4, 3
START, STOP = StartIsoStream(ISO_IN, PACKETS, URBS), StopIsoStream(ISO_IN)
STARTED = STOPPED = (0, IsoStreamStatus(RedirStatus.SUCCESS, ISO_IN))
GAVE_UP = (0, IsoStreamStatus(RedirStatus.STALL, ISO_IN))
HEADERS = 16 + 4


def camera(sizes: tuple[int, ...] = (0, 512, 0x1400), speed: Speed = Speed.HIGH) -> FakeDevice:
    """Its settings differ in how much they carry; the first has no endpoint."""
    endpoints = [(Endpoint(ISO_IN, TransferType.ISO, size, 1),) if size else () for size in sizes]
    settings = (Interface(0, n, 14, 2, 0, 0, has) for n, has in enumerate(endpoints))
    return FakeDevice(Configuration(1, 0x80, 50, 0, tuple(settings)), speed=speed)


def packet(number: int, data: bytes, status: RedirStatus = RedirStatus.SUCCESS) -> tuple[int, Packet]:
    return number, IsoPacket(ISO_IN, status, len(data), data)


def numbers(answers: list[tuple[int, Packet]]) -> list[int]:
    return [number for number, packet in answers if isinstance(packet, IsoPacket)]


def test_start_keeps_the_urbs_that_were_asked_for_running(rig: Rig, device: FakeDevice) -> None:
    assert rig.ask(START) == [STARTED]
    assert [(t.endpoint, t.lengths) for t in device.flying] == [(ISO_IN, [ISO_BYTES] * PACKETS)] * URBS
    device.finish_iso(device.flying[0])
    rig.settle()
    assert [t.lengths for t in device.flying] == [[ISO_BYTES] * PACKETS] * URBS


def test_every_packet_is_sent_with_a_number_of_its_own_also_an_empty_one(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.finish_iso(device.flying[0], [b"a", b"", b"ccc", b"d" * ISO_BYTES])
    device.finish_iso(device.flying[0], [b"e"])
    expected = [b"a", b"", b"ccc", b"d" * ISO_BYTES, b"e", b"", b"", b""]
    assert rig.answers() == [packet(number, data) for number, data in enumerate(expected)]


def test_the_packets_of_an_urb_are_one_part_of_the_outbox(device: FakeDevice) -> None:
    rig = Rig(device).attach()
    rig.ask(START)
    device.finish_iso(device.flying[0], [b"a", b"bb", b"", b"dddd"])
    device.reap()
    assert [len(part) for part in rig.host.outbox.parts] == [PACKETS * HEADERS + 7]
    assert rig.host.outbox.held == []


def test_a_damaged_packet_is_sent_with_its_error_and_without_data(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.finish_iso(device.flying[0], [b"a", Status.ERROR, Status.OVERFLOW, b"d"])
    assert rig.answers() == [
        packet(0, b"a"),
        packet(1, b"", RedirStatus.IOERROR),
        packet(2, b"", RedirStatus.BABBLE),
        packet(3, b"d"),
    ]
    assert len(device.flying) == URBS


def test_an_urb_that_fails_as_a_whole_is_one_packet_and_its_numbers_are_gone(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.finish(device.flying[0], Status.TIMED_OUT)
    device.finish_iso(device.flying[0], [b"next"])
    answers = rig.answers()
    assert answers[:2] == [packet(0, b"", RedirStatus.TIMEOUT), packet(PACKETS, b"next")]
    assert numbers(answers[1:]) == [4, 5, 6, 7]
    assert len(device.flying) == URBS


@pytest.mark.parametrize("actual", [ISO_BYTES + 1, 1 << 20, -1])
def test_a_kernel_that_says_more_came_than_there_was_room_for_is_not_believed(
    rig: Rig, device: FakeDevice, actual: int
) -> None:
    rig.ask(START)
    transfer = device.flying[0]
    device.finish_iso(transfer, [b"a", b"b", b"c", b"d"])
    transfer.iso[ISO_FIELDS * (PACKETS - 1) + ISO_ACTUAL] = actual
    assert rig.answers() == [packet(0, b"", RedirStatus.IOERROR)]
    assert len(device.flying) == URBS


def test_stop_ends_it_and_a_new_start_counts_from_0_again(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.finish_iso(device.flying[0])
    rig.answers()
    assert rig.ask(STOP) == [STOPPED]
    assert device.flying == []
    assert device.outstanding == 0
    assert rig.ask(START) == [STARTED]
    device.finish_iso(device.flying[0])
    assert numbers(rig.answers()) == [0, 1, 2, 3]


def test_to_stop_what_does_not_run_is_no_error_and_to_start_what_runs_is_invalid(rig: Rig, device: FakeDevice) -> None:
    assert rig.ask(STOP, 7) == [(7, STOPPED[1])]
    rig.ask(START)
    assert rig.ask(START, 8) == [(8, IsoStreamStatus(RedirStatus.INVAL, ISO_IN))]
    assert len(device.flying) == URBS


@pytest.mark.parametrize(
    ("packets", "urbs"), [(0, 3), (4, 0), (0, 0), (MAX_ISO_PACKETS + 1, 3), (4, MAX_STREAM_URBS + 1), (255, 255)]
)
@pytest.mark.parametrize("running", [False, True])
def test_a_stream_of_no_urbs_or_too_many_does_not_start_and_stops_none(
    rig: Rig, device: FakeDevice, packets: int, urbs: int, running: bool
) -> None:
    if running:
        rig.ask(START)
    status = RedirStatus.INVAL if running else RedirStatus.STALL
    assert rig.ask(StartIsoStream(ISO_IN, packets, urbs)) == [(0, IsoStreamStatus(status, ISO_IN))]
    assert len(device.flying) == (URBS if running else 0)


def test_the_largest_and_the_smallest_stream_start(rig: Rig, device: FakeDevice) -> None:
    assert rig.ask(StartIsoStream(ISO_IN, MAX_ISO_PACKETS, MAX_STREAM_URBS)) == [STARTED]
    assert [len(t.lengths) for t in device.flying] == [MAX_ISO_PACKETS] * MAX_STREAM_URBS
    rig.ask(STOP)
    assert rig.ask(StartIsoStream(ISO_IN, 1, 1)) == [STARTED]
    device.finish_iso(device.flying[0], [b"x"])
    assert rig.answers() == [packet(0, b"x")]


@pytest.mark.parametrize("endpoint", [BULK_IN, INTERRUPT_IN, 0x8F, 0x80])
def test_an_endpoint_of_another_kind_does_not_start(rig: Rig, device: FakeDevice, endpoint: int) -> None:
    assert rig.ask(StartIsoStream(endpoint, 4, 3)) == [(0, IsoStreamStatus(RedirStatus.STALL, endpoint))]
    assert device.flying == []


def test_an_endpoint_that_carries_nothing_does_not_start() -> None:
    device = FakeDevice(
        Configuration(
            1, 0x80, 50, 0, (Interface(0, 0, 14, 2, 0, 0, (Endpoint(ISO_IN, TransferType.ISO, 0, 1),)),)
        )
    )
    assert Rig(device).attach().ask(START) == [GAVE_UP]


def test_start_and_stop_before_the_announcement(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.to_guest()
    rig.guest.ear.take()
    rig.guest.say(START, 5)
    rig.guest.say(STOP, 6)
    rig.to_host()
    rig.to_guest()
    assert rig.guest.ear.take() == [(5, GAVE_UP[1])]


def test_start_and_stop_after_the_disconnect(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    rig.host.disconnect()
    assert device.flying == []
    rig.answers()
    assert rig.ask(START) == [GAVE_UP]
    assert rig.ask(STOP) == []


# ---- what goes wrong


def test_a_refused_submit_stops_the_stream(rig: Rig, device: FakeDevice) -> None:
    device.refuse = Status.ERROR
    assert rig.ask(START) == [GAVE_UP]
    assert device.outstanding == 0
    device.refuse = Status.COMPLETED
    assert rig.ask(START) == [STARTED]
    device.finish_iso(device.flying[0])
    device.refuse = Status.ERROR
    assert rig.answers()[-1] == GAVE_UP
    assert device.flying == []


def test_a_stall_is_cleared_and_the_stream_started_anew_without_a_word(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.finish_iso(device.flying[0])
    rig.answers()
    device.finish(device.flying[0], Status.STALL)
    assert rig.answers() == []
    assert device.calls("clear_halt") == [[ISO_IN]]
    assert len(device.flying) == URBS
    device.finish_iso(device.flying[0], [b"b"])
    assert rig.answers()[0] == packet(0, b"b")


def test_a_packet_that_stalls_is_as_if_its_urb_did_but_for_the_packets_before_it(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.finish_iso(device.flying[0], [b"a", Status.STALL, b"c", b"d"])
    assert rig.answers() == [packet(0, b"a")]
    assert device.calls("clear_halt") == [[ISO_IN]]
    assert len(device.flying) == URBS


def test_a_halt_that_cannot_be_cleared_is_told(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    device.failures["clear_halt"] = DeviceError("no")
    device.finish(device.flying[0], Status.STALL)
    assert rig.answers() == [GAVE_UP]
    assert device.flying == []


@pytest.mark.parametrize("status", [Status.STALL, Status.ERROR])
def test_a_stream_that_fails_again_and_again_is_given_up(rig: Rig, device: FakeDevice, status: Status) -> None:
    rig.ask(START)
    rounds = 0
    while device.flying and rounds < 1000:
        device.finish(device.flying[0], status)
        rig.settle()
        rounds += 1
    assert rig.guest.ear.take()[-1] == GAVE_UP
    assert rounds == MAX_STREAM_ERRORS + 1
    assert device.outstanding == 0


def test_damaged_packets_alone_do_not_end_a_stream(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    for _ in range(2 * MAX_STREAM_ERRORS):
        device.finish_iso(device.flying[0], [Status.ERROR] * PACKETS)
        device.reap()
    assert GAVE_UP not in rig.answers()
    assert len(device.flying) == URBS


@pytest.mark.parametrize("how", ["urb", "packet", "submit", "clear halt"])
def test_an_unplugged_device_ends_the_session(rig: Rig, device: FakeDevice, how: str) -> None:
    rig.ask(START)
    match how:
        case "urb":
            device.unplug()
        case "packet":
            device.finish_iso(device.flying[0], [b"a", Status.NO_DEVICE])
        case "submit":
            device.finish_iso(device.flying[0])
            device.refuse = Status.NO_DEVICE
        case _:
            device.finish(device.flying[0], Status.STALL)
            device.failures["clear_halt"] = DeviceLostError("gone")
    with pytest.raises(DeviceLostError, match="1-1 1234:5678 Fake was unplugged"):
        rig.settle()
    assert device.flying == []


# ---- what changes the device


def test_a_reset_stops_the_stream_and_says_so(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    assert rig.ask(Reset()) == [GAVE_UP]
    assert device.calls("reset") == [[], []]
    assert device.flying == []
    assert rig.ask(Reset()) == []
    assert device.calls("reset") == [[], []], "nothing has happened since"


def test_a_new_setting_stops_the_streams_of_its_interface_before_it_is_described(
    rig: Rig, device: FakeDevice
) -> None:
    rig.ask(START)
    rig.ask(StartInterruptReceiving(INTERRUPT_IN))
    assert GAVE_UP not in rig.ask(SetAltSetting(1, 0))
    answers = rig.ask(SetAltSetting(2, 0))
    assert answers[0] == GAVE_UP
    assert [type(packet) for _, packet in answers[1:]] == [InterfaceInfo, EpInfo, AltSettingStatus]


def test_a_new_configuration_stops_every_stream(rig: Rig, device: FakeDevice) -> None:
    rig.ask(START)
    assert rig.ask(SetConfiguration(2))[0] == GAVE_UP
    assert device.flying == []
    assert rig.ask(START) == [GAVE_UP], "the endpoint is gone"


def test_packets_are_as_large_as_the_alternate_setting_has_them() -> None:
    device = camera()
    rig = Rig(device).attach()
    assert rig.ask(START) == [GAVE_UP]
    for setting, size in ((1, 512), (2, 3072), (1, 512)):
        answers = rig.ask(SetAltSetting(0, setting))
        assert answers[-1] == (0, AltSettingStatus(RedirStatus.SUCCESS, 0, setting))
        assert answers[-2][1].endpoints[16 + 5].max_packet_size == size
        assert rig.ask(START) == [STARTED]
        assert device.flying[0].lengths == [size] * PACKETS
        device.finish_iso(device.flying[0], [b"x" * size])
        assert rig.answers()[0] == packet(0, b"x" * size)
    rig.ask(SetAltSetting(0, 0))
    assert device.outstanding == 0
    assert rig.ask(START) == [GAVE_UP]


def test_superspeed_packets_have_room_for_a_whole_service_interval() -> None:
    endpoint = Endpoint(ISO_IN, TransferType.ISO, 1024, 1, SuperSpeedCompanion(15, 2, 49152))
    configuration = Configuration(1, 0x80, 50, 0, (Interface(0, 0, 14, 2, 0, 0, (endpoint,)),))
    device = FakeDevice(configuration, speed=Speed.SUPER)
    rig = Rig(device).attach()
    assert rig.ask(StartIsoStream(ISO_IN, 1, 2)) == [STARTED]
    device.finish_iso(device.flying[0], [b"x" * 49152])
    assert rig.answers() == [packet(0, b"x" * 49152)]


# ---- a guest that does not read


def fill(rig: Rig, device: FakeDevice, urbs: int = 1, size: int = ISO_BYTES) -> None:
    for _ in range(urbs):
        device.finish_iso(device.flying[0], [bytes(size)] * len(device.flying[0].lengths))
        device.reap()


def test_packets_are_dropped_from_thrice_the_stream_on_until_half_of_it(device: FakeDevice) -> None:
    rig = Rig(device).attach()
    rig.ask(START)
    whole, urb = ISO_BYTES * PACKETS * URBS, (ISO_BYTES + HEADERS) * PACKETS
    while not rig.host.dropped:
        fill(rig, device)
    waiting = rig.host.outbox.size
    assert 3 * whole <= waiting < 3 * whole + urb
    assert rig.host.dropped == PACKETS
    rig.take_outbox()
    rig.host.outbox.put(bytes(whole // 2))  # as if so much of it was left
    fill(rig, device)
    assert rig.host.dropped == 2 * PACKETS
    rig.take_outbox()
    rig.host.outbox.put(bytes(whole // 2 - 1))
    fill(rig, device)
    assert rig.host.dropped == 2 * PACKETS
    assert rig.host.outbox.size == whole // 2 - 1 + urb


def test_the_numbers_of_dropped_packets_are_not_used_again(device: FakeDevice) -> None:
    rig = Rig(device).attach()
    rig.ask(START)
    urbs = 0
    while not rig.host.dropped:
        fill(rig, device)
        urbs += 1
    rig.answers()
    fill(rig, device)
    assert numbers(rig.answers()) == [urbs * PACKETS + n for n in range(PACKETS)]


def test_each_stream_is_dropped_for_itself_and_none_for_the_data_of_another_endpoint(device: FakeDevice) -> None:
    rig = Rig(device).attach()
    rig.ask(START)
    rig.guest.bulk(1, BULK_IN, 1 << 20)
    rig.settle()
    device.finish(device.flying[-1], data=bytes(1 << 20))
    device.reap()
    fill(rig, device, 3 * URBS - 1)
    assert rig.host.dropped == 0
    fill(rig, device, 2)
    assert rig.host.dropped > 0


def test_the_backlog_of_the_fastest_streams_stays_far_below_what_stops_the_guests_requests() -> None:
    endpoints = tuple(Endpoint(0x80 | n, TransferType.ISO, 0x1400, 1) for n in range(1, 6))
    device = FakeDevice(Configuration(1, 0x80, 50, 0, (Interface(0, 0, 14, 2, 0, 0, endpoints),)))
    rig = Rig(device).attach()
    for endpoint in endpoints:
        rig.ask(StartIsoStream(endpoint.address, MAX_ISO_PACKETS, MAX_STREAM_URBS))
    while rig.host.dropped < 1000:
        for transfer in list(device.flying):
            device.finish_iso(transfer, [bytes(3072)] * MAX_ISO_PACKETS)
        device.reap()
    urb = MAX_ISO_PACKETS * (3072 + HEADERS)
    assert rig.host.outbox.size < ISO_BACKLOG + urb < OUTBOX_HIGH
    rig.guest.control(1, 0x80, 6, 0x0100, 0, 18)
    rig.to_host()
    device.finish(device.flying[-1], data=b"descriptor")
    device.reap()
    behind = rig.host.outbox.size
    assert behind < ISO_BACKLOG + urb + 100, "what a control answer has to wait for"
    assert ControlPacket in {type(packet) for _, packet in rig.answers()}


def test_a_report_is_not_dropped_for_the_backlog_of_a_stream(device: FakeDevice) -> None:
    rig = Rig(device).attach()
    rig.ask(StartInterruptReceiving(INTERRUPT_IN))
    rig.ask(StartIsoStream(ISO_IN, MAX_ISO_PACKETS, MAX_STREAM_URBS))
    iso = [t for t in device.flying if t.kind == "iso"]
    while not rig.host.dropped:
        device.finish_iso(iso[0], [bytes(ISO_BYTES)] * MAX_ISO_PACKETS)
        device.reap()
    device.finish(device.flying[0], data=b"key up")
    reports = [packet for _, packet in rig.answers() if isinstance(packet, InterruptPacket)]
    assert [report.data for report in reports] == [b"key up"]


# ---- limits


def test_starts_and_stops_in_a_row_cannot_pile_up_transfers(device: FakeDevice) -> None:
    device.keeps_cancelled = True
    rig = Rig(device).attach()
    start = StartIsoStream(ISO_IN, 1, MAX_STREAM_URBS)
    for _ in range(MAX_STREAM_TRANSFERS):
        rig.guest.say(start)
        rig.guest.say(STOP)
    answers = rig.answers()
    assert len(device.flying) == MAX_STREAM_TRANSFERS
    assert answers[-2:] == [GAVE_UP, STOPPED]
    for transfer in list(device.flying):
        device.finish(transfer, Status.CANCELLED)
    device.reap()
    assert device.outstanding == 0
    assert rig.ask(start) == [STARTED]


def test_all_streams_together_hold_no_more_bytes_than_the_limit() -> None:
    device = camera((0x1400,))
    device.keeps_cancelled = True
    rig = Rig(device).attach()
    start = StartIsoStream(ISO_IN, MAX_ISO_PACKETS, MAX_STREAM_URBS)
    size = MAX_ISO_PACKETS * MAX_STREAM_URBS * 3072
    for _ in range(20):
        rig.guest.say(start)
        rig.guest.say(STOP)
    assert rig.answers()[-2:] == [GAVE_UP, STOPPED]
    assert sum(t.length for t in device.flying) == MAX_STREAM_BYTES // size * size


def test_numbers_stay_within_the_ids_of_a_guest_with_short_ones(device: FakeDevice) -> None:
    rig = Rig(device, caps=Cap.EP_INFO_MAX_PACKET_SIZE).attach()
    rig.ask(START)
    device.flying[0].header.next_id = 0xFFFF_FFFE
    device.finish_iso(device.flying[0])
    device.finish_iso(device.flying[0])
    assert numbers(rig.answers()) == [0xFFFF_FFFE, 0xFFFF_FFFF, 0, 1, 2, 3, 4, 5]
