"""A device that is not plugged in here, as rules see it: from descriptors that were saved, or made up."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import Speed
from usbbridge.usb.descriptors import Configuration, DescriptorError, DeviceDescriptor, parse_all
from usbbridge.usb.entry import DeviceEntry, InterfaceEntry

MAX_FILE: Final = 1 << 20
"Bytes, or twice as many hexadecimal digits and spaces: 255 configurations of 4 KiB."

_NOWHERE: Final = "saved"
"Place of a device that is not plugged in; no pattern for ports is met by it, but `*`."


def from_descriptors(data: bytes, *, serial: str = "", port: str = "", speed: Speed = Speed.UNKNOWN) -> DeviceEntry:
    """The device of these descriptors: what sysfs `descriptors` holds, or the same in hexadecimal digits.

    It is taken as it is after being plugged in: in its first configuration, and the first setting of each interface.
    What its HID report descriptors say is not among descriptors. Raises UsageError.
    """
    try:
        device, configurations = parse_all(_bytes(data))
    except (DescriptorError, ValueError) as error:
        hint = "save them with: cat /sys/bus/usb/devices/1-2/descriptors > FILE"
        raise UsageError(f"these are no USB descriptors: {error}", hint=hint) from error
    interfaces = _interfaces(configurations[0]) if configurations else ()
    return _entry(device, interfaces, serial, port, speed)


def made_up(
    ids: tuple[int, int],
    interfaces: Sequence[InterfaceEntry],
    *,
    bcd_device: int = 0,
    class_: tuple[int, int, int] = (0, 0, 0),
    serial: str = "",
    port: str = "",
    speed: Speed = Speed.UNKNOWN,
) -> DeviceEntry:
    """A device of these properties."""
    device = DeviceDescriptor(0x0200, *class_, 64, *ids, bcd_device)
    return _entry(device, tuple(interfaces), serial, port, speed)


def _bytes(data: bytes) -> bytes:
    """The descriptors; a device descriptor begins with 18, 1, which no text does."""
    if len(data) > MAX_FILE:
        raise ValueError(f"{len(data)} bytes, where the limit is {MAX_FILE}")
    return data if data[:2] == b"\x12\x01" else bytes.fromhex(data.decode("ascii"))


def _interfaces(configuration: Configuration) -> tuple[InterfaceEntry, ...]:
    first = [next(i for i in configuration.interfaces if i.number == number) for number in configuration.numbers]
    return tuple(InterfaceEntry(i.number, i.alternate, i.class_, i.subclass, i.protocol, "") for i in first)


def _entry(
    device: DeviceDescriptor, interfaces: tuple[InterfaceEntry, ...], serial: str, port: str, speed: Speed
) -> DeviceEntry:
    return DeviceEntry(
        bus_port=port or _NOWHERE,
        busnum=0,
        devnum=0,
        node=Path("/nonexistent"),
        vendor=device.vendor,
        product=device.product,
        bcd_device=device.bcd_device,
        class_=device.class_,
        subclass=device.subclass,
        protocol=device.protocol,
        speed=speed,
        manufacturer="",
        product_name="",
        serial=serial,
        configuration=1,
        interfaces=interfaces,
    )
