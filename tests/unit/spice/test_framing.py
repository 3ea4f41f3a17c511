import pytest

from usbbridge.spice.framing import DataHeader, MessageWriter, header_size, parse_header


def test_mini_headers() -> None:
    writer = MessageWriter(mini=True)
    assert writer.message(101, b"abc") == bytes.fromhex("6500 03000000") + b"abc"
    assert writer.header(0x102, 0x01020304) == bytes.fromhex("0201 04030201")


def test_full_headers_are_numbered_from_one() -> None:
    writer = MessageWriter(mini=False)
    assert writer.header(101, 3) == bytes.fromhex("0100000000000000 6500 03000000 00000000")
    assert writer.message(2) == bytes.fromhex("0200000000000000 0200 00000000 00000000")


@pytest.mark.parametrize("mini", [True, False])
def test_what_is_written_is_read(mini: bool) -> None:
    wire = b"??" + MessageWriter(mini).header(103, 32)
    assert len(wire) == 2 + header_size(mini)
    assert parse_header(mini, wire, 2) == DataHeader(103, 32, 0)


def test_sub_list_of_a_full_header() -> None:
    wire = bytes.fromhex("0100000000000000 6500 03000000 07000000")
    assert parse_header(False, wire) == DataHeader(101, 3, 7)
