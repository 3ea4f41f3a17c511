"""A file system tree as Linux lays it out in /sys, /dev and /proc, for devices made up by a test."""

import shutil
from pathlib import Path

HUB_DEVICE = "devices/pci0000:00/0000:00:14.0/usb1"


class FakeSysfs:
    """Builds the tree below `root`; values and folders follow those of Linux 6.1."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._devices = 0
        self._disks = 0
        for folder in ("sys/bus/usb/devices", "sys/class/block", "dev/bus/usb/001", "proc/self"):
            (root / folder).mkdir(parents=True)
        self.write("proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority")
        self.write("proc/self/mountinfo", "21 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw")
        self.device("usb1", "1d6b:0002", class_="09", product="xHCI Host Controller", manufacturer="Linux 6.1 xhci-hcd")

    def write(self, path: str, *lines: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{line}\n" for line in lines))

    def append(self, path: str, line: str) -> None:
        with (self.root / path).open("a") as file:
            file.write(line + "\n")

    def link(self, path: str, target: str) -> None:
        """A symbolic link from `path` to `target`, both below the root."""
        link = self.root / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(self.root / target)

    def device(self, name: str, ids: str, *, class_: str = "00", node: bool = True, **attributes: str) -> None:
        """A device at `name`, for instance `1-2`; other attributes by their sysfs name."""
        self._devices += 1
        vendor, _, product = ids.partition(":")
        folder = f"sys/{HUB_DEVICE}" if name == "usb1" else f"sys/{HUB_DEVICE}/{name}"
        values = {
            "busnum": "1",
            "devnum": str(self._devices),
            "dev": f"189:{self._devices - 1}",
            "idVendor": vendor,
            "idProduct": product,
            "bcdDevice": "0100",
            "bDeviceClass": class_,
            "bDeviceSubClass": "00",
            "bDeviceProtocol": "00",
            "bConfigurationValue": "1",
            "speed": "480",
            "authorized": "1",
        }
        for attribute, value in (values | attributes).items():
            self.write(f"{folder}/{attribute}", value)
        self.link(f"{folder}/driver", "sys/bus/usb/drivers/usb")
        self.link(f"sys/bus/usb/devices/{name}", folder)
        if node:
            self.write(f"dev/bus/usb/001/{self._devices:03}")

    def interface(self, device: str, number: int, triple: str, driver: str = "", alternate: int = 0) -> None:
        """Interface `number` of `device` with class, subclass and protocol given as `08/06/50`."""
        name = f"{device}:1.{number}"
        folder = f"sys/{HUB_DEVICE}/{device}/{name}"
        class_, subclass, protocol = triple.split("/")
        self.write(f"{folder}/bInterfaceNumber", f"{number:02x}")
        self.write(f"{folder}/bAlternateSetting", f"{alternate:2d}")
        self.write(f"{folder}/bInterfaceClass", class_)
        self.write(f"{folder}/bInterfaceSubClass", subclass)
        self.write(f"{folder}/bInterfaceProtocol", protocol)
        if driver:
            self.link(f"{folder}/driver", f"sys/bus/usb/drivers/{driver}")
        self.link(f"sys/bus/usb/devices/{name}", folder)

    def disk(self, device: str, name: str, *, partitions: int = 0) -> None:
        """A SCSI disk on interface 0 of `device`; disk and partitions get numbers 8:0, 8:1, ... as they come."""
        folder = f"sys/{HUB_DEVICE}/{device}/{device}:1.0/host0/target0:0:0/0:0:0:0/block/{name}"
        self.block(name, folder, f"8:{self._disks}")
        for partition in range(1, partitions + 1):
            self.block(f"{name}{partition}", f"{folder}/{name}{partition}", f"8:{self._disks + partition}")
        self._disks += 16

    def block(self, name: str, folder: str, number: str) -> None:
        self.write(f"{folder}/dev", number)
        (self.root / folder / "holders").mkdir()
        self.link(f"sys/class/block/{name}", folder)

    def stack(self, name: str, number: str, *below: str, mapped: str = "") -> None:
        """A virtual block device (dm-0, md0) made of the devices `below`."""
        folder = f"sys/devices/virtual/block/{name}"
        self.block(name, folder, number)
        if mapped:
            self.write(f"{folder}/dm/name", mapped)
        for lower in below:
            self.link(f"sys/class/block/{lower}/holders/{name}", folder)

    def mount(self, number: str, place: str, source: str, kind: str = "ext4") -> None:
        """A line of mountinfo."""
        self.append("proc/self/mountinfo", f"90 21 {number} / {place} rw shared:1 - {kind} {source} rw")

    def stick(self, name: str = "1-2", **attributes: str) -> None:
        """A flash drive with disk `sda` and partition `sda1` (8:1)."""
        words = {"manufacturer": "SanDisk", "product": "Cruzer Blade", "serial": "4C530001"}
        self.device(name, "0781:5567", **(words | attributes))
        self.interface(name, 0, "08/06/50", "usb-storage")
        self.disk(name, "sda", partitions=1)

    def keyboard(self, name: str = "1-3") -> None:
        """A boot keyboard whose report descriptor the HID driver shows."""
        self.device(name, "046d:c31c", product="Keyboard")
        self.interface(name, 0, "03/01/01", "usbhid")

    def report_descriptor(self, device: str, data: bytes) -> None:
        """What the HID driver has read from interface 0 of `device`."""
        folder = self.root / f"sys/{HUB_DEVICE}/{device}/{device}:1.0/0003:046D:C31C.0001"
        folder.mkdir()
        (folder / "report_descriptor").write_bytes(data)

    def driver(self, device: str, driver: str) -> None:
        """Bind interface 0 of `device` to another driver; "" to none. A HID driver takes its folder along."""
        folder = f"sys/{HUB_DEVICE}/{device}/{device}:1.0"
        (self.root / folder / "driver").unlink(missing_ok=True)
        for shown in (self.root / folder).glob("0003:*"):
            shutil.rmtree(shown)
        if driver:
            self.link(f"{folder}/driver", f"sys/bus/usb/drivers/{driver}")

    def unplug(self, device: str) -> None:
        """The device, its interfaces and its disks."""
        shutil.rmtree(self.root / f"sys/{HUB_DEVICE}/{device}")
        for link in (*(self.root / "sys/bus/usb/devices").iterdir(), *(self.root / "sys/class/block").iterdir()):
            if not link.exists():
                link.unlink()
