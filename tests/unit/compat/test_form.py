"""Rules as tables, and their mistakes."""

import tomllib
from typing import Any

import pytest

from usbbridge.compat.form import FormError, identity_of, identity_table, rule_of, table_of, toml_of

FULL: dict[str, Any] = {
    "id": ["0781:5567", "0951:*"],
    "bcd-device": "0100-01ff",
    "class": "03/00/00",
    "usage": "f1d0:0001",
    "any": ["08", "01/01"],
    "all": ["03", "08", "01"],
    "device-class": "00",
    "serial": ["4C53*", "x"],
    "port": "1-2.*",
    "speed": ["high", "super-plus"],
    "verdict": "connect",
    "quirks": ["no-reset", "!delay"],
    "note": 'a "note" with\\ and \t and ü',
    "source": "here",
}


def mistakes(table: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(FormError) as caught:
        rule_of(table)
    return {mistake.key: mistake.reason for mistake in caught.value.mistakes}


def test_a_rule_becomes_the_table_it_was_made_of() -> None:
    assert table_of(rule_of(FULL, "x")) == FULL


def test_a_rule_can_be_written_as_toml() -> None:
    assert tomllib.loads(toml_of(table_of(rule_of(FULL)))) == {"rule": [FULL]}


def test_a_long_list_is_written_over_several_lines() -> None:
    table = {"id": [f"0781:{n:04x}" for n in range(50)], "verdict": "deny"}
    written = toml_of(table)
    assert tomllib.loads(written) == {"rule": [table]}
    assert max(map(len, written.splitlines())) < 120


def test_follow_stands_where_a_verdict_would() -> None:
    rule = rule_of({"class": "0a", "verdict": "follow"})
    assert (rule.follow, rule.verdict) == (True, None)
    assert table_of(rule)["verdict"] == "follow"


def test_an_identity_becomes_the_table_it_was_made_of() -> None:
    table = {"name": "board", "ids": ["2341:0036", "2341:8036"], "note": "n", "source": "s"}
    assert identity_table(identity_of(table)) == table


def test_all_mistakes_are_found_at_once() -> None:
    assert set(mistakes({"id": "x", "clas": "08", "verdict": "permit", "speed": "warp"})) == {
        "id",
        "clas",
        "verdict",
        "speed",
    }


@pytest.mark.parametrize(
    ("table", "key", "reason"),
    [
        ({"verdikt": "deny"}, "verdikt", "did you mean verdict"),
        ({"verdict": "alow"}, "verdict", "did you mean allow"),
        ({"verdict": ["allow"]}, "verdict", "not a list"),
        ({"verdict": 1}, "verdict", "put it into quotes"),
        ({"verdict": "deny", "quirks": ["noreset"]}, "quirks", "did you mean no-reset"),
        ({"verdict": "deny", "id": 1921}, "id", "put it into quotes"),
        ({"verdict": "deny", "id": []}, "id", "would match nothing"),
        ({"verdict": "deny", "id": ["0781:5567", "0781:5567"]}, "id", "twice"),
        ({"verdict": "deny", "port": "usb1"}, "port", "no port"),
        ({"verdict": "deny", "serial": ""}, "serial", "0 characters"),
        ({"verdict": "deny", "note": "x" * 501}, "note", "501 characters"),
        ({"verdict": "deny", "usage": "f1d0:*", "class": "08"}, "usage", "only HID"),
        ({"class": "08"}, "", "nothing would follow"),
        ({}, "", "nothing would follow"),
    ],
)
def test_a_mistake_is_explained(table: dict[str, Any], key: str, reason: str) -> None:
    assert reason in mistakes(table)[key]


@pytest.mark.parametrize(
    "table",
    [{"name": "x"}, {"name": "x", "ids": ["1:2"]}, {"ids": ["1:2", "1:3"]}, {"name": "x", "ids": ["1:*", "1:2"]}],
)
def test_an_identity_needs_a_name_and_two_ids(table: dict[str, Any]) -> None:
    with pytest.raises(FormError):
        identity_of(table)
