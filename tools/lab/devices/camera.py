"""`camera[,serial=X][,interval=N]`: a USB Video Class 1.1 camera with an uncompressed YUY2 stream.

It shows `patterns.picture(0)`, `picture(1)`, ... from the start of each stream, at the rate that was agreed on, counted
in service intervals: it has no clock of its own. Each picture size and rate needs another of its alternate settings,
which reserve from 256 bytes an interval up to three transactions of 1024, at super speed a burst of 16. `interval` is
bInterval of these.

Standard: "USB Device Class Definition for Video Devices", revision 1.1 (UVC).
"""

from typing import Final

from tools.lab.devices import uvc
from tools.lab.devices.describe import SUPER_SPEED_BOS, VENDOR, device
from tools.lab.devices.options import check, check_speed
from tools.lab.devices.patterns import DEFAULT_BRIGHTNESS, picture
from usbbridge.backend.emulated.function import BABBLE, NAK, STALL, Function, Model
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import ClassCode, Recipient, RequestType, SetupPacket, Speed

PRODUCT: Final = 0x0110

SET_CUR, GET_CUR, GET_MIN, GET_MAX, GET_RES, GET_LEN, GET_INFO, GET_DEF = 0x01, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87
"Class requests (UVC 1.1 table A-8)."
GET_ONLY, GET_AND_SET = 0x01, 0x03
"Answers to GET_INFO (UVC 1.1 §4.1.2)."
PROBE, COMMIT = 1, 2
REQUEST_ERROR: Final = 2
BRIGHTNESS: Final = 2
"Control selectors, in the high byte of wValue (UVC 1.1 tables A-9, A-13, A-14)."
NO_ERROR, OUT_OF_RANGE, INVALID_UNIT, INVALID_CONTROL, INVALID_REQUEST = 0, 4, 5, 6, 7
"What the request error control says of the request before (UVC 1.1 §4.2.1.2)."
MAX_BRIGHTNESS: Final = 255

FRAME_ID, END_OF_FRAME, HAS_TIME, END_OF_HEADER = 0x01, 0x02, 0x04, 0x80
"Flags of a payload's header (UVC 1.1 table 2-6)."


class Stream:
    """The packets of one stream, which begins with picture 0."""

    def __init__(self, choice: uvc.Choice) -> None:
        self._choice = choice
        self._room = choice.payload - uvc.HEADER_SIZE
        self._tick = 0
        "Intervals since the picture began."
        self._number = -1
        self._frame = b""
        self._head = b""

    def packet(self, data: memoryview, brightness: int) -> int:
        """The packet of the next interval: bytes put into `data`, 0 between two pictures."""
        if not self._tick:
            self._begin(brightness)
        start = self._tick * self._room
        self._tick = (self._tick + 1) % self._choice.period
        part = self._frame[start : start + self._room]
        if not part:
            return 0
        if uvc.HEADER_SIZE + len(part) > len(data):
            return BABBLE
        data[: uvc.HEADER_SIZE] = self._head
        if start + self._room >= len(self._frame):
            data[1] |= END_OF_FRAME
        data[uvc.HEADER_SIZE : uvc.HEADER_SIZE + len(part)] = part
        return uvc.HEADER_SIZE + len(part)

    def _begin(self, brightness: int) -> None:
        self._number += 1
        self._frame = picture(self._number, self._choice.size, brightness)
        time = self._number * self._choice.period * uvc.CLOCK // self._choice.timing.per_second
        flags = END_OF_HEADER | HAS_TIME | (self._number & FRAME_ID)
        self._head = bytes((uvc.HEADER_SIZE, flags)) + (time & 0xFFFF_FFFF).to_bytes(4, "little")


class Camera(Function):
    """The camera. Its brightness is one of the numbers that a picture shows."""

    def __init__(self, model: Model, timing: uvc.Timing) -> None:
        self.model = model
        self.brightness = DEFAULT_BRIGHTNESS
        self._timing = timing
        self._probed = self._committed = uvc.Choice(timing, uvc.frames(timing)).lowest()
        self._alternate = 0
        self._stream: Stream | None = None
        self._error = NO_ERROR

    @property
    def agreed(self) -> uvc.Choice:
        """What was committed last."""
        return self._committed

    # ---- requests

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.kind is not RequestType.CLASS or setup.recipient != Recipient.INTERFACE:
            return STALL
        entity, number, selector = setup.index >> 8, setup.index & 0xFF, setup.value >> 8
        if number == uvc.STREAMING_INTERFACE and not entity and selector in (PROBE, COMMIT):
            return self._negotiate(setup, selector, data)
        if number != uvc.CONTROL_INTERFACE:
            return STALL
        if not entity and selector == REQUEST_ERROR:
            return self._last_error(setup, data)
        self._error = self._fault(entity, selector)
        return STALL if self._error else self._brightness(setup, data)

    def _fault(self, entity: int, selector: int) -> int:
        if entity not in (uvc.CAMERA, uvc.PROCESSING, uvc.OUTPUT):
            return INVALID_UNIT
        return NO_ERROR if (entity, selector) == (uvc.PROCESSING, BRIGHTNESS) else INVALID_CONTROL

    def _last_error(self, setup: SetupPacket, data: memoryview) -> int:
        answers = {GET_CUR: bytes((self._error,)), GET_INFO: bytes((GET_ONLY,)), GET_LEN: b"\1\0"}
        return _reply(setup, data, answers)

    def _brightness(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.request == SET_CUR and not setup.is_in:
            return self._set_brightness(int.from_bytes(data, "little"), len(data))
        numbers = {GET_CUR: self.brightness, GET_MIN: 0, GET_MAX: MAX_BRIGHTNESS, GET_RES: 1}
        numbers |= {GET_LEN: 2, GET_DEF: DEFAULT_BRIGHTNESS}
        answers = {request: number.to_bytes(2, "little") for request, number in numbers.items()}
        answered = _reply(setup, data, answers | {GET_INFO: bytes((GET_AND_SET,))})
        self._error = INVALID_REQUEST if answered == STALL else NO_ERROR
        return answered

    def _set_brightness(self, value: int, length: int) -> int:
        if length != 2 or value > MAX_BRIGHTNESS:
            self._error = OUT_OF_RANGE
            return STALL
        self.brightness = value
        return length

    def _negotiate(self, setup: SetupPacket, selector: int, data: memoryview) -> int:
        current = self._probed if selector == PROBE else self._committed
        if setup.request == SET_CUR and not setup.is_in:
            return self._agree(selector, data)
        answers = {
            GET_CUR: current.pack(),
            GET_LEN: uvc.PROBE.size.to_bytes(2, "little"),
            GET_INFO: bytes((GET_AND_SET,)),
        }
        if selector == PROBE:
            low, high = current.lowest().pack(), current.highest().pack()
            answers |= {GET_MIN: low, GET_MAX: high, GET_DEF: low}
        return _reply(setup, data, answers)

    def _agree(self, selector: int, data: memoryview) -> int:
        if len(data) != uvc.PROBE.size:
            return STALL
        self._probed = self._probed.asked(data)
        if selector == COMMIT:
            self._committed = self._probed
            self._start()
        return len(data)

    # ---- streaming

    def send_packet(self, endpoint: int, data: memoryview) -> int:
        return self._stream.packet(data, self.brightness) if self._stream else 0

    def select(self, number: int, alternate: int) -> None:
        if number == uvc.STREAMING_INTERFACE:
            self._alternate = alternate
            self._start()

    def _start(self) -> None:
        """A stream from picture 0 on, if the alternate setting has room for what was agreed on."""
        room = (0, *self._timing.packets)[self._alternate]
        self._stream = Stream(self._committed) if self._committed.payload <= room else None

    def restart(self) -> None:
        """Everything as after power-on."""
        self._probed = self._committed = self._committed.lowest()
        self.brightness, self._error = DEFAULT_BRIGHTNESS, NO_ERROR
        self._alternate, self._stream = 0, None

    def send(self, endpoint: int, data: memoryview) -> int:
        """The status endpoint: the camera has nothing to announce."""
        return NAK

    def receive(self, endpoint: int, data: memoryview) -> int:
        """There is no OUT endpoint."""
        return STALL

    def close(self) -> None:
        """There is nothing to release."""


def _reply(setup: SetupPacket, data: memoryview, answers: dict[int, bytes]) -> int:
    """Answer a GET request with as much as the host made room for."""
    answer = answers.get(setup.request) if setup.is_in else None
    if answer is None:
        return STALL
    size = min(len(answer), len(data))
    data[:size] = answer[:size]
    return size


def create(speed: Speed, options: dict[str, str]) -> Camera:
    """A camera at full, high or super speed. Raises UsageError for low speed, and for options that make no sense."""
    check("camera", options, "serial", "interval")
    check_speed("camera", speed, *uvc.INTERVALS)
    timing = uvc.Timing(speed, _interval(speed, options.get("interval")))
    return Camera(_model(timing, options.get("serial", "CAMERA1")), timing)


def _model(timing: uvc.Timing, serial: str) -> Model:
    is_super = timing.speed is Speed.SUPER
    described = device(
        VENDOR,
        PRODUCT,
        class_=ClassCode.MISCELLANEOUS,
        subclass=2,
        protocol=1,
        bcd_usb=0x0300 if is_super else 0x0200,
        max_packet_size0=9 if is_super else 64,
    )
    at_full_speed = uvc.describe(uvc.Timing(Speed.FULL, uvc.DEFAULT_INTERVAL[Speed.FULL]))
    return Model(
        timing.speed,
        described,
        (uvc.describe(timing),),
        ("usbbridge", "Camera", serial),
        bos=SUPER_SPEED_BOS if is_super else b"",
        other_speed=(at_full_speed,) if timing.speed is Speed.HIGH else (),
    )


def _interval(speed: Speed, word: str | None) -> int:
    low, high = uvc.INTERVALS[speed]
    if word is None:
        return uvc.DEFAULT_INTERVAL[speed]
    if not word.isdecimal() or not low <= int(word) <= high:
        raise UsageError(f"interval={word}: bInterval of the camera is {low} to {high} at {speed.name.lower()} speed")
    return int(word)
