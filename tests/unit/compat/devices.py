"""Devices as rules see them, made up by tests."""

from usbbridge.compat.saved import made_up
from usbbridge.usb.ch9 import Speed
from usbbridge.usb.entry import DeviceEntry, InterfaceEntry


def device(
    ids: str,
    *interfaces: str,
    class_: str = "00/00/00",
    bcd_device: int = 0x0100,
    serial: str = "",
    port: str = "1-2",
    speed: Speed = Speed.HIGH,
) -> DeviceEntry:
    """Ids as `0781:5567`; interfaces as `08/06/50`, a HID one also with its usages: `03/00/00@f1d0:0001`."""
    vendor, _, product = ids.partition(":")
    return made_up(
        (int(vendor, 16), int(product, 16)),
        [interface(number, text) for number, text in enumerate(interfaces)],
        class_=triple(class_),
        bcd_device=bcd_device,
        serial=serial,
        port=port,
        speed=speed,
    )


def interface(number: int, text: str) -> InterfaceEntry:
    classes, _, usages = text.partition("@")
    found = tuple(int(usage.replace(":", ""), 16) for usage in usages.split(",") if usage)
    return InterfaceEntry(number, 0, *triple(classes), "", found)


def triple(text: str) -> tuple[int, int, int]:
    class_, subclass, protocol = (int(part, 16) for part in text.split("/"))
    return class_, subclass, protocol


STICK = device("0781:5567", "08/06/50")
KEYBOARD = device("046d:c31c", "03/01/01@0001:0006", "03/00/00@000c:0001")
HEADSET = device("046d:0a44", "01/01/00", "01/02/00", "03/00/00@000c:0001")
HUB = device("05e3:0608", "09/00/00", class_="09/00/01")
