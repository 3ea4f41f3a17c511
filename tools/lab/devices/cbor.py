"""CBOR (RFC 8949) as far as CTAP2 messages use it: integers, strings, arrays, maps, true, false and null.

What is encoded is in CTAP2's canonical form (CTAP 2.1 §8): the shortest lengths, and maps sorted by their keys' bytes.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

from usbbridge.errors import RemoteProtocolError

Value: TypeAlias = "int | bytes | str | bool | list[Value] | dict[Key, Value] | None"
Key: TypeAlias = int | str

UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY, MAP, _TAG, SIMPLE = range(8)
"Major types (§3.1)."
FALSE, TRUE, NULL = 20, 21, 22
"Simple values (§3.3)."

MAX_DEPTH: Final = 4
"CTAP 2.1 §8: no message nests deeper."

_SIZES: Final = {24: 1, 25: 2, 26: 4, 27: 8}
"Bytes of the number that follows the first byte, by its lower five bits (§3)."


class CborError(RemoteProtocolError):
    """What came is not CBOR, or not of the kind that CTAP2 has."""


def encode(value: Value) -> bytes:
    """The canonical encoding of a value."""
    if value is None or isinstance(value, bool):
        return _head(SIMPLE, NULL if value is None else TRUE if value else FALSE)
    if isinstance(value, int):
        return _head(UNSIGNED, value) if value >= 0 else _head(NEGATIVE, -1 - value)
    if isinstance(value, bytes):
        return _head(BYTES, len(value)) + value
    if isinstance(value, str):
        return _head(TEXT, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _head(ARRAY, len(value)) + b"".join(map(encode, value))
    pairs = sorted((encode(key), encode(item)) for key, item in value.items())
    return _head(MAP, len(pairs)) + b"".join(key + item for key, item in pairs)


def _head(major: int, number: int) -> bytes:
    if number < min(_SIZES):
        return bytes((major << 5 | number,))
    info, size = next((info, size) for info, size in _SIZES.items() if number < 1 << 8 * size)
    return bytes((major << 5 | info,)) + number.to_bytes(size)


def decode(data: bytes) -> Value:
    """The one value that `data` is. Raises CborError; never reads or makes more than `data` is long."""
    decoder = _Decoder(data)
    value = decoder.value(0)
    if decoder.left:
        raise CborError(f"{decoder.left} bytes follow the value")
    return value


class _Decoder:
    """A place in the bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        self._kinds: dict[int, Callable[[int, int], Value]] = {
            UNSIGNED: lambda number, depth: number,
            NEGATIVE: lambda number, depth: -1 - number,
            BYTES: lambda number, depth: self._take(number),
            TEXT: lambda number, depth: self._text(number),
            ARRAY: self._array,
            MAP: self._map,
            SIMPLE: lambda number, depth: _simple(number),
        }

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def value(self, depth: int) -> Value:
        """The next value, `depth` arrays and maps deep."""
        if depth > MAX_DEPTH:
            raise CborError(f"nested deeper than {MAX_DEPTH}")
        first = self._take(1)[0]
        major, number = first >> 5, first & 0x1F
        if number in _SIZES:
            number = int.from_bytes(self._take(_SIZES[number]))
        elif number > max(_SIZES):
            raise CborError(f"length of the kind {number}, which is indefinite or reserved")
        if major not in self._kinds:
            raise CborError("a tag, which CTAP2 doesn't have")
        return self._kinds[major](number, depth)

    def _take(self, size: int) -> bytes:
        if size > self.left:
            raise CborError(f"ends {size - self.left} bytes too early")
        self._at += size
        return self._data[self._at - size : self._at]

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode()
        except UnicodeDecodeError as error:
            raise CborError("text that is not UTF-8") from error

    def _array(self, count: int, depth: int) -> Value:
        self._check_count(count)
        return [self.value(depth + 1) for _ in range(count)]

    def _map(self, count: int, depth: int) -> Value:
        self._check_count(2 * count)
        found: dict[Key, Value] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, int | str) or isinstance(key, bool) or key in found:
                raise CborError(f"{key!r} is no key of a map, or comes twice")
            found[key] = self.value(depth + 1)
        return found

    def _check_count(self, count: int) -> None:
        """Each item is a byte or more: a count that can't be is not even begun with."""
        if count > self.left:
            raise CborError(f"{count} items announced in {self.left} bytes")


def _simple(number: int) -> Value:
    known = {FALSE: False, TRUE: True, NULL: None}
    if number not in known:
        raise CborError(f"simple value {number}, or a floating-point number")
    return known[number]
