"""`headset[,serial=X][,nokeys][,loopback]`: a USB Audio Class 1.0 headset, stereo to hear and mono to speak, with keys.

Its microphone hears the ramp of `patterns`, from the start of each recording; with `loopback`, the left channel of what
is played. It judges what is played, which should be that ramp too. Vendor requests to the device ask for what it heard,
make it forget that, and press its keys. Packets set the pace: it has no clock of its own. Volume is a matter of the
analogue side, of which it has none; mute makes silence.

Standard: "USB Device Class Definition for Audio Devices", release 1.0 (UAC).
"""

import json
from array import array
from collections import deque
from dataclasses import dataclass
from typing import Final

from tools.lab.devices import uac
from tools.lab.devices.describe import VENDOR, device
from tools.lab.devices.options import check, check_speed
from tools.lab.devices.patterns import RAMP_FRAMES, SAMPLE_SIZE, SoundJudge, ramp
from usbbridge.backend.emulated.function import BABBLE, ERROR, NAK, STALL, Function, Model
from usbbridge.usb.ch9 import Recipient, Request, RequestType, SetupPacket, Speed, request_type

PRODUCT: Final = 0x0111

SET_CUR, GET_CUR, GET_MIN, GET_MAX, GET_RES = 0x01, 0x81, 0x82, 0x83, 0x84
"Class requests (UAC table A-9)."
MUTE, VOLUME = 1, 2
SAMPLING_FREQUENCY: Final = 1
"Control selectors, in the high byte of wValue (UAC tables A-11, A-19)."
LOUDEST: Final = 0
QUIETEST: Final = -64 * 256
VOLUME_STEP: Final = 256
"In 1/256 dB (UAC §5.2.2.4.3.2)."

HID_GET_REPORT, HID_SET_IDLE = 0x01, 0x0A
"HID 1.11 §7.2."

GET_HEARD: Final = (request_type(RequestType.VENDOR, Recipient.DEVICE, is_in=True), 1)
FORGET: Final = (request_type(RequestType.VENDOR, Recipient.DEVICE), 2)
PRESS: Final = (request_type(RequestType.VENDOR, Recipient.DEVICE), 3)
"""bmRequestType and bRequest of the vendor requests. GET_HEARD is answered with JSON, see `Headset.heard`; PRESS takes
the bits of the keys (`uac.KEYS`) that are held down from now on in wValue."""
HEARD_SIZE: Final = 1024
"Bytes that are enough for it."

MAX_ECHO: Final = 48_000
"Frames that wait to be looped back at the most, 1 s: who plays without recording must not fill the memory."
MAX_PRESSES: Final = 64
"Reports that wait to be fetched at the most."


@dataclass
class Volume:
    """What a feature unit remembers."""

    muted: bool = False
    level: int = LOUDEST
    "1/256 dB."

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        """A request to its master channel, which is the only one with controls."""
        selector, channel = setup.value >> 8, setup.value & 0xFF
        if channel or selector not in (MUTE, VOLUME):
            return STALL
        if setup.request == SET_CUR and not setup.is_in:
            return self._set(selector, data)
        if selector == MUTE:
            return _reply(setup, data, {GET_CUR: bytes((self.muted,))})
        levels = {GET_CUR: self.level, GET_MIN: QUIETEST, GET_MAX: LOUDEST, GET_RES: VOLUME_STEP}
        answers = {request: level.to_bytes(2, "little", signed=True) for request, level in levels.items()}
        return _reply(setup, data, answers)

    def _set(self, selector: int, data: memoryview) -> int:
        value = int.from_bytes(data, "little", signed=True)
        if selector == MUTE and len(data) == 1:
            self.muted = bool(value)
        elif selector == VOLUME and len(data) == 2 and QUIETEST <= value <= LOUDEST:
            self.level = value
        else:
            return STALL
        return len(data)


class Headset(Function):
    """The headset."""

    def __init__(self, model: Model, *, loopback: bool = False) -> None:
        self.model = model
        self.loopback = loopback
        self.judge = SoundJudge(uac.PLAYBACK_CHANNELS)
        self._packets = 0
        "Packets heard."
        self._volumes = {uac.PLAYBACK_VOLUME: Volume(), uac.CAPTURE_VOLUME: Volume()}
        self._rates = {uac.PLAYBACK_OUT: uac.RATES[0], uac.CAPTURE_IN: uac.RATES[0]}
        self._spoken = 0
        "Frames of the recording so far."
        self._echo = bytearray()
        for channels in (uac.CAPTURE_CHANNELS, uac.PLAYBACK_CHANNELS):
            ramp(0, 1, channels)  # the first takes long, for a packet that is due in a millisecond
        self._pressed = 0
        self._reports: deque[int] = deque(maxlen=MAX_PRESSES)

    @property
    def heard(self) -> dict[str, object]:
        """What was played since it was told to forget, and how its controls stand."""
        judge = self.judge
        return {
            "packets": self._packets,
            "frames": judge.frames,
            "silent": judge.silent,
            "damaged": judge.damaged,
            "runs": judge.runs,
            "first_runs": judge.first_runs,
            "rate": self._rates[uac.PLAYBACK_OUT],
            "muted": [volume.muted for volume in self._volumes.values()],
            "levels": [volume.level for volume in self._volumes.values()],
        }

    # ---- requests

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.kind is RequestType.VENDOR:
            return self._vendor(setup, data)
        if setup.recipient == Recipient.ENDPOINT:
            return self._sampling_frequency(setup, data)
        number = setup.index & 0xFF
        if number == uac.KEYS_INTERFACE:
            return self._keys(setup, data)
        volume = self._volumes.get(setup.index >> 8)
        if number != uac.CONTROL_INTERFACE or volume is None or setup.kind is not RequestType.CLASS:
            return STALL
        return volume.control(setup, data)

    def _vendor(self, setup: SetupPacket, data: memoryview) -> int:
        request = (setup.request_type, setup.request)
        if request == GET_HEARD:
            return _fill(data, json.dumps(self.heard, separators=(",", ":")).encode())
        if request == FORGET:
            self.judge, self._packets = SoundJudge(uac.PLAYBACK_CHANNELS), 0
            return 0
        return self.press(setup.value) if request == PRESS else STALL

    def _sampling_frequency(self, setup: SetupPacket, data: memoryview) -> int:
        """Three bytes, hertz (UAC §5.2.3.2.3.1)."""
        rate = self._rates.get(setup.index)
        if rate is None or setup.value != SAMPLING_FREQUENCY << 8:
            return STALL
        if setup.request != SET_CUR or setup.is_in:
            numbers = {GET_CUR: rate, GET_MIN: min(uac.RATES), GET_MAX: max(uac.RATES)}
            return _reply(setup, data, {request: number.to_bytes(3, "little") for request, number in numbers.items()})
        wanted = int.from_bytes(data, "little")
        if wanted not in uac.RATES:
            return STALL
        self._rates[setup.index] = wanted
        return len(data)

    def _keys(self, setup: SetupPacket, data: memoryview) -> int:
        """HID 1.11 §7.1, §7.2: the descriptors, and the state of the keys."""
        if setup.kind is RequestType.STANDARD and setup.request == Request.GET_DESCRIPTOR and setup.is_in:
            descriptors = {uac.HID_DESCRIPTOR: uac.hid_descriptor(), uac.REPORT_DESCRIPTOR: uac.KEYS_REPORT}
            found = descriptors.get(setup.value >> 8)
            return _fill(data, found) if found else STALL
        if setup.kind is not RequestType.CLASS:
            return STALL
        if setup.request == HID_GET_REPORT and setup.is_in:
            return _fill(data, bytes((self._pressed,)))
        return 0 if setup.request == HID_SET_IDLE and not setup.is_in else STALL

    def press(self, keys: int) -> int:
        """Press the keys with these bits, let go of the others; STALL if there are no such keys."""
        if keys >> len(uac.KEYS) or not self._has_keys:
            return STALL
        self._pressed = keys
        self._reports.append(keys)
        self.wake()
        return 0

    @property
    def _has_keys(self) -> bool:
        return uac.hid_descriptor() in self.model.configurations[0]

    # ---- streams

    def receive_packet(self, endpoint: int, data: memoryview) -> int:
        """Sound to be heard."""
        self._packets += 1
        if len(data) % (uac.PLAYBACK_CHANNELS * SAMPLE_SIZE):
            return ERROR
        self.judge.hear(data)
        if self.loopback and len(self._echo) < MAX_ECHO * SAMPLE_SIZE:
            self._echo += array("h", bytes(data))[:: uac.PLAYBACK_CHANNELS].tobytes()
        return len(data)

    def send_packet(self, endpoint: int, data: memoryview) -> int:
        """Sound from the microphone."""
        size = uac.CAPTURE.packet(self._rates[uac.CAPTURE_IN])
        if len(data) < size:
            return BABBLE
        data[:size] = self._speak(size)
        return size

    def _speak(self, size: int) -> bytes:
        frames = size // SAMPLE_SIZE
        if self.loopback:
            spoken = bytes(self._echo[:size]).ljust(size, b"\0")
            del self._echo[:size]
        else:
            spoken = ramp(self._spoken, frames)
        self._spoken = (self._spoken + frames) % RAMP_FRAMES
        return bytes(size) if self._volumes[uac.CAPTURE_VOLUME].muted else spoken

    def select(self, number: int, alternate: int) -> None:
        """A recording begins with the ramp's first frame; what waited to be looped back is of the one before."""
        if number == uac.CAPTURE_INTERFACE:
            self._spoken = 0
            self._echo.clear()

    def send(self, endpoint: int, data: memoryview) -> int:
        """The next report of the keys (HID 1.11 §8.1)."""
        if endpoint != uac.KEYS_IN:
            return STALL
        return _fill(data, bytes((self._reports.popleft(),))) if self._reports else NAK

    def receive(self, endpoint: int, data: memoryview) -> int:
        """There is no such OUT endpoint."""
        return STALL

    def restart(self) -> None:
        """What was heard is kept: it is no part of what a reset ends."""
        for volume in self._volumes.values():
            volume.muted, volume.level = False, LOUDEST
        self._rates = dict.fromkeys(self._rates, uac.RATES[0])
        self._reports.clear()
        self._pressed = 0
        self._spoken = 0
        self._echo.clear()

    def close(self) -> None:
        """There is nothing to release."""


def _fill(data: memoryview, answer: bytes) -> int:
    """As much of an answer as the host made room for."""
    size = min(len(answer), len(data))
    data[:size] = answer[:size]
    return size


def _reply(setup: SetupPacket, data: memoryview, answers: dict[int, bytes]) -> int:
    """Answer a GET request."""
    answer = answers.get(setup.request) if setup.is_in else None
    return STALL if answer is None else _fill(data, answer)


def create(speed: Speed, options: dict[str, str]) -> Headset:
    """A headset at full or high speed. Raises UsageError for other speeds and options."""
    check("headset", options, "serial", "nokeys", "loopback")
    check_speed("headset", speed, Speed.FULL, Speed.HIGH)
    keys = "nokeys" not in options
    model = Model(
        speed,
        device(VENDOR, PRODUCT),
        (uac.describe(speed, keys=keys),),
        ("usbbridge", "Headset", options.get("serial", "HEADSET1")),
        other_speed=(uac.describe(Speed.FULL, keys=keys),) if speed is Speed.HIGH else (),
    )
    return Headset(model, loopback="loopback" in options)
