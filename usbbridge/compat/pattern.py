"""What a rule compares: ids, class codes and HID usages with wildcards, and a range of device releases.

All numbers are hexadecimal, as everywhere in USB. Each pattern has one way to be written, and is written back that way.
"""

import re
from dataclasses import dataclass
from typing import Final

_WORD: Final = r"([0-9a-f?]{4}|\*)"
_BYTE: Final = r"([0-9a-f]{2}|\*)"
_PAIR: Final = re.compile(f"{_WORD}:{_WORD}")
_TRIPLE: Final = re.compile(f"{_BYTE}(?:/{_BYTE}(?:/{_BYTE})?)?")
_RANGE: Final = re.compile(r"([0-9a-f]{4})?(-)?([0-9a-f]{4})?")

RELEASE_MAX: Final = 0xFFFF


class PatternError(ValueError):
    """The text is not a pattern; `str()` says how one is written."""


@dataclass(frozen=True, slots=True, order=True)
class Mask:
    """A number of which only some bits count: those of `mask`, which must be as in `value`."""

    value: int
    mask: int

    def matches(self, number: int) -> bool:
        return number & self.mask == self.value

    def covers(self, other: "Mask") -> bool:
        """Whether every number that `other` matches is matched."""
        return not self.mask & ~other.mask and other.value & self.mask == self.value


def parse_id(text: str) -> Mask:
    """`VID:PID`, also `VID:*` or `VID:12??`, as 16 bits each. Raises PatternError."""
    return _pair(text, "an id is VID:PID in hexadecimal, for instance 0781:5567, 0781:* or 0781:55??")


def parse_usage(text: str) -> Mask:
    """A HID usage, `PAGE:USAGE` (HID 1.11 §5.5), as 16 bits each. Raises PatternError."""
    return _pair(text, "a usage is PAGE:USAGE in hexadecimal, for instance f1d0:0001 or f1d0:*")


def format_pair(pattern: Mask) -> str:
    """What `parse_id` and `parse_usage` read."""
    return f"{_word(pattern, 16)}:{_word(pattern, 0)}"


def parse_class(text: str) -> Mask:
    """`CLASS`, `CLASS/SUBCLASS` or `CLASS/SUBCLASS/PROTOCOL`, 8 bits each; `*` for any. Raises PatternError."""
    match = _TRIPLE.fullmatch(text.lower())
    if match is None:
        raise PatternError(f"{text!r}: a class is 08, 08/06 or 08/06/50 in hexadecimal, * for any part of it")
    value = mask = 0
    for part in match.groups():
        known = part not in (None, "*")
        value, mask = value << 8 | (int(part, 16) if known else 0), mask << 8 | (0xFF if known else 0)
    return Mask(value, mask)


def format_class(pattern: Mask) -> str:
    """What `parse_class` reads, without the parts at the end that may be anything."""
    known = [bool(pattern.mask >> shift & 0xFF) for shift in (16, 8, 0)]
    texts = [f"{pattern.value >> s & 0xFF:02x}" if k else "*" for s, k in zip((16, 8, 0), known, strict=True)]
    while len(texts) > 1 and texts[-1] == "*":
        texts.pop()
    return "/".join(texts)


def triple(class_: int, subclass: int, protocol: int) -> int:
    """The number that class patterns are held against."""
    return class_ << 16 | subclass << 8 | protocol


def parse_release(text: str) -> tuple[int, int]:
    """First and last bcdDevice of `0100`, `0100-01ff`, `0100-` or `-01ff`. Raises PatternError."""
    match = _RANGE.fullmatch(text.lower())
    if match is None or not (match[1] or match[3]) or (match[1] and match[3] and not match[2]):
        raise PatternError(f"{text!r}: bcdDevice is 0100, 0100-01ff, 0100- or -01ff in hexadecimal")
    first = int(match[1] or "0", 16)
    last = int(match[3], 16) if match[3] else (RELEASE_MAX if match[2] else first)
    if first > last:
        raise PatternError(f"{text!r}: the range ends before it begins")
    return first, last


def format_release(release: tuple[int, int]) -> str:
    """What `parse_release` reads."""
    first, last = release
    if first == last:
        return f"{first:04x}"
    return f"{f'{first:04x}' if first else ''}-{f'{last:04x}' if last < RELEASE_MAX or not first else ''}"


def _pair(text: str, how: str) -> Mask:
    match = _PAIR.fullmatch(text.lower())
    if match is None:
        raise PatternError(f"{text!r}: {how}")
    value = mask = 0
    for part in match.groups():
        digits = "????" if part == "*" else part
        for digit in digits:
            value, mask = value << 4 | (0 if digit == "?" else int(digit, 16)), mask << 4 | (0 if digit == "?" else 0xF)
    return Mask(value, mask)


def _word(pattern: Mask, shift: int) -> str:
    if not pattern.mask >> shift & 0xFFFF:
        return "*"
    shifts = range(shift + 12, shift - 1, -4)
    return "".join(f"{pattern.value >> s & 0xF:x}" if pattern.mask >> s & 0xF else "?" for s in shifts)
