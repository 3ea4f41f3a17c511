"""The medium of an emulated drive: an image file or a block device, by offset.

Data moves between the file and the caller's memory by preadv and pwritev, with no copy between. Errors of the operating
system become `MediumError`, which says how far it came.

A file whose size is no multiple of the block size is rounded up: the rest of its last block reads as zeros, and writing
that block makes the file a whole number of blocks.
"""

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from usbbridge.errors import DeviceError, NotFoundError, NotPermittedError, RefusedError, UsageError

_NO_LOCKS: Final = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL})
"What file systems say that know no locks (Android's shared storage, some network ones). An image there works without."


class MediumError(Exception):
    """Reading or writing the medium failed after `moved` bytes."""

    def __init__(self, error: int, moved: int, *, writing: bool) -> None:
        super().__init__(os.strerror(error))
        self.error, self.moved, self.writing = error, moved, writing

    @property
    def is_no_space(self) -> bool:
        """The file system, or the user's share of it, is full."""
        return self.error in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

    @property
    def is_read_only(self) -> bool:
        """The operating system lets nobody write there any more."""
        return self.error in (errno.EROFS, errno.EPERM, errno.EACCES)

    @property
    def is_gone(self) -> bool:
        """The block device has been taken out."""
        return self.error in (errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM)


class Medium:
    """An opened image. Owns `fd`."""

    def __init__(self, fd: int, size: int, block_size: int, *, writable: bool) -> None:
        self._fd, self._size = fd, size
        self.block_size, self.writable = block_size, writable
        self.blocks = -(-size // block_size)
        self._end = self.blocks * block_size

    @property
    def bytes(self) -> int:
        """Size as the guest sees it: whole blocks."""
        return self._end

    def read(self, into: memoryview, offset: int) -> int:
        """Fill `into` from `offset`; the caller has checked that it lies within the medium. Raises MediumError."""
        size, moved = len(into), 0
        try:
            moved = os.preadv(self._fd, (into,), offset)
            while moved < size:
                count = os.preadv(self._fd, (into[moved:],), offset + moved)
                if not count:
                    return self._pad(into, offset, moved)
                moved += count
        except OSError as error:
            raise MediumError(error.errno or errno.EIO, moved, writing=False) from error
        return moved

    def _pad(self, into: memoryview, offset: int, moved: int) -> int:
        """The file ended: zeros up to the block's end, unless it has become shorter than it was when opened."""
        if offset + moved < self._size:
            raise MediumError(errno.EIO, moved, writing=False)
        into[moved:] = bytes(len(into) - moved)  # less than a block
        return len(into)

    def write(self, data: memoryview, offset: int) -> int:
        """Write `data` at `offset`; the caller has checked that it lies within the medium. Raises MediumError."""
        size, moved = len(data), 0
        try:
            moved = os.pwritev(self._fd, (data,), offset)
            while moved < size:
                count = os.pwritev(self._fd, (data[moved:],), offset + moved)
                if not count:
                    raise OSError(errno.EIO, "wrote nothing")
                moved += count
        except OSError as error:
            raise MediumError(error.errno or errno.EIO, moved, writing=True) from error
        return moved

    def sync(self) -> None:
        """fdatasync, if anything can have been written. Raises MediumError."""
        if not self.writable:
            return
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise MediumError(error.errno or errno.EIO, 0, writing=True) from error

    def close(self) -> None:
        """Close the file, which also ends its lock. May be called again.

        Nothing is synced: everything the guest wrote is in the system's cache by now, and how long the disk below takes
        is nobody's guess. A guest that wants it on stable storage has said so before.
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_medium(path: str, block_size: int, *, writable: bool) -> Medium:
    """Open an image file or block device and lock it: one writer, or any number of readers.

    The lock is advisory (flock): it keeps a second usbbridge away, not other programs; a block device that is mounted
    is refused for writing. Raises UsageError, NotFoundError, NotPermittedError, RefusedError or DeviceError.
    """
    fd = _open(path, writable=writable)
    try:
        size = _size(fd, path)
        _lock(fd, path, writable=writable)
    except BaseException:
        os.close(fd)
        raise
    return Medium(fd, size, block_size, writable=writable)


def _open(path: str, *, writable: bool) -> int:
    flags = os.O_CLOEXEC | os.O_NONBLOCK | (os.O_RDWR if writable else os.O_RDONLY)  # not blocking: it may be a FIFO
    if writable and _is_block_device(path):
        flags |= os.O_EXCL  # Linux: refuse a device that is mounted or otherwise in use
    try:
        return os.open(path, flags)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no disk image {path}") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder, not a disk image") from error
    except OSError as error:
        raise _open_error(error, path, writable=writable) from error


def _is_block_device(path: str) -> bool:
    with contextlib.suppress(OSError):
        return Path(path).is_block_device()
    return False


def _open_error(error: OSError, path: str, *, writable: bool) -> Exception:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY):
        if writable:
            return NotPermittedError(
                f"{path} can't be opened for writing: {error.strerror}",
                hint=f"add ,ro for a read-only disk: disk:{path},ro",
            )
        return NotPermittedError(f"{path} can't be read: {error.strerror}")
    if error.errno == errno.EBUSY:
        return RefusedError(f"{path} is mounted or in use on this machine", hint="unmount it first, or add ,ro")
    return DeviceError(f"{path} can't be opened: {error.strerror}")


def _size(fd: int, path: str) -> int:
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{path} is a folder, not a disk image")
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
        raise UsageError(f"{path} is neither a file nor a block device")
    size = os.lseek(fd, 0, os.SEEK_END)  # for a block device st_size is 0
    if not size:
        raise UsageError(f"{path} is empty", hint=f"give it a size first, for instance: truncate -s 1G {path}")
    return size


def _lock(fd: int, path: str, *, writable: bool) -> None:
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if writable else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        hint = "add ,ro to both to share it for reading" if writable else "a disk that is being written can't be shared"
        raise RefusedError(f"{path} is in use by another usbbridge", hint=hint) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise DeviceError(f"{path} can't be locked: {error.strerror}") from error
