"""What a device says of itself that isn't true, by the lie's name: descriptors for `tools.lab.devices.misbehaving`.

Each lie takes the true descriptors and answers with those that are said instead, by (bDescriptorType, index); the index
`ANY` stands for every other one, and an empty answer for a STALL.
"""

import struct
from collections.abc import Callable
from typing import Final

from tools.lab.devices.describe import (
    BULK,
    CONTROL,
    INTERRUPT,
    ISO,
    VENDOR,
    association,
    configuration,
    descriptor,
    device,
    endpoint,
    interface,
)
from usbbridge.backend.emulated.function import Model
from usbbridge.usb.ch9 import ClassCode, DescriptorType, Speed
from usbbridge.usb.descriptors import device_bytes

Truth = dict[DescriptorType, bytes]
Said = dict[tuple[int, int], bytes]
Lie = Callable[[Truth, Speed], Said]

ANY: Final = -1
DEVICE, CONFIGURATION, STRING = DescriptorType.DEVICE, DescriptorType.CONFIGURATION, DescriptorType.STRING
VENDOR_CLASS: Final = ClassCode.VENDOR_SPECIFIC
HEADER: Final = 9
"Size of a configuration descriptor, and of an interface descriptor; the first endpoint comes after both."
FIRST_ENDPOINT: Final = 2 * HEADER


def _changed(kind: DescriptorType, at: int, value: bytes) -> Lie:
    """The true descriptor with some bytes changed."""

    def lie(truth: Truth, speed: Speed) -> Said:
        said = bytearray(truth[kind])
        said[at : at + len(value)] = value
        return {(kind, 0): bytes(said)}

    return lie


def _total(change: Callable[[int], int]) -> Lie:
    """Another wTotalLength."""
    return lambda truth, speed: {
        (CONFIGURATION, 0): _with_total(truth[CONFIGURATION], change(len(truth[CONFIGURATION])))
    }


def _with_total(said: bytes, total: int) -> bytes:
    return said[:2] + struct.pack("<H", total) + said[4:]


def _described(*parts: bytes) -> Lie:
    """Another configuration, made of these."""
    return lambda truth, speed: {(CONFIGURATION, 0): configuration(*parts)}


def _appended(more: bytes) -> Lie:
    """The true configuration and something behind it that it counts as its own."""

    def lie(truth: Truth, speed: Speed) -> Said:
        said = truth[CONFIGURATION] + more
        return {(CONFIGURATION, 0): _with_total(said, len(said))}

    return lie


def _interfaces(count: int) -> bytes:
    return b"".join(interface(number, VENDOR_CLASS) for number in range(count))


def _settings(count: int) -> bytes:
    return b"".join(interface(0, VENDOR_CLASS, alternate=number % 256) for number in range(count))


def _with_endpoints(*ends: bytes) -> bytes:
    return interface(0, VENDOR_CLASS, endpoints=ends)


def _string(text: bytes) -> Lie:
    """The same bytes for every string but the list of languages."""
    languages = descriptor(STRING, b"\x09\x04")
    return lambda truth, speed: {(STRING, 0): languages, (STRING, ANY): text}


def other_product(model: Model, product: int) -> Said:
    """The face of another device."""
    return {(DEVICE, 0): device_bytes(device(VENDOR, product))}


def other_endpoints() -> Said:
    """A configuration with endpoints that the true one doesn't have."""
    return {(CONFIGURATION, 0): configuration(_with_endpoints(endpoint(0x85, BULK, 512), endpoint(0x06, BULK, 512)))}


_TERMINAL: Final = "\x1b]0;owned\x07\x1b[31mred\r\n\u202eevil\x9b2J\x00after".encode("utf-16-le")
_SURROGATES: Final = b"\x00\xd8" * 40 + b"\x00\xdc" * 40
_UNKNOWN: Final = descriptor(0x7F, bytes(30))

LIES: Final[dict[str, Lie]] = {
    # lengths
    "device-shorter": _changed(DEVICE, 0, b"\x08"),
    "device-longer": _changed(DEVICE, 0, b"\xff"),
    "device-type": _changed(DEVICE, 1, b"\x07"),
    "header-length-0": _changed(CONFIGURATION, 0, b"\x00"),
    "header-length-255": _changed(CONFIGURATION, 0, b"\xff"),
    "interface-length-0": _changed(CONFIGURATION, HEADER, b"\x00"),
    "interface-length-5": _changed(CONFIGURATION, HEADER, b"\x05"),
    "endpoint-length-0": _changed(CONFIGURATION, FIRST_ENDPOINT, b"\x00"),
    "endpoint-length-1": _changed(CONFIGURATION, FIRST_ENDPOINT, b"\x01"),
    "endpoint-length-4": _changed(CONFIGURATION, FIRST_ENDPOINT, b"\x04"),
    "endpoint-length-255": _changed(CONFIGURATION, FIRST_ENDPOINT, b"\xff"),
    "total-0": _total(lambda total: 0),
    "total-short": _total(lambda total: total - 3),
    "total-long": _total(lambda total: 0xFFFF),
    "total-one-more": _total(lambda total: total + 1),
    # counts
    "no-interfaces": _changed(CONFIGURATION, 4, b"\x00"),
    "32-interfaces-announced": _changed(CONFIGURATION, 4, b"\x20"),
    "255-interfaces-announced": _changed(CONFIGURATION, 4, b"\xff"),
    "33-interfaces": _described(_interfaces(33)),
    "200-interfaces": _described(_interfaces(200)),
    "interface-number-255": _changed(CONFIGURATION, HEADER + 2, b"\xff"),
    "300-settings": _described(_settings(300)),
    "setting-twice": _described(interface(0, VENDOR_CLASS), interface(0, VENDOR_CLASS)),
    "30-endpoints-announced": _changed(CONFIGURATION, HEADER + 4, b"\x1e"),
    "no-endpoints-announced": _changed(CONFIGURATION, HEADER + 4, b"\x00"),
    "255-configurations": _changed(DEVICE, 17, b"\xff"),
    "no-configurations": _changed(DEVICE, 17, b"\x00"),
    "configuration-value-0": _changed(CONFIGURATION, 5, b"\x00"),
    # endpoints
    "endpoint-twice": _described(_with_endpoints(endpoint(0x81, BULK, 512), endpoint(0x81, INTERRUPT, 8, 1))),
    "endpoint-in-two-interfaces": _described(
        interface(0, VENDOR_CLASS, endpoints=[endpoint(0x81, BULK, 512)]),
        interface(1, VENDOR_CLASS, endpoints=[endpoint(0x81, BULK, 512)]),
    ),
    "endpoint-0": _described(_with_endpoints(endpoint(0x80, BULK, 512), endpoint(0x00, BULK, 512))),
    "endpoint-reserved-bits": _described(_with_endpoints(endpoint(0xF1, BULK, 512))),
    "endpoint-control": _described(_with_endpoints(endpoint(0x81, CONTROL, 64))),
    "interval-0": _described(_with_endpoints(endpoint(0x81, INTERRUPT, 8, 0), endpoint(0x82, ISO, 64, 0))),
    "interval-255": _described(_with_endpoints(endpoint(0x81, INTERRUPT, 8, 255), endpoint(0x82, ISO, 64, 255))),
    "packet-0": _described(_with_endpoints(endpoint(0x81, BULK, 0), endpoint(0x82, ISO, 0, 1))),
    "packet-65535": _described(_with_endpoints(endpoint(0x81, BULK, 0xFFFF), endpoint(0x82, ISO, 0xFFFF, 1))),
    # others
    "nested-associations": _described(
        *(association(first, 32 - first, VENDOR_CLASS) for first in range(32)), _interfaces(32)
    ),
    "association-of-nothing": _described(association(200, 255, VENDOR_CLASS), _with_endpoints()),
    "unknown-types": _appended(_UNKNOWN * 40),
    "many-small": _appended(b"\x02\x7f" * 16000),
    "zeros-behind": _appended(bytes(64)),
    "string-255": _string(b"\xff\x03" + "A".encode("utf-16-le") * 126 + b"B"),
    "string-lies": _string(b"\xff\x03A\x00"),
    "string-length-0": _string(b"\x00\x03A\x00"),
    "string-type": _string(b"\x04\x09A\x00"),
    "string-surrogates": _string(descriptor(STRING, _SURROGATES)),
    "string-terminal": _string(descriptor(STRING, _TERMINAL)),
    "strings-stall": lambda truth, speed: {(STRING, ANY): b""},
}
