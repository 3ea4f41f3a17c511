"""The camera: what it offers, how it is agreed on, and the pictures that come of it."""

import random
import struct
from itertools import takewhile

import pytest

from tools.lab.devices import camera, uvc
from tools.lab.devices.camera import COMMIT, GET_CUR, GET_DEF, GET_INFO, GET_LEN, GET_MAX, GET_MIN, PROBE, SET_CUR
from tools.lab.devices.patterns import DEFAULT_BRIGHTNESS, PictureJudge, caption, picture
from usbbridge.backend.emulated.device import EmulatedDevice
from usbbridge.backend.emulated.function import BABBLE, NAK, STALL
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import DescriptorType, SetupPacket, Speed, TransferType
from usbbridge.usb.descriptors import parse_configuration

TO_INTERFACE, FROM_INTERFACE = 0x21, 0xA1
BRIGHTNESS = (camera.BRIGHTNESS << 8, uvc.PROCESSING << 8 | uvc.CONTROL_INTERFACE)
LAST_ERROR = (camera.REQUEST_ERROR << 8, uvc.CONTROL_INTERFACE)
TIMING = uvc.Timing(Speed.HIGH, uvc.DEFAULT_INTERVAL[Speed.HIGH])
SPEEDS_AND_INTERVALS = [
    (speed, interval) for speed, (low, high) in uvc.INTERVALS.items() for interval in range(low, high + 1)
]


LARGEST = {Speed.FULL: 1023, Speed.HIGH: 3072, Speed.SUPER: 1024}
"Of a packet, or of the transactions of a microframe together (USB 2.0 §5.6.3, USB 3.2 §8.12.6)."


def ask(device: camera.Camera, request: int, value: int, index: int, length: int = 64) -> bytes | int:
    data = bytearray(length)
    setup = SetupPacket(FROM_INTERFACE, request, value, index, length)
    count = device.control(setup, memoryview(data))
    return bytes(data[:count]) if count >= 0 else count


def tell(device: camera.Camera, value: int, index: int, data: bytes) -> int:
    setup = SetupPacket(TO_INTERFACE, SET_CUR, value, index, len(data))
    return device.control(setup, memoryview(bytearray(data)))


def agree(device: camera.Camera, frame: int = 1, rate: int = 5) -> None:
    wanted = uvc.PROBE.pack(1, 1, frame, uvc.TICKS // rate, *[0] * 12)
    for selector in (PROBE, COMMIT):
        assert tell(device, selector << 8, uvc.STREAMING_INTERFACE, wanted) == uvc.PROBE.size
        wanted = ask(device, GET_CUR, selector << 8, uvc.STREAMING_INTERFACE)


def smallest_alternate(device: camera.Camera, timing: uvc.Timing) -> int:
    """As a host chooses: the first that has room for the payload."""
    return next(i for i, room in enumerate(timing.packets, 1) if room >= device.agreed.payload)


def start(device: camera.Camera, timing: uvc.Timing) -> memoryview:
    """Start a stream; a buffer for its packets."""
    alternate = smallest_alternate(device, timing)
    device.select(uvc.STREAMING_INTERFACE, alternate)
    return memoryview(bytearray(timing.packets[alternate - 1]))


def assemble(packets: list[bytes]) -> list[bytes]:
    """Pictures put together as a host does: by frame id and end of frame."""
    pictures: list[bytes] = []
    last = None
    for packet in packets:
        if not packet:
            continue
        flags = packet[1]
        if flags & camera.FRAME_ID != last:
            last = flags & camera.FRAME_ID
            pictures.append(b"")
        pictures[-1] += packet[packet[0] :]
    return pictures


def take(device: camera.Camera, buffer: memoryview, count: int) -> list[bytes]:
    packets = []
    for _ in range(count):
        size = device.send_packet(uvc.VIDEO_IN, buffer)
        assert size >= 0
        packets.append(bytes(buffer[:size]))
    return packets


@pytest.mark.parametrize(("speed", "interval"), SPEEDS_AND_INTERVALS)
def test_every_mode_that_is_offered_fits_an_alternate_setting_and_its_period(speed, interval):
    timing = uvc.Timing(speed, interval)
    device = camera.create(speed, {"interval": str(interval)})
    offered = uvc.frames(timing)
    assert offered
    for number, frame in enumerate(offered, 1):
        for rate in frame.rates:
            agree(device, number, rate)
            buffer = start(device, timing)
            packets = take(device, buffer, 3 * device.agreed.period)
            assert assemble(packets) == [picture(number, frame.size) for number in range(3)]


def test_each_alternate_setting_at_high_speed_is_needed_by_some_mode():
    device = camera.create(Speed.HIGH, {})
    needed = set()
    for number, frame in enumerate(uvc.frames(TIMING), 1):
        for rate in frame.rates:
            agree(device, number, rate)
            needed.add(smallest_alternate(device, TIMING))
    assert needed == set(range(1, len(TIMING.packets) + 1))


@pytest.mark.parametrize("speed", [*uvc.INTERVALS])
def test_its_descriptors_are_whole_and_within_what_the_bus_allows(speed):
    device = camera.create(speed, {})
    [raw] = device.model.configurations
    settings = parse_configuration(raw).interfaces
    assert parse_configuration(raw).max_power * (8 if speed is Speed.SUPER else 2) in range(490, 501)
    streaming = [setting for setting in settings if setting.number == uvc.STREAMING_INTERFACE]
    assert streaming[0].endpoints == ()
    for setting in streaming[1:]:
        [end] = setting.endpoints
        assert end.transfer_type is TransferType.ISO
        assert end.packet_bytes <= LARGEST[speed]
    assert [an_interval(setting.endpoints[0]) for setting in streaming[1:]] == [*uvc.Timing(speed, 1).packets]


def an_interval(end):
    """Bytes an interval."""
    if end.companion is None:
        return end.packet_bytes
    assert end.companion.bytes_per_interval <= (end.companion.max_burst + 1) * end.packet_bytes
    return end.companion.bytes_per_interval


def test_the_class_headers_count_the_descriptors_that_follow_them():
    [raw] = camera.create(Speed.HIGH, {}).model.configurations
    parts = [*_descriptors(raw)]
    headers = [i for i, part in enumerate(parts) if part[1] == DescriptorType.CS_INTERFACE and part[2] == uvc.VC_HEADER]
    for first, position in zip(headers, (5, 4), strict=True):  # of the control interface, then of the streaming one
        following = takewhile(lambda part: part[1] == DescriptorType.CS_INTERFACE, parts[first:])
        assert int.from_bytes(parts[first][position : position + 2], "little") == sum(map(len, following))


def _descriptors(raw):
    at = 0
    while at < len(raw):
        yield raw[at : at + raw[at]]
        at += raw[at]
    assert at == len(raw)


def test_a_picture_ends_with_the_end_of_frame_and_the_next_has_the_other_id():
    device = camera.create(Speed.HIGH, {})
    agree(device, rate=15)
    packets = [packet for packet in take(device, start(device, TIMING), 2 * device.agreed.period) if packet]
    ends = [packet for packet in packets if packet[1] & camera.END_OF_FRAME]
    assert [packet[1] & camera.FRAME_ID for packet in ends] == [0, 1]
    assert packets[-1] is ends[-1]
    times = {packet[1] & camera.FRAME_ID: struct.unpack_from("<I", packet, 2)[0] for packet in packets}
    assert times[1] - times[0] == device.agreed.period * 1000  # microseconds


def test_between_two_pictures_packets_are_empty():
    device = camera.create(Speed.HIGH, {"interval": "1"})  # 533 microframes a picture: 38400 bytes do not come out even
    agree(device, rate=15)
    packets = take(device, start(device, uvc.Timing(Speed.HIGH, 1)), device.agreed.period)
    assert packets[0]
    assert packets[-1] == b""


def test_without_a_stream_packets_are_empty():
    device = camera.create(Speed.HIGH, {})
    assert device.send_packet(uvc.VIDEO_IN, memoryview(bytearray(1024))) == 0


def test_an_alternate_setting_without_room_for_what_was_agreed_on_streams_nothing():
    device = camera.create(Speed.HIGH, {})
    agree(device, 2, 15)
    device.select(uvc.STREAMING_INTERFACE, 1)
    assert device.send_packet(uvc.VIDEO_IN, memoryview(bytearray(256))) == 0


def test_a_packet_that_its_buffer_cannot_hold_is_babble_and_the_picture_goes_on_without_it():
    device = camera.create(Speed.HIGH, {})
    agree(device)
    buffer = start(device, TIMING)
    take(device, buffer, 1)
    assert device.send_packet(uvc.VIDEO_IN, buffer[:20]) == BABBLE
    whole = picture(0, device.agreed.size)
    third = take(device, buffer, 1)[0][uvc.HEADER_SIZE :]
    room = device.agreed.payload - uvc.HEADER_SIZE
    assert third == whole[2 * room : 3 * room]


def test_a_stream_that_starts_again_starts_with_the_first_picture():
    device = camera.create(Speed.HIGH, {})
    agree(device)
    take(device, start(device, TIMING), 500)
    device.select(uvc.STREAMING_INTERFACE, 0)
    assert device.send_packet(uvc.VIDEO_IN, memoryview(bytearray(256))) == 0
    packets = take(device, start(device, TIMING), device.agreed.period)
    assert assemble(packets) == [picture(0, device.agreed.size)]


# ---- requests


def test_a_probe_is_answered_with_the_nearest_that_there_is():
    device = camera.create(Speed.HIGH, {})
    agree(device, frame=9, rate=14)
    assert (device.agreed.index, device.agreed.rate) == (1, 15)
    agree(device, frame=0, rate=1)
    assert (device.agreed.index, device.agreed.rate) == (0, 5)


def test_probing_changes_nothing_until_it_is_committed():
    device = camera.create(Speed.HIGH, {})
    before = device.agreed
    wanted = uvc.PROBE.pack(1, 1, 2, uvc.TICKS // 10, *[0] * 12)
    assert tell(device, PROBE << 8, uvc.STREAMING_INTERFACE, wanted) == uvc.PROBE.size
    assert device.agreed == before
    assert ask(device, GET_CUR, COMMIT << 8, uvc.STREAMING_INTERFACE) == before.pack()


def test_the_probe_control_tells_its_range_and_size():
    device = camera.create(Speed.HIGH, {})
    answers = [ask(device, request, PROBE << 8, uvc.STREAMING_INTERFACE) for request in (GET_MIN, GET_DEF, GET_MAX)]
    low, default, high = (uvc.PROBE.unpack(answer) for answer in answers)
    assert low == default
    assert (low[2], low[3], high[2], high[3]) == (1, uvc.TICKS // 5, 2, uvc.TICKS // 15)
    assert high[-6] == uvc.Timing(Speed.HIGH, 4).payload(320 * 240 * 2, 15)
    assert ask(device, GET_LEN, PROBE << 8, uvc.STREAMING_INTERFACE) == struct.pack("<H", uvc.PROBE.size)
    assert ask(device, GET_INFO, PROBE << 8, uvc.STREAMING_INTERFACE) == b"\x03"
    assert ask(device, GET_CUR, PROBE << 8, uvc.STREAMING_INTERFACE, length=2) == b"\x01\x00"


def test_the_brightness_has_a_range_and_pictures_show_it():
    device = camera.create(Speed.HIGH, {})
    answers = [ask(device, request, *BRIGHTNESS, 2) for request in (GET_MIN, GET_MAX, GET_DEF)]
    assert answers == [bytes((number, 0)) for number in (0, camera.MAX_BRIGHTNESS, DEFAULT_BRIGHTNESS)]
    assert tell(device, *BRIGHTNESS, b"\x4d\x00") == 2
    assert ask(device, GET_CUR, *BRIGHTNESS, 2) == b"\x4d\x00"
    agree(device)
    [shown] = assemble(take(device, start(device, TIMING), device.agreed.period))
    assert caption(shown) == (0, 77)
    device.restart()
    assert ask(device, GET_CUR, *BRIGHTNESS, 2) == bytes((DEFAULT_BRIGHTNESS, 0))


@pytest.mark.parametrize(
    ("value", "index", "error"),
    [
        (camera.BRIGHTNESS << 8, 9 << 8, camera.INVALID_UNIT),
        (9 << 8, uvc.PROCESSING << 8, camera.INVALID_CONTROL),
        (*BRIGHTNESS, camera.INVALID_REQUEST),
    ],
)
def test_what_it_refuses_it_gives_the_reason_for(value, index, error):
    device = camera.create(Speed.HIGH, {})
    assert ask(device, 0x8F, value, index) == STALL
    assert ask(device, GET_CUR, *LAST_ERROR) == bytes((error,))


def test_a_brightness_out_of_range_is_refused_and_changes_nothing():
    device = camera.create(Speed.HIGH, {})
    assert tell(device, *BRIGHTNESS, b"\x00\x01") == STALL
    assert ask(device, GET_CUR, *LAST_ERROR) == bytes((camera.OUT_OF_RANGE,))
    assert tell(device, *BRIGHTNESS, b"\x01") == STALL
    assert device.brightness == DEFAULT_BRIGHTNESS


def test_any_request_gets_an_answer_that_fits():
    device = camera.create(Speed.HIGH, {})
    dice = random.Random(3)
    for _ in range(3000):
        length = dice.choice((0, 1, 2, 26, 34, 64))
        request = dice.choice((0x21, 0xA1, 0x22, 0xC0)), dice.randrange(256)
        setup = SetupPacket(*request, dice.randrange(0x400), dice.randrange(0x600), length)
        answer = device.control(setup, memoryview(bytearray(dice.randbytes(length))))
        assert answer == STALL or 0 <= answer <= length


def test_it_lives_in_a_device_and_its_status_endpoint_waits():
    device = EmulatedDevice(camera.create(Speed.HIGH, {"serial": "X1"}), "camera")
    device.set_interface(uvc.STREAMING_INTERFACE, 3)
    assert device.function.send(uvc.STATUS_IN, memoryview(bytearray(16))) == NAK
    device.close()


@pytest.mark.parametrize("interval", ["0", "8", "x", ""])
def test_an_interval_that_leaves_no_room_for_pictures_is_refused(interval):
    with pytest.raises(UsageError, match="1 to 7 at high speed"):
        camera.create(Speed.HIGH, {"interval": interval})


def test_low_speed_is_refused_as_it_has_no_isochronous_transfers():
    with pytest.raises(UsageError, match="full or high or super speed"):
        camera.create(Speed.LOW, {})


def test_other_options_are_refused():
    with pytest.raises(UsageError, match="no option 'zoom'"):
        camera.create(Speed.HIGH, {"zoom": "3"})


# ---- the judge of pictures


def test_whole_pictures_in_order_are_no_fault():
    judge = PictureJudge(1000)
    assert all(judge.see(picture(number, 1000)) for number in range(20))
    assert (judge.whole, judge.damaged, judge.missing, judge.disordered) == (20, 0, 0, 0)


def test_missing_and_repeated_pictures_are_counted():
    judge = PictureJudge(1000)
    for number in (3, 4, 7, 7, 5, 8):
        judge.see(picture(number, 1000))
    assert (judge.whole, judge.missing, judge.disordered) == (6, 2, 2)


def test_any_wrong_byte_is_found():
    judge = PictureJudge(100)
    for at in range(100):
        data = bytearray(picture(5, 100))
        data[at] ^= 1
        assert not judge.see(bytes(data))
    assert judge.damaged == 100
    assert judge.damage[-1] == "it bears no number"


@pytest.mark.parametrize("cut", [16, 200, 512, 999])
def test_two_pictures_in_one_and_lost_bytes_are_found(cut):
    judge = PictureJudge(1000)
    assert not judge.see(picture(1, 1000)[:cut] + picture(2, 1000)[cut:])
    assert not judge.see(picture(1, 1000)[: cut - 8] + picture(1, 1000)[cut:])
    assert judge.damage[0].startswith(f"picture 1 is wrong from byte {cut}") or cut == 999
    assert judge.damage[1] == "992 bytes instead of 1000"
