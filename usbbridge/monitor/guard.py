"""The mount guard: a disk in use does not leave, and one that is about to leave can't be taken into use.

What uses a disk is read from the kernel's tables (`usbbridge.monitor.blockuse`), which name it but do not show
everything, other mount namespaces for one, and are old when they have been read. So each disk is also opened with
O_EXCL, which mount(2), swapon(2) and whatever stacks devices do too (`bd_claim`): it fails if one of them has the disk
or a partition of it, and makes theirs fail for as long as it is held.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Final

from usbbridge.errors import RefusedError
from usbbridge.monitor.blockuse import BlockUse, Disk
from usbbridge.usb.identity import clean_words

_FLAGS: Final = os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC

_SYSTEM: Final = (
    *("/bin", "/boot", "/cdrom", "/efi", "/etc", "/gnu", "/lib", "/lib64", "/nix", "/opt", "/ostree", "/root", "/sbin"),
    *("/run/archiso", "/run/initramfs", "/run/live", "/run/rootfsbase", "/sysroot", "/usr", "/var"),
)
"Folders of the running system (FHS 3.0, and where live systems have their medium); what is mounted below them counts."


class DiskBusyError(RefusedError):
    """Something uses the disk that the kernel's tables do not show."""


def demand_foreign(use: BlockUse, device: Path, name: str) -> None:
    """Raises RefusedError if this machine runs from a disk of the USB device `name` at the sysfs path `device`.

    Whoever has such a disk can write what root runs next. So that is no matter of losing data, which --force accepts:
    control would have a way to become root.
    """
    own = next((mount for mount in use.mounts(device) if _is_of_system(mount.place)), None)
    if own is not None:
        hint = "this machine runs from it; if it does not need that, unmount it by hand (umount), and try again"
        raise RefusedError(f"{name} stays here: {own.device} is mounted at {clean_words(own.place)}", hint=hint)
    swap = use.swap(device)
    if swap is not None:
        hint = "end that with swapoff, and try again"
        raise RefusedError(f"{name} stays here: {swap} is in use as swap", hint=hint)


def _is_of_system(place: str) -> bool:
    """Not below /home: there users may mount by FUSE, and claim any disk for it."""
    return place in ("/", "/home") or any(place == folder or place.startswith(f"{folder}/") for folder in _SYSTEM)


class Hold:
    """Whole disks held exclusively, and so their partitions. Made by `hold`."""

    def __init__(self, root: Path, fds: dict[str, int]) -> None:
        self._root, self._fds = root, fds

    @property
    def disks(self) -> list[str]:
        """Names of those held."""
        return list(self._fds)

    def release_gone(self) -> None:
        """Let go of disks that the kernel has taken away, as their driver was detached: a descriptor that is left keeps
        a name such as `sda` from being given again."""
        for name in self.disks:
            if not (self._root / "sys/class/block" / name).exists():
                os.close(self._fds.pop(name))

    def release(self) -> None:
        """Let go of all. May be called again."""
        for name in self.disks:
            os.close(self._fds.pop(name))


def hold(root: Path, disks: list[Disk]) -> Hold:
    """Hold disks exclusively. Raises DiskBusyError, and then holds none, if one is in use.

    One without a medium, or that this user may not read, is left out: only its entries in the kernel's tables count.
    """
    fds: dict[str, int] = {}
    try:
        for disk in disks:
            fd = _open(root, disk)
            if fd is not None:
                fds[disk.name] = fd
    except BaseException:
        Hold(root, fds).release()
        raise
    return Hold(root, fds)


def _open(root: Path, disk: Disk) -> int | None:
    node = root / "dev" / disk.name.replace("!", "/")
    try:
        fd = os.open(node, _FLAGS)
    except OSError as error:
        if error.errno != errno.EBUSY:  # no medium, no permission, no node, gone
            return None
        hint = "a mount in a container or another session, or a program that has it for itself"
        raise DiskBusyError(f"{disk.name} is in use, by something that /proc does not show", hint=hint) from error
    found = os.fstat(fd)
    if stat.S_ISBLK(found.st_mode) and f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}" == disk.number:
        return fd
    os.close(fd)  # a node that somebody has put there
    return None
