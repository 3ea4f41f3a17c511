"""In which line of a TOML text each key stands, which `tomllib` does not tell.

The text must be one that tomllib accepts. Then a scanner is enough that knows where strings, comments, arrays and
tables begin and end (TOML 1.0.0): what a value is, tomllib has said. A test holds the two against each other.
"""

import re
import tomllib
from typing import Final

Key = tuple[str | int, ...]
"Way to a value: names of keys, and indices in arrays."

# Triple quotes first: an ordinary empty string is their beginning. Their end may have two more quotes before it.
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' r"'''.*?'{3,5}|" r'"(?:[^"\\]|\\.)*"|' r"'[^']*'",
    re.DOTALL,
)
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE: Final = re.compile(r"[^,\]}#\n]+")
"Numbers, booleans, and dates, which may have a space in them."
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")


def lines_of(text: str) -> dict[Key, int]:
    """The line, counted from 1, in which each table, key and array element of a valid TOML `text` begins."""
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._lines_until = 0
        self._tables: dict[Key, int] = {}
        "Arrays of tables, and how many tables each has so far."
        self.lines: dict[Key, int] = {}

    def document(self) -> None:
        table: Key = ()
        while self._skip(_BLANK) and self._at < len(self._text):
            if self._text.startswith("[[", self._at):
                table = self._header(2, is_array=True)
            elif self._text[self._at] == "[":
                table = self._header(1, is_array=False)
            else:
                self._pair(table)

    def _header(self, brackets: int, *, is_array: bool) -> Key:
        line = self._line_now()
        self._at += brackets
        parts = self._key()
        self._at += brackets
        table: Key = ()
        for part in parts[:-1]:
            table = self._current((*table, part))
            self.lines.setdefault(table, line)
        table = (*table, parts[-1])
        if is_array:
            self.lines.setdefault(table, line)
            self._tables[table] = self._tables.get(table, 0) + 1
        table = self._current(table)
        self.lines[table] = line
        return table

    def _current(self, table: Key) -> Key:
        """The table that a name in a header leads to: of an array of tables it is the last."""
        return (*table, self._tables[table] - 1) if table in self._tables else table

    def _pair(self, table: Key) -> None:
        line = self._line_now()
        for part in self._key():
            table = (*table, part)
            self.lines.setdefault(table, line)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(table)

    def _key(self) -> list[str]:
        parts = [self._simple_key()]
        while self._skip(_SPACE) and self._text.startswith(".", self._at):
            self._at += 1
            parts.append(self._simple_key())
        return parts

    def _simple_key(self) -> str:
        self._skip(_SPACE)
        if self._text[self._at] not in "\"'":
            return self._take(_BARE_KEY)
        name = tomllib.loads(f"key = {self._take(_STRING)}")["key"]
        assert isinstance(name, str)
        return name

    def _value(self, key: Key) -> None:
        first = self._text[self._at]
        if first == "[":
            self._array(key)
        elif first == "{":
            self._inline_table(key)
        else:
            self._take(_STRING if first in "\"'" else _BARE_VALUE)

    def _array(self, key: Key) -> None:
        index = 0
        while self._next_item("]"):
            self.lines[*key, index] = self._line_now()
            self._value((*key, index))
            index += 1

    def _inline_table(self, key: Key) -> None:
        while self._next_item("}"):
            self._pair(key)

    def _next_item(self, end: str) -> bool:
        """Go past an opening bracket or a comma to what comes next; False, and past it, if that is the `end`."""
        self._skip(_BLANK)
        if self._text[self._at] in ",[{":
            self._at += 1
            self._skip(_BLANK)
        if self._text[self._at] != end:
            return True
        self._at += 1
        return False

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        self._take(pattern)
        return True

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        assert match, f"line {self._line_now()} is not what tomllib took it for"
        self._at = match.end()
        return match[0]

    def _line_now(self) -> int:
        self._line += self._text.count("\n", self._lines_until, self._at)
        self._lines_until = self._at
        return self._line
