"""What the camera shows and the headset sounds: made by one end of a test, judged by the other.

A picture is a function of its number, in which no two places and no two numbers look alike: bytes that are lost, moved
or taken from another picture show. It looks like snow on a screen.

The sound is a ramp: each 16-bit sample is the one before plus STRIDE, wrapping round (a sawtooth of 373 Hz at 48 kHz),
so that one sample tells its place in the sequence, 1.4 s long, and whatever is missing shows by how much it is.
"""

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from random import Random
from typing import Final

# ---- pictures

_HEAD: Final = struct.Struct("<IIQ")
"The first pixels say which picture it is: number, brightness, and the complement of these eight bytes."
_PERIOD: Final = 4093
_STEP: Final = 331
"""Picture n shows the snow from byte n * _STEP on, modulo _PERIOD: two pictures side by side share no place. Primes."""

DEFAULT_BRIGHTNESS: Final = 128


@lru_cache(maxsize=4)
def _snow(size: int) -> bytes:
    return Random(1).randbytes(size + _PERIOD)


def picture(number: int, size: int, brightness: int = DEFAULT_BRIGHTNESS) -> bytes:
    """The `size` bytes, 16 or more, of a picture. Another brightness makes another picture, not a brighter one."""
    head = struct.pack("<II", number, brightness)
    start = (number * _STEP + brightness) % _PERIOD
    return head + bytes(byte ^ 0xFF for byte in head) + _snow(size)[start : start + size - _HEAD.size]


def caption(data: bytes | memoryview) -> tuple[int, int] | None:
    """Number and brightness that a picture bears; None if it bears none that can be read."""
    if len(data) < _HEAD.size:
        return None
    number, brightness, complement = _HEAD.unpack_from(data)
    sound = complement == (number | brightness << 32) ^ 0xFFFF_FFFF_FFFF_FFFF
    return (number, brightness) if sound else None


@dataclass
class PictureJudge:
    """Counts what has become of a row of pictures of `size` bytes each."""

    size: int
    whole: int = 0
    "Pictures in which every byte was right."
    damaged: int = 0
    missing: int = 0
    "Numbers passed over."
    disordered: int = 0
    "Pictures that came again, or after a later one."
    brightness: int = DEFAULT_BRIGHTNESS
    "What the last picture shows."
    damage: list[str] = field(default_factory=list)
    "In words, of the first few damaged pictures."
    _next: int | None = None

    def see(self, data: bytes) -> bool:
        """One more picture; whether it is whole."""
        title = caption(data)
        wrong = self._fault(data, title)
        if wrong or title is None:
            self.damaged += 1
            self.damage += [wrong] if len(self.damage) < 4 else []
            return False
        self.whole += 1
        self._follow(title[0])
        self.brightness = title[1]
        return True

    def _fault(self, data: bytes, title: tuple[int, int] | None) -> str:
        if len(data) != self.size:
            return f"{len(data)} bytes instead of {self.size}"
        if title is None:
            return "it bears no number"
        right = picture(title[0], self.size, title[1])
        if data == right:
            return ""
        at = next(i for i, (one, other) in enumerate(zip(data, right, strict=True)) if one != other)
        return f"picture {title[0]} is wrong from byte {at} on"

    def _follow(self, number: int) -> None:
        if self._next is not None and number < self._next:
            self.disordered += 1
            return
        self.missing += number - self._next if self._next is not None else 0
        self._next = number + 1


# ---- sound

STRIDE: Final = 509
"Odd, so that the ramp meets every one of the 65536 values before it comes round."
_INVERSE: Final = pow(STRIDE, -1, 1 << 16)
RAMP_FRAMES: Final = 1 << 16
"Frames (one sample of each channel) after which the ramp begins anew."
SAMPLE_SIZE: Final = 2
_CHUNK: Final = 1 << 14
"Frames that are compared at once."
MAX_RUNS: Final = 16
"Runs that a judge keeps; of more it keeps the number. A stream in pieces must not fill the memory."


_COMPLEMENT: Final = bytes(range(255, -1, -1))


@lru_cache(maxsize=4)
def _table(channels: int) -> bytes:
    """The ramp once round and a chunk more. Every second channel has each sample inverted, so silence is never in it.

    In loops of the interpreter this would take an emulated processor seconds.
    """
    count = RAMP_FRAMES + _CHUNK
    wide = array("I", range(STRIDE, (count + 1) * STRIDE, STRIDE))
    values = array("H", wide.tobytes())[::2]  # the lower halves
    inverted = array("H", values.tobytes().translate(_COMPLEMENT))
    both = array("H", bytes(count * SAMPLE_SIZE * channels))
    for channel in range(channels):
        both[channel::channels] = inverted if channel % 2 else values
    return both.tobytes()


def ramp(first: int, frames: int, channels: int = 1) -> bytes:
    """`frames` frames of the ramp from index `first` on: signed 16 bits little-endian, channels interleaved."""
    table, width = _table(channels), SAMPLE_SIZE * channels
    parts = []
    for start in range(first, first + frames, _CHUNK):
        at = start % RAMP_FRAMES * width
        parts.append(table[at : at + min(_CHUNK, first + frames - start) * width])
    return b"".join(parts)


def place(sample: int) -> int:
    """Index in the ramp, 0 to 65535, of a sample (its 16 bits, unsigned)."""
    return (sample * _INVERSE - 1) & 0xFFFF


@dataclass
class SoundJudge:
    """Counts what has become of a ramp: it is whole if it came in one run. Silence before and after it is no fault."""

    channels: int = 1
    frames: int = 0
    "Frames of the ramp."
    silent: int = 0
    "Frames of silence, all of them or those between runs alike."
    damaged: int = 0
    "Frames that are no part of the ramp, and no silence."
    runs: int = 0
    first_runs: list[list[int]] = field(default_factory=list)
    "Index of the first frame, modulo RAMP_FRAMES, and number of frames; of the first MAX_RUNS runs."
    _next: int | None = None
    "Index of the frame that would go on the run; None while there is none."

    @property
    def start(self) -> int:
        """Where in the ramp the first run began; -1 if none has."""
        return self.first_runs[0][0] if self.first_runs else -1

    def hear(self, data: bytes | memoryview) -> None:
        """More of the stream, in whole frames; what is over counts as one damaged frame."""
        width = SAMPLE_SIZE * self.channels
        view = memoryview(data)
        whole = len(view) // width * width
        self.damaged += whole != len(view)
        at = 0
        while at < whole:
            at += width * self._take(view[at : min(at + _CHUNK * width, whole)], width)

    def _take(self, view: memoryview, width: int) -> int:
        """How many frames are now accounted for, one or more."""
        if self._next is not None:
            following = self._matching(view, self._next, width)
            if following:
                return self._go_on(following)
            self._next = None
        silence = (len(view) - len(bytes(view).lstrip(b"\0"))) // width
        if silence:
            self.silent += silence
            return silence
        index = place(view[0] | view[1] << 8)
        found = self._matching(view, index, width)
        if not found:
            self.damaged += 1
            return 1
        return self._begin(index, found)

    def _matching(self, view: memoryview, index: int, width: int) -> int:
        """How many frames from the start of `view` on are the ramp from `index` on."""
        right = memoryview(_table(self.channels))[index * width : index * width + len(view)]
        if view == right:
            return len(view) // width
        low, high = 0, len(view) // width  # frames that match; frames that don't
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if view[: middle * width] == right[: middle * width] else (low, middle)
        return low

    def _begin(self, index: int, found: int) -> int:
        self.runs += 1
        if self.runs <= MAX_RUNS:
            self.first_runs.append([index, 0])
        self._next = index
        return self._go_on(found)

    def _go_on(self, found: int) -> int:
        assert self._next is not None
        self.frames += found
        self._next = (self._next + found) % RAMP_FRAMES
        if self.runs <= MAX_RUNS:
            self.first_runs[-1][1] += found
        return found


def missing_frames(runs: Sequence[Sequence[int]]) -> int:
    """Frames of the ramp that are missing between these runs, supposing fewer than RAMP_FRAMES in each gap."""
    return sum((after[0] - before[0] - before[1]) % RAMP_FRAMES for before, after in pairwise(runs))
