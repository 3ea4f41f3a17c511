"""Choices made by the bytes of an input.

A fuzzer that changes a byte changes one choice; when the bytes are used up every further choice is the first one, so
that any bytes at all are an input. Depends on nothing that a fuzzer brings with it: the regression test needs none.
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Source:
    """Reads an input from its start; true while there is something left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, size: int = 1) -> int:
        """An unsigned number of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def below(self, limit: int) -> int:
        """A number from 0 to `limit` - 1, by one byte."""
        return self.number() % limit

    def flag(self) -> bool:
        return bool(self.number() & 1)

    def pick(self, options: Sequence[T]) -> T:
        """One of these, by one byte."""
        return options[self.below(len(options))]

    def take(self, size: int) -> bytes:
        """The next `size` bytes, or as many as there are."""
        found = self._data[self._at : self._at + size]
        self._at += len(found)
        return found

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes; zeros in the place of those that there are not."""
        return self.take(size).ljust(size, b"\0")

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))
