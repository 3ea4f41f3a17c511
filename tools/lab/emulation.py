"""Emulated devices in a machine's own kernel: each is a process in the machine, at a port of vhci-hcd."""

import dataclasses
import signal
import sys
from pathlib import Path
from typing import Any

from tools.lab.process import Process
from tools.lab.usb_view import UsbView

REPOSITORY = Path(__file__).resolve().parents[2]

HIGH_SPEED_PORTS = range(8)
SUPER_SPEED_PORTS = range(8, 16)
"Ports as `tools.lab.plug` counts them."


@dataclasses.dataclass(frozen=True, slots=True)
class Emulated:
    """A device of `tools.lab.plug`."""

    port: int
    "Its port, as `tools.lab.plug` counts them."
    bus_port: str
    "The kernel's name for it, as in /sys/bus/usb/devices: BUS-PORT."
    exporter: Process
    "The process that is the device."

    @property
    def sysfs(self) -> str:
        """Its folder in the machine's sysfs."""
        return f"/sys/bus/usb/devices/{self.bus_port}"


class Emulating(UsbView):
    """A machine whose kernel has vhci-hcd; to be mixed in before the class that starts it, whose arguments it takes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._emulated: dict[int, Emulated] = {}

    def emulate(self, spec: str, *, super_speed: bool = False, port: int | None = None) -> Emulated:
        """Plug in an emulated device and wait until the kernel has configured it. `spec` is as of `tools.lab.plug`: a
        module of `tools.lab.devices` with options, or `disk:PATH[,ro]`. LabError, with what was said, if that fails."""
        self.shell("[ -e /sys/devices/platform/vhci_hcd.0 ] || modprobe vhci-hcd")
        ports = SUPER_SPEED_PORTS if super_speed else HIGH_SPEED_PORTS
        port = next(each for each in ports if each not in self._emulated) if port is None else port
        python = str(Path(sys.executable).absolute())
        exporter = self.start([python, "-m", "tools.lab.plug", str(port), spec], cwd=str(REPOSITORY))
        bus_port = exporter.wait_output(r"plugged (\S+)")[1].decode()
        self._emulated[port] = Emulated(port, bus_port, exporter)
        return self._emulated[port]

    def withdraw(self, device: Emulated) -> None:
        """Pull it out, and wait until its process has ended and the kernel has seen that."""
        del self._emulated[device.port]
        device.exporter.signal(signal.SIGTERM)
        device.exporter.wait()
        self.wait_until(lambda: not self.glob(device.sysfs), f"end of {device.bus_port}")

    def withdraw_all(self) -> None:
        """Pull everything of the kind out."""
        for device in list(self._emulated.values()):
            self.withdraw(device)
