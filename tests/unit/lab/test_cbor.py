"""CBOR as CTAP2 has it: the examples of RFC 8949 appendix A, canonical maps, and what is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.lab.devices.cbor import CborError, decode, encode

KEYS = st.integers(-(1 << 64), (1 << 64) - 1) | st.text()
SCALARS = KEYS | st.binary() | st.booleans() | st.none()


def around(inner):
    """What is one array or map deeper."""
    return SCALARS | st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)


VALUES = around(around(around(around(SCALARS))))

EXAMPLES = [
    (0, "00"),
    (23, "17"),
    (24, "1818"),
    (1000, "1903e8"),
    (1000000, "1a000f4240"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-1, "20"),
    (-1000, "3903e7"),
    (-18446744073709551616, "3bffffffffffffffff"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (b"\x01\x02\x03\x04", "4401020304"),
    ("IETF", "6449455446"),
    ("ü", "62c3bc"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
]


@pytest.mark.parametrize(("value", "text"), EXAMPLES)
def test_examples(value, text):
    assert encode(value).hex() == text
    assert decode(bytes.fromhex(text)) == value


def test_maps_are_sorted_by_the_bytes_of_their_keys():
    scattered = {"aa": 1, "b": 2, -1: 3, 100: 4, 2: 5}
    assert encode(scattered).hex() == "a5" + "0205" + "186404" + "2003" + "616202" + "62616101"


@given(VALUES)
def test_what_is_encoded_is_decoded(value):
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "too early"),
        ("19ff", "too early"),
        ("4401", "too early"),
        ("0000", "1 bytes follow"),
        ("5f", "indefinite"),
        ("1c", "reserved"),
        ("c000", "tag"),
        ("f97e00", "floating"),
        ("f7", "simple value"),
        ("62c328", "UTF-8"),
        ("a2010201", "announced"),
        ("a201020103", "twice"),
        ("a1f501", "no key"),
        ("a14101f6", "no key"),
        ("81818181818100", "nested"),
        ("9bffffffffffffffff", "announced"),
        ("bbffffffffffffffff", "announced"),
        ("5bffffffffffffffff", "too early"),
    ],
)
def test_what_is_not_ctap2s_cbor_is_refused(text, reason):
    with pytest.raises(CborError, match=reason):
        decode(bytes.fromhex(text))


@given(st.binary(max_size=64))
def test_any_bytes_are_decoded_or_refused(data):
    with contextlib.suppress(CborError):
        assert decode(encode(decode(data))) == decode(data)
