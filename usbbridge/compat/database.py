"""The database behind the list: a connection that notices other processes' changes, and outlives damage."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from usbbridge.compat import damage, opening
from usbbridge.compat.opening import StoreError

Table = dict[str, Any]
T = TypeVar("T")

_MAX_NOTICES: Final = 50
"Notices kept, of a database that fails again and again."


class Database:
    """Rows in and out. What is known of the file's state is in `notices`."""

    def __init__(self, path: Path, *, read_only: bool, clock: Callable[[], float]) -> None:
        self.path = path
        self.notices: list[str] = []
        self._connection: sqlite3.Connection | None = None
        self._asked_read_only = read_only
        self._clock = clock
        self.writable = False
        self._is_blocked = False
        "Whether the last wait to learn something was in vain."
        self.open()

    def open(self) -> None:
        """Open the file, as if for the first time. Raises StoreError."""
        self.close()
        asked = (
            opening.for_reading(self.path) if self._asked_read_only else opening.for_writing(self.path, self._clock())
        )
        self._connection, self.writable = asked.connection, asked.writable
        for notice in asked.notices:
            self.notice(notice)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self.writable = None, False

    @property
    def is_lost(self) -> bool:
        """Whether there was a database to write to, and is no more."""
        return self._connection is None and not self._asked_read_only

    def notice(self, notice: str) -> None:
        """Something that somebody should know; said once."""
        if notice not in self.notices:
            self.notices = [*self.notices, notice][-_MAX_NOTICES:]

    def version(self) -> tuple[int, ...]:
        """Changes when another process has changed the file, or replaced it. Raises sqlite3.Error and OSError."""
        if self._connection is None:
            return ()
        status = os.stat(self.path)  # noqa: PTH116 - half the time of Path.stat, and this precedes every decision
        return (status.st_dev, status.st_ino, self._connection.execute("PRAGMA data_version").fetchone()[0])

    def ask(self, question: Callable[[sqlite3.Connection], list[T]]) -> list[T]:
        """The answer; nothing, and a notice, where the database can't give one."""
        if self._connection is None:
            return []
        try:
            return question(self._connection)
        except sqlite3.Error as error:
            self.notice(f"{self.path} can't be read: {error}")
            return []

    def meta(self, key: str) -> str:
        """One of the values kept beside the rules; empty if there is none."""
        query = "SELECT value FROM meta WHERE key = ?"
        return "".join(str(value) for (value,) in self.ask(lambda c: c.execute(query, (key,)).fetchall()))

    def bodies(self, query: str) -> list[tuple[Any, Any]]:
        """(place or number, table) of the rows of a query; one that can't be read is passed over, and said."""
        return [
            (place, table)
            for place, body in self.ask(lambda connection: connection.execute(query).fetchall())
            if (table := self._table(place, body)) is not None
        ]

    def _table(self, place: object, body: str | bytes) -> Table | None:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            table = json.loads(body)
            if isinstance(table, dict):
                return table
        self.notice(f"{place} in {self.path} can't be understood and is passed over")
        return None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing of what is done in the block. Raises StoreError; after damage, the file has been replaced."""
        connection = self._connection
        if connection is None:
            raise StoreError(f"{self.path} can't be written", hint="nothing was changed")
        try:
            connection.execute("BEGIN IMMEDIATE")
            with _ended(connection):
                yield connection
        except sqlite3.Error as error:
            if damage.is_damage(error):
                self.open()
            raise StoreError(f"{self.path} can't be written: {error}", hint="nothing was changed") from error

    @contextlib.contextmanager
    def lasting(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is on the disk when its block has ended, also if the power fails then."""
        self._pragma("synchronous = FULL")
        try:
            with self.transaction() as connection:
                yield connection
        finally:
            self._pragma("synchronous = NORMAL")

    @contextlib.contextmanager
    def learning(self) -> Iterator[sqlite3.Connection]:
        """A transaction for what may be lost. Who holds a lock for ever, which takes no more than the right to read the
        file, costs one wait, and then none until there is no lock."""
        if self._is_blocked:
            self._pragma("busy_timeout = 0")
        blocked, self._is_blocked = self._is_blocked, True
        try:
            with self.transaction() as connection:
                yield connection
            self._is_blocked = False
        finally:
            if blocked:
                self._pragma(f"busy_timeout = {opening.BUSY_SECONDS * 1000:.0f}")

    def _pragma(self, pragma: str) -> None:
        if self._connection is not None:
            self._connection.execute(f"PRAGMA {pragma}")


@contextlib.contextmanager
def _ended(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def replace_all(connection: sqlite3.Connection, table: str, items: list[tuple[str, Table]]) -> None:
    """Put these (place, table) pairs in the stead of all rows that were built from the sources."""
    connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own name
    connection.executemany(
        f"INSERT INTO {table} (position, place, body) VALUES (?, ?, ?)",  # noqa: S608 - our own name
        [(position, place, json.dumps(body)) for position, (place, body) in enumerate(items)],
    )


def set_meta(connection: sqlite3.Connection, key: str, value: str) -> None:
    """Keep a value beside the rules."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def raise_generation(connection: sqlite3.Connection) -> None:
    """Tell other processes that rules have changed; outcomes change the file too, and far more often."""
    connection.execute(
        """INSERT INTO meta VALUES ('generation', '1')
        ON CONFLICT DO UPDATE SET value = CAST(value AS INTEGER) + 1"""
    )
