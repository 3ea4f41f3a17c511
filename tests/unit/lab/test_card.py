"""The smart card: its answer to reset, its commands, and what it refuses."""

import hmac
import struct

import pytest

from tools.lab.devices.card import AID, ATR, CONTENT, CONTENT_FILE, KEY, NOTES_FILE, Card, Command, parse

SELECT_APPLICATION = bytes((0x00, 0xA4, 0x04, 0x00, len(AID))) + AID + b"\0"


@pytest.fixture
def card() -> Card:
    """With its application selected."""
    card = Card()
    assert card.answer(SELECT_APPLICATION).endswith(b"\x90\0")
    return card


def word(answer: bytes) -> int:
    return int.from_bytes(answer[-2:])


def select(card: Card, number: int) -> None:
    assert card.answer(bytes.fromhex("00a4020c02") + number.to_bytes(2)) == b"\x90\0"


def test_the_answer_to_reset_is_of_t_1_and_its_check_character_is_right():
    assert ATR[:3] == bytes((0x3B, 0x80 | len(ATR) - 4, 0x01))
    check = 0
    for byte in ATR[1:]:
        check ^= byte
    assert check == 0


@pytest.mark.parametrize(
    ("text", "data", "expected"),
    [
        ("01020304", "", 0),
        ("0102030405", "", 5),
        ("0102030400", "", 256),
        ("01020304 02 aabb", "aabb", 0),
        ("01020304 02 aabb 07", "aabb", 7),
        ("01020304 02 aabb 00", "aabb", 256),
        ("01020304 000102", "", 0x102),
        ("01020304 000000", "", 65536),
        ("01020304 000002 aabb", "aabb", 0),
        ("01020304 000002 aabb 0100", "aabb", 256),
        ("01020304 000002 aabb 0000", "aabb", 65536),
    ],
)
def test_the_forms_of_a_command(text, data, expected):
    assert parse(bytes.fromhex(text)) == Command(1, 2, (3, 4), bytes.fromhex(data), expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "010203",
        "01020304 02 aa",
        "01020304 02 aabb 0000",
        "01020304 0000",
        "01020304 000003 aabb",
        "01020304 00000000",
    ],
)
def test_what_is_no_command(text):
    assert parse(bytes.fromhex(text)) is None
    assert word(Card().answer(bytes.fromhex(text))) == 0x6700


def test_its_content_is_read_in_parts_and_at_once(card):
    select(card, CONTENT_FILE)
    assert card.answer(bytes.fromhex("00b00000 000000")) == CONTENT + b"\x90\0"
    assert card.answer(bytes.fromhex("00b00102 10")) == CONTENT[0x102:0x112] + b"\x90\0"
    assert card.answer(bytes.fromhex("00b04e10 00")) == CONTENT[0x4E10:] + b"\x90\0"
    assert card.answer(bytes.fromhex("00b04e10 20")) == CONTENT[0x4E10:] + b"\x62\x82"
    assert word(card.answer(struct.pack(">BBHB", 0, 0xB0, len(CONTENT), 0))) == 0x6B00


def test_notes_are_kept_when_the_power_goes(card):
    select(card, NOTES_FILE)
    assert card.answer(bytes.fromhex("00d60010 03 616263")) == b"\x90\0"
    card.reset()
    assert word(card.answer(bytes.fromhex("00b00010 03"))) == 0x6986
    card.answer(SELECT_APPLICATION)
    select(card, NOTES_FILE)
    assert card.answer(bytes.fromhex("00b0000f 05")) == b"\0abc\0\x90\0"
    assert word(card.answer(bytes.fromhex("00d607ff 02 6162"))) == 0x6B00


def test_the_content_cannot_be_written(card):
    select(card, CONTENT_FILE)
    assert word(card.answer(bytes.fromhex("00d60000 01 00"))) == 0x6986


def test_a_challenge_is_answered_with_the_key(card):
    assert card.answer(bytes.fromhex("00880000 04 01020304 00")) == (
        hmac.digest(KEY, b"\1\2\3\4", "sha256") + b"\x90\0"
    )
    first, second = (card.answer(bytes.fromhex("00840000 10")) for _ in range(2))
    assert len(first) == 18
    assert first != second


@pytest.mark.parametrize(
    ("apdu", "expected"),
    [
        ("00a40400 02 a000", 0x6A82),
        ("00a4020c 02 0009", 0x6A82),
        ("00a4020c 01 01", 0x6A86),
        ("00a4000c 02 3f00", 0x6A86),
        ("00b00000 00", 0x6986),
        ("00ff0000", 0x6D00),
        ("80b00000 00", 0x6D00),
        ("01a40400", 0x6E00),
    ],
)
def test_what_it_refuses(card, apdu, expected):
    assert word(card.answer(bytes.fromhex(apdu))) == expected


def test_before_its_application_is_selected_it_has_nothing():
    card = Card()
    assert word(card.answer(bytes.fromhex("00a4020c 02 0001"))) == 0x6A82
    assert word(card.answer(bytes.fromhex("00880000 01 00 00"))) == 0x6A82
