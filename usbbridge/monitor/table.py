"""The devices that are there, each with what the compatibility list says of it: read anew when something has happened
to one, and told on only if something about it has changed.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from usbbridge.compat.rule import Identity, Verdict, other_faces
from usbbridge.errors import UsbBridgeError
from usbbridge.ipc.monitoring import MAX_DESCRIPTORS, Gone, Plugged, PluggedDevice
from usbbridge.monitor import inventory
from usbbridge.monitor.blockuse import BlockUse, resolved
from usbbridge.monitor.usbids import Names
from usbbridge.usb.ch9 import ClassCode
from usbbridge.usb.descriptors import parse_all
from usbbridge.usb.entry import DeviceEntry, InterfaceEntry

MAX_RECENT: Final = 256
"Devices that have gone and are still known by their id, as the outcome of an attachment is told after it has ended."


class Decision(Protocol):
    """What the compatibility list says of a device."""

    @property
    def verdict(self) -> Verdict: ...
    @property
    def rule(self) -> str: ...
    @property
    def because(self) -> str: ...
    @property
    def quirks(self) -> tuple[str, ...]: ...
    @property
    def identities(self) -> tuple[Identity, ...]: ...


Decide = Callable[[DeviceEntry], Decision]
Model = tuple[int, int, int]
"Vendor, product, bcdDevice."


class Table:
    """What is plugged in below `root`. `remembered` gives what was known of a device that was handed out before this
    process began, `is_ours` whether a device is handed out now; both are asked by id."""

    def __init__(
        self,
        root: Path,
        decide: Decide,
        remembered: Callable[[str], DeviceEntry | None],
        is_ours: Callable[[str], bool],
    ) -> None:
        self._root, self._decide, self._remembered, self._is_ours = root, decide, remembered, is_ours
        self._names = Names(root)
        self._devices: dict[str, PluggedDevice] = {}
        self._pending: set[str] = set()
        self._recent: dict[str, Model] = {}

    def __iter__(self) -> Iterator[PluggedDevice]:
        return iter(self._devices.values())

    def get(self, device_id: str) -> PluggedDevice | None:
        """The device with this id, as it was last told; None if it is not there (any more)."""
        device = self._devices.get(device_id.partition("#")[0])
        return device if device is not None and device.id == device_id else None

    def at(self, bus_port: str) -> PluggedDevice | None:
        """The device in this place, as it was last told."""
        return self._devices.get(bus_port)

    def model(self, device_id: str) -> Model | None:
        """Vendor, product and release of a device that is or was there not long ago."""
        return self._recent.get(device_id)

    def places(self) -> list[str]:
        """Where something is plugged in, and where something was."""
        return list(dict.fromkeys((*self._devices, *inventory.bus_ports(self._root))))

    def update(self, bus_port: str, use: BlockUse | None = None, *, settled: bool) -> list[Plugged | Gone]:
        """Look at one device; what has changed. One that the kernel is still setting up is not told of unless it has
        had the time for it (`settled`): without its interfaces it could not be judged. See `is_pending`."""
        before = self._devices.get(bus_port)
        device, is_whole = self._look(bus_port, use or BlockUse(self._root))
        is_known = device is not None and is_whole and not self._is_unread(device)
        self._pending.discard(bus_port)
        changes: list[Plugged | Gone] = []
        if before is not None and (device is None or device.id != before.id):
            del self._devices[bus_port]
            changes.append(Gone(before.id))
            before = None
        if device is not None and not is_known and not settled:
            self._pending.add(bus_port)
        elif device is not None and device != before:
            self._keep(device)
            changes.append(Plugged(device))
        return changes

    def _is_unread(self, device: PluggedDevice) -> bool:
        """Whether a HID interface has no driver yet that reads what it is for: the module may be just being loaded, and
        a keyboard without the boot protocol looks like anything until then. What is handed out stays without one."""
        silent = [i for i in device.entry.interfaces if i.class_ == ClassCode.HID and not (i.driver or i.usages)]
        return bool(silent) and self.get(device.id) is None and not self._is_ours(device.id)

    def is_pending(self, bus_port: str) -> bool:
        """Whether something is plugged in there that `update` has not told of yet, or not as it will be."""
        return bus_port in self._pending

    def is_claimed(self, bus_port: str) -> bool:
        """Whether another program has the device: the kernel does not tell when it lets go of it."""
        device = self._devices.get(bus_port)
        return device is not None and "usbfs" in device.entry.drivers and not self._is_ours(device.id)

    def read(self, bus_port: str) -> DeviceEntry | None:
        """The device as sysfs describes it at this moment; None if there is none."""
        return inventory.read_device(self._root, bus_port, self._names)

    def look(self, bus_port: str) -> PluggedDevice | None:
        """The device as it is at this moment, judged; None if there is none."""
        return self._look(bus_port, BlockUse(self._root))[0]

    def _look(self, bus_port: str, use: BlockUse) -> tuple[PluggedDevice | None, bool]:
        """And whether the kernel has set it up completely."""
        entry = self.read(bus_port)
        if entry is None:
            return None, False
        device_id, is_whole = id_of(entry), inventory.is_whole(self._root, entry)
        entry = _with_usages(entry, self._known(device_id))
        raw = inventory.descriptors(self._root, bus_port)
        decision = self._decide(entry if is_whole else _with_all_interfaces(entry, raw))
        device = PluggedDevice(
            device_id,
            inventory.explained(self._root, entry, use, ours=self._is_ours(device_id)),
            raw.hex() if len(raw) <= MAX_DESCRIPTORS else "",
            decision.verdict,
            decision.because,
            decision.rule,
            decision.quirks,
            tuple(f"{v:04x}:{p:04x}" for v, p in other_faces(decision.identities, (entry.vendor, entry.product))),
        )
        return device, is_whole

    def with_disks(self, use: BlockUse) -> list[str]:
        """Where devices are plugged in that provide disks: those that a change of mounts may concern."""
        return [d.entry.bus_port for d in self if use.disks(self.folder(d.entry))]

    def folder(self, entry: DeviceEntry) -> Path:
        """The device's place in sysfs."""
        return resolved(self._root / inventory.DEVICES / entry.bus_port)

    def release(self) -> None:
        """Let go of what only speeds up several updates one after the other."""
        self._names.release()

    def _known(self, device_id: str) -> DeviceEntry | None:
        device = self.get(device_id)
        return device.entry if device is not None else self._remembered(device_id)

    def _keep(self, device: PluggedDevice) -> None:
        self._devices[device.entry.bus_port] = device
        self._recent.pop(device.id, None)
        self._recent[device.id] = (device.entry.vendor, device.entry.product, device.entry.bcd_device)
        while len(self._recent) > MAX_RECENT:
            del self._recent[next(iter(self._recent))]


def id_of(entry: DeviceEntry) -> str:
    """`PluggedDevice.id` of a device."""
    return f"{entry.bus_port}#{entry.devnum}"


def _with_usages(entry: DeviceEntry, known: DeviceEntry | None) -> DeviceEntry:
    """Report descriptors are only shown while a HID driver has the device: what was read once stays true."""
    if known is None or known.ids != entry.ids:  # device numbers come round again
        return entry
    read = {i.number: i.usages for i in known.interfaces}
    kept = tuple(replace(i, usages=i.usages or read.get(i.number, ())) for i in entry.interfaces)
    return replace(entry, interfaces=kept) if kept != entry.interfaces else entry


def _with_all_interfaces(entry: DeviceEntry, raw: bytes) -> DeviceEntry:
    """With the interfaces of all its configurations: while the kernel has not listed those of one, any may come, and
    the strictest verdict holds."""
    try:
        _, configurations = parse_all(raw)
    except UsbBridgeError:  # the kernel found it good enough; there is nothing to add to what it lists
        return entry
    interfaces = tuple(
        InterfaceEntry(i.number, i.alternate, i.class_, i.subclass, i.protocol, "")
        for configuration in configurations
        for i in configuration.interfaces
    )
    return replace(entry, interfaces=interfaces or entry.interfaces)
