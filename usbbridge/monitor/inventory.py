"""Which USB devices this machine has, from sysfs, without opening one.

Paths are looked up below a `root`, `/` except in tests. A device may go away between two reads; it is then left out.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from usbbridge.monitor import usbids
from usbbridge.monitor.blockuse import BlockUse
from usbbridge.usb.ch9 import ClassCode, Speed
from usbbridge.usb.entry import DeviceEntry, InterfaceEntry, Obstacle, Reason
from usbbridge.usb.identity import bus_port_key, clean_words

ROOT: Final = Path("/")
DEVICES: Final = "sys/bus/usb/devices"
"One entry a device (`1-2.3`, `usb1` for a root hub) and one an interface (`1-2.3:1.0`)."


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
