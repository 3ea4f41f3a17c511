"""How a device is judged."""

from collections.abc import Iterable
from typing import Any

import pytest

from tests.unit.compat.devices import HEADSET, HUB, KEYBOARD, STICK, device
from usbbridge.compat.form import rule_of
from usbbridge.compat.rule import Identity, Rule, Verdict
from usbbridge.compat.ruleset import RuleSet
from usbbridge.usb.ch9 import Speed
from usbbridge.usb.entry import DeviceEntry


def rules(*tables: dict[str, Any]) -> RuleSet:
    return RuleSet(rule_of(table, f"test.toml:{number}") for number, table in enumerate(tables, 1))


def verdict(entry: DeviceEntry, *tables: dict[str, Any]) -> str:
    return rules(*tables).judge(entry).verdict.value


def matches(entry: DeviceEntry, **conditions: object) -> bool:
    table = {key.rstrip("_").replace("_", "-"): value for key, value in conditions.items()}
    return verdict(entry, {**table, "verdict": "allow"}) == "allow"


def test_what_no_rule_is_about_is_asked_about() -> None:
    decision = rules().judge(STICK)
    assert (decision.verdict, decision.rule, decision.interface) == (Verdict.ASK, "", 0)
    assert decision.because == "interface 0 (storage, 08/06/50) is asked about: no rule is about it"


def test_the_first_rule_that_matches_decides() -> None:
    assert verdict(STICK, {"class": "08", "verdict": "allow"}, {"id": "0781:*", "verdict": "deny"}) == "allow"
    assert verdict(STICK, {"id": "0781:*", "verdict": "deny"}, {"class": "08", "verdict": "allow"}) == "deny"


def test_the_strictest_interface_decides_and_is_named() -> None:
    both = device("1234:5678", "08/06/50", "03/01/01")
    tables = ({"class": "08", "verdict": "connect"}, {"class": "03", "verdict": "deny", "note": "no input"})
    decision = rules(*tables).judge(both)
    assert (decision.verdict, decision.interface, decision.rule) == (Verdict.DENY, 1, "test.toml:2")
    assert decision.because == "interface 1 (keyboard, 03/01/01) is denied by test.toml:2: no input"


def test_the_devices_own_class_is_judged_unless_it_says_nothing() -> None:
    deny_hubs = {"class": "09", "verdict": "deny"}
    assert rules(deny_hubs).judge(HUB).interface is None
    assert verdict(device("1:2", "08/06/50", class_="ff/00/00"), {"class": "08", "verdict": "allow"}) == "ask"
    assert verdict(device("1:2", "08/06/50", class_="ef/02/01"), {"class": "08", "verdict": "allow"}) == "allow"


def test_a_device_without_a_configuration_is_judged_by_its_own_class() -> None:
    assert verdict(device("1:2"), {"class": "00", "verdict": "deny"}) == "deny"
    assert verdict(device("1:2"), {"class": "08", "verdict": "allow"}) == "ask"


def test_a_verdict_for_any_device_needs_no_condition() -> None:
    assert verdict(KEYBOARD, {"verdict": "deny"}) == "deny"


AUDIO = {"class": "01", "verdict": "allow"}
FOLLOW = {"class": "03/00/00", "verdict": "follow"}


def test_an_interface_that_follows_has_no_say() -> None:
    decision = rules(AUDIO, FOLLOW).judge(HEADSET)
    assert (decision.verdict, decision.rule) == (Verdict.ALLOW, "test.toml:1")


def test_where_all_interfaces_follow_the_rules_behind_decide() -> None:
    alone = device("1:2", "03/00/00")
    assert verdict(alone, FOLLOW) == "ask"
    assert verdict(alone, FOLLOW, {"class": "03", "verdict": "deny"}) == "deny"
    assert verdict(device("1:2", "03/00/00", "03/00/00"), FOLLOW, {"class": "03", "verdict": "allow"}) == "allow"


def test_the_devices_own_class_never_follows() -> None:
    assert verdict(device("1:2", "03/00/00", class_="03/00/00"), FOLLOW, {"class": "03", "verdict": "deny"}) == "deny"
    with_audio = device("1:2", "03/00/00", "01/01/00", class_="03/00/00")
    assert verdict(with_audio, FOLLOW, AUDIO, {"class": "03", "verdict": "deny"}) == "deny"


def test_what_follows_is_explained() -> None:
    last = str(rules(AUDIO, FOLLOW).explain(HEADSET)[-1])
    assert last == "interface 2 (HID, 03/00/00) follows the others, by test.toml:2"


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"id": "0781:5567"}, True),
        ({"id": "0781:55??"}, True),
        ({"id": ["1234:*", "0781:*"]}, True),
        ({"id": "*:5567"}, True),
        ({"id": "0781:5568"}, False),
        ({"bcd_device": "0100"}, True),
        ({"bcd_device": "-00ff"}, False),
        ({"bcd_device": "0100-0200"}, True),
        ({"class_": "08/06"}, True),
        ({"class_": "08/06/62"}, False),
        ({"class_": "*/06"}, True),
        ({"any_": "08"}, True),
        ({"any_": "03"}, False),
        ({"all_": ["08", "03"]}, True),
        ({"device_class": "00"}, True),
        ({"device_class": "08"}, False),
        ({"serial": "4C53*"}, True),
        ({"serial": "4c53*"}, False),
        ({"port": "1-2"}, True),
        ({"port": ["1-3", "1-2*"]}, True),
        ({"port": "1-2.*"}, False),
        ({"speed": "high"}, True),
        ({"speed": ["low", "full"]}, False),
        ({"id": "0781:*", "speed": "low"}, False),
    ],
)
def test_conditions(conditions: dict[str, object], expected: bool) -> None:
    stick = device("0781:5567", "08/06/50", serial="4C530001", port="1-2", speed=Speed.HIGH)
    assert matches(stick, **conditions) is expected


def test_any_looks_at_all_interfaces_and_class_at_the_one_judged() -> None:
    volume_keys = {"class": "03/00/00", "any": "01", "verdict": "allow"}
    assert verdict(HEADSET, AUDIO, volume_keys) == "allow"
    assert verdict(device("1:2", "08/06/50", "03/00/00"), volume_keys) == "ask"


def test_all_is_not_met_if_one_interface_is_something_else() -> None:
    assert not matches(HEADSET, all="01")
    assert matches(HEADSET, all=["01", "03/00/00"])


def test_a_usage_is_that_of_the_interface_judged() -> None:
    fido = {"usage": "f1d0:0001", "verdict": "allow"}
    key = device("1:2", "03/00/00@f1d0:0001")
    assert verdict(key, fido) == "allow"
    assert verdict(device("1:2", "03/00/00@f1d0:0001", "03/00/00@0001:0006"), fido) == "ask"
    assert verdict(device("1:2", "03/00/00"), fido) == "ask"


def test_rules_without_a_verdict_add_their_quirks_and_leave_the_verdict_to_others() -> None:
    decision = rules(
        {"class": "03", "quirks": ["!no-reset", "!delay"]},
        {"id": "0781:*", "quirks": ["no-reset"]},
        {"class": "08", "verdict": "allow"},
        {"id": "0781:5567", "quirks": ["delay"]},
    ).judge(STICK)
    assert decision.verdict is Verdict.ALLOW
    assert decision.quirks == ("no-reset", "delay")


def test_quirks_of_a_rule_that_was_not_reached_do_not_count() -> None:
    tables = ({"class": "08", "verdict": "allow"}, {"id": "0781:*", "verdict": "deny", "quirks": ["delay"]})
    assert rules(*tables).judge(STICK).quirks == ()


def test_what_is_said_of_a_quirk_first_holds() -> None:
    earlier, later = {"id": "0781:5567", "quirks": ["!no-reset"]}, {"id": "0781:*", "quirks": ["no-reset"]}
    assert rules(earlier, later).judge(STICK).quirks == ()
    assert rules(later, earlier).judge(STICK).quirks == ("no-reset",)


def test_other_ids_of_the_device_are_told() -> None:
    board = Identity("board", ((0x0781, 0x5567), (0x0781, 0x0001)))
    assert RuleSet((), [board]).judge(STICK).identities == (board,)
    assert RuleSet((), [board]).judge(KEYBOARD).identities == ()


def test_verdicts_are_ordered_by_strictness() -> None:
    assert sorted(Verdict, key=lambda each: each.strictness) == ["connect", "allow", "ask", "deny"]


def test_a_rule_is_found_whatever_it_is_indexed_by() -> None:
    stick = device("0781:5567", "08/06/50", serial="A", port="1-2")
    tables: Iterable[dict[str, object]] = (
        {"id": "0781:5567"},
        {"id": "0781:*"},
        {"serial": "A"},
        {"port": "1-2"},
        {"class": "08"},
        {"speed": "high"},
    )
    noise = [rule_of({"id": f"{n:04x}:*", "verdict": "deny"}) for n in range(100)]
    for table in tables:
        rule = rule_of({**table, "verdict": "connect"}, "here")
        assert RuleSet([*noise, rule]).judge(stick).rule == "here"


def test_equal_rules_in_a_list_do_not_disturb_each_other() -> None:
    rule = Rule(verdict=Verdict.ALLOW, quirks=("delay",))
    assert RuleSet([rule, rule]).judge(STICK).quirks == ("delay",)


# ---- devices that go by several ids

BOARD = Identity("board", ((0x0781, 0x5567), (0x0781, 0x0001), (0x2341, 0x0036)))
LOADER = device("0781:0001", "fe/01/02")


def judged(entry: DeviceEntry, *tables: dict[str, Any]) -> str:
    known = (rule_of(table, f"test.toml:{number}") for number, table in enumerate(tables, 1))
    return RuleSet(known, [BOARD]).judge(entry).verdict.value


@pytest.mark.parametrize("said", ["deny", "allow", "connect"])
def test_a_rule_for_one_face_of_a_device_holds_for_the_others(said: str) -> None:
    assert judged(LOADER, {"id": "0781:5567", "verdict": said}) == said
    assert judged(device("2341:0036", "02/02/01"), {"id": "0781:5567", "verdict": said}) == said
    assert judged(device("0781:0002", "02/02/01"), {"id": "0781:5567", "verdict": said}) == "ask"


def test_it_does_in_its_place_in_the_order() -> None:
    face, class_ = {"id": "0781:5567", "verdict": "deny"}, {"class": "fe/01", "verdict": "allow"}
    assert judged(LOADER, face, class_) == "deny"
    assert judged(LOADER, class_, face) == "allow"


def test_what_is_said_of_a_face_itself_overrules_what_is_said_of_others() -> None:
    assert judged(LOADER, {"id": "0781:5567", "verdict": "deny"}, {"id": "0781:0001", "verdict": "allow"}) == "allow"


def test_the_rules_other_conditions_must_be_met_by_the_face_that_is_there() -> None:
    assert judged(LOADER, {"id": "0781:5567", "class": "08", "verdict": "deny"}) == "ask"
    assert judged(LOADER, {"id": "0781:5567", "port": "1-2", "verdict": "deny"}) == "deny"
    assert judged(LOADER, {"id": "0781:5567", "port": "1-3", "verdict": "deny"}) == "ask"


def test_quirks_are_those_of_the_face_that_is_there() -> None:
    known = [rule_of({"id": "0781:5567", "quirks": ["no-reset"]}, "test.toml:1")]
    assert RuleSet(known, [BOARD]).judge(LOADER).quirks == ()
    assert RuleSet(known, [BOARD]).judge(STICK).quirks == ("no-reset",)
