"""Video4Linux2 capture, by its ioctls and memory-mapped buffers (Linux, include/uapi/linux/videodev2.h, 64 bits)."""

import fcntl
import mmap
import os
import select
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.e2e.checks.common import PATIENCE, fail

CAPABILITY = struct.Struct("16s32s32sIII12x")
FORMAT_DESCRIPTION = struct.Struct("III32sII12x")
FRAME_SIZE = struct.Struct("IIIII16x8x")
FRAME_INTERVAL = struct.Struct("IIIIIII16x8x")
FORMAT = struct.Struct("I4xIIIIII176x")
STREAM_PARAMETERS = struct.Struct("IIIII184x")
REQUEST_BUFFERS = struct.Struct("IIIIB3x")
BUFFER = struct.Struct("IIIII4xqq16sIIQIIi4x")
CONTROL = struct.Struct("Ii")
QUERY_CONTROL = struct.Struct("II32siiiiI8x")

QUERYCAP, ENUM_FMT, S_FMT, REQBUFS, QUERYBUF, QBUF, DQBUF = 0, 2, 5, 8, 9, 15, 17
STREAMON, STREAMOFF, S_PARM, G_CTRL, S_CTRL, QUERYCTRL = 18, 19, 22, 27, 28, 36
ENUM_FRAMESIZES, ENUM_FRAMEINTERVALS = 74, 75
READ, WRITE = 2, 1
"Directions in an ioctl's number (Linux, include/uapi/asm-generic/ioctl.h)."

Fields = tuple[Any, ...]

VIDEO_CAPTURE = 1
MMAP = 1
YUYV = int.from_bytes(b"YUYV", "little")
BUFFER_ERROR = 0x40
BRIGHTNESS = 0x00980900
BUFFERS = 4


@dataclass(frozen=True)
class Mode:
    """A picture size and a rate."""

    width: int
    height: int
    rate: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `160x120@5`."""
        size, _, rate = text.partition("@")
        width, _, height = size.partition("x")
        return cls(int(width), int(height), int(rate))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}@{self.rate}"


@dataclass(frozen=True)
class Buffer:
    """A filled buffer."""

    data: bytes
    is_bad: bool
    "The driver knows that something is missing."
    seconds: float
    "Its timestamp."


class VideoNode:
    """A /dev/videoN, as a context manager."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._maps: list[mmap.mmap] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def _call(self, number: int, layout: struct.Struct, *fields: object, direction: int = READ | WRITE) -> Fields:
        return self._ioctl(number, layout, layout.pack(*fields), direction)

    def _ioctl(self, number: int, layout: struct.Struct, argument: bytes, direction: int = READ | WRITE) -> Fields:
        data = bytearray(argument.ljust(layout.size, b"\0"))
        fcntl.ioctl(self._fd, direction << 30 | layout.size << 16 | ord("V") << 8 | number, data)
        return layout.unpack(data)

    # ---- what it is

    def identity(self) -> tuple[str, str]:
        """The driver's name, and the device's."""
        driver, card, *_ = self._call(QUERYCAP, CAPABILITY, b"", b"", b"", 0, 0, 0, direction=READ)
        return driver.rstrip(b"\0").decode(), card.rstrip(b"\0").decode()

    def _enumerate(self, number: int, layout: struct.Struct, *fields: int) -> Iterator[tuple[Any, ...]]:
        """Answers for index 0, 1, ... until there are no more."""
        for index in range(64):
            try:
                yield self._ioctl(number, layout, struct.pack(f"{1 + len(fields)}I", index, *fields))
            except OSError:
                return

    def modes(self) -> list[Mode]:
        """All that it offers of the format YUYV."""
        found = []
        for _, _, _, width, height in self._enumerate(ENUM_FRAMESIZES, FRAME_SIZE, YUYV):
            intervals = self._enumerate(ENUM_FRAMEINTERVALS, FRAME_INTERVAL, YUYV, width, height)
            found += [Mode(width, height, round(below / above)) for *_, above, below in intervals]
        return found

    def formats(self) -> list[str]:
        """Four letters for each format."""
        found = self._enumerate(ENUM_FMT, FORMAT_DESCRIPTION, VIDEO_CAPTURE)
        return [fields[4].to_bytes(4, "little").decode() for fields in found]

    # ---- controls

    def control_range(self, control: int) -> tuple[int, int, int, int]:
        """Lowest and highest value, step, and default."""
        fields = self._call(QUERYCTRL, QUERY_CONTROL, control, 0, b"", 0, 0, 0, 0, 0)
        low, high, step, default = fields[3:7]
        return low, high, step, default

    def set_control(self, control: int, value: int) -> None:
        """Give a control a value."""
        self._call(S_CTRL, CONTROL, control, value)

    def control(self, control: int) -> int:
        """A control's value."""
        _, value = self._call(G_CTRL, CONTROL, control, 0)
        return int(value)

    # ---- streaming

    def configure(self, mode: Mode) -> tuple[Mode, int]:
        """Ask for a mode; the one that it is now, and the bytes of a picture."""
        fields = self._call(S_FMT, FORMAT, VIDEO_CAPTURE, mode.width, mode.height, YUYV, 0, 0, 0)
        parameters = self._call(S_PARM, STREAM_PARAMETERS, VIDEO_CAPTURE, 0, 0, 1, mode.rate)
        return Mode(fields[1], fields[2], round(parameters[4] / parameters[3])), fields[6]

    def start(self) -> None:
        """Start the stream with BUFFERS buffers."""
        count, *_ = self._call(REQBUFS, REQUEST_BUFFERS, BUFFERS, VIDEO_CAPTURE, MMAP, 0, 0)
        for index in range(count):
            *_, offset, length, _, _ = self._buffer(QUERYBUF, index)
            self._maps.append(mmap.mmap(self._fd, length, offset=offset))
            self._buffer(QBUF, index)
        self._call(STREAMON, struct.Struct("i"), VIDEO_CAPTURE, direction=WRITE)

    def read(self) -> Buffer:
        """The next buffer; the check ends when there is none for a long time."""
        if not select.select([self._fd], [], [], PATIENCE)[0]:
            fail("no picture comes")
        index, _, used, flags, _, seconds, micros, *_ = self._buffer(DQBUF, 0)
        data = self._maps[index][:used]
        self._buffer(QBUF, index)
        return Buffer(data, bool(flags & BUFFER_ERROR), seconds + micros / 1e6)

    def stop(self) -> None:
        """End the stream."""
        self._call(STREAMOFF, struct.Struct("i"), VIDEO_CAPTURE, direction=WRITE)
        for each in self._maps:
            each.close()
        self._maps.clear()
        self._call(REQBUFS, REQUEST_BUFFERS, 0, VIDEO_CAPTURE, MMAP, 0, 0)

    def _buffer(self, number: int, index: int) -> Fields:
        return self._call(number, BUFFER, index, VIDEO_CAPTURE, 0, 0, 0, 0, 0, b"", 0, MMAP, 0, 0, 0, 0)
