"""Rule sources: `NN-*.toml` files, in the order of their names; each is `[[rule]]` and `[[identity]]` tables.

There can be several folders. As with udev's, a file in a later one takes the place of a file of the same name in an
earlier one, and all are ordered by name alone: an administrator's `10-ours.toml` comes before what is shipped, and an
empty `50-devices.toml` does away with what is shipped under that name.
"""

import re
import site
import stat
import sys
import tomllib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import usbbridge
from usbbridge.compat.form import FormError, closest, identity_of, rule_of
from usbbridge.compat.lines import Table, tables
from usbbridge.compat.rule import Identity, Rule
from usbbridge.compat.shadow import shadows
from usbbridge.errors import UsbBridgeError

MAX_FILE: Final = 4 << 20
"Bytes of a source: some 20,000 rules with notes."
MAX_RULES: Final = 50_000
"Rules in all: five times as many as a decision is measured with."

_NAME: Final = re.compile(r"[0-9]{2}-[A-Za-z0-9._-]+\.toml")
_KINDS: Final = ("rule", "identity")
_TOML_PLACE: Final = re.compile(r"(.*) \(at line ([0-9]+), column [0-9]+\)")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something wrong in a source."""

    file: Path
    line: int
    "Counted from 1."
    reason: str
    fatal: bool = True
    "False if the rules can be used all the same: one is there twice, or is never reached."

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


class RulesError(UsbBridgeError):
    """The rules' sources can't be used; `problems` is everything that is wrong with them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"the rules can't be read:{lines}", hint="`usbbridge rules check` shows all that is wrong")


@dataclass(frozen=True, slots=True)
class Sources:
    """What a set of sources holds."""

    rules: tuple[Rule, ...] = ()
    identities: tuple[Identity, ...] = ()
    problems: tuple[Problem, ...] = ()

    def check(self) -> None:
        """Raises RulesError if the rules can't be used as they are."""
        fatal = [problem for problem in self.problems if problem.fatal]
        if fatal:
            raise RulesError(fatal)


def shipped_rules() -> Path:
    """The folder of the rules that come with usbbridge: of the source tree it runs from, or where it is installed."""
    in_tree = Path(usbbridge.__file__).parents[1] / "rules/compat"
    bases = (sys.prefix, site.getuserbase(), "/usr/local", "/usr")
    installed = [Path(base) / "share/usbbridge/rules/compat" for base in bases]
    return next((folder for folder in (in_tree, *installed) if folder.is_dir()), installed[0])


def files(sources: Sequence[Path]) -> list[Path]:
    """The files of these folders and files, in their order. A folder that isn't there has none."""
    found: dict[str, Path] = {}
    for place in sources:
        inside = place.iterdir() if place.is_dir() else [place]
        found |= {file.name: file for file in inside if file.suffix == ".toml"}
    return [found[name] for name in sorted(found)]


def fingerprint(sources: Sequence[Path]) -> str:
    """Changes with every change of a source: their names, sizes and check sums.

    It is to notice a change, not to keep anyone from hiding one: whoever can write the sources makes the rules.
    """
    contents = [(file.name, _bytes(file)) for file in files(sources)]
    return " ".join(f"{name}:{len(data)}:{zlib.crc32(data):08x}" for name, data in contents)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def read(sources: Sequence[Path]) -> Sources:
    """The rules and identities of these folders and files, and everything that is wrong with them."""
    parts = [(file, read_text(file, _text(file))) for file in files(sources)]
    rules = tuple(rule for _, part in parts for rule in part.rules)
    problems = [problem for _, part in parts for problem in part.problems]
    if len(rules) > MAX_RULES:
        problems.append(Problem(parts[0][0], 1, f"{len(rules)} rules in all; the limit is {MAX_RULES}"))
    for folder in {file.parent for file, _ in parts}:
        problems += _shadowed([(file, part.rules) for file, part in parts if file.parent == folder])
    identities = tuple(identity for _, part in parts for identity in part.identities)
    return Sources(rules, identities, tuple(sorted(problems)))


def _shadowed(parts: list[tuple[Path, tuple[Rule, ...]]]) -> list[Problem]:
    """Rules of one folder that are there for nothing; to overrule those of another folder is what they are for."""
    places = {file.name: file for file, _ in parts}
    found = shadows([rule for _, rules in parts for rule in rules])
    split = [(rule.where.rpartition(":"), reason) for rule, reason in found]
    return [Problem(places[name], int(line), reason, fatal=False) for (name, _, line), reason in split]


def _text(file: Path) -> str | Problem:
    """What a file holds, or why it can't be used."""
    try:
        status = file.stat()
        if status.st_mode & stat.S_IWOTH and stat.S_ISREG(status.st_mode):
            return Problem(file, 1, f"anyone may write to it (mode {status.st_mode & 0o777:o}): chmod o-w {file}")
        if status.st_size > MAX_FILE:
            return Problem(file, 1, f"{status.st_size} bytes; the limit is {MAX_FILE}")
        if file.suffix == ".toml" and not _NAME.fullmatch(file.name):
            return Problem(file, 1, "a source is called NN-NAME.toml, the two digits giving its place among the others")
        return file.read_text("utf-8")
    except OSError as error:
        return Problem(file, 1, f"can't be read: {error.strerror}")
    except UnicodeDecodeError as error:
        return Problem(file, 1, f"byte {error.start} is not UTF-8")


def read_text(file: Path, text: str | Problem) -> Sources:
    """What the text of a source holds."""
    if isinstance(text, Problem):
        return Sources(problems=(text,))
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return Sources(problems=(_not_toml(file, text, str(error)),))
    return _Reader(file).read(document, tables(text.replace("\r\n", "\n")))


def _not_toml(file: Path, text: str, reason: str) -> Problem:
    match = _TOML_PLACE.fullmatch(reason)
    if match is None:  # "(at end of document)"
        return Problem(file, text.count("\n") + 1, f"not TOML: {reason}")
    return Problem(file, int(match[2]), f"not TOML: {match[1]}")


class _Reader:
    """Reads one document."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rules: list[Rule] = []
        self._identities: list[Identity] = []
        self._problems: list[Problem] = []

    def read(self, document: dict[str, Any], lines: list[Table]) -> Sources:
        if not self._is_plain(document, lines):
            return Sources(problems=tuple(self._problems))
        counts = dict.fromkeys(_KINDS, 0)
        for table in lines[1:]:
            self._read_table(document[table.name][counts[table.name]], table)
            counts[table.name] += 1
        return Sources(tuple(self._rules), tuple(self._identities), tuple(self._problems))

    def _is_plain(self, document: dict[str, Any], lines: list[Table]) -> bool:
        """Whether the document is what `lines` says: only then are the lines right."""
        first, *others = lines
        for key, line in first.keys.items():
            self._wrong(line, f"{key} stands outside of any rule: rules begin with [[rule]]")
        for table in others:
            if table.name not in _KINDS:
                self._wrong(table.line, f"there is no [[{table.name}]]{closest(table.name, _KINDS)}")
        if self._problems:
            return False
        counted = {name: [list(t.keys) for t in others if t.name == name] for name in {t.name for t in others}}
        if counted != {name: _keys(items) for name, items in document.items()}:
            self._wrong(1, "a source is [[rule]] and [[identity]] tables, and no more")
        return not self._problems

    def _read_table(self, table: dict[str, Any], lines: Table) -> None:
        where = f"{self._file.name}:{lines.line}"
        try:
            if lines.name == "rule":
                self._rules.append(rule_of(table, where))
            else:
                self._identities.append(identity_of(table, where))
        except FormError as error:
            for mistake in error.mistakes:
                named = f"{mistake.key}: " if mistake.key else ""
                self._wrong(lines.keys.get(mistake.key, lines.line), named + mistake.reason)

    def _wrong(self, line: int, reason: str) -> None:
        self._problems.append(Problem(self._file, line, reason))


def _keys(items: object) -> list[list[str]] | None:
    """The keys of each table of an array of tables; None for anything else."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return None
    return [list(item) for item in items]
