"""Dataclasses as JSON: types are held exactly, both ways, and nothing else is accepted."""

import json
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, ClassVar

import pytest

from usbbridge.errors import RemoteProtocolError
from usbbridge.ipc.codec import MAX_ITEMS, MAX_MESSAGE, decode, encode, from_json, to_json


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


class Level(IntEnum):
    LOW = 0
    HIGH = 1


@dataclass(frozen=True, slots=True)
class Inner:
    name: str
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Everything:
    kind: ClassVar[str] = "everything"
    text: str
    number: int
    flag: bool
    ratio: float
    colour: Colour
    level: Level
    place: Path
    inner: Inner
    maybe: Inner | None = None
    either: float | None = None
    words: tuple[str, ...] = ()
    inners: tuple[Inner, ...] = ()
    rows: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Empty:
    kind: ClassVar[str] = "empty"


KINDS = {"everything": Everything, "empty": Empty}
FULL = Everything(
    "ä\0\n",
    -(1 << 70),
    True,
    0.5,
    Colour.GREEN,
    Level.HIGH,
    Path("/dev/bus/usb"),
    Inner("x", (1, 2)),
    Inner(""),
    1e300,
    ("", "b"),
    (Inner("y"), Inner("z", (0,))),
    ((), (1,), (2, 3)),
)
PLAIN = Everything("", 0, False, 0.0, Colour.RED, Level.LOW, Path(), Inner("x"))


@pytest.mark.parametrize("message", [FULL, PLAIN, Empty()], ids=["full", "plain", "empty"])
def test_a_message_comes_back_as_it_was(message: Any) -> None:
    assert decode(encode(message), KINDS) == message


def test_what_comes_back_has_the_types_that_were_declared() -> None:
    back = decode(encode(FULL), KINDS)
    assert [type(value) for value in (back.flag, back.level, back.inners)] == [bool, Level, tuple]
    assert isinstance(back.place, Path)


def test_fields_with_defaults_may_be_left_out() -> None:
    bare = {name: value for name, value in to_json(PLAIN).items() if name not in ("maybe", "words", "rows")}
    assert from_json(Everything, bare, "it") == PLAIN


def test_a_message_names_its_kind_and_its_fields() -> None:
    assert json.loads(encode(Empty())) == {"kind": "empty"}
    assert json.loads(encode(PLAIN))["inner"] == {"name": "x", "numbers": []}
    assert json.loads(encode(PLAIN))["level"] == 0


WRONG: dict[str, tuple[str, object]] = {
    "a number for a text": ("text", 1),
    "a text for a number": ("number", "1"),
    "a bool for a number": ("number", True),
    "a float for a number": ("number", 1.0),
    "a number for a bool": ("flag", 0),
    "an int for a float": ("ratio", 1),
    "null for a float": ("ratio", None),
    "no number for a float": ("ratio", float("nan")),
    "an endless float": ("ratio", float("inf")),
    "an unknown member": ("colour", "blue"),
    "a member by its name": ("colour", "RED"),
    "a bool for a member": ("level", True),
    "a float for a member": ("level", 1.0),
    "a list for a member": ("level", [1]),
    "a number for a path": ("place", 1),
    "a text for an object": ("inner", "x"),
    "a list for an object": ("inner", ["x", []]),
    "an object with a field too many": ("inner", {"name": "x", "more": 1}),
    "an object with a field missing": ("inner", {"numbers": []}),
    "false for nothing": ("maybe", False),
    "an object for a list": ("words", {}),
    "a text for a list": ("words", "abc"),
    "null in a list": ("words", [None]),
    "a number in a list of objects": ("inners", [1]),
    "a flat list for rows": ("rows", [1]),
    "too many items": ("rows", [[]] * (MAX_ITEMS + 1)),
}


@pytest.mark.parametrize(("field", "value"), WRONG.values(), ids=WRONG)
def test_another_type_is_refused_and_the_field_named(field: str, value: object) -> None:
    data = json.dumps({"kind": "everything", **to_json(PLAIN), field: value}).encode()
    with pytest.raises(RemoteProtocolError, match=f"{field} of an? everything message"):
        decode(data, KINDS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b'"empty"',
        b"{}",
        b'{"kind":null}',
        b'{"kind":["empty"]}',
        b'{"kind":{}}',
        b'{"kind":"Empty"}',
        b'{"kind":"empty","kind":"nothing"}',
        b'{"kind":"empty"} {}',
        b'{"kind":"empty","more":null}',
        b"[" * 100_000,
        b'{"kind":' * 50_000,
        b"9" * 10_000,
    ],
    ids=lambda data: data[:24].decode(errors="replace"),
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(data, KINDS)
    assert len(str(caught.value)) < 400


def test_as_many_items_as_the_limit_are_taken() -> None:
    assert len(from_json(Inner, {"name": "", "numbers": [0] * MAX_ITEMS}, "it").numbers) == MAX_ITEMS


def test_what_is_too_long_is_not_sent() -> None:
    inner = Inner("x" * MAX_MESSAGE)
    with pytest.raises(ValueError, match=rf"an? everything message of \d+ bytes; the limit is {MAX_MESSAGE}"):
        encode(Everything("", 0, False, 0.0, Colour.RED, Level.LOW, Path(), inner))


def test_what_is_wrong_is_said_briefly_whatever_was_sent() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        from_json(Inner, {"name": ["x" * 1000]}, "it")
    assert len(str(caught.value)) < 100
