"""The initial RAM file system of a machine: busybox, the modules up to the root file system, the agent, a config."""

import shlex
from pathlib import Path

from tools.lab.host import program
from tools.lab.kernel import Kernel

GUEST = Path(__file__).parent / "guest"

# Needed before the root file system is there, which has all the other modules.
EARLY_MODULES = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console", "virtio_net"]

# Loaded before the agent reports that the machine is ready. There is no udevd that would load them as devices appear.
LATE_MODULES = [
    *("xhci_pci", "usb_storage", "uas", "sd_mod", "sr_mod", "usbhid", "hid_generic", "evdev", "ftdi_sio"),
    *("isofs", "vfat", "ext4", "nls_ascii", "nls_cp437"),
]

FOLDERS = ["bin", "dev", "lab", "lab/modules", "lab/python", "lab/python/tools", "lab/python/tools/lab"]

# The "new ASCII" cpio header: magic and 13 fields of 8 hexadecimal digits (kernel, early-userspace/buffer-format).
MAGIC = b"070701"
FOLDER_MODE = 0o040755
PROGRAM_MODE = 0o100755


def initramfs(kernel: Kernel, config: dict[str, str]) -> bytes:
    """The archive, uncompressed: making and unpacking it are both quicker so."""
    modules = kernel.module_files(EARLY_MODULES)
    config = config | {
        "RELEASE": kernel.release,
        "MODULES": str(kernel.modules),
        "EARLY_MODULES": " ".join(path.name for path in modules),
        "LATE_MODULES": " ".join(LATE_MODULES),
    }
    files = {
        "init": (GUEST / "init.sh").read_bytes(),
        "lab/systemd.sh": (GUEST / "systemd.sh").read_bytes(),
        "bin/busybox": Path(program("busybox")).read_bytes(),
        "lab/config": "".join(f"{key}={shlex.quote(value)}\n" for key, value in config.items()).encode(),
    }
    files |= {f"lab/modules/{path.name}": path.read_bytes() for path in modules}
    return cpio([*FOLDERS, "lab/python/tools/lab/guest"], files | _agent())


def _agent() -> dict[str, bytes]:
    """The agent under its own name, in packages that are otherwise empty: it uses nothing of the lab outside."""
    package = "lab/python/tools"
    files = {f"{package}/lab/guest/{path.name}": path.read_bytes() for path in GUEST.glob("*.py")}
    return files | {f"{package}/__init__.py": b"", f"{package}/lab/__init__.py": b""}


def cpio(folders: list[str], files: dict[str, bytes]) -> bytes:
    """An archive in the "new ASCII" format; every file may be executed."""
    entries = [_entry(number, name, FOLDER_MODE, b"") for number, name in enumerate(folders, 1)]
    entries += [_entry(number, name, PROGRAM_MODE, data) for number, (name, data) in enumerate(files.items(), 1000)]
    return b"".join([*entries, _entry(0, "TRAILER!!!", 0, b"")])


def _entry(inode: int, name: str, mode: int, data: bytes) -> bytes:
    path = name.encode() + b"\0"
    links = 1
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(path), 0)
    header = MAGIC + b"".join(b"%08x" % field for field in fields) + path
    return _aligned(header) + _aligned(data)


def _aligned(data: bytes) -> bytes:
    """Names and contents each end at a multiple of four bytes."""
    return data + bytes(-len(data) % 4)
