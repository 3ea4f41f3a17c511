"""Names, ids and places."""

import pytest

from usbbridge.usb.identity import bus_port_key, class_name, clean_words, is_bus_port, parse_ids


@pytest.mark.parametrize(
    ("triple", "name"),
    [((8, 6, 0x50), "storage"), ((3, 1, 1), "keyboard"), ((3, 0, 0), "HID"), ((0x42, 0, 0), "class 42")],
)
def test_class_codes_have_names(triple: tuple[int, int, int], name: str) -> None:
    assert class_name(*triple) == name


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a\x00b", "a b"),
        ("\x1b]0;x\x07", "]0;x"),
        ("\u202eabc", "abc"),
        ("a\u2028b", "a b"),
        ("Zoë 𝄞", "Zoë 𝄞"),
        ("", ""),
        ("\ue000", ""),
    ],
)
def test_words_are_cleaned(said: str, shown: str) -> None:
    assert clean_words(said) == shown


def test_words_are_bounded_however_they_are_padded() -> None:
    assert clean_words("x" * 10_000) == "x" * 126
    assert clean_words(" " * 1_000_000 + "x") == ""


@pytest.mark.parametrize("text", ["1-2", "10-4.1.3"])
def test_places_are_told_from_names(text: str) -> None:
    assert is_bus_port(text)


@pytest.mark.parametrize("text", ["1", "1-", "1-2:1.0", "a-2", "1-2.", "1-2\n", "usb1"])
def test_other_text_is_no_place(text: str) -> None:
    assert not is_bus_port(text)


def test_ids_are_hexadecimal_and_may_lack_leading_zeros() -> None:
    assert parse_ids("46f4:1") == (0x46F4, 1)
    assert parse_ids("46f4") is None
    assert parse_ids("46f4:00001") is None


def test_places_sort_as_people_count() -> None:
    assert sorted(["1-10", "1-2.1", "2-1", "1-2"], key=bus_port_key) == ["1-2", "1-2.1", "1-10", "2-1"]
