"""The C side of the benchmark: built once into a cache, with a certificate for the SPICE server."""

import os
import subprocess
from pathlib import Path

import click
import platformdirs

from tools.lab.certificates import write_certificates

SOURCES = Path(__file__).parent / "rig"
BUILD = Path(os.environ.get("USBBRIDGE_RIG", platformdirs.user_cache_path("usbbridge-bench") / "rig"))
"Where the rig is built."
FAKEUSB = BUILD / "fakeusb"
"The folder with the emulated libusb-1.0.so.0."
LIBUSB = FAKEUSB / "libusb-1.0.so.0"
CERTIFICATES = BUILD / "certificates"
PRODUCTS = {"msc": 1, "hid": 2, "iso": 3, "loop": 4, "zero": 5, "combo": 6, "sound": 7}
"fakeusb's product ids."


def build() -> None:
    """Make what is not up to date. Raises ClickException with the Debian packages that may be missing."""
    BUILD.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["make", "-s", "-C", SOURCES, f"BUILD={BUILD}"], capture_output=True, text=True, check=False)
    if made.returncode:
        packages = (line.split("#")[0].strip() for line in (SOURCES / "packages.txt").read_text().splitlines())
        needed = " ".join(filter(None, packages))
        raise click.ClickException(f"{made.stderr}\nDoes the machine have these? apt-get install {needed}")
    if not CERTIFICATES.exists():
        write_certificates(CERTIFICATES)


def program(name: str) -> str:
    """The path of one of the rig's programs."""
    return str(BUILD / name)


def device_id(model: str) -> str:
    """VID:PID of fakeusb's device of this model."""
    return f"46f4:{PRODUCTS[model]:04x}"
