"""Which USB devices this machine has, from sysfs, without opening one, and which of them somebody means by a name.

Paths are looked up below a `root`, `/` except in tests. A device may go away between two reads; it is then left out.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from usbbridge.errors import NotFoundError, NotPermittedError, RefusedError, UsageError, UsbBridgeError
from usbbridge.monitor import usbids
from usbbridge.monitor.blockuse import BlockUse
from usbbridge.usb.ch9 import ClassCode, Speed
from usbbridge.usb.identity import bus_port_key, class_name, clean_words, is_bus_port, parse_ids

ROOT: Final = Path("/")
DEVICES: Final = "sys/bus/usb/devices"
"One entry a device (`1-2.3`, `usb1` for a root hub) and one an interface (`1-2.3:1.0`)."


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


def devices(root: Path = ROOT) -> list[DeviceEntry]:
    """Every USB device, hubs too, ordered by bus and port. Empty if the machine has no USB."""
    folder = root / DEVICES
    if not folder.is_dir():
        return []
    listing = sorted(entry.name for entry in folder.iterdir())
    found = [_read_device(root, name, listing) for name in listing if ":" not in name]
    entries = sorted((entry for entry in found if entry), key=lambda entry: bus_port_key(entry.bus_port))
    return _explained(root, _named(root, entries))


def _read_device(root: Path, bus_port: str, listing: Iterable[str]) -> DeviceEntry | None:
    folder = root / DEVICES / bus_port
    try:
        busnum, devnum = int(_attribute(folder, "busnum")), int(_attribute(folder, "devnum"))
        vendor, product, bcd_device = (int(_attribute(folder, f), 16) for f in ("idVendor", "idProduct", "bcdDevice"))
        class_, subclass, protocol = (int(_attribute(folder, f"bDevice{f}"), 16) for f in _TRIPLE)
    except (OSError, ValueError):
        return None
    interfaces = [_read_interface(folder.parent / name) for name in listing if name.startswith(bus_port + ":")]
    return DeviceEntry(
        bus_port,
        busnum,
        devnum,
        root / f"dev/bus/usb/{busnum:03}/{devnum:03}",
        vendor,
        product,
        bcd_device,
        class_,
        subclass,
        protocol,
        _speed(_optional(folder, "speed")),
        clean_words(_optional(folder, "manufacturer")),
        clean_words(_optional(folder, "product")),
        clean_words(_optional(folder, "serial")),
        int(_optional(folder, "bConfigurationValue") or 0) or None,
        tuple(sorted((entry for entry in interfaces if entry), key=lambda entry: entry.number)),
    )


_TRIPLE: Final = ("Class", "SubClass", "Protocol")


def _read_interface(folder: Path) -> InterfaceEntry | None:
    try:
        number = int(_attribute(folder, "bInterfaceNumber"), 16)
        alternate = int(_attribute(folder, "bAlternateSetting"))
        class_, subclass, protocol = (int(_attribute(folder, f"bInterface{f}"), 16) for f in _TRIPLE)
    except (OSError, ValueError):
        return None
    return InterfaceEntry(number, alternate, class_, subclass, protocol, _driver(folder))


def _attribute(folder: Path, name: str) -> str:
    return (folder / name).read_text(errors="replace").strip()


def _optional(folder: Path, name: str) -> str:
    try:
        return _attribute(folder, name)
    except OSError:
        return ""


def _driver(folder: Path) -> str:
    try:
        return (folder / "driver").readlink().name
    except OSError:
        return ""


def _speed(mbps: str) -> Speed:
    try:
        return Speed.from_mbps(float(mbps))
    except ValueError:  # wireless USB was "53.3-480"
        return Speed.UNKNOWN


def _named(root: Path, entries: list[DeviceEntry]) -> list[DeviceEntry]:
    database = None
    named = []
    for entry in entries:
        own = [words for words in (entry.manufacturer, entry.product_name) if words]
        if not entry.product_name:
            database = usbids.load(root) if database is None else database
            vendor, product = usbids.names(database, entry.vendor, entry.product)
            own = [words for words in (entry.manufacturer or vendor, product) if words]
        named.append(replace(entry, name=" ".join(own)))
    return named


def _explained(root: Path, entries: list[DeviceEntry]) -> list[DeviceEntry]:
    use = BlockUse(root)
    return [replace(entry, obstacle=_obstacle(root, entry, use)) for entry in entries]


def _obstacle(root: Path, entry: DeviceEntry, use: BlockUse) -> Obstacle | None:
    folder = root / DEVICES / entry.bus_port
    if entry.class_ == ClassCode.HUB:
        return Obstacle(Reason.HUB, f"{entry} is a hub", "the devices plugged into it can be attached")
    if _optional(folder, "authorized") == "0":
        hint = f"authorize it with your USB policy (USBGuard), or write 1 to {folder}/authorized"
        return Obstacle(Reason.NOT_AUTHORIZED, f"{entry} is blocked: the kernel was told not to authorize it", hint)
    return _in_use(folder, entry, use) or node_obstacle(entry)


def _in_use(folder: Path, entry: DeviceEntry, use: BlockUse) -> Obstacle | None:
    disks = use.of(folder.resolve())
    if disks:
        hint = "unmount it (or stop what uses it) first: taking it away now could lose data"
        return Obstacle(Reason.IN_USE, f"{entry} is in use: {', '.join(disks)}", hint)
    if "usbfs" in entry.drivers:
        hint = "end that program (a viewer, a VM, another usbbridge) first"
        return Obstacle(Reason.IN_USE, f"{entry} is in use by another program", hint)
    driver = _driver(folder)
    if driver not in ("", "usb"):  # usbip-host, for one, binds whole devices
        return Obstacle(Reason.IN_USE, f"{entry} is in use by the kernel driver {driver}", "unbind it first")
    return None


def node_obstacle(
    entry: DeviceEntry, may_open: Callable[[Path], bool] = lambda node: os.access(node, os.R_OK | os.W_OK)
) -> Obstacle | None:
    """What stands between this process and the device node: none there, or no permission."""
    if not entry.node.exists():
        hint = "in a container, /dev/bus/usb must be passed in; elsewhere udev or devtmpfs makes it"
        return Obstacle(Reason.NO_NODE, f"{entry} has no device node {entry.node}", hint)
    if may_open(entry.node):
        return None
    rule = f'SUBSYSTEM=="usb", ATTR{{idVendor}}=="{entry.vendor:04x}", ATTR{{idProduct}}=="{entry.product:04x}"'
    hint = f"run as root, or allow it with a udev rule, then replug it: {rule}, TAG+=\"uaccess\""
    return Obstacle(Reason.NO_PERMISSION, f"{entry}: no permission to open {entry.node}", hint)


_LIST_HINT: Final = "`usbbridge list` shows what there is"


def find(entries: Sequence[DeviceEntry], selector: str | None, *, serial: str | None = None) -> DeviceEntry:
    """The one device that is meant: by BUS-PORT, VID:PID, a part of its name (any case), and/or its serial number.

    Raises UsageError, with the candidates, if several are meant, and NotFoundError if none is.
    """
    if not selector and not serial:
        raise UsageError("no device was named", hint=_LIST_HINT)
    matching = [entry for entry in entries if _is_meant(entry, selector) and serial in (None, "", entry.serial)]
    if len(matching) == 1:
        return matching[0]
    asked = " ".join(part for part in (selector, serial and f"(serial number {serial})") if part)
    if not matching:
        raise NotFoundError(f"no USB device is known as {asked}", hint=_LIST_HINT)
    lines = "".join(f"\n  {entry}" + (f" (serial number {entry.serial})" if entry.serial else "") for entry in matching)
    raise UsageError(f"{asked} could be any of {len(matching)} devices:{lines}", hint="name it by its BUS-PORT")


def _is_meant(entry: DeviceEntry, selector: str | None) -> bool:
    if not selector or selector == entry.bus_port:
        return True
    if is_bus_port(selector) or entry.is_root_hub:
        return False
    ids = parse_ids(selector)
    if ids:
        return ids == (entry.vendor, entry.product)
    return selector.casefold() in entry.name.casefold()
