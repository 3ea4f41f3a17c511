"""Names of vendors and products from the system's USB ID database, for devices that have no strings of their own."""

from pathlib import Path
from typing import Final

from usbbridge.usb.identity import clean_words

PLACES: Final = ("usr/share/hwdata/usb.ids", "var/lib/usbutils/usb.ids", "usr/share/misc/usb.ids")
"Fedora and newer Debian (hwdata), Debian 12 (usb.ids), others."

MAX_KNOWN: Final = 256
"Pairs of ids whose names are remembered: twice the devices of a bus; one that makes up ids must not fill the memory."


def load(root: Path) -> bytes:
    """The database below `root`, or nothing when the system has none."""
    for place in PLACES:
        try:
            return b"\n" + (root / place).read_bytes()
        except OSError:
            continue
    return b""


def names(database: bytes, vendor: int, product: int) -> tuple[str, str]:
    """(vendor's name, product's name), each empty when the database lacks it.

    A vendor is a line `VVVV  name`, its products are the lines `<TAB>PPPP  name` that follow. Searching the bytes takes
    microseconds where splitting 25,000 lines would take longer than all the rest of `usbbridge list`.
    """
    start = database.find(b"\n%04x  " % vendor)
    if start < 0:
        return "", ""
    vendor_name = _rest_of_line(database, start + 7)
    end = start + 1
    while (end := database.find(b"\n", end)) >= 0 and database[end + 1 : end + 2] in (b"\t", b"#"):
        end += 1
    section = database[start : end if end >= 0 else len(database)]
    found = section.find(b"\n\t%04x  " % product)
    return vendor_name, _rest_of_line(section, found + 8) if found >= 0 else ""


def _rest_of_line(data: bytes, start: int) -> str:
    end = data.find(b"\n", start)
    return clean_words(data[start : end if end >= 0 else len(data)].decode(errors="replace"))


class Names:
    """Names by ids, remembered: the file is read when ids are new, and not kept."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._database: bytes | None = None
        self._known: dict[tuple[int, int], tuple[str, str]] = {}

    def of(self, vendor: int, product: int) -> tuple[str, str]:
        """As `names`."""
        known = self._known.get((vendor, product))
        if known is None:
            if self._database is None:
                self._database = load(self._root)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            known = self._known[vendor, product] = names(self._database, vendor, product)
        return known

    def release(self) -> None:
        """Let go of the file's content, 600 KB, until ids come that are new."""
        self._database = None
