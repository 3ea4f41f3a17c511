"""Descriptors by description: bytes of one configuration, put together from its parts.

    camera = model(
        device(0x46F4, 0x0101, class_=ClassCode.MISCELLANEOUS, subclass=2, protocol=1),
        configuration(
            association(0, 2, ClassCode.VIDEO, 3),
            interface(0, ClassCode.VIDEO, 1, extra=cs_interface(...), endpoints=[endpoint(0x83, INTERRUPT, 16, 8)]),
            interface(1, ClassCode.VIDEO, 2),
            interface(1, ClassCode.VIDEO, 2, alternate=1, endpoints=[endpoint(0x81, ISO, 1024, 1)]),
        ),
        strings=("usbbridge", "Camera", "CAM1"),
    )

Nothing is checked: a device that lies about itself is described the same way.
"""

import struct
from collections.abc import Iterable
from typing import Final

from usbbridge.backend.emulated.function import Model
from usbbridge.usb.ch9 import DescriptorType, Speed, TransferType
from usbbridge.usb.descriptors import DeviceDescriptor

CONTROL, ISO, BULK, INTERRUPT = TransferType.CONTROL, TransferType.ISO, TransferType.BULK, TransferType.INTERRUPT

VENDOR: Final = 0x46F4
"QEMU's own emulated devices have it, and no manufacturer: for devices that stand for no particular product."

BUS_POWERED: Final = 0x80
"bmAttributes of a configuration: bit 7 is reserved and set to one (USB 2.0 table 9-10)."
REMOTE_WAKEUP: Final = 0x20
POWER_UNIT, SUPER_POWER_UNIT = 2, 8
"Milliamperes that one of bMaxPower stands for (USB 2.0 table 9-10, USB 3.2 table 9-22)."
SUPER_SPEEDS: Final = (Speed.SUPER, Speed.SUPER_PLUS)

SUPER_SPEED_BOS: Final = bytes.fromhex(
    "050f160002"  # two capabilities, 22 bytes in all
    "07100200000000"  # USB 2.0 extension, without link power management
    "0a1003000e00010a2000"  # SuperSpeed: full, high and super speed; all functions from full speed on; U1 10, U2 32 us
)
"Binary device object store (USB 3.2 §9.6.2), which every SuperSpeed device has."
BULK_PACKET: Final = {Speed.FULL: 64, Speed.HIGH: 512, Speed.SUPER: 1024}
"wMaxPacketSize of bulk endpoints (USB 2.0 §5.8.3, USB 3.2 §8.12.1.2); at full speed the largest of those possible."


def device(
    vendor: int,
    product: int,
    *,
    class_: int = 0,
    subclass: int = 0,
    protocol: int = 0,
    bcd_usb: int = 0x0200,
    bcd_device: int = 0x0100,
    max_packet_size0: int = 64,
    configurations: int = 1,
) -> DeviceDescriptor:
    """A device descriptor (USB 2.0 §9.6.1) whose strings 1, 2 and 3 are manufacturer, product and serial number."""
    return DeviceDescriptor(
        bcd_usb=bcd_usb,
        class_=class_,
        subclass=subclass,
        protocol=protocol,
        max_packet_size0=max_packet_size0,
        vendor=vendor,
        product=product,
        bcd_device=bcd_device,
        i_manufacturer=1,
        i_product=2,
        i_serial=3,
        num_configurations=configurations,
    )


def descriptor(kind: int, body: bytes) -> bytes:
    """Any descriptor: its length and type before its body."""
    return bytes((2 + len(body), kind)) + body


def cs_interface(subtype: int, body: bytes) -> bytes:
    """A class-specific interface descriptor, as audio, video and communications devices have them."""
    return descriptor(DescriptorType.CS_INTERFACE, bytes((subtype,)) + body)


def cs_endpoint(subtype: int, body: bytes) -> bytes:
    """A class-specific endpoint descriptor."""
    return descriptor(DescriptorType.CS_ENDPOINT, bytes((subtype,)) + body)


def endpoint(
    address: int,
    kind: TransferType,
    size: int,
    interval: int = 0,
    *,
    attributes: int = 0,
    audio: bool = False,
    companion: tuple[int, int, int] | None = None,
    extra: bytes = b"",
) -> bytes:
    """An endpoint descriptor and what follows it. `attributes`: the bits above the type. `audio`: with the two bytes
    bRefresh and bSynchAddress of USB Audio 1.0. `companion`: burst, attributes and bytes an interval (SuperSpeed)."""
    body = struct.pack("<BBHB", address, kind | attributes, size, interval) + bytes(2 if audio else 0)
    found = descriptor(DescriptorType.ENDPOINT, body)
    if companion is not None:
        found += descriptor(DescriptorType.SUPERSPEED_ENDPOINT_COMPANION, struct.pack("<BBH", *companion))
    return found + extra


def interface(
    number: int,
    class_: int,
    subclass: int = 0,
    protocol: int = 0,
    *,
    alternate: int = 0,
    endpoints: Iterable[bytes] = (),
    extra: bytes = b"",
    i_interface: int = 0,
) -> bytes:
    """One alternate setting: `extra` (class descriptors) comes between its descriptor and its endpoints."""
    ends = [*endpoints]
    body = bytes((number, alternate, len(ends), class_, subclass, protocol, i_interface))
    return descriptor(DescriptorType.INTERFACE, body) + extra + b"".join(ends)


def association(first: int, count: int, class_: int, subclass: int = 0, protocol: int = 0) -> bytes:
    """An interface association descriptor: these interfaces are one function."""
    return descriptor(DescriptorType.INTERFACE_ASSOCIATION, bytes((first, count, class_, subclass, protocol, 0)))


def configuration(
    *parts: bytes,
    value: int = 1,
    attributes: int = BUS_POWERED,
    milliamperes: int = 100,
    speed: Speed = Speed.HIGH,
) -> bytes:
    """A whole configuration; its interfaces are counted from the parts. Of `speed` it only matters whether that is one
    of the super speeds."""
    body = b"".join(parts)
    count = len(set(_interface_numbers(body)))
    unit = SUPER_POWER_UNIT if speed in SUPER_SPEEDS else POWER_UNIT
    head = struct.pack("<HBBBBB", 9 + len(body), count, value, 0, attributes, milliamperes // unit)
    return descriptor(DescriptorType.CONFIGURATION, head) + body


def _interface_numbers(body: bytes) -> Iterable[int]:
    at = 0
    while at < len(body):
        if body[at + 1] == DescriptorType.INTERFACE:
            yield body[at + 2]
        at += body[at]


def model(
    described: DeviceDescriptor,
    *configurations: bytes,
    strings: tuple[str, ...] = ("usbbridge", "Device", "1"),
    speed: Speed = Speed.HIGH,
) -> Model:
    """What a device tells about itself. At high speed it has the same configurations at full speed, should one ask."""
    return Model(
        speed,
        described,
        configurations,
        strings,
        other_speed=configurations if speed is Speed.HIGH else (),
    )
