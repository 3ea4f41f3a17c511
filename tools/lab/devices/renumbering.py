"""Numbers of interfaces, endpoints and strings for a part of a composite device, in the descriptors of that part."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Self

from tools.lab.devices.describe import association
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import DIR_IN, ClassCode, DescriptorType

MAX_NUMBER: Final = 15
"Of an endpoint, in each direction (USB 2.0 §9.6.6)."

_CDC_CALL_MANAGEMENT, _CDC_UNION, _CDC_ETHERNET = 0x01, 0x06, 0x0F
"bDescriptorSubtype (CDC 1.2 table 13)."
_AUDIO_HEADER, _VIDEO_HEADER = 0x01, 0x01
_AUDIO_CONTROL, _VIDEO_CONTROL, _VIDEO_STREAMING = 0x01, 0x01, 0x02
"bDescriptorSubtype of the headers and bInterfaceSubClass (Audio 1.0 §4.3.2, Video 1.5 §3.7.2 and §3.9.2)."
_VIDEO_OUTPUT_HEADER: Final = 0x02


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a part's own numbers are in the whole device."""

    first_interface: int = 0
    interfaces: int = 0
    first_string: int = 0
    "Strings of the whole device before the part's first."
    endpoints: dict[int, int] = field(default_factory=dict)
    "The part's own address → address in the whole device."
    last_in: int = 0
    last_out: int = 0
    "The highest endpoint numbers taken so far."

    @property
    def own_endpoints(self) -> dict[int, int]:
        """Address in the whole device → the part's own."""
        return {whole: own for own, whole in self.endpoints.items()}

    def has_interface(self, number: int) -> bool:
        """Whether an interface of the whole device is the part's."""
        return self.first_interface <= number < self.first_interface + self.interfaces

    def after(self, part: bytes, strings: int) -> Self:
        """Numbers for the next part, whose configuration that is; so many strings are taken. Raises UsageError."""
        found = [*descriptors(part)]
        own = dict.fromkeys(each[2] for each in found if each[1] == DescriptorType.ENDPOINT)
        taken, endpoints = {True: self.last_in, False: self.last_out}, {}
        for address in own:
            is_in = bool(address & DIR_IN)
            taken[is_in] += 1
            endpoints[address] = taken[is_in] | (DIR_IN if is_in else 0)
        if max(taken.values()) > MAX_NUMBER:
            raise UsageError(f"the parts need more than {MAX_NUMBER} endpoints in one direction")
        count = len({each[2] for each in found if each[1] == DescriptorType.INTERFACE})
        first = self.first_interface + self.interfaces
        return type(self)(first, count, strings, endpoints, taken[True], taken[False])


def descriptors(body: bytes) -> Iterator[bytes]:
    """Each descriptor of a configuration of our own making."""
    at = 0
    while at < len(body):
        yield body[at : at + body[at]]
        at += body[at]


def renumber(part: bytes, numbers: Numbers) -> bytes:
    """What comes after the configuration descriptor, with the whole device's numbers."""
    rest = [*descriptors(part)][1:]
    kinds = [each[1] for each in rest]
    translated, class_, subclass = bytearray(), 0, 0
    if numbers.interfaces > 1 and DescriptorType.INTERFACE_ASSOCIATION not in kinds:
        first = rest[kinds.index(DescriptorType.INTERFACE)]
        translated += association(numbers.first_interface, numbers.interfaces, *first[5:8])
    for each in rest:
        if each[1] == DescriptorType.INTERFACE:
            class_, subclass = each[5], each[6]
        translated += _translate(bytearray(each), class_, subclass, numbers)
    return bytes(translated)


def _translate(each: bytearray, class_: int, subclass: int, numbers: Numbers) -> bytearray:
    kind = each[1]
    if kind == DescriptorType.ENDPOINT:
        each[2] = numbers.endpoints[each[2]]
    elif kind in (DescriptorType.INTERFACE, DescriptorType.INTERFACE_ASSOCIATION):
        each[2] += numbers.first_interface
        _name(each, 8 if kind == DescriptorType.INTERFACE else 7, numbers)
    elif kind == DescriptorType.CS_INTERFACE:
        _class_specific(each, class_, subclass, numbers)
    return each


def _name(each: bytearray, at: int, numbers: Numbers) -> None:
    if each[at]:
        each[at] += numbers.first_string


def _class_specific(each: bytearray, class_: int, subclass: int, numbers: Numbers) -> None:
    """Interfaces of the same function that a class-specific descriptor names."""
    named: range = range(0)
    subtype = each[2]
    if class_ == ClassCode.COMMUNICATIONS:
        named = {_CDC_UNION: range(3, len(each)), _CDC_CALL_MANAGEMENT: range(4, 5)}.get(subtype, named)
        if subtype == _CDC_ETHERNET:
            _name(each, 3, numbers)
    elif (class_, subclass, subtype) == (ClassCode.AUDIO, _AUDIO_CONTROL, _AUDIO_HEADER):
        release = struct.unpack_from("<H", each, 3)[0]
        named = range(8, len(each)) if release < 0x0200 else named  # later releases have associations instead
    elif (class_, subclass, subtype) == (ClassCode.VIDEO, _VIDEO_CONTROL, _VIDEO_HEADER):
        named = range(12, len(each))
    elif (class_, subclass) == (ClassCode.VIDEO, _VIDEO_STREAMING) and subtype in (_VIDEO_HEADER, _VIDEO_OUTPUT_HEADER):
        each[6] = numbers.endpoints[each[6]]
    for at in named:
        each[at] += numbers.first_interface
