"""The list in the peers' filter languages, and theirs in ours."""

from typing import Any

import pytest

from tests.unit.compat.devices import HEADSET, STICK
from usbbridge.compat.exchange import PASSED_OVER, Format, export, import_
from usbbridge.compat.form import rule_of, table_of
from usbbridge.compat.rule import Rule, Verdict
from usbbridge.compat.ruleset import RuleSet
from usbbridge.compat.source import read, shipped_rules
from usbbridge.errors import UsageError


def rules(*tables: dict[str, Any]) -> list[Rule]:
    return [rule_of(table, f"r{number}") for number, table in enumerate(tables, 1)]


SIMPLE = rules(
    {"class": "03/00/00", "verdict": "follow"},
    {"id": "0781:5567", "bcd-device": "0126", "verdict": "deny"},
    {"class": ["08", "07"], "id": "0781:*", "verdict": "connect"},
    {"class": "0e", "verdict": "ask"},
)


def test_a_list_as_usbredir_has_it() -> None:
    exported = export(SIMPLE, Format.USBREDIR, ask=Verdict.DENY)
    assert exported.text.split("|") == [
        "-1,0x0781,0x5567,0x0126,0",
        "0x08,0x0781,-1,-1,1",
        "0x07,0x0781,-1,-1,1",
        "0x0e,-1,-1,-1,0",
        "-1,-1,-1,-1,0",
    ]
    assert exported.warnings == ()


def test_a_list_as_qemu_has_it() -> None:
    text = export(SIMPLE, Format.QEMU).text
    assert text == "-1:0x0781:0x5567:0x0126:0|0x08:0x0781:-1:-1:1|0x07:0x0781:-1:-1:1|0x0e:-1:-1:-1:1|-1:-1:-1:-1:1"


def test_a_list_as_libvirt_has_it() -> None:
    assert export(SIMPLE, Format.LIBVIRT, ask=Verdict.DENY).text.splitlines() == [
        "<redirfilter>",
        "  <usbdev vendor='0x0781' product='0x5567' version='1.26' allow='no'/>",
        "  <usbdev class='0x08' vendor='0x0781' allow='yes'/>",
        "  <usbdev class='0x07' vendor='0x0781' allow='yes'/>",
        "  <usbdev class='0x0E' allow='no'/>",
        "  <usbdev allow='no'/>",
        "</redirfilter>",
    ]


def test_a_release_that_is_not_decimal_can_not_be_said_to_libvirt() -> None:
    hexadecimal = rules(
        {"id": "0781:*", "bcd-device": "01ff", "verdict": "deny"}, {"bcd-device": "02ff", "verdict": "allow"}
    )
    exported = export(hexadecimal, Format.LIBVIRT)
    assert exported.text.splitlines()[1:3] == ["  <usbdev vendor='0x0781' allow='no'/>", "  <usbdev allow='yes'/>"]
    assert [warning.rpartition(": ")[2] for warning in exported.warnings] == [
        "its rule denies all releases",
        "its rule is left out",
    ]


@pytest.mark.parametrize(
    ("table", "filters", "warning"),
    [
        ({"class": "03/01/01", "verdict": "deny"}, "0x03,-1,-1,-1,0|", "denies more than it says"),
        ({"class": "fe/03", "verdict": "allow"}, "", "left out, as a filter can't look at subclass and protocol"),
        ({"id": "0781:55??", "verdict": "deny"}, "-1,0x0781,-1,-1,0|", "parts of an id"),
        ({"id": "0781:*", "serial": "x", "verdict": "deny"}, "-1,0x0781,-1,-1,0|", "serial"),
        ({"port": "1-2", "verdict": "deny"}, "", "have to deny everything"),
        ({"class": "08", "speed": "low", "verdict": "connect"}, "", "speed"),
        ({"class": "08", "bcd-device": "0100-", "verdict": "deny"}, "0x08,-1,-1,-1,0|", "a range of releases"),
        ({"id": "0781:*", "quirks": ["no-reset"]}, "", "no quirks"),
        ({"class": "0a", "verdict": "follow"}, "0x0a,-1,-1,-1,1|", "also where it is alone"),
        ({"class": "fe/01/01", "verdict": "follow"}, "", "left out"),
        ({"class": "03", "usage": "f1d0:*", "any": "08", "verdict": "allow"}, "", "usage and any"),
    ],
)
def test_what_a_filter_can_not_say_is_told(table: dict[str, Any], filters: str, warning: str) -> None:
    exported = export(rules(table), Format.USBREDIR)
    assert exported.text == filters + "-1,-1,-1,-1,1"
    (said,) = exported.warnings
    assert said.startswith("r1: ")
    assert warning in said


def test_the_shipped_list_can_be_exported_and_imported() -> None:
    shipped = read([shipped_rules()]).rules
    for form in Format:
        exported = export(shipped, form)
        imported = import_(exported.text, form)
        again = export(imported.rules, form)
        assert (again.rules[:-1], imported.warnings) == (exported.rules, ())


def test_a_viewers_filter_becomes_rules() -> None:
    imported = import_("0x03,-1,-1,-1,0|-1,0x0781,0x5567,-1,1|-1,-1,-1,-1,1", Format.USBREDIR)
    assert [table_of(rule) for rule in imported.rules] == [
        {"class": "03/00/00", "verdict": "follow"},
        {"class": "03", "verdict": "deny"},
        {"id": "0781:5567", "verdict": "allow"},
        {"verdict": "allow"},
    ]
    assert RuleSet(imported.rules).judge(HEADSET).verdict is Verdict.ALLOW


def test_what_a_filter_is_not_about_is_told_or_decided_as_one_says() -> None:
    text = "0x08:-1:-1:-1:1"
    (warning,) = import_(text, Format.QEMU).warnings
    assert "none of its rules is about" in warning
    decided = import_(text, Format.QEMU, otherwise=Verdict.DENY)
    assert (decided.rules[-1], decided.warnings) == (Rule(verdict=Verdict.DENY), ())


def test_rules_behind_one_about_everything_are_not_taken_over() -> None:
    imported = import_("-1,-1,-1,-1,0|0x08,-1,-1,-1,1", Format.USBREDIR, otherwise=Verdict.ALLOW)
    assert imported.rules == (PASSED_OVER, Rule(verdict=Verdict.DENY))


def test_a_domain_has_its_filter_somewhere_inside() -> None:
    domain = """<?xml version="1.0"?><!-- <usbdev allow='no'/> --><domain><devices><redirfilter>
        <usbdev class='0x08' vendor='0x0781' product='0x5567' version='2.56' allow='yes'/>
        <usbdev class='-1' allow='no'/></redirfilter></devices></domain>"""
    tables = [table_of(rule) for rule in import_(domain, Format.LIBVIRT).rules[1:]]
    assert tables == [
        {"id": "0781:5567", "bcd-device": "0256", "class": "08", "verdict": "allow"},
        {"verdict": "deny"},
    ]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (Format.USBREDIR, "0x08:-1:-1:-1:1"),
        (Format.USBREDIR, "0x08,-1,-1,-1,2"),
        (Format.QEMU, "nonsense"),
        (Format.LIBVIRT, "<domain/>"),
        (Format.LIBVIRT, "<redirfilter><usbdev allow='maybe'/></redirfilter>"),
        (Format.LIBVIRT, "<redirfilter><usbdev class='0x100' allow='no'/></redirfilter>"),
        (Format.LIBVIRT, "<redirfilter><usbdev clas='0x08' allow='no'/></redirfilter>"),
        (Format.LIBVIRT, "<redirfilter><usbdev version='2' allow='no'/></redirfilter>"),
        (Format.LIBVIRT, "<redirfilter"),
        (Format.LIBVIRT, "<!DOCTYPE x [<!ENTITY y 'z'>]><redirfilter/>"),
        (Format.LIBVIRT, "x" * (2 << 20)),
        (Format.USBREDIR, "|".join(["0x08,-1,-1,-1,1"] * 10_001)),
    ],
)
def test_what_is_no_filter_is_refused(form: Format, text: str) -> None:
    with pytest.raises(UsageError):
        import_(text, form)


def test_an_empty_filter_says_nothing() -> None:
    assert RuleSet(import_("", Format.USBREDIR).rules).judge(STICK).verdict is Verdict.ASK
