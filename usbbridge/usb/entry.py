"""A USB device that is plugged in, as the system describes it without opening it, and why it may not be had.

What the monitor reads, what travels to control and to whoever lists devices, and what rules are held against. All
strings in it are the device's own words, cleaned.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from usbbridge.errors import NotFoundError, NotPermittedError, RefusedError, UsbBridgeError
from usbbridge.usb.ch9 import ClassCode, Speed
from usbbridge.usb.identity import class_name


class Reason(StrEnum):
    """Why a device can't be attached, for programs."""

    HUB = "hub"
    IN_USE = "in-use"
    NO_PERMISSION = "no-permission"
    NO_NODE = "no-node"
    NOT_AUTHORIZED = "not-authorized"


_ERRORS: Final[dict[Reason, type[UsbBridgeError]]] = {
    Reason.HUB: RefusedError,
    Reason.IN_USE: RefusedError,
    Reason.NO_PERMISSION: NotPermittedError,
    Reason.NO_NODE: NotFoundError,
    Reason.NOT_AUTHORIZED: NotPermittedError,
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a device can't be attached, and what could be done about it."""

    reason: Reason
    message: str
    hint: str = ""

    def error(self) -> UsbBridgeError:
        """The error to raise when somebody asks for the device all the same."""
        return _ERRORS[self.reason](self.message, hint=self.hint)


@dataclass(frozen=True, slots=True)
class InterfaceEntry:
    """An interface in its current alternate setting, and the kernel driver bound to it ("" if none)."""

    number: int
    alternate: int
    class_: int
    subclass: int
    protocol: int
    driver: str
    usages: tuple[int, ...] = ()
    """Application usages of its HID report descriptor, page << 16 | id (HID 1.11 §6.2.2.8), where a HID driver has read
    it; they tell a security key (F1D0h:01h) from a keyboard (01h:06h)."""


@dataclass(frozen=True, slots=True)
class DeviceEntry:
    """A device that is plugged in. Its strings are its own words, cleaned of what could upset a terminal."""

    bus_port: str
    "Where it is plugged in: `1-2.3`, bus 1, port 2, and there port 3 of a hub; `usb1` is the root hub of bus 1."
    busnum: int
    devnum: int
    node: Path
    vendor: int
    product: int
    bcd_device: int
    class_: int
    subclass: int
    protocol: int
    speed: Speed
    manufacturer: str
    product_name: str
    serial: str
    configuration: int | None
    "bConfigurationValue; None while unconfigured."
    interfaces: tuple[InterfaceEntry, ...]
    name: str = ""
    "Manufacturer and product as it says, or else as the USB ID database says; may be empty."
    obstacle: Obstacle | None = None

    @property
    def ids(self) -> str:
        """`VID:PID`, as lsusb writes it."""
        return f"{self.vendor:04x}:{self.product:04x}"

    @property
    def is_root_hub(self) -> bool:
        return self.bus_port.startswith("usb")

    @property
    def classes(self) -> tuple[str, ...]:
        """What it is, in words, each once: of the device's own class, or of its interfaces' if it leaves it to them."""
        if self.class_ not in (ClassCode.PER_INTERFACE, ClassCode.MISCELLANEOUS) or not self.interfaces:
            return (class_name(self.class_, self.subclass, self.protocol),)
        return tuple(dict.fromkeys(class_name(i.class_, i.subclass, i.protocol) for i in self.interfaces))

    @property
    def drivers(self) -> tuple[str, ...]:
        """Kernel drivers bound to its interfaces, each once."""
        return tuple(dict.fromkeys(interface.driver for interface in self.interfaces if interface.driver))

    def __str__(self) -> str:
        return f"{self.bus_port} {self.ids} {self.name}".rstrip()
