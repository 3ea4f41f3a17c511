"""What people call a device: its ids, its place on the bus, its own words made safe, and what its class codes mean."""

import re
from typing import Final

from usbbridge.usb.ch9 import ClassCode

MAX_WORDS: Final = 126
"Characters kept of a device's string: as many as one string descriptor can hold (USB 2.0 §9.6.7)."

_IDS: Final = re.compile(r"([0-9a-fA-F]{1,4}):([0-9a-fA-F]{1,4})")
_BUS_PORT: Final = re.compile(r"[0-9]+-[0-9]+(\.[0-9]+)*")

_CLASS_NAMES: Final[dict[int, str]] = {
    ClassCode.AUDIO: "audio",
    ClassCode.COMMUNICATIONS: "communications",
    ClassCode.HID: "HID",
    ClassCode.PHYSICAL: "physical",
    ClassCode.IMAGE: "imaging",
    ClassCode.PRINTER: "printer",
    ClassCode.MASS_STORAGE: "storage",
    ClassCode.HUB: "hub",
    ClassCode.CDC_DATA: "communications data",
    ClassCode.SMART_CARD: "smart card",
    ClassCode.CONTENT_SECURITY: "content security",
    ClassCode.VIDEO: "video",
    ClassCode.PERSONAL_HEALTHCARE: "healthcare",
    ClassCode.AUDIO_VIDEO: "audio/video",
    ClassCode.BILLBOARD: "billboard",
    ClassCode.TYPE_C_BRIDGE: "Type-C bridge",
    ClassCode.DIAGNOSTIC: "diagnostic",
    ClassCode.WIRELESS: "wireless",
    ClassCode.MISCELLANEOUS: "miscellaneous",
    ClassCode.APPLICATION_SPECIFIC: "application specific",
    ClassCode.VENDOR_SPECIFIC: "vendor specific",
}
_FINER_NAMES: Final[dict[tuple[int, int, int], str]] = {
    (ClassCode.HID, 1, 1): "keyboard",  # HID 1.11 §4.2 and §4.3: boot subclass and its two protocols
    (ClassCode.HID, 1, 2): "mouse",
    (ClassCode.WIRELESS, 1, 1): "Bluetooth",
    (ClassCode.WIRELESS, 1, 3): "RNDIS",
    (ClassCode.APPLICATION_SPECIFIC, 1, 1): "firmware update",
    (ClassCode.APPLICATION_SPECIFIC, 1, 2): "firmware update",
}


def class_name(class_: int, subclass: int, protocol: int) -> str:
    """A word or two for a class code triple, for instance `storage` or `keyboard`."""
    finer = _FINER_NAMES.get((class_, subclass, protocol))
    return finer or _CLASS_NAMES.get(class_, f"class {class_:02x}")


def clean_words(text: str) -> str:
    """A device's own words made fit for a terminal: no control or direction characters, bounded, single spaces."""
    printable = "".join(character if character.isprintable() else " " for character in text[: 4 * MAX_WORDS])
    return " ".join(printable.split())[:MAX_WORDS]


def parse_ids(text: str) -> tuple[int, int] | None:
    """(idVendor, idProduct) of `VID:PID` in hexadecimal; None if `text` is something else."""
    match = _IDS.fullmatch(text)
    return (int(match[1], 16), int(match[2], 16)) if match else None


def is_bus_port(text: str) -> bool:
    """Whether `text` is a place on a bus as Linux writes it: `1-2` or, behind hubs, `1-2.3.4`."""
    return _BUS_PORT.fullmatch(text) is not None


def bus_port_key(bus_port: str) -> tuple[int, ...]:
    """Sorts places as people count: `1-2` before `1-10`, a hub before what is plugged into it."""
    return tuple(int(number) for number in re.findall(r"[0-9]+", bus_port))
