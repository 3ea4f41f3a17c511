"""On which lines of TOML text the tables and keys stand."""

import pytest

from usbbridge.compat.lines import Table, tables


def lines(text: str) -> list[tuple[str, int, dict[str, int]]]:
    return [(table.name, table.line, table.keys) for table in tables(text) if table != Table("", 1)]


def test_headers_and_keys_are_found() -> None:
    assert lines('# comment\n\n[[rule]]\nid = "1:2"  # one\n  verdict="deny"\n[[ identity ]]\nname = "x"\n') == [
        ("rule", 3, {"id": 4, "verdict": 5}),
        ("identity", 6, {"name": 7}),
    ]


@pytest.mark.parametrize(
    "value",
    [
        '"# [[rule]]"',
        "'# [[rule]]'",
        '"""\n[[rule]]\nkey = 1\n"""',
        "'''\n[[rule]]\n\"\n'''",
        '"""a\\"""b"""',
        '"""ends in two""""" ',
        '[\n  "a", # ]\n  "]",\n]',
        '"\\"[[rule]]"',
        "{ a = 1, b = [2] }",
    ],
)
def test_what_stands_in_strings_comments_and_lists_is_no_table(value: str) -> None:
    text = f'[[rule]]\nid = {value}\nverdict = "deny"\n'
    expected_line = 3 + value.count("\n")
    assert lines(text) == [("rule", 1, {"id": 2, "verdict": expected_line})]


def test_keys_before_the_first_header_are_told() -> None:
    assert lines('verdict = "deny"\n[[rule]]\n')[0] == ("", 1, {"verdict": 1})
