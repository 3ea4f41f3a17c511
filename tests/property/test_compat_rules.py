"""The index finds what a walk through all rules would, shadows are never wrong, and text comes back as it went."""

import tomllib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.compat.devices import device
from usbbridge.compat.form import FormError, rule_of, table_of, toml_of
from usbbridge.compat.lines import tables as tables_of
from usbbridge.compat.pattern import format_class, format_pair, format_release, parse_class, parse_id, parse_release
from usbbridge.compat.rule import Rule, passes_of
from usbbridge.compat.ruleset import RuleSet
from usbbridge.compat.shadow import covers, shadows
from usbbridge.compat.source import read_text
from usbbridge.usb.ch9 import Speed
from usbbridge.usb.entry import DeviceEntry

# Few values each, so that rules meet devices and each other.
id_texts = st.sampled_from(["0000:0001", "0000:*", "*:0001", "0001:0001", "0001:000?", "*:*"])
class_texts = st.sampled_from(["03", "03/01", "03/01/01", "08", "08/06/50", "*/06", "*"])
usage_texts = st.sampled_from(["f1d0:0001", "f1d0:*", "0001:*"])


def some(texts: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(texts, min_size=1, max_size=3, unique=True)


rule_tables = st.fixed_dictionaries(
    {"verdict": st.sampled_from(["connect", "allow", "ask", "deny", "follow"])},
    optional={
        "id": some(id_texts),
        "class": some(st.sampled_from(["03", "03/01", "03/01/01"])),
        "usage": some(usage_texts),
        "any": some(class_texts),
        "all": some(class_texts),
        "device-class": some(st.sampled_from(["00", "03", "*"])),
        "bcd-device": st.sampled_from(["0100", "0100-", "-0150", "0100-0199"]),
        "serial": some(st.sampled_from(["a", "ab", "a*", "*b", "*", "a?"])),
        "port": some(st.sampled_from(["1-1", "1-2", "1-*", "*"])),
        "speed": some(st.sampled_from(["low", "high"])),
    },
)
interface_texts = st.sampled_from(["03/00/00@f1d0:0001", "03/01/01@0001:0006", "03/01/01", "08/06/50", "08/05/50"])
devices = st.builds(
    lambda ids, interfaces, class_, version, serial, port, speed: device(
        ids, *interfaces, class_=class_, bcd_device=version, serial=serial, port=port, speed=speed
    ),
    st.sampled_from(["0:1", "1:1", "0:2"]),
    st.lists(interface_texts, max_size=3),
    st.sampled_from(["00/00/00", "03/01/01", "ef/02/01"]),
    st.sampled_from([0x0100, 0x0160, 0x0050]),
    st.sampled_from(["", "a", "ab", "b"]),
    st.sampled_from(["1-1", "1-2"]),
    st.sampled_from([Speed.LOW, Speed.HIGH]),
)
rule_lists = st.lists(rule_tables, max_size=8).map(
    lambda tables: [rule_of(table, f"r:{number}") for number, table in enumerate(tables)]
)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


def first_of_all(rules: list[Rule], entry: DeviceEntry, which: int) -> Rule | None:
    passes = passes_of(entry)
    for rule in rules:
        may_follow = passes[which].number is not None
        if (may_follow or not rule.follow) and rule.suits(passes[which]) and rule.is_about(entry, passes):
            return rule
    return None


@given(rule_lists, devices)
def test_the_index_finds_the_rule_that_a_walk_through_all_finds(rules: list[Rule], entry: DeviceEntry) -> None:
    for which, step in enumerate(RuleSet(rules).explain(entry)):
        expected = first_of_all(rules, entry, which)
        if expected is None or not expected.follow:
            assert step.rule == expected


@given(rule_lists, devices)
def test_a_rule_that_is_called_unreachable_never_decides(rules: list[Rule], entry: DeviceEntry) -> None:
    unreached = {rule.where for rule, reason in shadows(rules)}
    steps = RuleSet(rules).explain(entry)
    assert unreached.isdisjoint(step.rule.where for step in steps if step.rule and not step.rule.follow)


@given(rule_tables, rule_tables, devices)
def test_what_covers_a_rule_matches_whatever_it_matches(
    wide: dict[str, object], narrow: dict[str, object], entry: DeviceEntry
) -> None:
    one, other, passes = rule_of(wide), rule_of(narrow), passes_of(entry)
    if covers(one, other):
        for judged in passes:
            if other.suits(judged) and other.is_about(entry, passes):
                assert one.suits(judged)
                assert one.is_about(entry, passes)


@given(rule_tables)
def test_a_rule_comes_back_from_its_table(table: dict[str, object]) -> None:
    rule = rule_of(table)
    assert rule_of(table_of(rule)) == rule
    assert tomllib.loads(toml_of(table_of(rule))) == {"rule": [table_of(rule)]}


@given(st.lists(st.tuples(texts, texts, st.integers(0, 3)), min_size=1, max_size=5))
def test_every_key_is_on_the_line_that_is_told(rules: list[tuple[str, str, int]]) -> None:
    text, expected = "", []
    for note, serial, blank in rules:
        text += "\n" * blank + "# [[rule]]\n"
        expected.append(text.count("\n") + 1)
        text += toml_of({"serial": [serial, serial + "x" * 100], "verdict": "deny", "note": note})
    document = tomllib.loads(text)
    found = tables_of(text)[1:]
    assert [table.line for table in found] == expected
    assert [list(table.keys) for table in found] == [list(rule) for rule in document["rule"]]
    lines = text.split("\n")
    for table in found:
        assert all(lines[line - 1].startswith(key) for key, line in table.keys.items())


@given(st.text(st.sampled_from("[]{}\"'#=\n\\ ab,.1"), max_size=60))
def test_whatever_text_a_source_is_it_is_read_or_refused(text: str) -> None:
    found = read_text(Path("50-x.toml"), text)
    assert all(problem.line >= 1 for problem in found.problems)


@given(
    st.dictionaries(st.sampled_from(["id", "class", "verdict", "usage", "quirks", "port", "x"]), st.text(max_size=8))
)
def test_whatever_a_table_holds_it_is_a_rule_or_a_form_error(table: dict[str, str]) -> None:
    try:
        rule = rule_of(table)
    except FormError:
        return
    assert rule_of(table_of(rule)) == rule


@given(st.from_regex(r"([0-9a-f?]{4}|\*):([0-9a-f?]{4}|\*)", fullmatch=True))
def test_ids_are_written_as_they_were_read(text: str) -> None:
    assert parse_id(format_pair(parse_id(text))) == parse_id(text)


@given(st.from_regex(r"([0-9a-f]{2}|\*)(/([0-9a-f]{2}|\*)){0,2}", fullmatch=True))
def test_classes_are_written_as_they_were_read(text: str) -> None:
    assert parse_class(format_class(parse_class(text))) == parse_class(text)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_releases_are_written_as_they_were_read(one: int, other: int) -> None:
    release = (min(one, other), max(one, other))
    assert parse_release(format_release(release)) == release
