"""What a guest's USB core does with a new device: reset it, read its descriptors, configure it (USB 2.0 §9.1.2).

The order and the sizes asked for are Linux's (drivers/usb/core): 8 bytes of device descriptor, reset, all 18, 9
bytes of configuration, all of it, the strings in the first language.
"""

from dataclasses import dataclass
from typing import Final

from usbbridge.errors import DeviceError
from usbbridge.loopback.bulkonly import BulkOnly, mass_storage_interface
from usbbridge.loopback.storage import Disk
from usbbridge.loopback.tasks import Command, Control, Task
from usbbridge.usb.ch9 import DescriptorType, Request, SetupPacket
from usbbridge.usb.descriptors import (
    Configuration,
    DescriptorError,
    DeviceDescriptor,
    Interface,
    parse_configuration,
    parse_device,
    parse_string,
)
from usbbridge.usbredir.packets import Reset, SetAltSetting, SetConfiguration
from usbbridge.usbredir.proto import Status

CONFIGURATION_HEADER: Final = 9
BOS_HEADER: Final = 5
BCD_USB_2_01: Final = 0x0201
"From this version on a device has a binary device object store (USB 3.2 §9.6.2)."
MAX_STRING: Final = 255
MAX_DESCRIPTOR: Final = 4096
"QEMU's buffer for control transfers; it stalls longer ones."


@dataclass(frozen=True, slots=True)
class UsbDevice:
    """An enumerated device."""

    descriptor: DeviceDescriptor
    configuration: Configuration
    manufacturer: str = ""
    product: str = ""
    serial: str = ""

    @property
    def name(self) -> str:
        """`VID:PID` and the strings."""
        words = (f"{self.descriptor.vendor:04x}:{self.descriptor.product:04x}", self.manufacturer, self.product)
        return " ".join(word for word in words if word)


def enumerate_device() -> Task[UsbDevice]:
    """Bring a new device to its first configuration. Raises `DescriptorError`, `DeviceError`."""
    yield Command(Reset())
    yield from get_descriptor(DescriptorType.DEVICE, 0, 8)
    yield Command(Reset())
    device = parse_device((yield from get_descriptor(DescriptorType.DEVICE, 0, 18)))
    if device.bcd_usb >= BCD_USB_2_01:
        yield from whole_descriptor(DescriptorType.BOS, BOS_HEADER)
    whole = yield from whole_descriptor(DescriptorType.CONFIGURATION, CONFIGURATION_HEADER)
    configuration = parse_configuration(whole)
    strings = yield from _strings(device.i_manufacturer, device.i_product, device.i_serial)
    yield from set_configuration(configuration.value)
    return UsbDevice(device, configuration, *strings)


def get_descriptor(kind: DescriptorType, index: int, length: int, language: int = 0) -> Task[bytes]:
    """Up to `length` bytes of a descriptor. Raises `DescriptorError` if the device has none."""
    setup = SetupPacket(0x80, Request.GET_DESCRIPTOR, kind << 8 | index, language, length)
    reply = yield Control(setup)
    if reply.status is not Status.SUCCESS or reply.length < 2:
        raise DescriptorError(f"{kind.name.lower()} descriptor {index} could not be read: {reply.status.name}")
    return bytes(reply.data)


def whole_descriptor(kind: DescriptorType, header: int) -> Task[bytes]:
    """A descriptor that bears its total length in bytes 2 and 3, with all that follows it."""
    head = yield from get_descriptor(kind, 0, header)
    total = int.from_bytes(head[2:4], "little")
    if not header <= total <= MAX_DESCRIPTOR:
        raise DescriptorError(f"{kind.name.lower()} descriptor claims {total} bytes")
    return (yield from get_descriptor(kind, 0, total))


def _strings(*indices: int) -> Task[list[str]]:
    if not any(indices):
        return [""] * len(indices)
    languages = yield from get_descriptor(DescriptorType.STRING, 0, MAX_STRING)
    language = int.from_bytes(languages[2:4], "little")
    texts = []
    for index in indices:
        text = ""
        if index:
            text = parse_string((yield from get_descriptor(DescriptorType.STRING, index, MAX_STRING, language)))
        texts.append(text)
    return texts


def set_configuration(value: int) -> Task[None]:
    """Configure the device. Raises `DeviceError`."""
    reply = yield Command(SetConfiguration(value))
    if reply.status is not Status.SUCCESS:
        raise DeviceError(f"configuration {value} could not be set: {reply.status.name}")


def set_interface(setting: Interface) -> Task[None]:
    """Select an alternate setting. Raises `DeviceError`."""
    reply = yield Command(SetAltSetting(setting.number, setting.alternate))
    if reply.status is not Status.SUCCESS:
        raise DeviceError(f"interface {setting.number} refused setting {setting.alternate}: {reply.status.name}")


def bind_disk(device: UsbDevice) -> Task[Disk]:
    """Put the disk driver on a device's storage interface and find out what it is. Raises `DeviceError`."""
    setting = mass_storage_interface(device.configuration)
    if setting is None:
        raise DeviceError(f"{device.name} is no Bulk-Only mass storage device")
    yield from set_interface(setting)
    transport = BulkOnly(setting)
    yield from transport.max_lun()
    disk = Disk(transport)
    yield from disk.probe()
    return disk
