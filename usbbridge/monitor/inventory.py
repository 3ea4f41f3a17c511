"""Which USB devices this machine has, from sysfs, without opening one.

Paths are looked up below a `root`, `/` except in tests. A device may go away between two reads; it is then left out.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from usbbridge.monitor import hid
from usbbridge.monitor.blockuse import BlockUse, resolved
from usbbridge.monitor.usbids import Names
from usbbridge.usb.ch9 import ClassCode, Speed
from usbbridge.usb.entry import DeviceEntry, InterfaceEntry, Obstacle, Reason
from usbbridge.usb.identity import bus_port_key, clean_words

ROOT: Final = Path("/")
DEVICES: Final = "sys/bus/usb/devices"
"One entry a device (`1-2.3`, `usb1` for a root hub) and one an interface (`1-2.3:1.0`)."


def devices(root: Path = ROOT) -> list[DeviceEntry]:
    """Every USB device, hubs too, ordered by bus and port. Empty if the machine has no USB."""
    names, use = Names(root), BlockUse(root)
    found = [read_device(root, bus_port, names) for bus_port in bus_ports(root)]
    return [explained(root, entry, use) for entry in found if entry]


def bus_ports(root: Path = ROOT) -> list[str]:
    """Where devices are plugged in, ordered by bus and port."""
    folder = root / DEVICES
    listing = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted((name for name in listing if ":" not in name), key=bus_port_key)


def read_device(root: Path, bus_port: str, names: Names) -> DeviceEntry | None:
    """The device at `bus_port`, and nothing else, without what might stand against having it (`explained`). None if it
    is not there, or is going."""
    folder = root / DEVICES / bus_port
    try:
        busnum, devnum = _numbers(folder)
        vendor, product, bcd_device = (int(_attribute(folder, f), 16) for f in ("idVendor", "idProduct", "bcdDevice"))
        class_, subclass, protocol = (int(_attribute(folder, f"bDevice{f}"), 16) for f in _TRIPLE)
        interfaces = [_read_interface(entry) for entry in folder.iterdir() if entry.name.startswith(bus_port + ":")]
    except (OSError, ValueError):
        return None
    manufacturer = clean_words(_optional(folder, "manufacturer"))
    product_name = clean_words(_optional(folder, "product"))
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
        manufacturer,
        product_name,
        clean_words(_optional(folder, "serial")),
        _number(_optional(folder, "bConfigurationValue")) or None,
        tuple(sorted((entry for entry in interfaces if entry), key=lambda entry: entry.number)),
        _name(manufacturer, product_name, vendor, product, names),
    )


def is_whole(root: Path, entry: DeviceEntry) -> bool:
    """Whether the kernel has listed all interfaces of the device's configuration; they come one after the other."""
    announced = _number(_optional(root / DEVICES / entry.bus_port, "bNumInterfaces"))
    return entry.configuration is not None and len(entry.interfaces) >= announced


def descriptors(root: Path, bus_port: str) -> bytes:
    """Device and configuration descriptors as the kernel read them (sysfs-bus-usb: `descriptors`); empty if it has
    gone. At most MAX_RAW bytes."""
    try:
        with (root / DEVICES / bus_port / "descriptors").open("rb") as file:
            return file.read(MAX_RAW)
    except OSError:
        return b""


MAX_RAW: Final = 64 << 10
"Bytes of descriptors that are read: wTotalLength has 16 bits; who has several such configurations has them cut."


def _numbers(folder: Path) -> tuple[int, int]:
    """Bus and device number, from the number of the device's node: `devnum` says 0 while the device is being reset."""
    minor = int(_attribute(folder, "dev").partition(":")[2])
    return (minor >> 7) + 1, (minor & 127) + 1


_TRIPLE: Final = ("Class", "SubClass", "Protocol")


def _read_interface(folder: Path) -> InterfaceEntry | None:
    try:
        number = int(_attribute(folder, "bInterfaceNumber"), 16)
        alternate = int(_attribute(folder, "bAlternateSetting"))
        class_, subclass, protocol = (int(_attribute(folder, f"bInterface{f}"), 16) for f in _TRIPLE)
    except (OSError, ValueError):
        return None
    usages = _usages(folder) if class_ == ClassCode.HID else ()
    return InterfaceEntry(number, alternate, class_, subclass, protocol, _driver(folder), usages)


def _usages(folder: Path) -> tuple[int, ...]:
    """Of the report descriptor, which a HID driver has read and shows in a folder such as `0003:046D:C31C.0001`."""
    try:
        for entry in folder.iterdir():
            if entry.name.count(":") == 2 and "." in entry.name:
                with (entry / "report_descriptor").open("rb") as file:
                    return hid.application_usages(file.read(hid.MAX_DESCRIPTOR))
    except OSError:  # it is going
        pass
    return ()


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


def _number(text: str) -> int:
    """A decimal attribute; 0 for one that is empty, as those of the configuration are while there is none."""
    return int(text) if text.isdecimal() else 0


def _name(manufacturer: str, product_name: str, vendor: int, product: int, names: Names) -> str:
    if not product_name:
        of_vendor, product_name = names.of(vendor, product)
        manufacturer = manufacturer or of_vendor
    return " ".join(words for words in (manufacturer, product_name) if words)


def explained(root: Path, entry: DeviceEntry, use: BlockUse, *, ours: bool = False) -> DeviceEntry:
    """The device with what stands against having it now; that it is in use does not if it is `ours`, handed out."""
    return replace(entry, obstacle=_obstacle(root, entry, use, ours))


def _obstacle(root: Path, entry: DeviceEntry, use: BlockUse, ours: bool) -> Obstacle | None:
    folder = root / DEVICES / entry.bus_port
    in_use = None if ours else disks_in_use(entry, use.of(resolved(folder)))
    return _not_for_us(folder, entry) or in_use or (None if ours else _claimed(folder, entry)) or node_obstacle(entry)


def obstacle_beside_disks(root: Path, entry: DeviceEntry) -> Obstacle | None:
    """What stands against having the device now, whatever its disks are used for."""
    folder = root / DEVICES / entry.bus_port
    return _not_for_us(folder, entry) or _claimed(folder, entry) or node_obstacle(entry)


def _not_for_us(folder: Path, entry: DeviceEntry) -> Obstacle | None:
    if entry.class_ == ClassCode.HUB:
        return Obstacle(Reason.HUB, f"{entry} is a hub", "the devices plugged into it can be attached")
    if _optional(folder, "authorized") == "0":
        hint = f"authorize it with your USB policy (USBGuard), or write 1 to {folder}/authorized"
        return Obstacle(Reason.NOT_AUTHORIZED, f"{entry} is blocked: the kernel was told not to authorize it", hint)
    return None


def disks_in_use(entry: DeviceEntry, uses: list[str]) -> Obstacle | None:
    """What speaks against taking the device if its disks have these `uses` (`BlockUse.of`)."""
    if not uses:
        return None
    more = f" and {len(uses) - MAX_USES} more" if len(uses) > MAX_USES else ""
    hint = "unmount it (or stop what uses it) first: taking it away now could lose data"
    return Obstacle(Reason.IN_USE, f"{entry} is in use: {', '.join(uses[:MAX_USES])}{more}", hint)


MAX_USES: Final = 8
"Uses that are named: a disk may be mounted at hundreds of places."


def _claimed(folder: Path, entry: DeviceEntry) -> Obstacle | None:
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
    hint = f'run as root, or allow it with a udev rule, then replug it: {rule}, TAG+="uaccess"'
    return Obstacle(Reason.NO_PERMISSION, f"{entry}: no permission to open {entry.node}", hint)
