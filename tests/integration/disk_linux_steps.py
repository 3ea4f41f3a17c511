"""Runs inside a Linux with vhci-hcd, as root: plugs emulated disks into its kernel and tells what the kernel saw.

The last line it prints is JSON, facts by name; `test_disk_linux.py` judges them.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.machine.waiting import wait
from usbbridge.backend.emulated.disk import open_disk, serial_number
from usbbridge.errors import RefusedError

DETACH = Path("/sys/devices/platform/vhci_hcd.0/detach")
SG_IO = 0x2285
SG_IO_V4 = struct.Struct("=iIII QQ IIII Q IIII QQ II Q IIII IIII ii Q II")  # Linux, include/uapi/linux/bsg.h
WRITABLE, READ_ONLY, SUPER, HUGE, DISC = range(5)
PARTITION = (2048, 4096)
PORTS = (0, 1, 8, 9, 2)
DEADLINE = 60.0
"Seconds for the kernel to find all disks: it waits one for each, and the machine may be slow."


def scsi_device(serial):
    """The sysfs folder of the SCSI device behind the USB device with this serial number, once it is complete."""
    for usb in Path("/sys/bus/usb/devices").iterdir():
        file = usb / "serial"
        if file.exists() and file.read_text().strip() == serial:
            found = [p for p in usb.glob("*/host*/target*/*:0:0:0") if (p / "bsg").exists()]
            if found and (attribute(found[0], "type") != "0" or list(found[0].glob("block/sd*/capability"))):
                return found[0]
    return None


def usb_device(scsi):
    """The sysfs folder of the USB device that a SCSI device belongs to."""
    return next(p for p in scsi.resolve().parents if (p / "idVendor").exists())


def sha256(path, size=None):
    """Of a whole file or device."""
    with Path(path).open("rb") as file:
        return hashlib.sha256(file.read() if size is None else file.read(size)).hexdigest()


def scsi_command(node, command, size):
    """(SCSI status, data) of a command that reads, through a bsg node."""
    request, data, sense = (ctypes.create_string_buffer(n) for n in (bytes(command), size or 1, 64))
    address = ctypes.addressof
    packed = SG_IO_V4.pack(
        *(ord("Q"), 0, 0, len(command), address(request), 0, 0, 0, 0, 64, address(sense)),
        *(0, 0, 0, size, 0, address(data) if size else 0, 10_000, 0, 0),
        *(0,) * 13,
    )
    io = bytearray(packed)
    fd = os.open(node, os.O_RDWR)
    fcntl.ioctl(fd, SG_IO, io)
    os.close(fd)
    fields = SG_IO_V4.unpack(io)
    return fields[23], data.raw[: size - fields[28]]


def attribute(folder, name):
    """A sysfs attribute."""
    return (folder / name).read_text().strip()


def describe(scsi):
    """What the kernel says of a disk."""
    block = next(scsi.glob("block/sd*"))
    return {
        "node": f"/dev/{block.name}",
        "type": attribute(scsi, "type"),
        "vendor": attribute(scsi, "vendor"),
        "model": attribute(scsi, "model"),
        "bytes": int(attribute(block, "size")) * 512,
        "read_only": attribute(block, "ro"),
        "removable": attribute(block, "removable"),
        "cache": attribute(next(scsi.glob("scsi_disk/*")), "cache_type"),
        "speed": attribute(usb_device(scsi), "speed"),
    }


def run(*command):
    """Exit status and output of a command."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def file_system(node, image, folder):
    """Make a file system on the disk, put a file on it, and find that file in the image."""
    content = os.urandom(3_000_000)
    folder.mkdir()
    steps = [run("mkfs.ext4", "-q", "-F", node), run("mount", "-t", "ext4", node, str(folder))]
    (folder / "file").write_bytes(content)
    mounted = opened(node)
    os.sync()
    steps += [run("umount", str(folder)), run("e2fsck", "-fn", image)]
    copied = subprocess.run(["debugfs", "-R", "cat /file", image], capture_output=True, check=False).stdout
    return {"steps": steps, "file_is_in_image": copied == content, "opened_while_mounted": mounted}


def opened(node):
    """The size of a disk made of a block device of this machine, or why there is none."""
    try:
        device = open_disk(f"disk:{node}")
    except RefusedError as error:
        return str(error)
    size = device.function.unit.medium.bytes
    device.close()
    return size


def refused(call):
    """The name of the operating system's error, or none."""
    try:
        call()
    except OSError as error:
        return error.strerror
    return None


def write_through(node, offset, data):
    """Write and sync."""
    fd = os.open(node, os.O_RDWR)
    os.pwrite(fd, data, offset)
    os.fsync(fd)
    os.close(fd)


def read_at(node, offset, size):
    """Past the page cache: it is dropped first."""
    fd = os.open(node, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    data = os.pread(fd, size, offset)
    os.close(fd)
    return data


def disc(scsi, image):
    """The CD-ROM drive, by commands: this kernel may have no driver for it."""
    node = f"/dev/bsg/{next((scsi / 'bsg').iterdir()).name}"
    last, size = struct.unpack(">II", scsi_command(node, struct.pack(">BxIxxxx", 0x25, 0), 8)[1])
    content = b""
    for lba in range(0, last + 1, 32):
        count = min(32, last + 1 - lba)
        content += scsi_command(node, struct.pack(">BxIxHx", 0x28, lba, count), 2048 * count)[1]
    test_unit_ready, eject = bytes(6), bytes((0x1B, 0, 0, 0, 2, 0))
    ready = [scsi_command(node, command, 0)[0] for command in (test_unit_ready, eject, test_unit_ready)]
    return {
        "type": attribute(scsi, "type"),
        "model": attribute(scsi, "model"),
        "block_size": size,
        "same": content == Path(image).read_bytes(),
        "ready_eject_ready": ready,
    }


def main():
    """See the top."""
    folder = Path(tempfile.mkdtemp())
    images = [str(folder / name) for name in ("writable.img", "read-only.img", "super.img", "huge.img", "disc.iso")]
    for image, size in zip(images, (8 << 20, (4 << 20) + 100, 32 << 20, None, 3 << 20), strict=True):
        Path(image).write_bytes(os.urandom(size) if size else b"")
    os.truncate(images[HUGE], 3 << 40)
    with Path(images[WRITABLE]).open("r+b") as file:  # a master boot record with one partition of type 0x83
        file.seek(446)
        file.write(struct.pack("<8BII", 0, 0, 0, 0, 0x83, 0, 0, 0, *PARTITION) + bytes(48) + b"\x55\xaa")
    serials = [serial_number(image) for image in images]
    specs = [f"disk:{image}" for image in images]
    specs[READ_ONLY] += ",ro"
    arguments = [word for port, spec in zip(PORTS, specs, strict=True) for word in (str(port), spec)]
    exporter = subprocess.Popen([sys.executable, "-m", "tools.lab.plug", *arguments])
    found = [wait(lambda serial=serial: scsi_device(serial), DEADLINE) for serial in serials]
    facts = {"disks": [describe(scsi) for scsi in found[:DISC]]}
    nodes = [disk["node"] for disk in facts["disks"]]
    partition = wait(lambda: list(found[WRITABLE].glob("block/sd*/sd*1")), DEADLINE)[0]
    facts["partition"] = [int(attribute(partition, name)) for name in ("start", "size")]
    facts["hashes"] = [(sha256(nodes[i]), sha256(images[i])) for i in (WRITABLE, SUPER)]
    facts["opened_block_device"] = opened(nodes[WRITABLE])
    facts["padded"] = sha256(nodes[READ_ONLY], (4 << 20) + 100) == sha256(images[READ_ONLY])
    facts["read_only_write"] = refused(lambda: write_through(nodes[READ_ONLY], 0, bytes(512)))
    facts["file_systems"] = [file_system(nodes[i], images[i], folder / str(i)) for i in (WRITABLE, SUPER)]
    mark = os.urandom(4096)
    write_through(nodes[HUGE], (3 << 40) - 4096, mark)
    with Path(images[HUGE]).open("rb") as file:
        file.seek(-4096, os.SEEK_END)
        facts["huge"] = file.read() == mark == read_at(nodes[HUGE], (3 << 40) - 4096, 4096)
    facts["disc"] = disc(found[DISC], images[DISC])
    for port in PORTS:
        DETACH.write_text(str(port))
    facts["exporter"] = exporter.wait(DEADLINE)
    wait(lambda: not any(Path(node).exists() for node in nodes), DEADLINE)
    facts["kernel"] = run("dmesg")[1].splitlines()[-60:]
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
