"""Messages as JSON: a frozen dataclass to an object and back, with types held exactly and nothing else accepted.

Fields may be str, int, bool, float, an enum with such values, Path, another dataclass, `X | None`, or a tuple of any of
these. JSON has no tuples, and its true and false would pass for ints: types are compared, not converted.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, cast

from usbbridge.errors import RemoteProtocolError

MAX_MESSAGE: Final = 64 << 10
"""Bytes in a message: a password, some paths, a device's names and descriptors fit many times over; it is also below
what a socket's buffer takes."""

MAX_ITEMS: Final = 1024
"Elements of one list in a message: a device has at most 32 interfaces, a VM some dozens of channels."


class Message(Protocol):
    """A dataclass with the name of its kind."""

    kind: ClassVar[str]


def encode(message: Any) -> bytes:
    """The message's bytes, at most MAX_MESSAGE of them. Raises ValueError over that."""
    data = json.dumps({"kind": message.kind, **to_json(message)}, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE:
        raise ValueError(f"a {message.kind} message of {len(data)} bytes; the limit is {MAX_MESSAGE}")
    return data


def decode(data: bytes, kinds: Mapping[str, type[Any]]) -> Any:
    """The message in `data`, one of `kinds`. Raises RemoteProtocolError for anything `encode` would not have made."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"not a message: {error}") from error
    kind = found.pop("kind", None) if isinstance(found, dict) else None
    cls = kinds.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise RemoteProtocolError(f"unknown kind of message {kind!r:.40}")
    return from_json(cls, found, f"a {kind} message")


def to_json(value: Any) -> Any:
    """A dataclass as a JSON object, its fields by name."""
    if dataclasses.is_dataclass(value):
        return {name: to_json(getattr(value, name)) for name in _fields(type(value)).hints}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def from_json(cls: type[Any], found: object, what: str) -> Any:
    """The dataclass of a JSON object. `what` it is, for the message of the RemoteProtocolError that anything else
    raises."""
    fields = _fields(cls)
    hints = fields.hints
    if not isinstance(found, dict) or not fields.required <= found.keys() <= hints.keys():
        raise RemoteProtocolError(f"{what} with the wrong fields: {found!r:.200}")
    return cls(**{name: _value(hints[name], item, f"{name} of {what}") for name, item in found.items()})


def _value(wanted: Any, found: object, what: str) -> Any:
    options = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    for option in options:
        if option is type(None):
            if found is None:
                return None
        elif typing.get_origin(option) is tuple:
            if isinstance(found, list) and len(found) <= MAX_ITEMS:
                return tuple(_value(typing.get_args(option)[0], item, what) for item in found)
        elif dataclasses.is_dataclass(option):
            if isinstance(found, dict):
                return from_json(cast(type[Any], option), found, what)
        elif issubclass(option, Enum):
            if any(found == member.value and type(found) is type(member.value) for member in option):
                return option(found)
        elif option is Path:
            if type(found) is str:
                return Path(found)
        elif type(found) is option and not (isinstance(found, float) and not math.isfinite(found)):  # Python knows NaN
            return found
    raise RemoteProtocolError(f"{what} is {found!r:.40}, not {wanted}")


@dataclasses.dataclass(frozen=True, slots=True)
class _Fields:
    hints: dict[str, Any]
    "Each field's type, in their order."
    required: frozenset[str]
    "Those without a default."


_FIELDS: dict[type[Any], _Fields] = {}
"Looking up type hints takes longer than everything else here: it is done once for a class."


def _fields(cls: type[Any]) -> _Fields:
    known = _FIELDS.get(cls)
    if known is None:
        hints = typing.get_type_hints(cls)
        fields, missing = dataclasses.fields(cls), dataclasses.MISSING
        required = frozenset(f.name for f in fields if f.default is missing and f.default_factory is missing)
        known = _FIELDS[cls] = _Fields({field.name: hints[field.name] for field in fields}, required)
    return known
