"""On which lines of a TOML document its tables and keys stand: tomllib reads values, but does not say where they were.

The document is cut into strings, comments, brackets and line ends, which is all one must know to tell where a
statement begins. Only what rule sources use is understood: `[[name]]` headers, with bare keys below them. Whoever asks
must hold the answer against what tomllib has found, and take anything else for a document written another way.
"""

import re
from dataclasses import dataclass, field
from typing import Final

_PIECES: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # multi-line strings may end in up to two quotes of their own (TOML 1.0)
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[{]|[\]}]|\n|[^\"'#\[\]{}\n]+|.",
    re.DOTALL,
)
_HEADER: Final = re.compile(r"\[\[\s*([A-Za-z0-9_-]+)\s*\]\]")
_KEY: Final = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")


@dataclass(slots=True)
class Table:
    """A `[[name]]` header and the keys below it, each with its line, counted from 1."""

    name: str
    line: int
    keys: dict[str, int] = field(default_factory=dict)


def tables(text: str) -> list[Table]:
    """The tables of a document that tomllib can read, in order; keys above the first header are in one named ""."""
    found = [Table("", 1)]
    for line, statement in _statements(text):
        header, key = _HEADER.fullmatch(statement.strip()), _KEY.match(statement)
        if header:
            found.append(Table(header[1], line))
        elif key:
            found[-1].keys.setdefault(key[1], line)
    return found


def _statements(text: str) -> list[tuple[int, str]]:
    """(line, text without comments) of every statement: a line, or several where brackets or strings span them."""
    statements, line, depth = [], 1, 0
    start, parts = 1, list[str]()
    for match in _PIECES.finditer(text + "\n"):
        piece = match[0]
        if piece == "\n" and not depth:
            if "".join(parts).strip():
                statements.append((start, "".join(parts)))
            start, parts = line + 1, []
        elif not piece.startswith("#"):
            depth += (piece in "[{") - (piece in "]}")
            parts.append(piece)
        line += piece.count("\n")
    return statements
