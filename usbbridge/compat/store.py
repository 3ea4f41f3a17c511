"""The compatibility list as a whole: local rules, the sources' rules, and what was learned, in one SQLite database.

Local rules come first, then the sources'. All of them are held in memory too, so that a decision needs no disk, and
can be made whatever happens to it. `PRAGMA data_version` tells when another process has changed the database.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import usbbridge
from usbbridge.compat import damage, outcomes, source
from usbbridge.compat.database import Database, raise_generation, replace_all, set_meta
from usbbridge.compat.form import FormError, identity_of, identity_table, rule_of, table_of
from usbbridge.compat.opening import StoreError
from usbbridge.compat.outcomes import Model, Outcome
from usbbridge.compat.rule import Decision, Identity, Rule
from usbbridge.compat.ruleset import RuleSet
from usbbridge.compat.shadow import shadows
from usbbridge.errors import NotFoundError, NotPermittedError, RefusedError, UsbBridgeError
from usbbridge.usb.entry import DeviceEntry

LOCAL: Final = "local:"
"What the place of a local rule begins with; its number follows."

_CACHED: Final = 256
"Decisions kept: twice as many as there can be devices on a bus."
_LOCAL_RULES: Final = "SELECT id, body FROM local_rules ORDER BY position, id"


class Store:
    """The list, open. Used by one thread; any number of processes may have it open, and change it."""

    def __init__(self, path: Path, sources: Sequence[Path], *, read_only: bool, clock: Callable[[], float]) -> None:
        self._sources = tuple(sources)
        self._clock = clock
        self._cache: dict[tuple[object, ...], Decision] = {}
        self._database = Database(path, read_only=read_only, clock=clock)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls,
        path: Path,
        sources: Sequence[Path],
        *,
        read_only: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """The list at `path`, with the rules of `sources` (folders or files, later ones overruling).

        If it isn't there it is made; if it is older, brought up to date; if damaged, set aside and made again; if it
        can't be written, or `read_only`, nothing is changed and the sources' rules are taken as they are now. What was
        done is in `notices`. Raises RulesError if the sources can't be used and no earlier state of them is known, and
        StoreError if the database can't be read.
        """
        return cls(path, sources, read_only=read_only, clock=clock)

    def close(self) -> None:
        """Let go of the database. Decisions can still be made, by the rules known last."""
        self._database.close()
        self._seen: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        return self._database.path

    @property
    def notices(self) -> tuple[str, ...]:
        """What somebody should know of what was found at opening, and since: sentences, in their order."""
        return tuple(self._database.notices)

    @property
    def read_only(self) -> bool:
        """Whether nothing can be learned or changed."""
        return not self._database.writable

    @property
    def rules(self) -> RuleSet:
        """All rules in their order, as they are now."""
        self._refresh()
        return self._rules

    @property
    def local_rules(self) -> tuple[Rule, ...]:
        """The local ones of them; `where` is `local:NUMBER`."""
        return tuple(rule for rule in self.rules.rules if rule.where.startswith(LOCAL))

    def decide(self, entry: DeviceEntry) -> Decision:
        """What the list says about a device. Never fails: without the database, the rules known last hold."""
        self._refresh()
        key = (
            *(entry.vendor, entry.product, entry.bcd_device, entry.class_, entry.subclass, entry.protocol),
            *(entry.speed, entry.serial, entry.bus_port, entry.interfaces),
        )
        decision = self._cache.get(key)
        if decision is None:
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            decision = self._cache[key] = self._rules.judge(entry)
        return decision

    # ---- local rules

    def add(self, rule: Rule, *, first: bool = False) -> Rule:
        """Add a local rule after, or before, the others that are local; returns it with its place.

        Raises RefusedError if it would be there twice or never be reached, NotPermittedError if the list is read-only.
        """
        return self.add_all([rule], first=first)[0]

    def add_all(self, rules: Sequence[Rule], *, first: bool = False) -> list[Rule]:
        """Add local rules, in this order, or none if one of them is refused. Raises as `add` does."""
        self._check_writable()
        with self._database.lasting() as connection:
            numbers = _insert(connection, [table_of(rule) for rule in rules], first=first)
            local = self._local()
            added = [rule for rule in local if rule.where in {f"{LOCAL}{number}" for number in numbers}]
            _refuse_shadowed(local, added)
            raise_generation(connection)
        self._load()
        return added

    def remove(self, number: int) -> Rule:
        """Remove a local rule by its number; returns it. Raises NotFoundError, or NotPermittedError if read-only."""
        self._check_writable()
        where = f"{LOCAL}{number}"
        with self._database.lasting() as connection:
            found = next((rule for rule in self._local() if rule.where == where), Rule(where=where))
            if connection.execute("DELETE FROM local_rules WHERE id = ?", (number,)).rowcount == 0:
                raise NotFoundError(
                    f"there is no local rule {number}", hint="`usbbridge rules list --local` shows them"
                )
            raise_generation(connection)
        self._load()
        return found

    def _check_writable(self) -> None:
        if self.read_only:
            raise NotPermittedError(f"{self.path} can't be written", hint="run as root, or as the service's user")

    def _local(self) -> list[Rule]:
        return self._rules_of((f"{LOCAL}{number}", table) for number, table in self._database.bodies(_LOCAL_RULES))

    # ---- what was learned

    def record(
        self,
        vendor: int,
        product: int,
        bcd_device: int,
        result: str,
        error: str = "",
        message: str = "",
        resets: int = 0,
        seconds: float = 0.0,
    ) -> bool:
        """Remember how attaching a device of this model went (`attached`, `failed` or `ended`); False if it can't be.

        Never fails because of the database: what can't be remembered is lost, and a notice says so. Raises ValueError
        for another `result`.
        """
        if result not in outcomes.RESULTS:
            raise ValueError(f"no such result: {result!r:.40}")
        if self.read_only:
            return False
        made = Outcome(self._clock(), vendor, product, bcd_device, result, error, message, resets, seconds)
        try:
            with self._database.learning() as connection:
                outcomes.insert(connection, outcomes.clipped(made))
        except UsbBridgeError as failure:
            self._database.notice(failure.message)
            return False
        return True

    def outcomes(self, vendor: int | None = None, product: int | None = None, *, limit: int = 20) -> list[Outcome]:
        """The latest outcomes, latest first; of one vendor or product if it is named."""
        return self._database.ask(lambda connection: outcomes.latest(connection, vendor, product, limit))

    def models(self, vendor: int | None = None, product: int | None = None) -> list[Model]:
        """What happened, counted by model."""
        return self._database.ask(lambda connection: outcomes.models(connection, vendor, product))

    # ---- the rules in memory

    def reload(self) -> bool:
        """Read the sources again; whether anything has changed. Raises as `open` does, and then the old rules hold."""
        before = (self._rules.rules, self._rules.identities)
        self._refresh()  # the file may have been replaced, or removed
        try:
            if self._database.is_lost:
                self._database.open()
            if self._database.writable:
                self._build(keep=False)
            self._load()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self.path} can't be read: {error}", hint="try again") from error
        return (self._rules.rules, self._rules.identities) != before

    def _begin(self) -> None:
        if self._database.writable:
            try:
                self._build(keep=True)
            except StoreError as error:  # a full disk, above all
                self._database.notice(error.message)
                self._database.writable = False
        self._load()

    def _build(self, *, keep: bool) -> None:
        """Bring the sources' rules into the database if they are not those it has; `keep` its own if they are bad."""
        mark, known = self._mark(), self._database.meta("sources")
        if known == mark:
            return
        found = source.read(self._sources)
        if keep and known and self._has_mistakes(found):
            return
        found.check()
        with self._database.transaction() as connection:
            replace_all(connection, "source_rules", [(r.where, table_of(r)) for r in found.rules])
            replace_all(connection, "source_identities", [(i.where, identity_table(i)) for i in found.identities])
            set_meta(connection, "sources", mark)
            raise_generation(connection)

    def _load(self) -> None:
        """Take the rules into memory."""
        seen, generation = self._database.version(), self._database.meta("generation")
        shipped, identities = self._known() if self._database.writable else self._as_they_are()
        self._rules = RuleSet((*self._local(), *shipped), identities)
        self._seen, self._generation = seen, generation
        self._cache.clear()

    def _known(self) -> tuple[Sequence[Rule], Sequence[Identity]]:
        """What the database has of the sources."""
        bodies = self._database.bodies
        identities = bodies("SELECT place, body FROM source_identities ORDER BY position")
        rules = self._rules_of(bodies("SELECT place, body FROM source_rules ORDER BY position"))
        return rules, [identity_of(table, place) for place, table in identities]

    def _as_they_are(self) -> tuple[Sequence[Rule], Sequence[Identity]]:
        """What the sources have now, for a list that can't be changed."""
        known = self._database.meta("sources")
        if known == self._mark():
            return self._known()  # the same, and read in a tenth of the time
        found = source.read(self._sources)
        if known and self._has_mistakes(found):
            return self._known()
        found.check()
        return found.rules, found.identities

    def _has_mistakes(self, found: source.Sources) -> bool:
        """Whether these sources can't be used; the notice says that the known rules are used instead."""
        fatal = [problem for problem in found.problems if problem.fatal]
        if fatal:
            self._database.notice(f"the rules' sources have mistakes, so that those known before hold: {fatal[0]}")
        return bool(fatal)

    def _mark(self) -> str:
        """Changes with the sources, and with the program that reads them."""
        return f"{usbbridge.__version__} {source.fingerprint(self._sources)}"

    def _rules_of(self, tables: Iterable[tuple[str, dict[str, Any]]]) -> list[Rule]:
        rules = []
        for where, table in tables:
            try:
                rules.append(rule_of(table, where))
            except FormError as error:
                self._database.notice(f"{where} in {self.path} can't be understood and is passed over: {error}")
        return rules

    def _refresh(self) -> None:
        """Take in what other processes have changed. What fails is said, and what was known before holds."""
        try:
            version = self._database.version()
            if version == self._seen:
                return
            if version[:2] != self._seen[:2]:
                self._reopen()
            elif self._database.meta("generation") != self._generation:
                self._load()
            self._seen = self._database.version()
        except FileNotFoundError:
            self._reopen()
        except (sqlite3.Error, OSError, UsbBridgeError) as error:
            self._database.notice(f"{self.path} can't be read ({error}): the rules known before hold")
            if isinstance(error, sqlite3.Error) and damage.is_damage(error):
                self._reopen()

    def _reopen(self) -> None:
        """Open the database anew: it was replaced, removed, or is damaged. The rules in memory outlive any failure."""
        try:
            self._database.open()
            self._begin()
        except (UsbBridgeError, sqlite3.Error, OSError) as error:
            self._database.notice(f"the rules known before hold: {error}")
            self.close()


def _insert(connection: sqlite3.Connection, tables: list[dict[str, Any]], *, first: bool) -> list[int]:
    """Rows for local rules, before or after all others, in this order; returns their numbers."""
    lowest, highest = connection.execute(
        "SELECT ifnull(min(position), 0), ifnull(max(position), 0) FROM local_rules"
    ).fetchone()
    start = lowest - len(tables) if first else highest + 1
    insert = "INSERT INTO local_rules (position, body) VALUES (?, ?) RETURNING id"
    rows = [(start + offset, json.dumps(table)) for offset, table in enumerate(tables)]
    return [connection.execute(insert, row).fetchone()[0] for row in rows]


def _refuse_shadowed(local: list[Rule], added: list[Rule]) -> None:
    for rule, reason in shadows(local):
        if rule in added:
            raise RefusedError(
                f"this rule is {reason}", hint="put it before the others with --first, or remove that one"
            )
