"""Checked files → the Config they make together, and what is wrong with them only together.

A later file overrides an earlier one key by key, so a drop-in may add a password file to a VM of the main file.
Its assignments go before the earlier ones, for the first that matches wins.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from usbbridge.config.checking import (
    ASSIGN,
    MAX_ASSIGNMENTS,
    MAX_VMS,
    VM,
    Checked,
    Origin,
    Problem,
    Setting,
    dotted,
    nearest,
)
from usbbridge.config.lines import Key
from usbbridge.config.model import Access, Assign, Auto, Config, Retry, Vm
from usbbridge.spice.targets import SpiceTarget, parse_target

FIELDS: Final = {"target": "targets"}
"Keys that are called otherwise in the dataclasses; the rest differ by hyphens alone."


@dataclass(frozen=True, slots=True)
class Joined:
    """What came of the files."""

    config: Config | None
    "None if there are problems."
    problems: tuple[Problem, ...]
    origins: dict[tuple[Key, str], Origin]
    "Table and key → where the value that holds was given; what is not in it is a default."


def join(files: Sequence[tuple[Path, Checked]], defaults: Config) -> Joined:
    """The configuration that the files make, in their order, over what `defaults` says."""
    joiner = _Joiner(files, defaults)
    problems = [problem for _, checked in files for problem in checked.problems]
    problems += joiner.problems()
    config = None if problems else joiner.config()
    return Joined(config, tuple(problems), {place: setting.origin for place, setting in joiner.settings.items()})


def field_name(key: str) -> str:
    """The dataclass's word for a key."""
    return FIELDS.get(key, key.replace("-", "_"))


class _Joiner:
    def __init__(self, files: Sequence[tuple[Path, Checked]], defaults: Config) -> None:
        self._files = tuple(path for path, _ in files)
        self._defaults = defaults
        self.settings: dict[tuple[Key, str], Setting] = {}
        self._tables: dict[Key, Origin] = {}
        self._broken: set[Key] = set()
        self._count = 0
        for _, checked in reversed(files):  # assignments of later files come first, so they are numbered first
            self._assignments(checked)
        for _, checked in files:
            self._add(checked)

    def _add(self, checked: Checked) -> None:
        for table, origin in checked.tables.items():
            if table[0] == VM:
                self._tables.setdefault(table, origin)
                self._broken |= checked.broken & {table}
        for setting in checked.settings:
            if setting.table[:1] != (ASSIGN,):
                self.settings[setting.table, setting.key] = setting

    def _assignments(self, checked: Checked) -> None:
        numbers = {table: index for index, table in enumerate(self._of(checked.tables, ASSIGN), self._count)}
        self._count += len(numbers)
        for table, index in numbers.items():
            self._tables[ASSIGN, index] = checked.tables[table]
            self._broken |= {(ASSIGN, index)} if table in checked.broken else set()
        for setting in checked.settings:
            if setting.table in numbers:
                table = (ASSIGN, numbers[setting.table])
                self.settings[table, setting.key] = replace(setting, table=table)

    @staticmethod
    def _of(tables: Iterable[Key], section: str) -> list[Key]:
        return [table for table in tables if table[0] == section]

    def config(self) -> Config:
        defaults = self._defaults
        vms = tuple(Vm(str(table[1]), **self._fields(table)) for table in self._of(self._tables, VM))
        only = vms[0].name if len(vms) == 1 else ""
        return Config(
            vms=vms,
            default_vm=self._fields(()).get("default_vm", only),
            access=Access(**self._fields(("access",))),
            assignments=tuple(Assign(**self._fields(table)) for table in self._of(self._tables, ASSIGN)),
            auto=Auto(**self._fields(("auto",))),
            retry=Retry(**self._fields(("retry",))),
            monitor=replace(defaults.monitor, **self._fields(("monitor",))),
            paths=replace(defaults.paths, **self._fields(("paths",))),
            files=self._files,
        )

    def _fields(self, table: Key) -> dict[str, Any]:
        return {field_name(key): setting.value for (of, key), setting in self.settings.items() if of == table}

    def problems(self) -> list[Problem]:
        """What is wrong between keys. Empty tables and values that are wrong by themselves have been told of."""
        checks = (self._limits(), self._vms(), self._names(), self._assigned(), self._retry(), self._paths())
        return [problem for check in checks for problem in check]

    def _limits(self) -> Iterator[Problem]:
        for section, most in ((VM, MAX_VMS), (ASSIGN, MAX_ASSIGNMENTS)):
            tables = self._of(self._tables, section)
            if len(tables) > most:
                reason = f"there are {len(tables)} of these tables, {most} is the most"
                yield Problem(self._tables[tables[most]], section, reason)

    def _vms(self) -> Iterator[Problem]:
        owners: dict[str, Key] = {}
        for table in self._of(self._tables, VM):
            setting = self.settings.get((table, "target"))
            if setting is None:
                if table not in self._broken:
                    yield Problem(self._tables[table], dotted(table), "has no target: where is this VM?")
                continue
            yield from self._targets(table, setting)
            for target in setting.value:
                owner = owners.setdefault(target, table)
                if owner != table:
                    reason = f"{target} is {dotted(owner)} already, and serves one client at a time"
                    yield Problem(setting.origin, f"{dotted(table)}.target", reason)

    def _targets(self, table: Key, setting: Setting) -> Iterator[Problem]:
        """A VM's targets among themselves, and the keys that are for some kinds of target only."""
        key, targets = f"{dotted(table)}.target", [parse_target(text) for text in setting.value]
        spice = [target for target in targets if isinstance(target, SpiceTarget)]
        if len(set(targets)) < len(targets):
            yield Problem(setting.origin, key, "names the same target twice")
        elif spice and len(targets) > 1:
            reason = "a VM is one SPICE server, which has all its channels, or any number of raw targets (tcp, unix)"
            yield Problem(setting.origin, key, reason)
        if not spice:
            yield from self._useless(table, ("password-file",), "is for SPICE, not for raw targets")
        if not any(target.tls_port for target in spice):
            yield from self._useless(table, ("ca-file", "host-subject"), "is for TLS: name a target with a TLS port")

    def _useless(self, table: Key, keys: Iterable[str], reason: str) -> Iterator[Problem]:
        for key in keys:
            if setting := self.settings.get((table, key)):
                yield Problem(setting.origin, f"{dotted(table)}.{key}", reason)

    def _names(self) -> Iterator[Problem]:
        """VMs that are named, but not defined."""
        known = [str(table[1]) for table in self._of(self._tables, VM)]
        for (table, key), setting in self.settings.items():
            if key in ("vm", "default-vm") and setting.value not in known:
                near = nearest(setting.value, known)
                meant = f"; is {near!r} meant?" if near else f"; write [vm.{setting.value}]"
                yield Problem(setting.origin, dotted((*table, key)), f"there is no VM {setting.value!r}{meant}")

    def _assigned(self) -> Iterator[Problem]:
        seen: dict[tuple[Path, str, str], Origin] = {}
        for table in self._of(self._tables, ASSIGN):
            origin, fields = self._tables[table], self._fields(table)
            if table in self._broken:
                continue
            if "vm" not in fields:
                yield Problem(origin, ASSIGN, "does not say to which `vm`")
            if not fields.keys() & {"device", "serial"}:
                yield Problem(origin, ASSIGN, "does not say which device: give `device`, `serial`, or both")
            first = seen.setdefault((origin.file, fields.get("device", ""), fields.get("serial", "")), origin)
            if first is not origin:
                yield Problem(origin, ASSIGN, f"is never reached: line {first.line} is about the same device")

    def _retry(self) -> Iterator[Problem]:
        values = {key: self.settings.get((("retry",), key)) for key in ("first", "longest")}
        first = values["first"].value if values["first"] else Retry().first
        longest = values["longest"].value if values["longest"] else Retry().longest
        if first > longest:
            origin = next(setting.origin for setting in values.values() if setting)
            yield Problem(origin, "retry", f"`first` ({first:g} s) is longer than `longest` ({longest:g} s)")

    def _paths(self) -> Iterator[Problem]:
        """Two things can't be at one place."""
        owners: dict[Path, str] = {}
        for key in ("monitor-socket", "control-socket", "database", "choices", "handed-out"):
            setting = self.settings.get((("paths",), key))
            place = setting.value if setting else getattr(self._defaults.paths, field_name(key))
            other = owners.setdefault(place, key)
            if other != key:
                origin = setting.origin if setting else self.settings[("paths",), other].origin
                yield Problem(origin, f"paths.{key}", f"is the same as paths.{other}: {place}")
