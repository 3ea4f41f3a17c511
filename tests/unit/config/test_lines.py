"""The lines in which keys stand: by example, and against tomllib for texts made up of whatever TOML has."""

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usbbridge.config.lines import Key, lines_of

TEXT = '''\
# a comment with [brackets] and "quotes
top = 1
"quoted.key" = "with # no comment" # and [one]

[table]
a.b = 'dotted'
text = """
not = "a key"
ends with two quotes"""""
literal = \'\'\'
[nor.a.table]\'\'\'
list = [
  1, # one
  [2, 3],
  { x = 4, y.z = "}" },
]
when = 1979-05-27 07:32:00

[[array]]
n = 1
[[array]]
n = 2
[array.inner]
deep = true
'''


def test_each_key_is_found_in_its_line() -> None:
    lines = lines_of(TEXT)
    assert lines["top",] == 2
    assert lines["quoted.key",] == 3
    assert lines["table",] == 5
    assert lines["table", "a", "b"] == 6
    assert lines["table", "text"] == 7
    assert lines["table", "literal"] == 10
    assert lines["table", "list", 0] == 13
    assert lines["table", "list", 1, 1] == 14
    assert lines["table", "list", 2, "y", "z"] == 15
    assert lines["table", "when"] == 17
    assert lines["array", 0] == 19
    assert lines["array", 1, "n"] == 22
    assert lines["array", 1, "inner", "deep"] == 24


def test_windows_line_ends_count_once() -> None:
    assert lines_of("a = 1\r\nb = 2\r\n") == {("a",): 1, ("b",): 2}


def ways(value: Any, so_far: Key = ()) -> Iterator[Key]:
    """Every way into what tomllib made of a text."""
    if so_far:
        yield so_far
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from ways(below, (*so_far, key))


def test_the_example_is_found_whole() -> None:
    assert lines_of(TEXT).keys() == set(ways(tomllib.loads(TEXT)))


keys = st.sampled_from(["a", "b", '"c d"', "'e.f'", "a.b", 'b . "x#y" .c', '"\\u00e4"'])
simple = st.sampled_from(
    [
        "1",
        "1.5e3",
        "true",
        "inf",
        '""',
        "''",
        '"# [x]"',
        "'\"'",
        '"\\""',
        '""""""',
        "''''''",
        '"""a\n"b\n"""""',
        "'''x\n]'''",
        "1979-05-27",
        "1979-05-27 07:32:00.5",
        "[]",
        "{}",
        "[ # c\n ]",
    ]
)
values = st.recursive(
    simple,
    lambda below: st.one_of(
        st.lists(below, max_size=3).map(lambda items: "[" + " ,\n ".join(items) + "]"),
        st.lists(below, min_size=1, max_size=3).map(lambda items: "[" + ", # c ]\n".join(items) + " ,\n]"),
        st.lists(st.tuples(keys, below), max_size=2).map(
            lambda pairs: "{" + ", ".join(f"{key} = {value}" for key, value in pairs) + "}"
        ),
    ),
    max_leaves=6,
)
statements = st.one_of(
    st.tuples(keys, values).map(lambda pair: f"{pair[0]}={pair[1]}  # [not] = this"),
    keys.map(lambda key: f"[ {key} ]"),
    keys.map(lambda key: f"  [[{key}]] # x"),
    st.sampled_from(["", "# only = a comment", "\t"]),
)


@settings(max_examples=300)
@given(st.lists(statements, max_size=8))
def test_whatever_tomllib_accepts_is_found_whole(parts: list[str]) -> None:
    text = "\n".join(parts)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert lines_of(text).keys() == set(ways(tree))


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing"])
def test_nothing_has_no_lines(text: str) -> None:
    assert lines_of(text) == {}
