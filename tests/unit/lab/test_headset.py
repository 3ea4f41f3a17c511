"""The headset: its streams, volumes, rates and keys, and the judge of what is played."""

import json
import random
import select
import struct
from array import array
from itertools import takewhile

import pytest

from tests.e2e.checks.headset import judge_played, judge_recorded
from tools.lab.devices import headset, uac
from tools.lab.devices.headset import FORGET, GET_CUR, GET_HEARD, MUTE, PRESS, SET_CUR, VOLUME
from tools.lab.devices.patterns import MAX_RUNS, RAMP_FRAMES, STRIDE, SoundJudge, missing_frames, place, ramp
from usbbridge.backend.base import ISO_FIELDS, ISO_LENGTH, Status
from usbbridge.backend.emulated.device import EmulatedDevice
from usbbridge.backend.emulated.function import BABBLE, ERROR, NAK, STALL
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import DescriptorType, Request, SetupPacket, Speed, TransferType
from usbbridge.usb.descriptors import parse_configuration

TO_INTERFACE, FROM_INTERFACE, TO_ENDPOINT, FROM_ENDPOINT = 0x21, 0xA1, 0x22, 0xA2
PLAYBACK, CAPTURE = (unit << 8 | uac.CONTROL_INTERFACE for unit in (uac.PLAYBACK_VOLUME, uac.CAPTURE_VOLUME))
RANGE = (headset.GET_MIN, headset.GET_MAX, headset.GET_RES)
SILENT_FRAME = bytes(4)


def ask(device: headset.Headset, request: tuple[int, int], value: int, index: int, length: int = 64) -> bytes | int:
    data = bytearray(length)
    count = device.control(SetupPacket(*request, value, index, length), memoryview(data))
    return bytes(data[:count]) if count >= 0 else count


def tell(device: headset.Headset, request: tuple[int, int], value: int, index: int, data: bytes = b"") -> int:
    return device.control(SetupPacket(*request, value, index, len(data)), memoryview(bytearray(data)))


def heard(device: headset.Headset) -> dict:
    return json.loads(ask(device, GET_HEARD, 0, 0, headset.HEARD_SIZE))


def play(device: headset.Headset, data: bytes, size: int = 192) -> None:
    for at in range(0, len(data), size):
        part = data[at : at + size]
        assert device.receive_packet(uac.PLAYBACK_OUT, memoryview(part)) == len(part)


def record(device: headset.Headset, packets: int) -> bytes:
    buffer, parts = memoryview(bytearray(96)), []
    for _ in range(packets):
        size = device.send_packet(uac.CAPTURE_IN, buffer)
        parts.append(bytes(buffer[:size]))
    return b"".join(parts)


@pytest.fixture
def device() -> headset.Headset:
    return headset.create(Speed.FULL, {})


# ---- descriptors


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH])
def test_alternate_setting_0_takes_no_bandwidth_and_1_a_packet_a_millisecond(speed):
    [raw] = headset.create(speed, {}).model.configurations
    parsed = parse_configuration(raw)
    for stream in (uac.PLAYBACK, uac.CAPTURE):
        assert parsed.setting(stream.interface, 0).endpoints == ()
        [end] = parsed.setting(stream.interface, 1).endpoints
        assert (end.address, end.transfer_type) == (stream.endpoint, TransferType.ISO)
        assert end.packet_bytes == stream.packet(48_000)
        assert (1 if speed is Speed.FULL else 8) == 1 << (end.interval - 1)


def test_the_control_header_counts_the_descriptors_that_follow_it(device):
    parts = []
    [raw] = device.model.configurations
    while raw:
        parts.append(raw[: raw[0]])
        raw = raw[raw[0] :]
    first = next(i for i, part in enumerate(parts) if part[1] == DescriptorType.CS_INTERFACE)
    following = takewhile(lambda part: part[1] == DescriptorType.CS_INTERFACE, parts[first:])
    assert int.from_bytes(parts[first][5:7], "little") == sum(map(len, following))


def test_without_keys_there_is_no_hid_interface():
    device = headset.create(Speed.FULL, {"nokeys": ""})
    [raw] = device.model.configurations
    assert parse_configuration(raw).numbers == (0, 1, 2)
    assert tell(device, PRESS, 1, 0) == STALL


@pytest.mark.parametrize("speed", [Speed.LOW, Speed.SUPER])
def test_other_speeds_are_refused(speed):
    with pytest.raises(UsageError, match="full or high speed"):
        headset.create(speed, {})


def test_other_options_are_refused():
    with pytest.raises(UsageError, match="no option 'zoom'"):
        headset.create(Speed.HIGH, {"zoom": "3"})


# ---- requests


@pytest.mark.parametrize("unit", [PLAYBACK, CAPTURE])
def test_a_volume_has_a_range_and_keeps_what_it_is_set_to(device, unit):
    values = [ask(device, (FROM_INTERFACE, request), VOLUME << 8, unit, 2) for request in RANGE]
    assert [struct.unpack("<h", value)[0] for value in values] == [headset.QUIETEST, headset.LOUDEST, 256]
    assert tell(device, (TO_INTERFACE, SET_CUR), VOLUME << 8, unit, struct.pack("<h", -2560)) == 2
    assert ask(device, (FROM_INTERFACE, GET_CUR), VOLUME << 8, unit, 2) == struct.pack("<h", -2560)
    assert -2560 in heard(device)["levels"]
    device.restart()
    assert heard(device)["levels"] == [0, 0]


@pytest.mark.parametrize("data", [b"", b"\0", b"\x01\x00", b"\x00\x80", b"\0\0\0"])
def test_a_volume_out_of_range_is_refused(device, data):
    assert tell(device, (TO_INTERFACE, SET_CUR), VOLUME << 8, PLAYBACK, data) == STALL
    assert heard(device)["levels"] == [0, 0]


def test_only_the_master_channel_has_controls(device):
    assert ask(device, (FROM_INTERFACE, GET_CUR), VOLUME << 8 | 1, PLAYBACK) == STALL


@pytest.mark.parametrize("stream", [uac.PLAYBACK, uac.CAPTURE])
def test_a_stream_has_the_rate_it_is_set_to(device, stream):
    def rate() -> int:
        return int.from_bytes(ask(device, (FROM_ENDPOINT, GET_CUR), 0x100, stream.endpoint, 3), "little")

    assert rate() == 48_000
    assert tell(device, (TO_ENDPOINT, SET_CUR), 0x100, stream.endpoint, (16_000).to_bytes(3, "little")) == 3
    assert rate() == 16_000
    assert tell(device, (TO_ENDPOINT, SET_CUR), 0x100, stream.endpoint, (44_100).to_bytes(3, "little")) == STALL
    assert rate() == 16_000
    device.restart()
    assert rate() == 48_000


def test_any_request_gets_an_answer_that_fits(device):
    dice = random.Random(4)
    for _ in range(3000):
        length = dice.choice((0, 1, 2, 3, 8, 64, 1024))
        request = dice.choice((0x01, 0x81, 0x21, 0xA1, 0x22, 0xA2, 0x40, 0xC0)), dice.randrange(256)
        setup = SetupPacket(*request, dice.randrange(0x400), dice.randrange(0x700), length)
        answer = device.control(setup, memoryview(bytearray(dice.randbytes(length))))
        assert answer == STALL or 0 <= answer <= length


# ---- capture


def test_a_recording_is_the_ramp_from_its_beginning(device):
    device.select(uac.CAPTURE_INTERFACE, 1)
    assert record(device, 1500) == ramp(0, 1500 * 48)
    device.select(uac.CAPTURE_INTERFACE, 1)
    assert record(device, 1) == ramp(0, 48)


def test_a_recording_at_16_khz_has_packets_a_third_as_long(device):
    tell(device, (TO_ENDPOINT, SET_CUR), 0x100, uac.CAPTURE_IN, (16_000).to_bytes(3, "little"))
    assert record(device, 10) == ramp(0, 160)


def test_a_packet_that_its_buffer_cannot_hold_is_babble(device):
    assert device.send_packet(uac.CAPTURE_IN, memoryview(bytearray(95))) == BABBLE


def test_a_muted_microphone_hears_silence_and_then_goes_on(device):
    tell(device, (TO_INTERFACE, SET_CUR), MUTE << 8, CAPTURE, b"\x01")
    assert record(device, 2) == bytes(192)
    tell(device, (TO_INTERFACE, SET_CUR), MUTE << 8, CAPTURE, b"\0")
    assert record(device, 1) == ramp(96, 48)


# ---- playback


def test_what_was_played_is_judged(device):
    play(device, SILENT_FRAME * 48 + ramp(0, 480, 2) + SILENT_FRAME * 48)
    facts = heard(device)
    assert (facts["packets"], facts["frames"], facts["silent"], facts["runs"]) == (12, 480, 96, 1)
    assert facts["first_runs"] == [[0, 480]]
    assert tell(device, FORGET, 0, 0) == 0
    assert (heard(device)["packets"], heard(device)["frames"]) == (0, 0)


def test_a_lost_packet_shows_by_how_much_it_was(device):
    data = ramp(0, 480, 2)
    play(device, data[: 192 * 3] + data[192 * 4 :])
    assert heard(device)["first_runs"] == [[0, 144], [192, 288]]
    assert missing_frames(heard(device)["first_runs"]) == 48


def test_a_packet_of_half_a_frame_is_an_error(device):
    assert device.receive_packet(uac.PLAYBACK_OUT, memoryview(bytes(6))) == ERROR


def test_an_empty_packet_is_no_sound(device):
    assert device.receive_packet(uac.PLAYBACK_OUT, memoryview(b"")) == 0
    assert heard(device)["frames"] == 0


def test_what_it_heard_fits_its_answer_however_many_gaps_there_were(device):
    dice = random.Random(5)
    for _ in range(10 * MAX_RUNS):
        play(device, ramp(dice.randrange(RAMP_FRAMES), 48, 2))
    assert heard(device)["runs"] == 10 * MAX_RUNS
    assert len(ask(device, GET_HEARD, 0, 0, 4096)) < headset.HEARD_SIZE


def test_looped_back_sound_is_the_left_channel_then_silence():
    device = headset.create(Speed.FULL, {"loopback": ""})
    device.select(uac.CAPTURE_INTERFACE, 1)
    play(device, ramp(0, 96, 2))
    assert record(device, 3) == ramp(0, 96) + bytes(96)


def test_what_waits_to_be_looped_back_is_bounded():
    device = headset.create(Speed.FULL, {"loopback": ""})
    play(device, ramp(0, 2 * headset.MAX_ECHO, 2))
    looped = record(device, 2 * headset.MAX_ECHO // 48)
    assert len(looped.rstrip(b"\0")) <= headset.MAX_ECHO * 2


def test_through_the_engine_each_packet_of_a_transfer_is_played_and_recorded():
    function = headset.create(Speed.FULL, {})
    device = EmulatedDevice(function, "headset")
    for stream in (uac.PLAYBACK, uac.CAPTURE):
        device.set_interface(stream.interface, 1)
    ended = []
    out = iso(device, uac.PLAYBACK, ended)
    out.data[: 10 * 192] = ramp(0, 480, 2)
    into = iso(device, uac.CAPTURE, ended)
    assert device.submit_iso(out, uac.PLAYBACK_OUT, 10) is Status.COMPLETED
    assert device.submit_iso(into, uac.CAPTURE_IN, 10) is Status.COMPLETED
    poller = select.poll()
    for fd, _ in device.pollfds():
        poller.register(fd, select.POLLIN)
    while len(ended) < 2:
        assert poller.poll(10_000)
        device.reap()
    assert heard(function)["first_runs"] == [[0, 480]]
    assert bytes(into.data[:960]) == ramp(0, 480)
    device.close()


def iso(device, stream, ended):
    """A transfer of ten packets."""
    transfer = device.take_iso(10, stream.packet(48_000))
    transfer.on_done = ended.append
    for packet in range(10):
        transfer.iso[packet * ISO_FIELDS + ISO_LENGTH] = stream.packet(48_000)
    return transfer


# ---- keys


def test_keys_are_reported_in_the_order_they_were_pressed(device):
    woken = []
    device.wake = lambda: woken.append(True)
    report = memoryview(bytearray(8))
    assert device.send(uac.KEYS_IN, report) == NAK
    for keys in (1, 0, 8):
        assert tell(device, PRESS, keys, 0) == 0
    assert len(woken) == 3
    assert [(device.send(uac.KEYS_IN, report), report[0]) for _ in range(3)] == [(1, 1), (1, 0), (1, 8)]
    assert device.send(uac.KEYS_IN, report) == NAK
    assert ask(device, (FROM_INTERFACE, headset.HID_GET_REPORT), 0x100, uac.KEYS_INTERFACE) == b"\x08"


def test_keys_that_it_does_not_have_cannot_be_pressed(device):
    assert tell(device, PRESS, 1 << len(uac.KEYS), 0) == STALL


def test_the_report_descriptor_is_as_long_as_it_says(device):
    request = (0x81, Request.GET_DESCRIPTOR)
    described = ask(device, request, uac.HID_DESCRIPTOR << 8, uac.KEYS_INTERFACE)
    report = ask(device, request, uac.REPORT_DESCRIPTOR << 8, uac.KEYS_INTERFACE, 255)
    assert int.from_bytes(described[7:9], "little") == len(report)
    assert report == uac.KEYS_REPORT


# ---- the judge of sound


@pytest.mark.parametrize("channels", [1, 2])
def test_a_sample_tells_its_place_in_the_ramp(channels):
    data = ramp(0, RAMP_FRAMES, channels)
    for index in (0, 1, 77, 32768, 65535):
        (sample,) = struct.unpack_from("<H", data, index * 2 * channels)
        assert place(sample) == index
    assert data[: 2 * channels] == struct.pack("<hh", STRIDE, ~STRIDE)[: 2 * channels]


@pytest.mark.parametrize("chunk", [1, 7, 48, 20_000, 200_000])
def test_a_whole_ramp_is_one_run_however_it_is_cut(chunk):
    judge = SoundJudge(2)
    data = bytes(4 * 5) + ramp(0, 70_000, 2) + bytes(4 * 9)
    for at in range(0, len(data), chunk * 4):
        judge.hear(data[at : at + chunk * 4])
    assert (judge.frames, judge.silent, judge.damaged, judge.runs, judge.start) == (70_000, 14, 0, 1, 0)


def test_silence_in_the_middle_ends_a_run():
    judge = SoundJudge(1)
    judge.hear(ramp(10, 100) + bytes(20) + ramp(110, 50))
    assert (judge.runs, judge.silent, judge.first_runs) == (2, 10, [[10, 100], [110, 50]])


def test_frames_that_are_no_part_of_the_ramp_are_damaged():
    judge = SoundJudge(2)
    judge.hear(ramp(0, 10, 2) + b"\x01\x02\x03\x04" * 3 + ramp(13, 10, 2) + b"\x55")
    assert (judge.frames, judge.damaged, judge.runs) == (20, 4, 2)


def test_swapped_channels_are_no_ramp():
    samples = array("H", ramp(0, 10, 2))
    samples[::2], samples[1::2] = samples[1::2], samples[::2]
    judge = SoundJudge(2)
    judge.hear(samples.tobytes())
    assert judge.runs == 10


def test_many_gaps_do_not_fill_the_memory():
    judge = SoundJudge(1)
    for _ in range(10 * MAX_RUNS):
        judge.hear(ramp(5, 3))
    assert (judge.runs, judge.frames, len(judge.first_runs)) == (10 * MAX_RUNS, 30 * MAX_RUNS, MAX_RUNS)


# ---- the check that runs in a machine


LOST = ramp(0, 480) + ramp(528, 480)
"A recording in which a packet is missing."


def test_the_check_refuses_a_recording_with_a_gap_unless_it_is_told_to_bear_one():
    with pytest.raises(SystemExit, match="runs=2"):
        judge_recorded(LOST, 960, gaps=0)
    assert judge_recorded(LOST, 960, gaps=1) == {"frames": 960, "silent": 0, "gaps": 1, "missing": 48}


@pytest.mark.parametrize("data", [bytes(960), ramp(0, 479), ramp(0, 240) * 2], ids=["silence", "short", "repetition"])
def test_the_check_refuses_silence_short_recordings_and_repetitions(data):
    with pytest.raises(SystemExit, match="recorded"):
        judge_recorded(data, 480, gaps=0)


@pytest.mark.parametrize("frames", [479, 481])
def test_the_check_refuses_what_was_not_heard_in_full(device, frames):
    play(device, ramp(0, 480, 2))
    assert judge_played(heard(device), 48_000, 480, gaps=0)["frames"] == 480
    with pytest.raises(SystemExit, match="heard"):
        judge_played(heard(device), 48_000, frames, gaps=0)


def test_the_check_refuses_another_rate_and_a_late_beginning(device):
    play(device, ramp(48, 480, 2))
    with pytest.raises(SystemExit, match="heard"):
        judge_played(heard(device), 48_000, 480, gaps=0)
    with pytest.raises(SystemExit, match="16000 Hz"):
        judge_played(heard(device), 16_000, 480, gaps=0)
