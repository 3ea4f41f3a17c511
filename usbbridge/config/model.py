"""What can be configured, as frozen dataclasses: every default stands here, and its reason beside it.

In the files the same names are written with hyphens: `password_file` is `password-file`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from usbbridge.config.paths import Paths


@dataclass(frozen=True, slots=True)
class Vm:
    """`[vm.NAME]`: a virtual machine, and how to get there."""

    name: str
    targets: tuple[str, ...]
    "`target`: one spice target, or raw ones (tcp, unix), each of which is one channel and takes one device."
    password_file: Path | None = None
    "Its first line is the SPICE password."
    ca_file: Path | None = None
    "CA certificates to trust (PEM) instead of the system's."
    host_subject: str = ""
    "Subject that the server's certificate must have; empty: it must be for the host's name."
    compression: str = "auto"
    "`auto`: LZ4 where both sides know it; `never`."


@dataclass(frozen=True, slots=True)
class Access:
    """`[access]`: who may use the service. Root, and the user that control runs as, may do everything."""

    view: str = "everyone"
    "Who may see devices and VMs: `everyone` on this machine, as with lsusb(8), or only `attachers`."
    users: tuple[str, ...] = ()
    "Who may attach and detach, by name."
    groups: tuple[str, ...] = ("plugdev",)
    """The same by group. plugdev is whom Debian trusts with devices that are plugged in. Not the service's own group:
    its members could read what the service may read, passwords of VMs among it."""


@dataclass(frozen=True, slots=True)
class Assign:
    """`[[assign]]`: the VM a device goes to. The first that matches wins; where none does, it is the default VM."""

    vm: str
    device: str = ""
    "BUS-PORT (`1-2.3`), VID:PID (`0951:1666`) or VID:*; empty: any, then `serial` is given."
    serial: str = ""
    "Serial number, as the device states it; empty: any."


@dataclass(frozen=True, slots=True)
class Auto:
    """`[auto]`: what happens by itself."""

    connect: bool = True
    "A device whose verdict is `connect` is attached when it is plugged in."
    remember: str = "auto"
    "How an attached device is known again: `serial`, `port`, `no`, or `auto`: by serial number if it has its own."
    follow: bool = True
    """What a device at a VM comes back as within seconds, on the same port, is attached too, although no identity says
    that it is the same: boards and phones change into a boot loader whose ids nobody has declared."""


@dataclass(frozen=True, slots=True)
class Retry:
    """`[retry]`: seconds between tries to reach a VM or to attach a device."""

    first: float = 1.0
    "After the first failure; doubled after each further one: a VM that reboots is back within seconds."
    longest: float = 60.0
    "Never longer than this: a VM that is switched on in the morning has its devices a minute later."


@dataclass(frozen=True, slots=True)
class MonitorConfig:
    """`[monitor]`: the privileged part."""

    source: str = "auto"
    "Where it hears of devices: `udev` (after udev's rules have run), `kernel` (no udevd), or whichever there is."
    rules: tuple[Path, ...] = ()
    "Folders with more rules of the compatibility list. In system mode /etc/usbbridge/rules.d."
    user: str = "usbbridge"
    "Whom the monitor serves besides root, by user and group of this name: control runs as it. In user mode yourself."


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration."""

    vms: tuple[Vm, ...] = ()
    default_vm: str = ""
    "Where devices go for which nothing else is said. With just one VM it is that one; empty: nowhere by themselves."
    access: Access = field(default_factory=Access)
    assignments: tuple[Assign, ...] = ()
    auto: Auto = field(default_factory=Auto)
    retry: Retry = field(default_factory=Retry)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    paths: Paths = field(default_factory=Paths.default)
    files: tuple[Path, ...] = ()
    "The files it was read from, in order."

    def vm(self, name: str) -> Vm | None:
        """The VM called `name`; None if there is none."""
        return next((vm for vm in self.vms if vm.name == name), None)
