"""What people chose, remembered: which choice is about which device, also if several devices look the same.

A device is known by its serial number wherever it is plugged in, or, if it has none or another device that is there has
the same, by its port.
"""

from collections.abc import Collection, Iterable

from usbbridge.control.devices import identity
from usbbridge.errors import NotFoundError, UsageError
from usbbridge.ipc.api import Choice, Forget, Remember
from usbbridge.usb.entry import DeviceEntry
from usbbridge.usb.identity import is_bus_port, parse_ids

MAX_CHOICES = 1024
"""Remembered; the oldest is dropped for a new one. Devices may call themselves anything, so that one faulty device
could fill the file; nobody has chosen for a thousand."""


class Choices:
    """All choices, the oldest first."""

    def __init__(self, choices: Iterable[Choice] = ()) -> None:
        self.all = tuple(choices)[-MAX_CHOICES:]

    def find(self, entry: DeviceEntry, present: Collection[DeviceEntry]) -> Choice | None:
        """The one choice that is about this device, `present` being all devices that are plugged in.

        A serial number says more than a port, where another device of the model may be plugged in; unless it is not
        the device's own.
        """
        matching = self._matching(entry)
        if not matching:
            return None
        by_serial = next((choice for choice in matching if not choice.port), None)
        by_port = next((choice for choice in matching if choice.port), None)
        others = twins(entry, present)
        if not others:
            return by_serial or by_port
        if by_port or any(not self._known_by_port(other) for other in others):
            return by_port
        return by_serial  # the others are known to be others

    def remember(self, entry: DeviceEntry, vm: str, how: Remember, present: Collection[DeviceEntry]) -> bool:
        """Remember that the device goes to `vm`. Whether that is news. Raises UsageError if `how` is not possible."""
        if how is Remember.NO:
            return False
        by_serial = _by_serial(entry, how, twins(entry, present))
        choice = _choice(entry, vm, by_serial=by_serial)
        before = self.find(entry, present)
        if choice == before:
            return False
        same = (choice.vendor, choice.product, choice.serial, choice.port)
        kept = [c for c in self.all if c != before and (c.vendor, c.product, c.serial, c.port) != same]
        self.all = (*kept, choice)[-MAX_CHOICES:]
        return True

    def forget_device(self, entry: DeviceEntry) -> bool:
        """Drop whatever could bring this device to a VM. Whether there was something."""
        return self._drop(self._matching(entry))

    def forget(self, request: Forget, present: Collection[DeviceEntry]) -> bool:
        """Drop what is meant. Raises UsageError if nothing was named, NotFoundError if nothing is known so."""
        if request.all:
            return self._drop(list(self.all))
        if not request.device and not request.serial:
            raise UsageError("nothing was named to be forgotten", hint="name a device, or use --all")
        meant = [choice for choice in self.all if _is_meant(choice, request, present)]
        if not meant:
            asked = " ".join(filter(None, (request.device, request.serial and f"(serial number {request.serial})")))
            raise NotFoundError(f"nothing is remembered about {asked}", hint="`usbbridge status` shows what is")
        return self._drop(meant)

    def tell_apart(self, wanted: Collection[DeviceEntry], present: Collection[DeviceEntry]) -> bool:
        """A device has turned up with the serial number of another: the one that was there first, and that somebody
        has chosen (it is in `wanted`), is known by its port from now on. Whether that was so."""
        changed = False
        for choice in [choice for choice in self.all if not choice.port]:
            alike = [entry for entry in present if _matches(choice, entry)]
            chosen = [entry for entry in alike if entry in wanted and not self._known_by_port(entry)]
            if len(alike) > 1 and len(chosen) == 1:
                moved = _choice(chosen[0], choice.vm, by_serial=False)
                self.all = tuple(moved if c == choice else c for c in self.all)
                changed = True
        return changed

    def _matching(self, entry: DeviceEntry) -> list[Choice]:
        return [choice for choice in self.all if _matches(choice, entry)]

    def _known_by_port(self, entry: DeviceEntry) -> bool:
        return any(choice.port for choice in self._matching(entry))

    def _drop(self, unwanted: Collection[Choice]) -> bool:
        self.all = tuple(choice for choice in self.all if choice not in unwanted)
        return bool(unwanted)


def twins(entry: DeviceEntry, present: Collection[DeviceEntry]) -> list[DeviceEntry]:
    """Devices elsewhere that say they are the same one, serial number and all."""
    if not entry.serial:
        return []
    return [e for e in present if e.bus_port != entry.bus_port and identity(e) == identity(entry)]


def _matches(choice: Choice, entry: DeviceEntry) -> bool:
    if (choice.vendor, choice.product) != (entry.vendor, entry.product) or not (choice.serial or choice.port):
        return False
    return choice.serial in ("", entry.serial) and choice.port in ("", entry.bus_port)


def _by_serial(entry: DeviceEntry, how: Remember, others: list[DeviceEntry]) -> bool:
    """Whether to remember the device by its serial number. Raises UsageError if that was asked for and can't be."""
    if how is not Remember.SERIAL:
        return how is Remember.AUTO and bool(entry.serial) and not others
    hint = "have it remembered by its port: --remember port"
    if not entry.serial:
        raise UsageError(f"{entry} has no serial number to remember it by", hint=hint)
    if others:
        raise UsageError(f"{entry} has the serial number {entry.serial}, and so has {others[0]}", hint=hint)
    return True


def _choice(entry: DeviceEntry, vm: str, *, by_serial: bool) -> Choice:
    return Choice(
        vendor=entry.vendor,
        product=entry.product,
        serial=entry.serial if by_serial else "",
        port="" if by_serial else entry.bus_port,
        vm=vm,
        name=entry.name,
    )


def _is_meant(choice: Choice, request: Forget, present: Collection[DeviceEntry]) -> bool:
    if request.serial and request.serial != choice.serial:
        return False
    if not request.device:
        return True
    if is_bus_port(request.device):
        there = [entry for entry in present if entry.bus_port == request.device]
        return request.device == choice.port or any(_matches(choice, entry) for entry in there)
    ids = parse_ids(request.device)
    if ids:
        return ids == (choice.vendor, choice.product)
    return request.device.casefold() in choice.name.casefold()
