"""A headset's descriptors: two audio streams with a volume control each, and media keys.

Standards: "USB Device Class Definition for Audio Devices", release 1.0 (UAC), with its "Audio Data Formats" and
"Terminal Types"; "Device Class Definition for Human Interface Devices", version 1.11 (HID).
"""

import struct
from dataclasses import dataclass
from typing import Final

from tools.lab.devices.describe import (
    INTERRUPT,
    ISO,
    configuration,
    cs_endpoint,
    cs_interface,
    descriptor,
    endpoint,
    interface,
)
from tools.lab.devices.patterns import SAMPLE_SIZE
from usbbridge.usb.ch9 import DIR_IN, ClassCode, Speed

CONTROL_INTERFACE, PLAYBACK_INTERFACE, CAPTURE_INTERFACE, KEYS_INTERFACE = range(4)
PLAYBACK_OUT: Final = 1
CAPTURE_IN: Final = DIR_IN | 2
KEYS_IN: Final = DIR_IN | 3

FROM_HOST, PLAYBACK_VOLUME, HEADPHONES = 1, 2, 3
MICROPHONE, CAPTURE_VOLUME, TO_HOST = 4, 5, 6
"Terminals and units: the sound goes through the first three in this order, and through the others in this one."

RATES: Final = (48_000, 16_000)
"Frames a second: music, and what telephone calls are made with."
PLAYBACK_CHANNELS, CAPTURE_CHANNELS = 2, 1
PACKETS_A_SECOND: Final = 1000
"At either speed: at high speed bInterval is 4, for every eighth microframe."
_INTERVAL: Final = {Speed.FULL: 1, Speed.HIGH: 4}

AUDIO_CONTROL, AUDIO_STREAMING = 1, 2
"bInterfaceSubClass (UAC table A-2)."
TT_STREAMING, ITT_MICROPHONE, OTT_HEADPHONES = 0x0101, 0x0201, 0x0302
"wTerminalType (Terminal Types, tables 2-1 to 2-3)."
AC_HEADER, AC_INPUT, AC_OUTPUT, AC_FEATURE = 1, 2, 3, 6
AS_GENERAL, AS_FORMAT = 1, 2
EP_GENERAL: Final = 1
"bDescriptorSubtype (UAC tables A-5, A-6, A-8)."
HAS_MUTE_AND_VOLUME: Final = 0x03
"bmaControls of a feature unit (UAC table 4-7)."
LEFT_AND_RIGHT: Final = 0x0003
"wChannelConfig (UAC §3.7.2.3); a single channel needs none."
PCM: Final = 0x0001
FORMAT_TYPE_I: Final = 1
"Audio Data Formats, tables A-1 and A-4."
HAS_SAMPLING_FREQUENCY: Final = 0x01
ADAPTIVE, SYNCHRONOUS = 0x08, 0x0C
"Synchronisation types, in bits 3..2 of an isochronous endpoint's bmAttributes (USB 2.0 table 9-13)."

HID_DESCRIPTOR, REPORT_DESCRIPTOR = 0x21, 0x22
"HID 1.11 §7.1."
KEYS: Final = ("volumeup", "volumedown", "mute", "playpause")
"Bits 0, 1, ... of the report."
KEYS_REPORT: Final = bytes.fromhex(
    "050c0901a101"  # usage page consumer, usage consumer control, collection application
    "150025017501"  # logical minimum 0, logical maximum 1, report size 1
    "950409e909ea09e209cd8102"  # report count 4, usages of KEYS, input
    "95048103c0"  # report count 4, input constant, end of collection
)


@dataclass(frozen=True, slots=True)
class Stream:
    """One of the two directions."""

    interface: int
    endpoint: int
    channels: int

    def packet(self, rate: int) -> int:
        """Bytes of a packet."""
        return rate // PACKETS_A_SECOND * self.channels * SAMPLE_SIZE


PLAYBACK: Final = Stream(PLAYBACK_INTERFACE, PLAYBACK_OUT, PLAYBACK_CHANNELS)
CAPTURE: Final = Stream(CAPTURE_INTERFACE, CAPTURE_IN, CAPTURE_CHANNELS)


def describe(speed: Speed, *, keys: bool) -> bytes:
    """The configuration at full or high speed, with media keys or without."""
    return configuration(
        _control(),
        *_streaming(PLAYBACK, FROM_HOST, ADAPTIVE, _INTERVAL[speed]),
        *_streaming(CAPTURE, TO_HOST, SYNCHRONOUS, _INTERVAL[speed]),
        *([_keys(speed)] if keys else []),
    )


def _control() -> bytes:
    """The audio control interface: host → volume → headphones, microphone → volume → host."""
    units = (
        _input(FROM_HOST, TT_STREAMING, PLAYBACK_CHANNELS),
        _feature(PLAYBACK_VOLUME, FROM_HOST, PLAYBACK_CHANNELS),
        _output(HEADPHONES, OTT_HEADPHONES, PLAYBACK_VOLUME),
        _input(MICROPHONE, ITT_MICROPHONE, CAPTURE_CHANNELS),
        _feature(CAPTURE_VOLUME, MICROPHONE, CAPTURE_CHANNELS),
        _output(TO_HOST, TT_STREAMING, CAPTURE_VOLUME),
    )
    total = 10 + sum(map(len, units))  # wTotalLength counts this descriptor's own 10 bytes
    streams = PLAYBACK_INTERFACE, CAPTURE_INTERFACE
    header = cs_interface(AC_HEADER, struct.pack("<HHBBB", 0x0100, total, len(streams), *streams))
    return interface(CONTROL_INTERFACE, ClassCode.AUDIO, AUDIO_CONTROL, extra=header + b"".join(units))


def _input(number: int, kind: int, channels: int) -> bytes:
    where = LEFT_AND_RIGHT if channels == 2 else 0
    return cs_interface(AC_INPUT, struct.pack("<BHBBHBB", number, kind, 0, channels, where, 0, 0))


def _output(number: int, kind: int, source: int) -> bytes:
    return cs_interface(AC_OUTPUT, struct.pack("<BHBBB", number, kind, 0, source, 0))


def _feature(number: int, source: int, channels: int) -> bytes:
    controls = bytes((HAS_MUTE_AND_VOLUME, *[0] * channels))  # of all channels together, then of each
    return cs_interface(AC_FEATURE, bytes((number, source, 1)) + controls + b"\0")


def _streaming(stream: Stream, terminal: int, synchronisation: int, interval: int) -> tuple[bytes, bytes]:
    """Alternate setting 0, which takes no bandwidth, and 1."""
    extra = cs_interface(AS_GENERAL, struct.pack("<BBH", terminal, 1, PCM))
    rates = b"".join(rate.to_bytes(3, "little") for rate in RATES)
    kind = bytes((FORMAT_TYPE_I, stream.channels, SAMPLE_SIZE, SAMPLE_SIZE * 8, len(RATES)))
    extra += cs_interface(AS_FORMAT, kind + rates)
    iso = endpoint(
        stream.endpoint,
        ISO,
        stream.packet(max(RATES)),
        interval,
        attributes=synchronisation,
        audio=True,
        extra=cs_endpoint(EP_GENERAL, struct.pack("<BBH", HAS_SAMPLING_FREQUENCY, 0, 0)),
    )
    return (
        interface(stream.interface, ClassCode.AUDIO, AUDIO_STREAMING),
        interface(stream.interface, ClassCode.AUDIO, AUDIO_STREAMING, alternate=1, extra=extra, endpoints=[iso]),
    )


def hid_descriptor() -> bytes:
    """The HID descriptor of the keys (HID 1.11 §6.2.1)."""
    return descriptor(HID_DESCRIPTOR, struct.pack("<HBBBH", 0x0111, 0, 1, REPORT_DESCRIPTOR, len(KEYS_REPORT)))


def _keys(speed: Speed) -> bytes:
    interval = 7 if speed is Speed.HIGH else 8  # 8 ms either way
    end = endpoint(KEYS_IN, INTERRUPT, 1, interval)
    return interface(KEYS_INTERFACE, ClassCode.HID, extra=hid_descriptor(), endpoints=[end])
