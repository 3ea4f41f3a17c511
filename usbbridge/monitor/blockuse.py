"""Who uses the disks that a USB device provides: mounts, swap, and what is stacked on them (LVM, LUKS, RAID, loop).

Taking a disk away from under a mounted file system loses data, so the device is then not to be had. What is mounted
only in another mount namespace is not seen here.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from usbbridge.usb.identity import clean_words

MAX_STACK: Final = 8
"Layers followed upwards from a disk (partition, RAID, LUKS, LVM ...). Deeper is taken to be in use."

_MOUNT_FIELDS: Final = 6
"Before the optional ones (proc_pid_mountinfo(5)); what has fewer is no line of it."


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system."""

    device: str
    "Name of the block device, `sda1`."
    place: str


@dataclass(frozen=True, slots=True)
class Disk:
    """A whole disk, partitioned or not."""

    name: str
    number: str
    "MAJOR:MINOR."


class BlockUse:
    """What uses block devices at this moment, read once from below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def of(self, device: Path) -> list[str]:
        """What the disks of the USB device at the sysfs path `device` are used for, one phrase a use; none if free."""
        uses: list[str] = []
        for name, path in self._paths.items():
            if path.is_relative_to(device):
                uses += self._uses(name, 0)
        return list(dict.fromkeys(uses))

    def swap(self, device: Path) -> str | None:
        """To which disk of the device, or what is stacked on one, this machine swaps; None if to none."""
        names = [name for name, path in self._paths.items() if path.is_relative_to(device)]
        stacked = (above for name in names for above in self._stack(name, 0))
        return next((above for above in stacked if above in self._swaps), None)

    def disks(self, device: Path) -> list[Disk]:
        """The whole disks that the USB device at the sysfs path `device` provides."""
        whole = [n for n, path in self._paths.items() if path.parent.name == "block" and path.is_relative_to(device)]
        return [Disk(name, _read(self._root / "sys/class/block" / name / "dev")) for name in whole]

    def mounts(self, device: Path) -> list[Mount]:
        """What is mounted of these disks and of what is stacked on them: in the order in which it can be unmounted."""
        names = [name for name, path in self._paths.items() if path.is_relative_to(device)]
        stack = dict.fromkeys(above for name in names for above in self._stack(name, 0))
        mounts = [Mount(name, place) for name in stack for place in self._mounts.get(name, ())]
        return sorted(mounts, key=lambda mount: mount.place.count("/"), reverse=True)

    def _stack(self, name: str, depth: int) -> Iterator[str]:
        """A block device and what is made of it."""
        yield name
        if depth < MAX_STACK:
            for holder in self._holders(name):
                yield from self._stack(holder, depth + 1)

    @cached_property
    def _paths(self) -> dict[str, Path]:
        """Every block device, partitions too, and where it hangs in the device tree."""
        folder = self._root / "sys/class/block"
        return {link.name: resolved(link) for link in sorted(folder.iterdir())} if folder.is_dir() else {}

    def _uses(self, name: str, depth: int) -> Iterator[str]:
        if depth > MAX_STACK:
            yield f"{name} is in use"
            return
        for place in self._mounts.get(name, ()):
            yield f"{name} is mounted at {clean_words(place)}"
        if name in self._btrfs and name not in self._mounts:
            yield f"{name} is part of a mounted btrfs"
        if name in self._swaps:
            yield f"{name} is in use as swap"
        for holder in self._holders(name):
            above = list(self._uses(holder, depth + 1))
            yield from above or [f"{name} is part of {self._title(holder)}"]

    def _holders(self, name: str) -> list[str]:
        folder = self._root / "sys/class/block" / name / "holders"
        stacked: list[str] = []
        with suppress(OSError):  # it has none, or has just gone
            stacked = sorted(link.name for link in folder.iterdir())
        return stacked + self._loops.get(name, [])

    def _title(self, name: str) -> str:
        mapped = clean_words(_read(self._root / "sys/class/block" / name / "dm/name"))
        return f"{name} ({mapped})" if mapped else name

    @cached_property
    def _mounts(self) -> dict[str, list[str]]:
        """Block device → mount points (proc_pid_mountinfo(5)), by number, or by name where btrfs hides the number."""
        numbers = {_read(self._root / "sys/class/block" / name / "dev"): name for name in self._paths}
        mounts: dict[str, list[str]] = {}
        for line in _lines(self._root / "proc/self/mountinfo"):
            fields, _, tail = line.partition(" - ")
            first, last = fields.split(" "), tail.split(" ")
            if len(first) >= _MOUNT_FIELDS and len(last) > 1:
                name = numbers.get(first[2]) or _device_name(last[1])
                mounts.setdefault(name, []).append(_unescape(first[4]))
        return mounts

    @cached_property
    def _btrfs(self) -> set[str]:
        """Block devices of mounted btrfs file systems; a mount names only one of several."""
        return {link.name for link in self._root.glob("sys/fs/btrfs/*/devices/*")}

    @cached_property
    def _swaps(self) -> set[str]:
        return {_device_name(line.split(" ")[0]) for line in _lines(self._root / "proc/swaps")[1:]}

    @cached_property
    def _loops(self) -> dict[str, list[str]]:
        """Block device → loop devices set up on it; the kernel lists them nowhere among its holders."""
        loops: dict[str, list[str]] = {}
        for file in self._root.glob("sys/class/block/loop*/loop/backing_file"):
            loops.setdefault(_device_name(_read(file)), []).append(file.parts[-3])
        return loops


def _read(path: Path) -> str:
    """A small kernel file without its line end; empty if it is not there (any more)."""
    try:
        return path.read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""


def _lines(path: Path) -> list[str]:
    """Of one of the kernel's tables. Only a line feed ends a line there (str.splitlines() knows ten such characters):
    all others stand in mount points as whoever has mounted it wrote them, the label of a stick for one."""
    return _read(path).split("\n")


def _unescape(field: str) -> str:
    """Octal escapes for space, tab, newline and backslash, as in proc_pid_mountinfo(5)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _device_name(source: str) -> str:
    """`sda1` for `/dev/sda1`; empty for what is no device, such as `tmpfs` or a file."""
    path = _unescape(source)
    return path.removeprefix("/dev/").replace("/", "!") if path.startswith("/dev/") else ""


def resolved(path: Path) -> Path:
    """Where a link of sysfs leads; the link itself if it goes at this moment, which leads to nothing."""
    try:
        return path.resolve()
    except OSError:  # between pathlib's look at it and its reading it
        return path
