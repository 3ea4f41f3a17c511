"""The configuration that holds, defaults and all: every value with where it comes from; also as TOML again."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from usbbridge.config.checking import ASSIGN, SECTIONS, TOP, VM, Origin
from usbbridge.config.joining import field_name
from usbbridge.config.lines import Key
from usbbridge.config.model import Config

_BARE: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
'What a key may consist of without quotes (TOML 1.0.0, "Keys").'


@dataclass(frozen=True, slots=True)
class Value:
    """One key of the configuration."""

    table: Key
    key: str
    value: Any
    "A bool, float, str, or a list of str."
    origin: Origin | None
    "None: nobody has set it."


def effective(config: Config, origins: Mapping[tuple[Key, str], Origin]) -> list[Value]:
    """Every value, by table, in the order in which they are documented. What is unset has none, and is not there."""
    found = []
    for table, holder in _tables(config):
        section = str(table[0]) if table else TOP
        for key in SECTIONS[section]:
            value = _plain(getattr(holder, field_name(key)))
            if value not in (None, ""):
                found.append(Value(table, key, value, origins.get((table, key))))
    return found


def _tables(config: Config) -> Iterator[tuple[Key, object]]:
    yield (), config
    yield from (((VM, vm.name), vm) for vm in config.vms)
    yield from (((ASSIGN, index), assign) for index, assign in enumerate(config.assignments))
    for section in SECTIONS:
        if section not in (TOP, VM, ASSIGN):
            yield (section,), getattr(config, section)


def as_toml(values: list[Value]) -> str:
    """A file that, read again, gives the same configuration; each value's origin is a comment behind it."""
    lines: list[str] = []
    table: Key = ()
    for value in values:
        if value.table != table:
            table = value.table
            lines += ["", _header(table)]
        lines.append(f"{f'{value.key} = {_toml(value.value)}':<60}  # {value.origin or 'default'}")
    return "\n".join(lines).strip("\n") + "\n"


def as_object(config: Config, values: list[Value]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "mode": "system" if config.paths.system else "user",
        "files": [str(file) for file in config.files],
        "settings": [
            {
                "table": list(value.table),
                "key": value.key,
                "value": value.value,
                "file": str(value.origin.file) if value.origin else None,
                "line": value.origin.line if value.origin else None,
            }
            for value in values
        ],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _header(table: Key) -> str:
    if table[0] == ASSIGN:
        return f"[[{ASSIGN}]]"
    return f"[{'.'.join(_key(str(part)) for part in table)}]"


def _key(name: str) -> str:
    return name if set(name) <= _BARE else _toml(name)


def _toml(value: Any) -> str:
    """JSON writes texts, numbers, booleans and lists of texts as TOML does; DEL aside, which no checked text has."""
    return json.dumps(value, ensure_ascii=False)
