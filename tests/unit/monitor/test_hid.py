"""Report descriptors: what an interface says it is for, and what it can't do by lying."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbbridge.monitor.hid import MAX_USAGES, application_usages

KEYBOARD = bytes.fromhex(  # HID 1.11 appendix B.1
    "05010906a101050719e029e715002501750195088102950875018101"
    "95057501050819012905910295017503910195067508150025650507190029658100c0"
)
SECURITY_KEY = bytes.fromhex(  # CTAP 2.1 §11.2.8.2
    "06d0f10901a1010920150026ff007508954081020921150026ff00750895409102c0"
)
MOUSE_WITH_MEDIA_KEYS = bytes.fromhex(
    "05010902a1010901a1000509190129031500250195037501810295017505810305010930093109381581257f750895038106c0c0"
    "050c0901a101850219002a3c021500263c029501751081 00c0"
)


@pytest.mark.parametrize(
    ("descriptor", "usages"),
    [
        (KEYBOARD, (0x0001_0006,)),
        (SECURITY_KEY, (0xF1D0_0001,)),
        (MOUSE_WITH_MEDIA_KEYS, (0x0001_0002, 0x000C_0001)),
        (b"", ()),
        (bytes.fromhex("0b06000100a101c0"), (0x0001_0006,)),  # a usage of four bytes has its page with it
        (bytes.fromhex("a4050cb40501a40509b40906a101c0"), (0x0001_0006,)),  # pushed and popped pages
        (bytes.fromhex("fe0201aabb05010906a101c0"), (0x0001_0006,)),  # a long item is passed over
        (bytes.fromhex("05010906a100c0"), ()),  # a physical collection is no application
        (bytes.fromhex("0501a101c0"), ()),  # nor one without a usage
        (KEYBOARD + KEYBOARD, (0x0001_0006,)),
    ],
)
def test_applications_are_found(descriptor: bytes, usages: tuple[int, ...]) -> None:
    assert application_usages(descriptor) == usages


def test_what_is_cut_off_ends_the_reading() -> None:
    assert application_usages(KEYBOARD[:5]) == ()
    assert application_usages(KEYBOARD[:6]) == (0x0001_0006,)


def test_a_descriptor_of_nothing_but_applications_is_bounded() -> None:
    many = b"".join(bytes((0x0A, n, 1, 0xA1, 1, 0xC0)) for n in range(200))
    assert len(application_usages(many)) == MAX_USAGES


@given(st.binary(max_size=300))
def test_any_bytes_are_read_to_an_end(descriptor: bytes) -> None:
    assert len(application_usages(descriptor)) <= MAX_USAGES
