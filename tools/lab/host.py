"""What the lab needs of the machine it runs on: programs of Debian packages, a cache folder, free ports."""

import importlib.resources
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import platformdirs

# Programs by the package that brings them.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "modprobe": "kmod",
    "dpkg-deb": "dpkg",
    "setpriv": "util-linux",
    "genisoimage": "genisoimage",
    "usbredirect": "usbredirect",
    "systemctl": "systemd",
    "udevadm": "udev",
    "ip": "iproute2",
    "aplay": "alsa-utils",
    "dfu-util": "dfu-util",
    "fido2-token": "fido2-tools",
    "mtp-detect": "mtp-tools",
    "pcscd": "pcscd",
}
# QEMU's own modules with SPICE and usb-redir: since Debian 13 in a package of their own.
MODULE_FOLDER = Path("/usr/lib/x86_64-linux-gnu/qemu")
MODULES = {"hw-usb-redirect.so": "qemu-system-common", "ui-spice-core.so": "qemu-system-common"}

# Debian's PATH for a user leaves out where depmod and modprobe are.
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LabError(Exception):
    """The lab cannot do what was asked: something is missing, a machine died, or an event did not come in time."""


def packages() -> list[str]:
    """The Debian packages the lab needs, for `apt-get install`."""
    text = importlib.resources.files("tools.lab").joinpath("packages.txt").read_text()
    names = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [name for name in names if not name.endswith("?")]


def missing_packages() -> list[str]:
    """Those of `packages()` whose files are not there."""
    missing = {package for name, package in PROGRAMS.items() if shutil.which(name, path=SEARCH) is None}
    missing |= {package for name, package in MODULES.items() if not (MODULE_FOLDER / name).exists()}
    return sorted(missing)


def program(name: str) -> str:
    """Path of a program, or LabError with the apt line that brings it."""
    path = shutil.which(name, path=SEARCH)
    if path is None:
        raise LabError(f"{name} is not installed; as root: {apt_line()}")
    return path


def require() -> None:
    """Raise LabError, with the apt line, unless everything the lab needs is installed."""
    missing = missing_packages()
    if missing:
        raise LabError(f"missing Debian packages: {', '.join(missing)}; as root: {apt_line()}")


def apt_line() -> str:
    """The command that installs everything the lab needs."""
    return f"apt-get install --yes --no-install-recommends {' '.join(packages())}"


def cache_folder() -> Path:
    """Where the unpacked kernel is kept."""
    return platformdirs.user_cache_path("usbbridge-lab")


def free_ports(count: int) -> Iterator[int]:
    """Ports of 127.0.0.1 that nothing listens on now.

    QEMU's SPICE server cannot choose a port itself, so another program may take one in between; QEMU then says so.
    """
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    numbers = [listener.getsockname()[1] for listener in held]
    for listener in held:
        listener.close()
    return iter(numbers)
