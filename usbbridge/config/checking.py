"""What is in the files, held against what can be configured: settings with their origins, or everything that is wrong.

The keys are data (`SECTIONS`). Each file is checked by itself, so that a mistake is named where it stands even if a
later file overrides it; what several keys mean together is checked in `joining`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from usbbridge.config import values
from usbbridge.config.lines import Key
from usbbridge.config.values import Check
from usbbridge.errors import UsageError

MAX_VMS: Final = 64
"As many as have a port of their own on the largest hosts that give one person several; each costs a session."
MAX_ASSIGNMENTS: Final = 1024
"They are gone through in order for each device that is plugged in."

VM: Final = "vm"
ASSIGN: Final = "assign"
TOP: Final = ""
"The keys that stand before the first table."

SECTIONS: Final[Mapping[str, Mapping[str, Check]]] = {
    TOP: {"default-vm": values.name},
    VM: {
        "target": values.targets,
        "password-file": values.path,
        "ca-file": values.path,
        "host-subject": values.text,
        "compression": values.choice("auto", "never"),
    },
    ASSIGN: {"vm": values.name, "device": values.device, "serial": values.serial},
    "access": {
        "view": values.choice("everyone", "attachers"),
        "users": values.accounts,
        "groups": values.accounts,
    },
    "auto": {
        "connect": values.boolean,
        "remember": values.choice("auto", "serial", "port", "no"),
        "follow": values.boolean,
    },
    "retry": {"first": values.seconds, "longest": values.seconds},
    "monitor": {
        "source": values.choice("auto", "udev", "kernel"),
        "rules": values.folders,
        "user": values.account,
    },
    "paths": {
        "monitor-socket": values.socket_path,
        "control-socket": values.socket_path,
        "database": values.path,
        "choices": values.path,
        "handed-out": values.path,
    },
}
"Table → key → what its value may be. `vm` has one such table for each VM's name, `assign` is an array of them."


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something is written."""

    file: Path
    line: int = 0
    "Counted from 1; 0: the file as a whole."

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else str(self.file)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong, or that deserves a look, and where."""

    origin: Origin
    key: str
    "Dotted, as `vm.desk.target`; empty if it is about the whole file."
    reason: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.origin), self.key, self.reason) if part)


class ConfigError(UsageError):
    """The configuration can't be used; `problems` is everything that is wrong with it."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        lines = [str(problem) for problem in problems]
        message = lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} mistakes in the configuration:", *lines])
        super().__init__(message, hint="usbbridge.toml(5) lists every key; `usbbridge config check` checks again")
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Setting:
    """A value that a file gives, checked."""

    table: Key
    "`('access',)`, `('vm', 'desk')`, `('assign', 0)`, or `()` before the first table."
    key: str
    value: Any
    origin: Origin


@dataclass(slots=True)
class Checked:
    """A file after its keys and values have been checked."""

    settings: list[Setting]
    problems: list[Problem]
    tables: dict[Key, Origin]
    "Every VM and assignment, those with nothing in them too."
    broken: set[Key]
    "Those of them in which something is wrong already: what they seem to lack may be that."


def check(tree: Mapping[str, Any], lines: Mapping[Key, int], file: Path) -> Checked:
    """Hold what tomllib made of one file against `SECTIONS`."""
    checker = _Checker(file, lines)
    checker.document(tree)
    return checker.checked


def dotted(key: Key) -> str:
    """`vm.desk.target`; indices are left out, as the line says which one it is."""
    return ".".join(part for part in key if isinstance(part, str))


class _Checker:
    def __init__(self, file: Path, lines: Mapping[Key, int]) -> None:
        self._file = file
        self._lines = lines
        self.checked = Checked([], [], {}, set())

    def document(self, tree: Mapping[str, Any]) -> None:
        for word, value in tree.items():
            if word in SECTIONS[TOP]:
                self._value((), word, value)
            elif word in SECTIONS:
                for table, content in self._tables(word, value):
                    self._table(table, content)
            else:
                self._unknown((), word, value)

    def _tables(self, section: str, value: Any) -> Iterator[tuple[Key, Any]]:
        """The tables of a section: one, or one for each VM, or those of an array."""
        if section == VM and isinstance(value, dict) and not _are_keys(value):
            for name, content in value.items():
                yield (VM, name), content
        elif section == ASSIGN and isinstance(value, list):
            for index, content in enumerate(value):
                yield (ASSIGN, index), content
        elif section in (VM, ASSIGN):
            written = "[vm.NAME]" if section == VM else "[[assign]]"
            self._problem((section,), f"must be written as {written}")
        else:
            yield (section,), value

    def _table(self, table: Key, content: Any) -> None:
        section = str(table[0])
        if not isinstance(content, dict):
            self._problem(table, f"must be a table, not {values.shown(content)}")
            return
        if section in (VM, ASSIGN):
            self.checked.tables[table] = self._origin(table)
        if section == VM:
            self._name(table)
        for key, value in content.items():
            if key in SECTIONS[section]:
                self._value(table, key, value)
            else:
                self._unknown(table, key, value)

    def _name(self, table: Key) -> None:
        try:
            values.name(table[1], self._file.parent)
        except ValueError as error:
            self._problem(table, str(error))

    def _value(self, table: Key, key: str, value: Any) -> None:
        section = str(table[0]) if table else TOP
        try:
            found = SECTIONS[section][key](value, self._file.parent)
        except ValueError as error:
            self._problem((*table, key), str(error))
        else:
            self.checked.settings.append(Setting(table, key, found, self._origin((*table, key))))

    def _unknown(self, table: Key, key: str, value: Any) -> None:
        what = "table" if isinstance(value, dict) or _is_array_of_tables(value) else "key"
        self._problem((*table, key), f"there is no such {what}{_suggestion(table, key, what)}")

    def _problem(self, key: Key, reason: str) -> None:
        self.checked.problems.append(Problem(self._origin(key), dotted(key), reason))
        self.checked.broken.add(key[:2])

    def _origin(self, key: Key) -> Origin:
        return Origin(self._file, self._lines.get(key, 0))


def _are_keys(table: Mapping[str, Any]) -> bool:
    """Whether `[vm]` was written for `[vm.NAME]`: then keys of a VM stand in it directly."""
    return any(key in SECTIONS[VM] and not isinstance(value, dict) for key, value in table.items())


def _is_array_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _suggestion(table: Key, key: str, what: str) -> str:
    """What may have been meant: a key of the same table that looks like it, or the same key of another table."""
    section = str(table[0]) if table else TOP
    known = [word for word in SECTIONS if word] if what == "table" else list(SECTIONS[section])
    if near := nearest(key, known):
        return f"; is {near!r} meant?"
    if places := [other for other, keys in SECTIONS.items() if key in keys and what == "key"]:
        written = {TOP: "before the first table", VM: "in [vm.NAME]", ASSIGN: "in [[assign]]"}
        return f" here; it belongs {written.get(places[0], f'in [{places[0]}]')}"
    return f"; there are {', '.join(known)}" if known else ""


def nearest(word: str, known: list[str]) -> str | None:
    """The known word that looks most like `word`, if any does."""
    from difflib import get_close_matches  # a service with a sound configuration has no use for it

    close = get_close_matches(word.replace("_", "-").lower(), known, n=1, cutoff=0.7)
    return close[0] if close else None
