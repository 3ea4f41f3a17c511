"""Opens the database, in whatever state it is found: new, of an older version, damaged, read-only, or not there at all.

Opening for writing happens under a lock of its own (`PATH.lock`), so that of several processes that find a damaged
database one sets it aside and the others find the new one.
"""

import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from usbbridge.compat import damage, schema
from usbbridge.errors import UsbBridgeError

BUSY_SECONDS: Final = 5.0
"How long one process waits for another's transaction; ours take milliseconds, also on an old flash card."

_READABLE: Final = 0o644
"Whoever may list devices may see why one is denied. Learned outcomes hold no serial numbers."


class StoreError(UsbBridgeError):
    """The compatibility list's database can't be used."""


@dataclass(slots=True)
class Opened:
    """A database, or None where rules are held in memory alone, and what there is to say about it."""

    connection: sqlite3.Connection | None
    writable: bool
    notices: list[str]


def for_reading(path: Path) -> Opened:
    """The database as it is; nothing is changed. None if it isn't there, or can't be read."""
    if not path.exists():
        return Opened(None, False, [])
    try:
        connection = _connect_reading(path)
        reason = damage.diagnose(connection)
    except sqlite3.Error as error:
        return Opened(None, False, [f"{path} can't be read ({error}): only the sources' rules hold here"])
    if reason or not schema.version(connection):
        connection.close()
        notices = [f"{path} is damaged ({reason}): only the sources' rules hold here"] if reason else []
        return Opened(None, False, notices)
    return Opened(connection, False, [])


def for_writing(path: Path, now: float) -> Opened:
    """The database, made, repaired and brought to today's version if need be; only read if it can't be written.

    Raises StoreError if it can't even be read.
    """
    notices: list[str] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_read_only(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with _locked(path):
            return Opened(_prepared(path, now, notices), True, notices)
    except (OSError, sqlite3.Error) as error:
        if not _is_unwritable(error):
            raise StoreError(f"{path} can't be opened: {error}", hint="is the disk failing?") from error
        reason = error.strerror if isinstance(error, OSError) else str(error)
        opened = for_reading(path)
        if opened.connection is None and _is_busy(error):  # local rules can't be read, those that deny among them
            raise StoreError(f"{path} can't be opened: {error}", hint="end the program that keeps it locked") from error
        opened.notices.insert(
            0, f"{path} can't be written ({reason}): nothing is learned, local rules can't be changed"
        )
        return opened


def _is_unwritable(error: OSError | sqlite3.Error) -> bool:
    """Whether an error says no more than that nothing can be written: a service goes on without learning then."""
    if isinstance(error, OSError):
        return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
    return _is_busy(error) or getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
    )


def _is_busy(error: OSError | sqlite3.Error) -> bool:
    """Whether another process keeps it locked. Whoever may read the file can do that (fcntl(2), F_RDLCK), which is
    everybody: it must not keep the monitor from starting."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _is_read_only(path: Path) -> bool:
    """Whether files can't be written, or the log beside them can't be made; also root can't on a read-only disk."""
    return not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.R_OK | os.W_OK))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _prepared(path: Path, now: float, notices: list[str]) -> sqlite3.Connection:
    connection = _connect(path)
    try:
        reason = damage.diagnose(connection)
        if reason:
            connection.close()
            aside = damage.set_aside(path, now)
            connection = _connect(path)
            schema.migrate(connection)
            notices.append(f"{path} could not be used ({reason}); it was set aside as {aside.name} and built anew")
            notices += recover(aside, connection)
        _settle(connection)
        had = schema.migrate(connection)
    except BaseException:
        connection.close()
        raise
    if 0 < had < schema.VERSION:
        notices.append(f"{path} was brought from version {had} to {schema.VERSION}")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, _READABLE))
    if path.stat().st_uid == 0 == os.geteuid() and not path.stat().st_size:
        path.chmod(_READABLE)  # a unit's UMask= is not meant for it; the log gets the same mode from SQLite
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)


def _settle(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # with WAL, a crash loses nothing, a power cut at most the latest
    connection.execute("PRAGMA trusted_schema = OFF")


def _connect_reading(path: Path) -> sqlite3.Connection:
    """Read-only: beside a log that can't be joined, the file alone is read, as it was at its last checkpoint."""
    for option in ("mode=ro", "mode=ro&immutable=1"):
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?{option}", timeout=BUSY_SECONDS, isolation_level=None, uri=True
        )
        try:
            schema.version(connection)
            return connection
        except sqlite3.OperationalError as error:
            connection.close()
            failure = error
    raise failure


_RECOVERED: Final = {
    "local_rules": ("id", "position", "body"),
    "outcomes": ("id", "at", "vendor", "product", "bcd_device", "result", "error", "message", "resets", "seconds"),
    "models": (
        *("vendor", "product", "bcd_device", "attached", "failed", "ended"),
        *("resets", "seconds", "first", "last"),
    ),
}
"What can't be built again from the sources."


def recover(aside: Path, connection: sqlite3.Connection) -> list[str]:
    """Take over what can be read of a database that was set aside, and say how much that was."""
    rows = {table: damage.salvage(aside, table, columns) for table, columns in _RECOVERED.items()}
    counts = {table: _insert(connection, table, rows[table]) for table in _RECOVERED}
    if not counts["models"] and counts["outcomes"]:
        counts["models"] = connection.execute(schema.COUNT_OUTCOMES).rowcount
    if not any(counts.values()):
        return ["nothing that was learned or added locally could be recovered from it"]
    rules, outcomes, models = (counts[table] for table in _RECOVERED)
    return [f"recovered from it: {rules} local rules, {outcomes} outcomes, what is known of {models} models"]


def _insert(connection: sqlite3.Connection, table: str, rows: list[tuple[object, ...]]) -> int:
    columns = _RECOVERED[table]
    statement = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - our own names
    added = 0
    for row in rows:
        with contextlib.suppress(sqlite3.Error):  # a row that is itself damaged: NULL where there must be a value
            added += connection.execute(statement, row).rowcount
    return added
