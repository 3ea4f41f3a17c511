"""Filter rules. That they mean what libusbredirfilter means by them is shown in tests/interop."""

import pytest

from usbbridge.usbredir.errors import FilterError
from usbbridge.usbredir.filter import DENY_ALL, DeviceFacts, FilterRule, check, format, parse, rules_of_peer
from usbbridge.usbredir.packets import InterfaceEntry

BOOT_KEYBOARD = (3, 1, 1)
PLAIN_HID = (3, 0, 0)
AUDIO = (1, 1, 0)
STORAGE = (8, 6, 80)
NO_HID = parse("0x03,-1,-1,-1,0|-1,-1,-1,-1,1")


def device(*interfaces: tuple[int, int, int], class_: int = 0) -> DeviceFacts:
    entries = tuple(InterfaceEntry(n, *each) for n, each in enumerate(interfaces))
    return DeviceFacts(class_, 0, 0, 0x1234, 0x5678, 0x0100, entries)


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("", []),
        ("|", []),
        ("3,1,2,3,1", [(3, 1, 2, 3, True)]),
        ("0x03,0x0001,0X2,0003,0", [(3, 1, 2, 3, False)]),
        ("010,-1,-1,-1,1", [(8, -1, -1, -1, True)]),
        (" \t\n3,+1,\v2,-0,1", [(3, 1, 2, 0, True)]),
        ("3,1,2,3,1,", [(3, 1, 2, 3, True)]),
        (",3,,-1,-1,-1,0,", [(3, -1, -1, -1, False)]),
        ("|3,-1,-1,-1,0||-1,-1,-1,-1,1|", [(3, -1, -1, -1, False), (-1, -1, -1, -1, True)]),
        ("255,65535,65535,65535,1", [(255, 65535, 65535, 65535, True)]),
        ("-0x1,-01,-1,-1,1", [(-1, -1, -1, -1, True)]),
        ("0" * 5000 + "3,-1,-1,-1,1", [(3, -1, -1, -1, True)]),
    ],
)
def test_filter_strings_are_read(text: str, rules: list[tuple[int, int, int, int, bool]]) -> None:
    assert parse(text) == tuple(FilterRule(*rule) for rule in rules)


@pytest.mark.parametrize(
    "text",
    [
        "3",
        "3,1,2,3",
        "3,1,2,3,1,1",
        ",",
        "|,|",
        "3,1,2,3, ",
        "3,1,2,3,1 ",
        "3 ,1,2,3,1",
        "x,1,2,3,1",
        "08,1,2,3,1",
        "0x,1,2,3,1",
        "0b11,1,2,3,1",
        "+-1,1,2,3,1",
        "- 1,1,2,3,1",
        "1_0,1,2,3,1",
        "٣,1,2,3,1",
        "256,-1,-1,-1,1",
        "-2,-1,-1,-1,1",
        "3,65536,-1,-1,1",
        "3,-1,-2,-1,1",
        "3,-1,-1,65536,1",
        "0x100000003,-1,-1,-1,1",
        "9" * 10000 + ",-1,-1,-1,1",
        "3,-1,-1,-1,-1",
        "3,-1,-1,-1,2",
        "3,-1,-1,-1,0x100000000",
        "3,-1,-1,-1,0\0",
    ],
)
def test_bad_filter_strings_are_errors_and_from_a_peer_deny_everything(text: str) -> None:
    with pytest.raises(FilterError, match="bad USB filter"):
        parse(text)
    assert rules_of_peer(text) == DENY_ALL


def test_a_peers_good_filter_is_taken() -> None:
    assert rules_of_peer("3,1,2,3,1") == parse("3,1,2,3,1")


def test_other_separators() -> None:
    assert parse("3:1:2:3:1;4:1:2:3:0", field_separators=":", rule_separators=";") == parse("3,1,2,3,1|4,1,2,3,0")
    assert parse("3^1-2]3[1", field_separators="^-][") == parse("3,1,2,3,1")


def test_filters_are_written_as_libusbredirfilter_writes_them() -> None:
    text = "0x03,0x0001,0x0002,0x0003,1|-1,-1,-1,-1,0"
    assert format(parse("3,1,2,3,1|-1,-1,-1,-1,0")) == text
    assert format(()) == ""


@pytest.mark.parametrize("fields", [(256, 0, 0, 0), (0, -2, 0, 0), (0, 0, 65536, 0), (0, 0, 0, 65536)])
def test_a_rule_out_of_range_cannot_be_made(fields: tuple[int, int, int, int]) -> None:
    with pytest.raises(FilterError):
        FilterRule(*fields, True)


@pytest.mark.parametrize(
    ("facts", "allowed"),
    [
        (device(BOOT_KEYBOARD), False),
        (device(AUDIO, AUDIO, PLAIN_HID), True),
        (device(PLAIN_HID), False),
        (device(PLAIN_HID, PLAIN_HID), False),
        (device(BOOT_KEYBOARD, PLAIN_HID), False),
        (device(STORAGE), True),
        (device(STORAGE, class_=3), False),
        (device(STORAGE, class_=0xEF), True),
    ],
)
def test_passes(facts: DeviceFacts, allowed: bool) -> None:
    assert check(NO_HID, facts).allowed is allowed


def test_hid_without_boot_is_judged_on_demand() -> None:
    assert not check(NO_HID, device(AUDIO, PLAIN_HID), dont_skip_non_boot_hid=True).allowed


def test_no_rule_denies_unless_told_otherwise() -> None:
    verdict = check((), device(STORAGE))
    assert not verdict.allowed
    assert verdict.rule is None
    assert verdict.interface == InterfaceEntry(0, *STORAGE)
    assert check((), device(STORAGE), default_allow=True).allowed


def test_every_interface_must_be_allowed() -> None:
    storage_only = parse("8,-1,-1,-1,1")
    verdict = check(storage_only, device(STORAGE, (0xFF, 0, 0)))
    assert not verdict.allowed
    assert verdict.interface == InterfaceEntry(1, 0xFF, 0, 0)


def test_the_verdict_names_the_rule_and_the_interface() -> None:
    verdict = check(NO_HID, device(STORAGE, BOOT_KEYBOARD))
    assert (verdict.rule, verdict.interface) == (NO_HID[0], InterfaceEntry(1, *BOOT_KEYBOARD))
    verdict = check(NO_HID, device(STORAGE, class_=3))
    assert (verdict.rule, verdict.interface) == (NO_HID[0], None)


def test_the_first_rule_that_matches_decides() -> None:
    assert check(parse("8,0x1234,-1,-1,1|-1,-1,-1,-1,0"), device(STORAGE)).allowed
    assert not check(parse("8,0x1234,0x5678,0x0100,0|-1,-1,-1,-1,1"), device(STORAGE)).allowed
    assert check(parse("8,0x1234,0x5678,0x0101,0|-1,-1,-1,-1,1"), device(STORAGE)).allowed


@pytest.mark.parametrize("class_", [0, 0xEF])
def test_an_unconfigured_device_is_judged_by_its_device_class(class_: int) -> None:
    assert not check((), device(class_=class_)).allowed
    assert not check(parse("8,-1,-1,-1,1"), device(class_=class_)).allowed
    assert check(NO_HID, device(class_=class_)).allowed
