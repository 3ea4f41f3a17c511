"""A database that can't be used: found out, put out of the way, and what can still be read of it, read.

Nothing is thrown away at once: the file is renamed, with its write-ahead log, and stays beside the new one.
"""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from usbbridge.compat import schema

KEPT: Final = 3
"Databases set aside that are kept; when there are more, the oldest goes. A failing disk must not fill up as well."

_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SHORT_READ: Final = 522
"SQLITE_IOERR_SHORT_READ: the file ends before it should. sqlite.org/rescode.html"


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file is broken, and not that it is busy, read-only or on a full disk."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in _DAMAGE or code == _SHORT_READ


def diagnose(connection: sqlite3.Connection) -> str:
    """What is wrong with a database, in words; empty if nothing is. Raises sqlite3.Error if it can't be told."""
    try:
        connection.execute("PRAGMA cell_size_check = ON")
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        return schema.fault(connection) if found == "ok" else str(found).removeprefix("*** in database main ***\n")
    except sqlite3.Error as error:
        if is_damage(error):
            return str(error)
        raise


def set_aside(path: Path, now: float) -> Path:
    """Rename a database and its log; returns its new name. Raises OSError."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    for suffix in ("-wal", ""):  # the log first: without it, the database is still whole, only older
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    _remove_oldest(path)
    return aside


def _remove_oldest(path: Path) -> None:
    asides = [a for a in path.parent.glob(f"{path.name}.damaged-*") if not a.name.endswith(("-wal", "-shm"))]
    for old in sorted(asides, key=lambda file: file.stat().st_mtime_ns)[:-KEPT]:
        for suffix in ("", "-wal", "-shm"):
            old.with_name(old.name + suffix).unlink(missing_ok=True)


def salvage(path: Path, table: str, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """The rows of a table that can still be read: from its beginning up to the damage, and from its end down to it."""
    found: dict[int, tuple[Any, ...]] = {}
    for order in ("ASC", "DESC"):
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(_reading(path)) as connection:
            for rowid, *row in _rows(connection, table, columns, order):
                found[rowid] = tuple(row)
    return [found[rowid] for rowid in sorted(found)]


def _reading(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA writable_schema = ON")  # or SQLite reads nothing of a file that was cut short
    connection.execute("PRAGMA query_only = ON")
    return connection


def _rows(connection: sqlite3.Connection, table: str, columns: tuple[str, ...], order: str) -> Iterator[Any]:
    # They come one by one, in the order they lie in the file: what was read before the damage is kept.
    names = ", ".join(columns)
    return iter(connection.execute(f"SELECT rowid, {names} FROM {table} ORDER BY rowid {order}"))  # noqa: S608 - our own names
