"""What happened with devices, as the database keeps it: the latest attachments, and counts for each model."""

import sqlite3
from dataclasses import astuple, dataclass
from typing import Final

RESULTS: Final = ("attached", "failed", "ended")

KEPT: Final = 20
"Latest outcomes kept of a model; the counts go on."
MAX_MODELS: Final = 5000
"Models remembered; then the one not seen for longest is forgotten: made-up devices must not fill the disk."
MAX_TEXT: Final = 500
"Characters of a message that are kept."
_MAX_COUNT: Final = 1 << 31
"Resets, or seconds: more than a session can have."


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attachment went."""

    at: float
    "Seconds since 1970."
    vendor: int
    product: int
    bcd_device: int
    result: str
    "One of `RESULTS`."
    error: str = ""
    "Name of the error's class, if there was one."
    message: str = ""
    resets: int = 0
    seconds: float = 0.0
    "How long it was attached."


@dataclass(frozen=True, slots=True)
class Model:
    """What happened with all devices of one vendor, product and release."""

    vendor: int
    product: int
    bcd_device: int
    attached: int
    failed: int
    ended: int
    resets: int
    seconds: float
    "Attached in all."
    first: float
    last: float

    def __str__(self) -> str:
        """One line for people."""
        hours = self.seconds / 3600
        words = f"attached {self.attached} times, failed {self.failed}, {hours:.1f} hours in all"
        return words + (
            f", reset {self.resets} times ({self.resets / hours:.1f} an hour)" if self.resets and hours else ""
        )


def clipped(outcome: Outcome) -> Outcome:
    """The outcome within limits: it comes from a process that talks to strangers."""
    return Outcome(
        outcome.at,
        outcome.vendor & 0xFFFF,
        outcome.product & 0xFFFF,
        outcome.bcd_device & 0xFFFF,
        outcome.result,
        _text(outcome.error),
        _text(outcome.message),
        min(max(outcome.resets, 0), _MAX_COUNT),
        min(max(outcome.seconds, 0.0), float(_MAX_COUNT)),
    )


def _text(text: str) -> str:
    """What can be stored: JSON may hold halves of surrogate pairs, which no encoding has."""
    return text[:MAX_TEXT].encode(errors="replace").decode()


def insert(connection: sqlite3.Connection, outcome: Outcome) -> None:
    """Remember an outcome, within a transaction. Raises sqlite3.Error."""
    model = (outcome.vendor, outcome.product, outcome.bcd_device)
    connection.execute(
        """INSERT INTO outcomes (at, vendor, product, bcd_device, result, error, message, resets, seconds)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        astuple(outcome),
    )
    connection.execute(
        """DELETE FROM outcomes WHERE id IN (SELECT id FROM outcomes
        WHERE vendor = ? AND product = ? AND bcd_device = ? ORDER BY id DESC LIMIT -1 OFFSET ?)""",
        (*model, KEPT),
    )
    counts = (*(outcome.result == result for result in RESULTS), outcome.resets, outcome.seconds)
    connection.execute(
        """INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
        attached = attached + excluded.attached, failed = failed + excluded.failed, ended = ended + excluded.ended,
        resets = resets + excluded.resets, seconds = seconds + excluded.seconds, last = excluded.last""",
        (*model, *counts, outcome.at, outcome.at),
    )
    _forget_oldest(connection)


def _forget_oldest(connection: sqlite3.Connection) -> None:
    number = connection.execute("SELECT count(*) FROM models").fetchone()[0]
    if number <= MAX_MODELS:
        return
    oldest = "SELECT vendor, product, bcd_device FROM models ORDER BY last LIMIT ?"
    for model in connection.execute(oldest, (number - MAX_MODELS,)).fetchall():
        for table in ("outcomes", "models"):
            connection.execute(f"DELETE FROM {table} WHERE vendor = ? AND product = ? AND bcd_device = ?", model)  # noqa: S608 - one of two names


def latest(connection: sqlite3.Connection, vendor: int | None, product: int | None, limit: int) -> list[Outcome]:
    """The latest outcomes, latest first; of one vendor or product only if it is named."""
    rows = connection.execute(
        """SELECT at, vendor, product, bcd_device, result, error, message, resets, seconds FROM outcomes
        WHERE vendor = ifnull(?, vendor) AND product = ifnull(?, product) ORDER BY id DESC LIMIT ?""",
        (vendor, product, limit),
    )
    return [Outcome(*row) for row in rows]


def models(connection: sqlite3.Connection, vendor: int | None, product: int | None) -> list[Model]:
    """Counts by model, in the order of their ids; of one vendor or product only if it is named."""
    rows = connection.execute(
        """SELECT * FROM models WHERE vendor = ifnull(?, vendor) AND product = ifnull(?, product)
        ORDER BY vendor, product, bcd_device""",
        (vendor, product),
    )
    return [Model(*row) for row in rows]
