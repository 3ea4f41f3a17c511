"""What a camera offers, how host and camera agree on one of it, and the descriptors that say so.

Standard: "USB Device Class Definition for Video Devices", revision 1.1 (UVC), and its "Uncompressed Payload".
"""

import struct
from dataclasses import dataclass, replace
from typing import Final

from tools.lab.devices.describe import (
    INTERRUPT,
    ISO,
    association,
    configuration,
    cs_endpoint,
    cs_interface,
    endpoint,
    interface,
)
from usbbridge.usb.ch9 import DIR_IN, ClassCode, Speed

CONTROL_INTERFACE, STREAMING_INTERFACE = 0, 1
VIDEO_IN: Final = DIR_IN | 1
STATUS_IN: Final = DIR_IN | 2
CAMERA, PROCESSING, OUTPUT = 1, 2, 3
"Terminals and units of the camera: the picture goes through them in this order."

SIZES: Final = ((160, 120), (320, 240), (640, 480))
BYTES_PER_PIXEL: Final = 2
RATES: Final = (5, 10, 15)
"Pictures a second."
TICKS: Final = 10_000_000
"Units of dwFrameInterval a second."
CLOCK: Final = 1_000_000
"dwClockFrequency: ticks a second of a payload's presentation time."
HEADER_SIZE: Final = 6
"A payload's header: length, flags, presentation time (UVC 1.1 table 2-5)."

_PACKETS: Final = {
    Speed.FULL: (256, 512, 1023),
    Speed.HIGH: (256, 512, 1024, 2048, 3072),
    Speed.SUPER: (512, 1024, 2048, 4096, 8192, 16384),
}
"Bytes an interval of the alternate settings from 1 on."
INTERVALS: Final = {Speed.FULL: (1, 3), Speed.HIGH: (1, 7), Speed.SUPER: (1, 7)}
"""bInterval: the longest at full and high speed is the last that leaves room for the smallest pictures at the lowest
rate."""
DEFAULT_INTERVAL: Final = {Speed.FULL: 1, Speed.HIGH: 4, Speed.SUPER: 4}
"bInterval for a packet a millisecond: an emulated processor hardly carries more."
ASYNCHRONOUS: Final = 0x04
"Synchronisation type, in bits 3..2 of an isochronous endpoint's bmAttributes (USB 2.0 table 9-13)."

MILLIAMPERES: Final = 500

INTERFACE_CONTROL, STREAMING = 1, 2
"bInterfaceSubClass (UVC 1.1 table A-2)."
COLLECTION: Final = 3
ITT_CAMERA, TT_STREAMING = 0x0201, 0x0101
"wTerminalType (UVC 1.1 tables B-1, B-2)."
VC_HEADER, VC_INPUT, VC_OUTPUT, VC_PROCESSING = 1, 2, 3, 5
VS_INPUT_HEADER, VS_FORMAT, VS_FRAME, VS_COLOR = 1, 4, 5, 13
EP_INTERRUPT: Final = 3
"bDescriptorSubtype (UVC 1.1 tables A-5, A-6, A-7)."
HAS_BRIGHTNESS: Final = 1
"Bit 0 of a processing unit's bmControls."
STATUS_SIZE: Final = 16
YUY2: Final = bytes.fromhex("5955593200001000800000aa00389b71")
"Its GUID (Uncompressed Payload, table 2-1)."
BT709, BT601 = 1, 4
"Primaries and transfer, and the matrix, that are assumed where nothing is said (UVC 1.1 table 3-18)."

PROBE: Final = struct.Struct("<HBBI5HIIIBBBB")
"Video probe and commit controls (UVC 1.1 table 4-75)."


@dataclass(frozen=True, slots=True)
class Timing:
    """What follows from speed and bInterval."""

    speed: Speed
    interval: int

    @property
    def per_second(self) -> int:
        """Service intervals a second (USB 2.0 §9.6.6: bInterval is an exponent)."""
        return (1000 if self.speed is Speed.FULL else 8000) >> (self.interval - 1)

    @property
    def packets(self) -> tuple[int, ...]:
        """Bytes an interval of the alternate settings from 1 on."""
        return _PACKETS[self.speed]

    def payload(self, size: int, rate: int) -> int:
        """Bytes an interval that pictures of `size` bytes take at `rate`, the header included."""
        return -(-size // (self.per_second // rate)) + HEADER_SIZE


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture size, with the rates at which the bus carries it."""

    width: int
    height: int
    rates: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of a picture."""
        return self.width * self.height * BYTES_PER_PIXEL


def frames(timing: Timing) -> tuple[Frame, ...]:
    """The picture sizes on offer."""
    offered = []
    for width, height in SIZES:
        size = width * height * BYTES_PER_PIXEL
        rates = tuple(rate for rate in RATES if timing.payload(size, rate) <= timing.packets[-1])
        offered += [Frame(width, height, rates)] if rates else []
    return tuple(offered)


@dataclass(frozen=True, slots=True)
class Choice:
    """What host and camera have agreed on (UVC 1.1 §4.3.1.1)."""

    timing: Timing
    frames: tuple[Frame, ...]
    index: int = 0
    rate: int = RATES[0]

    @property
    def size(self) -> int:
        """Bytes of a picture."""
        return self.frames[self.index].size

    @property
    def payload(self) -> int:
        """Bytes an interval at the most."""
        return self.timing.payload(self.size, self.rate)

    @property
    def period(self) -> int:
        """Intervals from one picture to the next."""
        return self.timing.per_second // self.rate

    def pack(self) -> bytes:
        """Data of the probe or commit control."""
        asked = 1, 1, self.index + 1, TICKS // self.rate
        return PROBE.pack(*asked, *[0] * 5, self.size, self.payload, CLOCK, 0, 1, 1, 1)

    def asked(self, data: bytes | memoryview) -> "Choice":
        """The nearest there is to what a host asks for, in PROBE.size bytes."""
        _, _, frame, ticks, *_ = PROBE.unpack(data)
        index = min(max(frame, 1), len(self.frames)) - 1
        rate = min(self.frames[index].rates, key=lambda rate: abs(TICKS // rate - ticks))
        return replace(self, index=index, rate=rate)

    def lowest(self) -> "Choice":
        """The answer to GET_MIN and GET_DEF."""
        return replace(self, index=0, rate=self.frames[0].rates[0])

    def highest(self) -> "Choice":
        """The answer to GET_MAX."""
        return replace(self, index=len(self.frames) - 1, rate=self.frames[-1].rates[-1])


def describe(timing: Timing) -> bytes:
    """The configuration of a camera with this timing."""
    settings = [
        interface(
            STREAMING_INTERFACE,
            ClassCode.VIDEO,
            STREAMING,
            alternate=alternate,
            endpoints=[_video(timing, size)],
        )
        for alternate, size in enumerate(timing.packets, 1)
    ]
    return configuration(
        association(CONTROL_INTERFACE, 2, ClassCode.VIDEO, COLLECTION),
        _control(timing.speed),
        interface(STREAMING_INTERFACE, ClassCode.VIDEO, STREAMING, extra=_streaming(frames(timing))),
        *settings,
        milliamperes=MILLIAMPERES,
        speed=timing.speed,
    )


def _video(timing: Timing, size: int) -> bytes:
    """The video endpoint with `size` bytes an interval: in up to three transactions of 1024 at high speed, where bits
    12..11 are those beyond the first (USB 2.0 §9.6.6), in bursts of up to 16 at super speed (USB 3.2 §9.6.7)."""
    beyond = (size - 1) // 1024
    largest, companion = size // (1 + beyond), None
    if timing.speed is Speed.SUPER:
        companion = (beyond, 0, size)
    else:
        largest |= beyond << 11
    return endpoint(VIDEO_IN, ISO, largest, timing.interval, attributes=ASYNCHRONOUS, companion=companion)


def _control(speed: Speed) -> bytes:
    """The video control interface: camera → processing unit → USB."""
    units = (
        cs_interface(VC_INPUT, struct.pack("<BHBBHHHB3s", CAMERA, ITT_CAMERA, 0, 0, 0, 0, 0, 3, bytes(3))),
        cs_interface(VC_PROCESSING, struct.pack("<BBHBHBB", PROCESSING, CAMERA, 0, 2, HAS_BRIGHTNESS, 0, 0)),
        cs_interface(VC_OUTPUT, struct.pack("<BHBBB", OUTPUT, TT_STREAMING, 0, PROCESSING, 0)),
    )
    total = 13 + sum(map(len, units))  # wTotalLength counts this descriptor's own 13 bytes
    header = cs_interface(VC_HEADER, struct.pack("<HHIBB", 0x0110, total, CLOCK, 1, STREAMING_INTERFACE))
    status = endpoint(
        STATUS_IN,
        INTERRUPT,
        STATUS_SIZE,
        16 if speed is Speed.FULL else 8,  # 16 ms either way
        companion=(0, 0, STATUS_SIZE) if speed is Speed.SUPER else None,
        extra=cs_endpoint(EP_INTERRUPT, struct.pack("<H", STATUS_SIZE)),
    )
    extra = header + b"".join(units)
    return interface(CONTROL_INTERFACE, ClassCode.VIDEO, INTERFACE_CONTROL, extra=extra, endpoints=[status])


def _streaming(offered: tuple[Frame, ...]) -> bytes:
    """The class descriptors of the streaming interface, which its alternate setting 0 has."""
    formats = cs_interface(VS_FORMAT, struct.pack("<BB16sBBBBBB", 1, len(offered), YUY2, 16, 1, 0, 0, 0, 0))
    formats += b"".join(_frame(index, frame) for index, frame in enumerate(offered, 1))
    formats += cs_interface(VS_COLOR, bytes((BT709, BT709, BT601)))
    head = struct.pack("<BHBBBBBBBB", 1, 14 + len(formats), VIDEO_IN, 0, OUTPUT, 0, 0, 0, 1, 0)
    return cs_interface(VS_INPUT_HEADER, head) + formats


def _frame(index: int, frame: Frame) -> bytes:
    bits = frame.size * 8
    head = struct.pack("<BBHHII", index, 0, frame.width, frame.height, bits * frame.rates[0], bits * frame.rates[-1])
    intervals = [TICKS // rate for rate in reversed(frame.rates)]  # shortest first
    tail = struct.pack(f"<IIB{len(intervals)}I", frame.size, TICKS // frame.rates[0], len(intervals), *intervals)
    return cs_interface(VS_FRAME, head + tail)
