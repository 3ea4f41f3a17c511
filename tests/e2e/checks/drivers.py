"""Which device a check is about: the one whose interfaces the driver in question has taken."""

import argparse
from collections.abc import Callable
from pathlib import Path

from tests.e2e.checks.common import wait_for

IDENTITY = ("idVendor", "idProduct", "serial", "speed")


def arguments(*numbers: str) -> argparse.Namespace:
    """The program's options: `--serial` names one device of several; others are numbers, 0 unless given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serial", default="")
    for name in numbers:
        parser.add_argument(name, type=int, default=0)
    return parser.parse_args()


def attribute(folder: Path, name: str) -> str:
    """A sysfs attribute; empty if there is none."""
    try:
        return (folder / name).read_text().strip()
    except OSError:
        return ""


def interface_of(driver: str, made: Callable[[Path], object], serial: str = "") -> Path:
    """The folder of the USB interface that a driver holds and has `made` something of; of the device with that serial
    number, if given."""

    def look() -> Path | None:
        for path in sorted(Path(f"/sys/bus/usb/drivers/{driver}").glob("*:*")):
            folder = path.resolve()
            if made(folder) and (not serial or attribute(folder.parent, "serial") == serial):
                return folder
        return None

    found = wait_for(look, f"device that {driver} drives")
    assert found is not None
    return found


def child(interface: Path, pattern: str) -> str:
    """The name of what a driver has made of an interface: its folder's name; empty if there is none."""
    return next((path.name for path in sorted(interface.glob(pattern))), "")


def identity(interface: Path) -> dict[str, str]:
    """Of the USB device that an interface belongs to."""
    return {name: attribute(interface.parent, name) for name in IDENTITY}
