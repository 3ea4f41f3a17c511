"""Filters become rules that say the same, and rules become filters that let nothing more through."""

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.compat.devices import device
from usbbridge.compat.exchange import PASSED_OVER, Format, export, import_
from usbbridge.compat.form import rule_of
from usbbridge.compat.rule import Rule, Verdict
from usbbridge.compat.ruleset import RuleSet
from usbbridge.usb.entry import DeviceEntry
from usbbridge.usbredir.filter import ANY, DeviceFacts, FilterRule, check, format
from usbbridge.usbredir.packets import InterfaceEntry

# Few values each, so that rules and devices meet.
classes = st.sampled_from([0x00, 0x03, 0x08, 0xEF])
words = st.sampled_from([0, 1, 2])
any_or_words = st.just(ANY) | words
versions = st.sampled_from([ANY, 0x0100, 0x0199])
filters = st.lists(
    st.builds(FilterRule, st.just(ANY) | classes, any_or_words, any_or_words, versions, st.booleans()), max_size=6
)
triples = st.sampled_from(["03/00/00", "03/01/01", "03/01/02", "08/06/50", "08/06/62", "00/00/00"])
own_classes = st.sampled_from(["00/00/00", "03/00/00", "08/00/00", "ef/02/01"])
devices = st.builds(
    lambda vendor, product, version, class_, interfaces: device(
        f"{vendor:x}:{product:x}", *interfaces, class_=class_, bcd_device=version
    ),
    words,
    words,
    st.sampled_from([0x0100, 0x0199]),
    own_classes,
    st.lists(triples, max_size=4),
)
ids = st.sampled_from(["0000:0001", "0001:*", "*:0002", "0000:000?"])
tables = st.fixed_dictionaries(
    {"verdict": st.sampled_from(["connect", "allow", "ask", "deny"])},
    optional={
        "id": ids,
        "class": st.sampled_from(["03", "08", "03/01/01", "08/06", "*/06"]),
        "bcd-device": st.sampled_from(["0100", "0100-0150"]),
        "any": st.just("08"),
        "speed": st.just("high"),
    },
)


def facts(entry: DeviceEntry) -> DeviceFacts:
    interfaces = tuple(InterfaceEntry(i.number, i.class_, i.subclass, i.protocol) for i in entry.interfaces)
    own = (entry.class_, entry.subclass, entry.protocol)
    return DeviceFacts(*own, entry.vendor, entry.product, entry.bcd_device, interfaces)


@given(filters, devices)
def test_imported_rules_say_what_the_filter_says(rules: list[FilterRule], entry: DeviceEntry) -> None:
    imported = import_(format(rules), Format.USBREDIR, otherwise=Verdict.DENY)
    allowed = RuleSet(imported.rules).judge(entry).verdict is Verdict.ALLOW
    assert allowed == check(rules, facts(entry)).allowed


@given(filters, devices, st.sampled_from(list(Format)))
def test_what_was_imported_is_exported_as_it_was(rules: list[FilterRule], entry: DeviceEntry, form: Format) -> None:
    exported = export(import_(format(rules), Format.USBREDIR, otherwise=Verdict.DENY).rules, form)
    assert exported.warnings == ()
    again = import_(exported.text, form)
    assert check(exported.rules, facts(entry)).allowed == check(rules, facts(entry)).allowed
    assert (RuleSet(again.rules).judge(entry).verdict is Verdict.ALLOW) == check(rules, facts(entry)).allowed


@given(st.lists(tables, max_size=6), devices)
def test_an_exported_filter_lets_nothing_through_that_is_denied(
    written: list[dict[str, str]], entry: DeviceEntry
) -> None:
    rules = [PASSED_OVER, *(rule_of(table) for table in written)]
    exported = export(rules, Format.USBREDIR)
    if any("left out: the filter lets through" in warning for warning in exported.warnings):
        return
    if check(exported.rules, facts(entry)).allowed:
        assert RuleSet(rules).judge(entry).verdict is not Verdict.DENY


@given(st.lists(tables, max_size=6), devices)
def test_a_filter_that_refuses_what_is_asked_about_lets_nothing_else_through_than_what_is_allowed(
    written: list[dict[str, str]], entry: DeviceEntry
) -> None:
    rules: list[Rule] = [PASSED_OVER, *(rule_of(table) for table in written)]
    exported = export(rules, Format.USBREDIR, ask=Verdict.DENY)
    if any("left out: the filter lets through" in warning for warning in exported.warnings):
        return
    if check(exported.rules, facts(entry)).allowed:
        assert (
            RuleSet(rules).judge(entry).verdict is Verdict.ALLOW
            or RuleSet(rules).judge(entry).verdict is Verdict.CONNECT
        )
