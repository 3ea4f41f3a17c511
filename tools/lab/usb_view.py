"""The USB side of a machine that devices are plugged into: what its kernel and its processes do with them."""

import contextlib
from pathlib import Path
from typing import Protocol

from tools.lab.driven import Driven
from tools.lab.process import PATIENCE


class AtPort(Protocol):
    """A device that is plugged in somewhere."""

    @property
    def bus_port(self) -> str:
        """The kernel's name for it, as in /sys/bus/usb/devices: BUS-PORT."""

    @property
    def sysfs(self) -> str:
        """Its folder in the machine's sysfs."""


class UsbView(Driven):
    """What can be asked of a machine about its USB devices."""

    def drivers(self, device: AtPort) -> list[str]:
        """Names of the kernel's drivers that hold its interfaces; "usbfs" while a program has claimed them."""
        links = self.links(f"/sys/bus/usb/devices/{device.bus_port}:*/driver")
        return sorted(Path(target).name for target in links.values())

    def wait_driver(self, device: AtPort, driver: str, timeout: float = PATIENCE) -> None:
        """Wait until a kernel driver holds each of its interfaces."""
        self.wait_until(lambda: set(self.drivers(device)) == {driver}, f"{driver} on {device.bus_port}", timeout)

    def node(self, device: AtPort) -> str:
        """Its device node: /dev/bus/usb/BUS/NUMBER."""
        bus, number = (int(self.read_text(f"{device.sysfs}/{name}")) for name in ("busnum", "devnum"))
        return f"/dev/bus/usb/{bus:03}/{number:03}"

    def holders(self, path: str) -> list[int]:
        """Numbers of the processes that have a file open."""
        return sorted({int(link.split("/")[2]) for link, to in self.links("/proc/[0-9]*/fd/*").items() if to == path})

    def processes(self, part: str) -> list[int]:
        """Numbers of the processes with `part` in their command line."""
        found = []
        for path in self.glob("/proc/[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if part in self.read_text(path).replace("\0", " "):
                    found.append(int(path.split("/")[2]))
        return found
