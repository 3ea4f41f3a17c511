"""Our filter rules against libusbredirfilter, over generated rules and devices.

They agree but for the cases that `usbbridge.usbredir.filter` lists, and in those we are the stricter one.
"""

import re

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.interop.cusbredir import ALLOWED, DENIED, NO_RULE, filter_check, rules_to_string, string_to_rules
from tests.unit.usbredir.strategies import rules
from usbbridge.usbredir.errors import FilterError
from usbbridge.usbredir.filter import DeviceFacts, FilterRule, Verdict, check, format, parse
from usbbridge.usbredir.packets import InterfaceEntry

RANGES = ((-1, 0xFF), (-1, 0xFFFF), (-1, 0xFFFF), (-1, 0xFFFF), (0, 1))
"The numbers that we take; the last is allow."
EDGES = [65535, 65536, 2**32 - 1, 2**32, 2**32 + 3, 2**63, 2**64]


small = st.integers(-1, 9)


@st.composite
def numbers(draw: st.DrawFn) -> str:
    """A number in one of the spellings of strtol."""
    value = draw(small | small | st.integers(-3, 300) | st.integers(-(2**70), 2**70) | st.sampled_from(EDGES))
    sign = "-" if value < 0 else draw(st.sampled_from(["", "", "", "+"]))
    spelling = draw(st.sampled_from(["{:d}", "0x{:x}", "0X{:X}", "0{:o}", "0x{:04x}"]))
    return draw(st.sampled_from(["", "", "", " ", "\t\n"])) + sign + spelling.format(abs(value))


usual = st.sampled_from(["-1", "-1", "3", "0x08", "0", "1", "1", "0xff", "010"])
odd = st.sampled_from(["", " ", "0x", "08", "0b1", "1 ", "1x", "--1", "+", "x", "1.0", "1_0"])
fields = usual | usual | numbers() | odd
plain = st.tuples(usual, numbers(), usual, usual, st.sampled_from(["0", "1", "0x1", "+1", " 01"]))
odd_lines = st.lists(usual | numbers(), min_size=5, max_size=5) | st.lists(fields, min_size=4, max_size=6)
texts = st.lists(plain.map(",".join) | plain.map(",,".join) | odd_lines.map(",".join), max_size=3).map("||".join)
anything = st.text(st.characters(codec="ascii", exclude_characters="\0"))


def fails_open(text: str) -> bool:
    """Whether a string that C reads is a listed case: a number that does not fit, or an allow beyond 0 and 1."""
    for rule in filter(None, text.split("|")):
        for token, (least, most) in zip(filter(None, rule.split(",")), RANGES, strict=True):
            if not least <= as_written(token) <= most:
                return True
    return False


def as_written(token: str) -> int:
    """The number that a token that C reads stands for, whatever its size."""
    digits = token.strip()
    octal = re.fullmatch(r"([+-]?)0([0-7]+)", digits)
    return int(f"{octal[1]}0o{octal[2]}" if octal else digits, 0)


@given(texts | anything)
@settings(max_examples=1000)
def test_the_same_strings_are_read_alike(text: str) -> None:
    code, theirs = string_to_rules(text.encode())
    try:
        ours = parse(text)
    except FilterError:
        event("C errs too" if code else "listed case")
        assert code != 0 or fails_open(text)
        return
    event(f"read, {min(len(theirs), 1)} rules or more")
    assert code == 0
    assert not fails_open(text)
    assert list(ours) == theirs


@given(rules)
def test_rules_are_written_alike(some: list[FilterRule]) -> None:
    assert format(some) == rules_to_string(some)
    assert parse(format(some)) == tuple(some)


classes = st.sampled_from([0, 1, 3, 8, 0xEF, 0xFF])
hid = st.builds(InterfaceEntry, st.just(0), st.just(3), st.sampled_from([0, 0, 1]), st.sampled_from([0, 0, 2]))
few = st.sampled_from([0, 1, 6])
words = st.sampled_from([0, 1, 0xFFFF])
likely_rules = st.lists(
    st.builds(
        FilterRule,
        *(st.just(-1) | classes, st.just(-1) | words, st.just(-1) | words, st.just(-1) | words),
        st.booleans(),
    ),
    max_size=5,
)
devices = st.builds(
    DeviceFacts,
    *(classes, few, few, words, words, words),
    st.lists(hid | st.builds(InterfaceEntry, few, classes, few, few), max_size=4).map(tuple),
)


def code_of(verdict: Verdict) -> int:
    if verdict.allowed:
        return ALLOWED
    return NO_RULE if verdict.rule is None else DENIED


@given(likely_rules, devices, st.booleans(), st.booleans())
@settings(max_examples=1000)
def test_devices_are_judged_alike(
    some: list[FilterRule], device: DeviceFacts, default_allow: bool, dont_skip: bool
) -> None:
    theirs = filter_check(some, device, flags=default_allow | dont_skip << 1)
    ours = code_of(check(some, device, default_allow=default_allow, dont_skip_non_boot_hid=dont_skip))
    if device.interfaces or device.class_ not in (0x00, 0xEF):
        event(f"code {theirs}")
        assert ours == theirs
    else:
        event(f"listed case: {ours}")
        assert theirs == ALLOWED  # whatever we say is as strict as that, or stricter


@pytest.mark.parametrize("class_", [0x00, 0xEF])
def test_listed_case_no_interfaces(class_: int) -> None:
    nothing = DeviceFacts(class_, 0, 0, 1, 1, 1, ())
    deny = FilterRule(-1, -1, -1, -1, False)
    assert (filter_check([], nothing), check((), nothing).allowed) == (ALLOWED, False)
    assert (filter_check([deny], nothing), check((deny,), nothing).allowed) == (ALLOWED, False)


@pytest.mark.parametrize(
    ("text", "as_c_reads_it"),
    [
        ("0x100000003,-1,-1,-1,1", FilterRule(3, -1, -1, -1, True)),
        ("99999999999999999999,-1,-1,-1,1", FilterRule(-1, -1, -1, -1, True)),
        ("3,-1,-1,-1,-1", FilterRule(3, -1, -1, -1, True)),
        ("3,-1,-1,-1,7", FilterRule(3, -1, -1, -1, True)),
    ],
)
def test_listed_case_numbers_that_do_not_fit(text: str, as_c_reads_it: FilterRule) -> None:
    assert string_to_rules(text.encode()) == (0, [as_c_reads_it])
    assert fails_open(text)
    with pytest.raises(FilterError):
        parse(text)
