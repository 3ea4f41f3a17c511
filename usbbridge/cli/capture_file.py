"""Where a capture is written to: a file of whole pcapng blocks within its limits, or a pipe somebody reads."""

import contextlib
import os
import re
import socket
import stat
import sys
import threading
import time
from types import TracebackType
from typing import Final, Self

import click

from usbbridge.capture.pcapng import (
    ENHANCED_PACKET,
    INTERFACE_STATISTICS,
    STATISTICS_BYTES,
    Block,
    Splitter,
    dropped_of,
    statistics,
)
from usbbridge.errors import RefusedError, UsageError, UsbBridgeError

DEFAULT_LIMIT: Final = 1 << 30
LEAST_LIMIT: Final = 64 << 10
"Bytes: the descriptors of a device, and something that happens."
STDOUT: Final = "-"
CHUNK: Final = 256 << 10
"Bytes taken from a connection at a time."

_SIZE: Final = re.compile(r"([0-9]+)([kKMGT]?)(i?B)?")
_UNITS: Final = {"": 1, "k": 1 << 10, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_ROOT: Final = 0
_PRIVATE: Final = 0o600
"What is typed and read stands in a capture."


def parse_size(ctx: click.Context, param: click.Parameter, text: str) -> int:
    """Bytes of `4096`, `64k`, `500M`, `2G`: bytes, or units of 1024 of them. A click callback."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no size; write it as 500M or 2G", ctx, param)
    size = int(found[1]) * _UNITS[found[2]]
    if size < LEAST_LIMIT:
        raise click.BadParameter(f"{text} is too small: at least {LEAST_LIMIT >> 10}k", ctx, param)
    return size


def check(name: str, *, force: bool) -> None:
    """Whether it may be written there, before anything is begun. Raises RefusedError, UsageError."""
    if name == STDOUT:
        if sys.stdout.isatty():
            raise UsageError("a capture is nothing for a terminal", hint="pipe it: ... -o - | wireshark -k -i -")
        return
    with contextlib.suppress(FileNotFoundError):
        kind = os.stat(name).st_mode  # noqa: PTH116  # of what a link points to
        if stat.S_ISDIR(kind):
            raise UsageError(f"{name} is a folder", hint="name a file in it")
        if stat.S_ISREG(kind) and not force:
            raise _there_already(name)


def open_output(name: str, *, force: bool) -> int:
    """A descriptor to write to, the caller's: of a new file for this user alone, an old one (`force`) that is so from
    now on, a named pipe, or the standard output. What is there already has to be this user's own, or root's. Raises
    RefusedError, UsageError, OSError."""
    check(name, force=force)
    if name == STDOUT:
        return os.dup(sys.stdout.fileno())
    try:
        return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
    except FileExistsError:
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _make_ours(fd, name, force=force)
    except (UsbBridgeError, OSError):
        os.close(fd)
        raise
    return fd


def _make_ours(fd: int, name: str, *, force: bool) -> None:
    """What was there already, perhaps since a moment ago only, and put there by somebody else. Raises RefusedError,
    OSError."""
    found = os.fstat(fd)
    if found.st_uid not in (os.geteuid(), _ROOT):
        hint = "use another name, in a folder that is yours"
        raise RefusedError(f"{name} belongs to somebody else, who could read what is captured", hint=hint)
    if stat.S_ISREG(found.st_mode):
        if not force:
            raise _there_already(name)
        os.fchmod(fd, _PRIVATE)
        os.ftruncate(fd, 0)


def _there_already(name: str) -> RefusedError:
    return RefusedError(f"{name} is there already", hint="use another name, or --force to overwrite it")


def remove(name: str) -> None:
    """Remove a file that turned out to be for nothing; named pipes and devices stay."""
    with contextlib.suppress(FileNotFoundError):  # somebody was faster
        if stat.S_ISREG(os.lstat(name).st_mode):
            os.unlink(name)  # noqa: PTH108  # as above, a plain name


class CaptureFile:
    """Takes the bytes of a capture as they come and writes its whole blocks, until a limit is reached."""

    def __init__(self, fd: int, *, limit: int = DEFAULT_LIMIT, count: int | None = None) -> None:
        """The descriptor belongs to this object. At most `limit` bytes are written, and `count` packets."""
        self.packets = self.size = self.dropped = 0
        "Packets and bytes that are written; packets that are missing."
        self.full = ""
        "Which limit is reached: `limit` or `count`."
        self._fd, self._limit, self._count = fd, limit, count
        self._splitter = Splitter()
        self._last = 0  # kind of the last block
        self._pending: list[bytes] = []
        self._written = 0, 0  # size and packets when all was on the disk

    def fileno(self) -> int:
        """What is written to, for a poll."""
        return self._fd

    @property
    def begun(self) -> bool:
        """Whether anything has come."""
        return self.size > 0

    @property
    def whole(self) -> bool:
        """Whether the last that came was the end of a capture."""
        return self._last == INTERFACE_STATISTICS and not self._splitter.rest

    def take(self, data: bytes) -> None:
        """The next bytes. Raises RemoteProtocolError, BrokenPipeError if nobody reads any more, and OSError; then all
        that was written before is whole."""
        try:
            for block in self._splitter.feed(data):
                if not self.full:
                    self._take(block)
        finally:
            self._write()

    def _take(self, block: Block) -> None:
        if block.kind == ENHANCED_PACKET:
            if not self._has_room(len(block.data)):
                self._fill("limit")
                return
            self.packets += 1
        elif block.kind == INTERFACE_STATISTICS:
            self.dropped = dropped_of(block.data)
            if not self._has_room(len(block.data)):
                self._fill("limit")
                return
        self._put(block.kind, block.data)
        if self._count is not None and self.packets >= self._count:
            self._fill("count")

    def _has_room(self, size: int) -> bool:
        return self.size + size + STATISTICS_BYTES <= self._limit

    def _fill(self, what: str) -> None:
        self.full = what
        self._conclude()

    def _conclude(self) -> None:
        received = self.packets + self.dropped
        self._put(INTERFACE_STATISTICS, statistics(time.time_ns() // 1000, received, self.dropped))

    def _put(self, kind: int, data: bytes) -> None:
        self._last = kind
        self.size += len(data)
        self._pending.append(data)

    def _write(self) -> None:
        data, self._pending = memoryview(b"".join(self._pending)), []
        done = 0
        try:
            while done < len(data):
                done += os.write(self._fd, data[done:])
        except OSError:
            self._take_back(done)
            raise
        self._written = self.size, self.packets

    def _take_back(self, size: int) -> None:
        """The last `size` bytes of the file may be half a block: it ends with what was written before, by us or by
        whoever had it as his output. Of a pipe, nothing can be taken back, and nothing more be written."""
        self.size, self.packets = self._written
        self._last = 0
        try:
            end = os.lseek(self._fd, 0, os.SEEK_CUR) - size
            os.ftruncate(self._fd, end)
            os.lseek(self._fd, end, os.SEEK_SET)
        except OSError:
            self.size = 0

    def close(self) -> None:
        """Nothing more comes: what was written is made whole. May be called again."""
        if self._fd < 0:
            return
        try:
            if self.begun and self._last != INTERFACE_STATISTICS:
                self._conclude()
                with contextlib.suppress(BrokenPipeError):  # whoever has gone does not miss it
                    self._write()
        finally:
            fd, self._fd = self._fd, -1
            os.close(fd)


class Recording:
    """A capture that is written to a new file while something else goes on: its bytes come on a connection of ours."""

    def __init__(self, name: str) -> None:
        """Raises RefusedError, UsageError, OSError."""
        self._name, self._file = name, CaptureFile(open_output(name, force=False))
        self._ours, self._theirs = socket.socketpair()
        self._error: UsbBridgeError | OSError | None = None
        self._thread = threading.Thread(target=self._write, name="recording", daemon=True)

    def fileno(self) -> int:
        """The end that is written to; whoever is to write gets a copy of it."""
        return self._theirs.fileno()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is still on its way. Raises what went wrong in writing, if nothing else did."""
        self._theirs.close()
        self._thread.join()
        self._ours.close()
        if not self._file.begun:
            remove(self._name)  # nothing was attached
        if self._error is not None and error is None:
            raise self._error

    def _write(self) -> None:
        """Until the last copy of their end is closed. What goes wrong ends the recording, and nothing else."""
        try:
            with contextlib.closing(self._file) as file:
                while (data := self._ours.recv(CHUNK)) and not file.full:
                    file.take(data)
        except (UsbBridgeError, OSError) as error:
            self._error = error
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
