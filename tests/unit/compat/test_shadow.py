"""Rules that are there for nothing."""

from typing import Any

import pytest

from usbbridge.compat.form import rule_of
from usbbridge.compat.shadow import shadows


def hidden(*tables: dict[str, Any]) -> list[str]:
    rules = [rule_of({"verdict": "deny", **table}, f"r{number}") for number, table in enumerate(tables, 1)]
    return [f"{rule.where}: {reason}" for rule, reason in shadows(rules)]


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({}, {"class": "08"}),
        ({"class": "08"}, {"class": "08/06", "id": "1234:5678"}),
        ({"class": ["03", "08"]}, {"class": ["08/06", "03/01"]}),
        ({"id": "0781:*"}, {"id": ["0781:5567", "0781:55??"]}),
        ({"id": ["0781:*", "1234:0001"]}, {"id": "1234:0001"}),
        ({"serial": "4C*"}, {"serial": "4C53"}),
        ({"serial": "4C*"}, {"serial": "4C53*"}),
        ({"port": "1-2"}, {"port": "1-2", "id": "1234:5678"}),
        ({"speed": ["low", "full"]}, {"speed": "low"}),
        ({"bcd-device": "0100-"}, {"bcd-device": "0200-0300"}),
        ({"any": "08"}, {"class": "08/06"}),
        ({"any": ["08", "03"]}, {"any": "08"}),
        ({"all": ["08", "03"]}, {"all": "08"}),
        ({"usage": "f1d0:*"}, {"usage": "f1d0:0001"}),
        ({"device-class": "09"}, {"device-class": "09/00/01"}),
    ],
)
def test_a_rule_within_an_earlier_one_is_never_reached(earlier: dict[str, Any], later: dict[str, Any]) -> None:
    assert hidden(earlier, {**later, "verdict": "allow"}) == [
        "r2: never reached: r1 comes first and matches everything this one does"
    ]
    assert hidden({**later, "verdict": "allow"}, earlier) == []


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"class": "08"}, {"id": "1234:5678"}),
        ({"class": "08/06"}, {"class": ["08/06", "03"]}),
        ({"serial": "4C?3"}, {"serial": "4C*"}),
        ({"any": "08", "class": "03"}, {"class": "03/01"}),
        ({"bcd-device": "0100"}, {}),
        ({"class": "03", "verdict": "follow"}, {"class": "03/01"}),
        ({"class": "03", "verdict": None, "quirks": ["delay"]}, {"class": "03/01"}),
    ],
)
def test_a_rule_that_an_earlier_one_leaves_something_to_is_reached(
    earlier: dict[str, Any], later: dict[str, Any]
) -> None:
    table = {key: value for key, value in {"verdict": "deny", **earlier}.items() if value is not None}
    rules = [rule_of(table, "r1"), rule_of({**later, "verdict": "allow"}, "r2")]
    assert list(shadows(rules)) == []


def test_a_rule_that_is_there_twice_is_told_with_what_differs() -> None:
    assert hidden({"class": ["08", "03"]}, {"class": ["03", "08"], "verdict": "allow"}) == [
        "r2: there twice, and differently: r1 comes first"
    ]
    assert hidden({"class": "08"}, {"class": "08"}) == ["r2: there twice, the same: r1 comes first"]


def test_different_quirks_of_the_same_device_add_up() -> None:
    rules = [
        rule_of({"id": "1:2".replace("1:2", "0001:0002"), "quirks": [q]}, q) for q in ("delay", "no-reset", "delay")
    ]
    assert [reason for _, reason in shadows(rules)] == ["there twice, the same: delay comes first"]
