"""The virtual machine: a SPICE server and usb-redir devices on QEMU's xHCI."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tools.lab.certificates import write_certificates
from tools.lab.host import free_ports
from tools.lab.machine import HOST_ADDRESS, Machine
from tools.lab.process import PATIENCE


@dataclasses.dataclass(frozen=True, slots=True)
class VmOptions:
    """What a virtual machine has."""

    ticket: str | None = "ticket-of-the-lab"
    "Password of its SPICE server; None for none."
    channels: int = 2
    "USB redirection channels of the SPICE session."
    raw_ports: int = 1
    "Sockets that carry a bare usbredir stream."
    guest: bool = True
    "Whether a system runs in it; without one it is up at once, and its servers answer."
    memory: int = 768
    "MiB"


class Vm(Machine):
    """The machine that devices are redirected into."""

    def __init__(
        self,
        name: str,
        folder: Path,
        options: VmOptions,
        *,
        visible: Sequence[Path] = (),
        like: "Vm | None" = None,
    ) -> None:
        """Start it; as the one it is `like`, if given, at whose ports and with whose certificate it then is."""
        self.options = options
        ports = like.ports if like else list(free_ports(2 + options.raw_ports))
        self.spice_port, self.tls_port, *self.raw_ports = ports
        self._certificates: Path = like._certificates if like else folder.with_name(f"{folder.name}-x509")
        if like is None:
            write_certificates(self._certificates)
        self.ca_file = self._certificates / "ca-cert.pem"
        devices = ["-device", "qemu-xhci,id=xhci,p2=8,p3=8", *self._spice(), *self._redirections()]
        super().__init__(name, folder, devices, memory=options.memory, visible=visible, guest=options.guest)

    @property
    def ports(self) -> list[int]:
        """Of this host: SPICE, SPICE with TLS, and the raw ones."""
        return [self.spice_port, self.tls_port, *self.raw_ports]

    # Where its servers are, as seen from the client machine

    @property
    def spice(self) -> str:
        """Target of the plain SPICE port."""
        return f"spice://{HOST_ADDRESS}:{self.spice_port}"

    @property
    def spice_tls(self) -> str:
        """Target of the SPICE port with TLS."""
        return f"spice+tls://{HOST_ADDRESS}:{self.tls_port}"

    @property
    def tcp(self) -> str:
        """Target of the first raw usbredir port."""
        return f"tcp://{HOST_ADDRESS}:{self.raw_ports[0]}"

    # What the system in it sees

    def usb_devices(self) -> dict[str, str]:
        """The USB devices by their folder in sysfs, each as "VENDOR:PRODUCT" in hexadecimal, without the root hubs."""
        found = {}
        for path in self.glob("/sys/bus/usb/devices/[0-9]*-*/idVendor"):
            folder = path.removesuffix("/idVendor")
            try:
                found[folder] = f"{self.read_text(path)}:{self.read_text(f'{folder}/idProduct')}"
            except OSError:  # it went away in between
                continue
        return found

    def wait_usb_device(self, ids: str, timeout: float = PATIENCE) -> str:
        """Wait for a device of these ids ("46f4:0001"); its folder in sysfs."""
        return self.wait_until(
            lambda: next((path for path, found in self.usb_devices().items() if found == ids), ""),
            f"USB device {ids}",
            timeout,
        )

    def arrivals(self, since: float = 0.0) -> list[tuple[float, str]]:
        """When USB devices were announced in it after `since`, by its clock, and in which folder of sysfs."""
        events = self.uevents(ACTION="add", DEVTYPE="usb_device")
        return [(at, f"/sys{event['DEVPATH']}") for at, event in events if at > since]

    def wait_no_usb_device(self, timeout: float = PATIENCE) -> None:
        """Wait until no device is left."""
        self.wait_until(lambda: not self.usb_devices(), "end of the USB devices", timeout)

    # QEMU's command line

    def _spice(self) -> list[str]:
        ticket = self.options.ticket
        access = "disable-ticketing=on" if ticket is None else "password-secret=ticket"
        secret = [] if ticket is None else ["-object", f"secret,id=ticket,data={ticket}"]
        where = f"addr=127.0.0.1,port={self.spice_port},tls-port={self.tls_port},x509-dir={self._certificates}"
        # With a display, as a desktop has: the session then lists channels of other kinds too.
        return [*secret, "-spice", f"{where},{access}", "-device", "VGA"]

    def _redirections(self) -> list[str]:
        lines = [f"spicevmc,id=redirection{number},name=usbredir" for number in range(self.options.channels)]
        # Without nodelay a small answer waits for the acknowledgement of the one before.
        lines += [
            f"socket,id=raw{number},host=127.0.0.1,port={port},server=on,wait=off,nodelay=on"
            for number, port in enumerate(self.raw_ports)
        ]
        arguments = []
        for line in lines:
            name = line.partition("id=")[2].partition(",")[0]
            arguments += ["-chardev", line, "-device", f"usb-redir,chardev={name},id=usb-{name},bus=xhci.0"]
        return arguments
