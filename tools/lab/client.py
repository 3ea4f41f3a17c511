"""The client machine: real usbfs, with devices that are plugged and unplugged while it runs: QEMU's, and emulated ones
of our own that a process in the machine shows to its kernel."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.lab.emulation import Emulating
from tools.lab.host import LabError
from tools.lab.machine import Machine
from tools.lab.process import Process

# Ports of its xHCI: each of the first also has a super-speed side, the others have none, so what is plugged there runs
# at high speed at most. Linux shows the first side as bus 1 and the super-speed side as bus 2.
SUPER_SPEED_PORTS = range(1, 5)
HIGH_SPEED_PORTS = range(5, 13)

# Those that are SCSI controllers: the disk is a device of its own on their bus.
SCSI_KINDS = ("usb-uas", "usb-bot")

DEVICES = [
    *("-device", f"qemu-xhci,id=xhci,p2={len(SUPER_SPEED_PORTS) + len(HIGH_SPEED_PORTS)},p3={len(SUPER_SPEED_PORTS)}"),
    *("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,id=nic,romfile="),
]


@dataclasses.dataclass(frozen=True, slots=True)
class Plugged:
    """A device of QEMU's in the client machine."""

    id: str
    "QEMU's name for it."
    port: int
    "Port of the xHCI."
    bus_port: str
    "The kernel's name for it, as in /sys/bus/usb/devices: BUS-PORT."
    drive: str | None = None
    chardev: str | None = None
    kind: str = ""
    image: Path | None = None
    properties: Mapping[str, str | bool] = dataclasses.field(default_factory=dict, compare=False)
    "What else QEMU was told of it."

    @property
    def sysfs(self) -> str:
        """Its folder in the client machine's sysfs."""
        return f"/sys/bus/usb/devices/{self.bus_port}"


class Client(Emulating, Machine):
    """The machine that devices are plugged into."""

    def __init__(
        self,
        folder: Path,
        *,
        visible: Sequence[Path] = (),
        host_names: str = "",
        memory: int = 1024,
        systemd: bool = False,
    ) -> None:
        super().__init__(
            "client", folder, DEVICES, memory=memory, visible=visible, host_names=host_names, systemd=systemd
        )
        self._plugged: dict[int, Plugged] = {}
        self._count = 0

    @property
    def plugged(self) -> list[Plugged]:
        """What of QEMU's is plugged in now."""
        return list(self._plugged.values())

    def plug(
        self,
        kind: str,
        *,
        image: Path | None = None,
        chardev: Path | None = None,
        speed: str = "high",
        name: str | None = None,
        port: int | None = None,
        **properties: str | bool,
    ) -> Plugged:
        """Plug in a device of QEMU's (usb-storage, usb-uas, usb-kbd, ...) and wait until the kernel has it.

        `image` is the disk of a usb-storage, usb-uas or usb-bot, and `serial` the device's serial number; without that,
        QEMU makes one of its port.
        `chardev` is the path of a listening unix socket that a usb-serial connects to. `speed` "super" takes a
        super-speed port; any other takes one without that side. `port` is that port; by default, any that is free.
        """
        self.wait_ready()
        drive = chardev_name = None
        name = name or self._name(kind)
        if image:
            drive = self._add_drive(name, image)
        if chardev:
            chardev_name = self._add_chardev(name, chardev)
        port = port or self._free_port(speed)
        bus_port = f"{2 if speed == 'super' else 1}-{port}"
        return self._insert(Plugged(name, port, bus_port, drive, chardev_name, kind, image, properties))

    def _insert(self, device: Plugged) -> Plugged:
        since = len(self.uevents())
        scsi = device.kind in SCSI_KINDS
        self.qmp.command(
            "device_add",
            driver=device.kind,
            id=device.id,
            bus="xhci.0",
            port=str(device.port),
            drive=None if scsi else device.drive,
            chardev=device.chardev,
            **device.properties,
        )
        if scsi:
            self._attach_disk(device)
        self._plugged[device.port] = device
        self.wait_until(lambda: self._is_there(device, since), f"device {device.kind} at {device.bus_port}")
        return device

    def _attach_disk(self, device: Plugged) -> None:
        """Give a SCSI controller its disk. QEMU has it connected only then, and leaves that to us."""
        disk = f"{device.id}-disk"
        self.qmp.command("device_add", driver="scsi-hd", id=disk, bus=f"{device.id}.0", drive=device.drive)
        self.qmp.command("qom-set", path=device.id, property="attached", value=True)

    def unplug(self, device: Plugged) -> None:
        """Pull it out, and wait until QEMU and the kernel have seen that."""
        self.pull(device)
        self.wait_until(lambda: not self.glob(device.sysfs), f"end of {device.bus_port}")

    def pull(self, device: Plugged) -> None:
        """Pull it out, and wait for QEMU only."""
        mark = self.qmp.mark
        self.qmp.command("device_del", id=device.id)
        self.qmp.wait_event("DEVICE_DELETED", since=mark, data={"device": device.id})
        del self._plugged[device.port]
        if device.drive:
            self.qmp.command("blockdev-del", node_name=device.drive)
        if device.chardev:
            self.qmp.command("chardev-remove", id=device.chardev)

    def move(self, device: Plugged, port: int | None = None) -> Plugged:
        """Pull a high-speed disk out and plug it in again, at another port if one is given."""
        self.unplug(device)
        assert device.image is not None
        port = port or device.port
        drive = self._add_drive(device.id, device.image)
        return self._insert(dataclasses.replace(device, port=port, bus_port=f"1-{port}", drive=drive))

    def unplug_all(self) -> None:
        """Pull everything out."""
        for device in self.plugged:
            self.unplug(device)
        self.withdraw_all()

    def network(self, *, up: bool) -> None:
        """Connect or cut its network cable."""
        self.qmp.command("set_link", name="nic", up=up)

    def press(self, *keys: str) -> None:
        """Press keys together and let them go, on the keyboard plugged in last; names as in QEMU's QKeyCode."""
        for down in (True, False):
            events = [{"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": key}}} for key in keys]
            self.qmp.command("input-send-event", events=events)

    def start_udevd(self) -> Process:
        """Where there is no systemd: have udevd at work, as a process to be ended by the caller."""
        udevd = self.start(["/lib/systemd/systemd-udevd"])
        # The answer comes once it listens; then what is there already is announced to it.
        self.shell("udevadm control --ping && udevadm trigger --action=add --subsystem-match=usb && udevadm settle")
        return udevd

    def journal(self, *options: str) -> str:
        """What systemd's journal holds of this boot, chosen by options of journalctl(1)."""
        return self.run(["journalctl", "--boot", "--no-pager", "--output=short-monotonic", *options]).text

    def _is_there(self, device: Plugged, since: int) -> bool:
        """Whether the kernel has found its interfaces, too: those are announced after the device."""
        prefix = f"/{device.bus_port}/{device.bus_port}:"
        return any(
            event.get("ACTION") == "add" and prefix in event.get("DEVPATH", "") for _, event in self.uevents()[since:]
        )

    def _free_port(self, speed: str) -> int:
        ports = SUPER_SPEED_PORTS if speed == "super" else HIGH_SPEED_PORTS
        for port in ports:
            if port not in self._plugged:
                return port
        raise LabError(f"all {len(ports)} ports of the client are taken")

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"

    def _add_drive(self, name: str, image: Path) -> str:
        drive = f"{name}-drive"
        self.qmp.command("blockdev-add", driver="raw", node_name=drive, file={"driver": "file", "filename": str(image)})
        return drive

    def _add_chardev(self, name: str, path: Path) -> str:
        chardev = f"{name}-line"
        address = {"type": "unix", "data": {"path": str(path)}}
        self.qmp.command(
            "chardev-add", id=chardev, backend={"type": "socket", "data": {"addr": address, "server": False}}
        )
        return chardev
