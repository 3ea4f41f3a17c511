"""What the processes of the bridge say to each other, and what anybody says on the API's socket: understood and then
the same when it is said again, or refused with the documented error.

An input is a byte that chooses who listens, and what is said: as it stands, or as an object of the right kind whose
fields and mistakes follow.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

from tests.fuzz.source import Source
from usbbridge.control.api import MAX_ID, _line, _parse
from usbbridge.errors import RemoteProtocolError, UsageError, UsbBridgeError
from usbbridge.ipc import api, messages, monitoring
from usbbridge.ipc.channel import pair
from usbbridge.ipc.client import as_error, read
from usbbridge.ipc.codec import MAX_ITEMS, MAX_MESSAGE, decode, encode, from_json, to_json

TABLES: Final[tuple[Mapping[str, type[Any]], ...]] = (messages.KINDS, monitoring.REQUESTS, monitoring.ANSWERS)
TOLD: Final = (api.Status, api.DeviceStatus, api.VmStatus, api.Choice)
"What a client of the API reads out of results and events."
MAX_DEPTH: Final = 6


def one(data: bytes) -> None:
    """Run an input."""
    source = Source(data)
    how = source.number()
    listener, kinds = how & 3, TABLES[(how >> 2) % len(TABLES)]
    said = built(source, _kind_of(listener, kinds, source)) if how & 0x80 else source.rest()
    match listener:
        case 0:
            taken(said, kinds)
        case 1:
            through_a_socket(said, kinds)
        case 2:
            for line in said.split(b"\n"):
                request(line)
        case _:
            answer(said)


def taken(said: bytes, kinds: Mapping[str, type[Any]]) -> Any:
    """A message; what was taken is what would have been sent for it."""
    try:
        message = decode(said, kinds)
    except RemoteProtocolError as error:
        short(error)
        return None
    assert type(message) in kinds.values()
    values = [getattr(message, field.name) for field in dataclasses.fields(message)]
    assert all(len(value) <= MAX_ITEMS for value in values if isinstance(value, tuple))
    again = encode(message) if len(said) < MAX_MESSAGE // 12 else b""  # a character may become six
    assert not again or decode(again, kinds) == message
    return message


def through_a_socket(said: bytes, kinds: Mapping[str, type[Any]]) -> None:
    """As it arrives at a process, twice: the first does no harm to the second."""
    channel, other = pair(kinds)
    with other:
        try:
            if said:
                other.send(said)
                heard(channel)
            other.send(b'{"kind":"stop"}')
            heard(channel)
        finally:
            channel.close()


def heard(channel: Any) -> None:
    try:
        assert channel.receive() is not None
    except RemoteProtocolError as error:
        short(error)


def request(line: bytes) -> None:
    """A line of a client of the API."""
    try:
        number, method, found = _parse(line)
        assert len(str(number)) <= MAX_ID
        if method not in api.METHODS:
            return
        cls, _ = api.METHODS[method]
        parameters = from_json(cls, found, f"parameters of {method}")
    except (UsageError, RemoteProtocolError) as error:
        short(error)
        return
    assert from_json(cls, json.loads(_line(to_json(parameters))), "it") == parameters


def answer(said: bytes) -> None:
    """What a service tells its client."""
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return
    short(as_error(found), most=len(said) + 200)
    for cls in TOLD:
        try:
            status = read(cls, found)
        except RemoteProtocolError as error:
            short(error)
        else:
            assert from_json(cls, to_json(status), "it") == status


def short(error: UsbBridgeError, most: int = 1000) -> None:
    """A message for people, whatever the other side has said: it is not repeated at length."""
    assert len(str(error)) <= most, f"a message of {len(str(error))} characters"


# ---- objects with mistakes


def _kind_of(listener: int, kinds: Mapping[str, type[Any]], source: Source) -> Any:
    if listener == 2:
        return source.pick([cls for cls, _ in api.METHODS.values()])
    return source.pick(TOLD) if listener == 3 else source.pick(list(kinds.values()))


def built(source: Source, cls: Any) -> bytes:
    return json.dumps(thing(source, cls)).encode()


def thing(source: Source, cls: Any) -> Any:
    """An object of a class as JSON, with its kind, or in the request whose parameters it is."""
    found = fields(source, cls, 0)
    methods = [name for name, (parameters, _) in api.METHODS.items() if parameters is cls]
    if methods:
        return {"id": source.number(), "method": source.pick(methods), "params": found}
    kind = getattr(cls, "kind", None)
    return {"kind": kind, **found} if kind else found


def fields(source: Source, cls: Any, depth: int) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    found = {}
    for field in dataclasses.fields(cls):
        choice = source.number()
        if choice == 0xFF or (field.default is not dataclasses.MISSING and choice < 0x40):
            continue
        found[field.name] = anything(source, depth) if choice > 0xF8 else value(source, hints[field.name], depth + 1)
    if source.number() == 0xFF:
        found[text(source)] = anything(source, depth)
    return found


def value(source: Source, hint: Any, depth: int) -> Any:
    """A value of a field with this type."""
    if isinstance(hint, types.UnionType):
        return value(source, source.pick(typing.get_args(hint)), depth)
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        choice = source.number()
        if choice == 0xFF and not dataclasses.is_dataclass(item):
            return [value(source, item, depth)] * (MAX_ITEMS + 1)
        return [value(source, item, depth) for _ in range(choice & 3 if depth < MAX_DEPTH else 0)]
    if dataclasses.is_dataclass(hint):
        return fields(source, hint, depth)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return source.pick([member.value for member in hint])
    return leaf(source, hint)


def leaf(source: Source, hint: Any) -> Any:
    if hint is bool:
        return source.flag()
    if hint is int:
        return source.pick((0, 1, -1, 0xFFFF, 1 << 40, -(1 << 70), 10**400))
    if hint is float:
        return source.pick((0.0, 1.5, -1e300, float("inf"), float("nan")))
    return text(source) if hint in (str, Path) else None


def text(source: Source) -> str:
    """Some text; also what is none: surrogates by themselves."""
    if (size := source.number()) == 0xFF:
        return source.pick(("\ud800", "\0", "\x1b[2J", "/" * 5000, "\U0001f600" * 9))
    return source.take(size & 0x1F).decode("utf-8", "replace")


def anything(source: Source, depth: int) -> Any:
    """A value of any type."""
    match source.number() % 7:
        case 0:
            return None
        case 1:
            return source.flag()
        case 2:
            return source.number(4)
        case 3:
            return text(source)
        case 4 if depth < MAX_DEPTH:
            return [anything(source, depth + 1) for _ in range(source.number() & 3)]
        case 5 if depth < MAX_DEPTH:
            return {text(source): anything(source, depth + 1) for _ in range(source.number() & 3)}
        case _:
            return source.number(2) / 7


# ---- seeds


def seeds() -> Iterator[bytes]:
    """A message of every kind, a request for every method, and objects by their fields."""
    for number, kinds in enumerate(TABLES):
        for position, cls in enumerate(kinds.values()):
            plain = thing(Source(bytes((0x60,)) * 400), cls)
            for how in (0, 1):
                yield bytes((how | number << 2,)) + json.dumps(plain).encode()
            yield bytes((0x80 | number << 2, position)) + bytes(range(0x41, 0x81))
    for cls, _ in dict.fromkeys(api.METHODS.values()):
        yield b"\2" + json.dumps(thing(Source(bytes((0x60,)) * 400), cls)).encode()
    for position in range(len(api.METHODS)):
        yield bytes((0x82, position)) + bytes((0x60, 2, 0x61, 0x62)) * 12
    for position, cls in enumerate(TOLD):
        yield b"\3" + json.dumps(thing(Source(bytes((0x60,)) * 400), cls)).encode()[:4000]
        yield bytes((0x83, position)) + bytes((0x61,)) * 300
    error = {"status": 5, "error": "RefusedError", "message": "no", "hint": "ask"}
    yield b"\3" + json.dumps(error).encode()
    yield b"\0" + b"[" * 1900
    yield b"\2" + b"[" * 1900
    yield bytes((0x80, 0)) + b"\x60\0" * 6 + b"\x60\xff\0"  # more channels than a list may have elements
    yield b"\2" + b'{"id": 1' + b"0" * 900 + b"}"


DICTIONARY: Final[tuple[bytes, ...]] = (
    *(b'"kind": "%s"' % kind.encode() for kinds in TABLES for kind in kinds),
    *(b'"method": "%s"' % method.encode() for method in api.METHODS),
    *(b"null", b"true", b"1e999", b"NaN", b"-0", b"[]", b"{}", b'""', b'"\\ud800"', b"9" * 40),
    b'"params": ',
    b'"id": ',
)
