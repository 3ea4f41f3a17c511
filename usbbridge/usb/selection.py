"""Which of the plugged-in devices somebody means by a name."""

from collections.abc import Sequence
from typing import Final

from usbbridge.errors import NotFoundError, UsageError
from usbbridge.usb.entry import DeviceEntry
from usbbridge.usb.identity import is_bus_port, parse_ids

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
