"""The codec between the processes under generated messages and damage: whoever is at the other end may be hostile."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbbridge.errors import RemoteProtocolError
from usbbridge.ipc import api, messages, monitoring
from usbbridge.ipc.codec import decode, encode, from_json, to_json

TABLES: dict[str, Mapping[str, type[Any]]] = {
    "control to encoder": messages.KINDS,
    "control to monitor": monitoring.REQUESTS,
    "monitor to control": monitoring.ANSWERS,
}
LARGE = 10**4000
"Python reads and writes decimal numbers of 4300 digits at most; no peer has reason to send more than 20."

texts = st.text(max_size=20)
LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    str: texts,
    int: st.integers(-LARGE, LARGE) | st.integers(0, 0xFFFF),
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    Path: st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=8), max_size=3).map(
        lambda parts: Path(*parts)
    ),
    type(None): st.none(),
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a field with this type."""
    if isinstance(hint, types.UnionType):
        return st.one_of([values(option) for option in typing.get_args(hint)])
    if typing.get_origin(hint) is tuple:
        return st.lists(values(typing.get_args(hint)[0]), max_size=3).map(tuple)
    if dataclasses.is_dataclass(hint):
        return objects(typing.cast(type[Any], hint))
    if issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    return LEAVES[hint]


def objects(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Any object of the class."""
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{field.name: values(hints[field.name]) for field in dataclasses.fields(cls)})


def any_message(kinds: Mapping[str, type[Any]]) -> st.SearchStrategy[Any]:
    """Any message of the table."""
    return st.one_of([objects(cls) for cls in kinds.values()])


tables = st.sampled_from(list(TABLES.values()))
sent = tables.flatmap(lambda kinds: st.tuples(st.just(kinds), any_message(kinds)))


@given(sent)
def test_any_message_makes_the_round_trip(example: tuple[Mapping[str, type[Any]], Any]) -> None:
    kinds, message = example
    assert decode(encode(message), kinds) == message


@pytest.mark.parametrize("cls", [api.Status, *(params for params, _ in api.METHODS.values())])
@given(st.data())
def test_any_object_of_the_api_makes_the_round_trip(cls: type[Any], data: st.DataObject) -> None:
    sent = data.draw(objects(cls))
    assert from_json(cls, json.loads(json.dumps(to_json(sent))), "it") == sent


def taken(data: bytes, kinds: Mapping[str, type[Any]]) -> Any:
    """The message, or None if it was refused; anything but a RemoteProtocolError is a bug.

    What is taken is what would have been sent for it: it means the same to whoever is told of it next.
    """
    try:
        message = decode(data, kinds)
    except RemoteProtocolError:
        return None
    assert type(message) in kinds.values()
    again = encode(message)
    assert encode(decode(again, kinds)) == again
    return message


DAMAGE = (b"", b"\0", b"\xff", b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"1e999", b"NaN", b"\\ud800")


@given(sent, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 6), st.sampled_from(DAMAGE) | st.binary(max_size=6))))
def test_damaged_bytes_are_a_message_or_refused(
    example: tuple[Mapping[str, type[Any]], Any], damage: list[tuple[float, int, bytes]]
) -> None:
    kinds, message = example
    data = bytearray(encode(message))
    for where, length, instead in damage:
        at = int(where * len(data))
        data[at : at + length] = instead
    taken(bytes(data), kinds)


@given(tables, st.binary(max_size=200))
def test_no_bytes_raise_anything_else(kinds: Mapping[str, type[Any]], data: bytes) -> None:
    taken(data, kinds)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@given(sent, st.data())
def test_a_field_with_any_other_value_is_taken_as_it_is_or_refused(
    example: tuple[Mapping[str, type[Any]], Any], data: st.DataObject
) -> None:
    kinds, message = example
    found = json.loads(encode(message))
    name = data.draw(st.sampled_from(sorted(found)))
    found[name] = data.draw(anything)
    back = taken(json.dumps(found).encode(), kinds)
    assert back is None or name == "kind" or type(back) is type(message)
