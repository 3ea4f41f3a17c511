"""How ids, classes, usages and releases are written in rules."""

import pytest

from usbbridge.compat.pattern import (
    Mask,
    PatternError,
    format_class,
    format_pair,
    format_release,
    parse_class,
    parse_id,
    parse_release,
    parse_usage,
)


@pytest.mark.parametrize("text", ["0781:5567", "0781:*", "*:*", "0781:55??", "*:5567", "?781:556?"])
def test_an_id_is_written_as_it_was_read(text: str) -> None:
    assert format_pair(parse_id(text)) == text


@pytest.mark.parametrize("text", ["08", "08/06", "08/06/50", "08/*/50", "*/06", "*"])
def test_a_class_is_written_as_it_was_read(text: str) -> None:
    assert format_class(parse_class(text)) == text


@pytest.mark.parametrize("text", ["0100", "0100-01ff", "0100-", "-01ff", "0000", "-ffff"])
def test_a_release_is_written_as_it_was_read(text: str) -> None:
    assert format_release(parse_release(text)) == text


@pytest.mark.parametrize("text", ["", "0781", "781:5567", "0781:5567:1", "0781:556g", "0781:5*", "0781 5567", "::"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(PatternError, match="VID:PID"):
        parse_id(text)


@pytest.mark.parametrize("text", ["", "8", "08/", "08/06/50/01", "0x08", "8/6/50", "/06"])
def test_what_is_no_class_is_refused(text: str) -> None:
    with pytest.raises(PatternError, match="a class is"):
        parse_class(text)


@pytest.mark.parametrize("text", ["", "-", "1", "0100-0", "01000200", "0100:0200", "1.00"])
def test_what_is_no_release_is_refused(text: str) -> None:
    with pytest.raises(PatternError, match="bcdDevice is"):
        parse_release(text)


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(PatternError, match="ends before"):
        parse_release("0200-0100")


def test_upper_case_means_the_same() -> None:
    assert parse_id("ABCD:EF??") == parse_id("abcd:ef??")
    assert parse_usage("F1D0:0001") == Mask(0xF1D00001, 0xFFFFFFFF)


def test_wildcards_match_what_they_stand_for() -> None:
    pattern = parse_id("0781:55??")
    assert pattern.matches(0x07815567)
    assert not pattern.matches(0x07815667)
    assert parse_class("08/*/50").matches(0x080650)
    assert not parse_class("08/*/50").matches(0x080662)


def test_a_wider_pattern_covers_a_narrower_one_only() -> None:
    assert parse_id("0781:*").covers(parse_id("0781:55??"))
    assert not parse_id("0781:55??").covers(parse_id("0781:*"))
    assert not parse_id("0781:*").covers(parse_id("0782:5567"))
