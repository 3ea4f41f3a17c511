"""The tables of the compatibility list's database, and how one of an older version becomes one of today's.

version 1   the rules: those built from the sources, and the local ones
version 2   what happened: how attaching a device went
version 3   the same, counted for each model, so that what happened long ago need not be kept;
            identities, built from the sources
"""

import sqlite3
from typing import Final

APPLICATION_ID: Final = 0x75736272
"`PRAGMA application_id`: the file is one of ours (`usbr`)."

COUNT_OUTCOMES: Final = """
    INSERT INTO models SELECT vendor, product, bcd_device,
    sum(result = 'attached'), sum(result = 'failed'), sum(result = 'ended'), sum(resets), sum(seconds), min(at), max(at)
    FROM outcomes GROUP BY vendor, product, bcd_device"""
"Fills `models` from what is known of each attachment."

MIGRATIONS: Final = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE TABLE source_rules (position INTEGER PRIMARY KEY, place TEXT NOT NULL, body TEXT NOT NULL)",
        # AUTOINCREMENT: a number that someone has written down never means another rule later.
        """CREATE TABLE local_rules (
            id INTEGER PRIMARY KEY AUTOINCREMENT, position INTEGER NOT NULL, body TEXT NOT NULL)""",
    ),
    (
        """CREATE TABLE outcomes (
            id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL,
            vendor INTEGER NOT NULL, product INTEGER NOT NULL, bcd_device INTEGER NOT NULL,
            result TEXT NOT NULL, error TEXT NOT NULL, message TEXT NOT NULL,
            resets INTEGER NOT NULL, seconds REAL NOT NULL)""",
        "CREATE INDEX outcomes_of_model ON outcomes (vendor, product, bcd_device, at)",
    ),
    (
        """CREATE TABLE models (
            vendor INTEGER NOT NULL, product INTEGER NOT NULL, bcd_device INTEGER NOT NULL,
            attached INTEGER NOT NULL, failed INTEGER NOT NULL, ended INTEGER NOT NULL,
            resets INTEGER NOT NULL, seconds REAL NOT NULL, first REAL NOT NULL, last REAL NOT NULL,
            PRIMARY KEY (vendor, product, bcd_device))""",
        COUNT_OUTCOMES,
        "CREATE TABLE source_identities (position INTEGER PRIMARY KEY, place TEXT NOT NULL, body TEXT NOT NULL)",
        "DELETE FROM meta WHERE key = 'sources'",  # the identities are to be read from them
    ),
)
"What makes each version out of the one before; the first, out of an empty file. What stands here never changes again."

VERSION: Final = len(MIGRATIONS)

TABLES: Final = (
    ("meta", "source_rules", "local_rules"),
    ("outcomes",),
    ("models", "source_identities"),
)
"Tables that come with each version."


def version(connection: sqlite3.Connection) -> int:
    """The version of a database; 0 if there is nothing in it."""
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return found


def migrate(connection: sqlite3.Connection) -> int:
    """Bring a database to today's version, in one transaction; returns the version it had."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        had = version(connection)
        for statements in MIGRATIONS[had:]:
            for statement in statements:
                connection.execute(statement)
        if had < VERSION:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return had


def fault(connection: sqlite3.Connection) -> str:
    """Why a database can't be used although SQLite can read it; empty if it can."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    found = version(connection)
    if not tables and not found:
        return ""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return "it is a database of another program"
    if found > VERSION:
        return f"a newer usbbridge made it (version {found}; this one knows {VERSION})"
    missing = {name for names in TABLES[:found] for name in names} - tables
    return f"it lacks the table {', '.join(sorted(missing))}" if missing else ""
