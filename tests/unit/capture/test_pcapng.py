"""Blocks of the pcapng format, byte for byte, and how a stream of them is cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbbridge.capture import pcapng
from usbbridge.capture.pcapng import ENHANCED_PACKET, MAX_BLOCK, Splitter, dropped_of
from usbbridge.errors import RemoteProtocolError

FILE = pcapng.section_header("usbbridge") + pcapng.interface("1-2", "1-2 a stick")
FILE += pcapng.packet(1, [b"abc", memoryview(b"de")], 7) + pcapng.statistics(2, 3, 1)


def test_a_section_header_tells_byte_order_and_version() -> None:
    assert pcapng.section_header("ab") == bytes.fromhex(
        "0a0d0d0a 28000000 4d3c2b1a 0100 0000 ffffffffffffffff 0400 0200 61620000 0000 0000 28000000"
    )


def test_an_interface_has_the_link_type_of_usbmon() -> None:
    assert pcapng.interface("1-2", "") == bytes.fromhex(
        "01000000 24000000 dc00 0000 00000400 0200 0300 312d3200 0300 0000 0000 0000 24000000"
    )


def test_a_name_that_is_no_unicode_is_written_as_well_as_it_can_be() -> None:
    assert b"disk:a?.img" in pcapng.interface("1-2", "disk:a\udcff.img")


def test_a_packet_is_padded_and_tells_its_real_length() -> None:
    assert pcapng.packet((5 << 32) + 6, [b"ab", b"", memoryview(b"cde")], 9) == bytes.fromhex(
        "06000000 28000000 00000000 05000000 06000000 05000000 09000000 6162636465 000000 28000000"
    )


def test_what_is_missing_before_a_packet_stands_in_it() -> None:
    block = pcapng.packet(0, [b"abcd"], 4, dropped=7)
    assert block[32:-4] == bytes.fromhex("0400 0800 0700000000000000 0000 0000")
    assert int.from_bytes(block[4:8], "little") == len(block)


def test_a_comment_stands_behind_the_data() -> None:
    assert pcapng.packet(0, [b"abcd"], 4, comment="hi")[32:-4] == bytes.fromhex("0100 0200 68690000 0000 0000")


def test_statistics_count_packets_and_those_that_are_missing() -> None:
    block = pcapng.statistics(6, 1000, 3)
    assert block == bytes.fromhex(
        "05000000 34000000 00000000 00000000 06000000 0400 0800 e803000000000000 0500 0800 0300000000000000"
        "0000 0000 34000000"
    )
    assert dropped_of(block) == 3


def test_statistics_of_another_form_are_not_taken() -> None:
    with pytest.raises(RemoteProtocolError):
        dropped_of(FILE[:40])


@given(st.lists(st.integers(1, len(FILE)), max_size=8))
def test_a_stream_in_pieces_is_cut_into_the_same_blocks(cuts: list[int]) -> None:
    splitter, blocks = Splitter(), []
    places = [0, *sorted(cuts), len(FILE)]
    for start, end in pairwise(places):
        blocks += list(splitter.feed(FILE[start:end]))
    assert b"".join(block.data for block in blocks) == FILE
    assert [block.kind for block in blocks] == [0x0A0D0D0A, 1, ENHANCED_PACKET, 5]
    assert splitter.rest == 0


def test_what_is_not_whole_waits() -> None:
    splitter = Splitter()
    assert [block.kind for block in splitter.feed(FILE[:-1])] == [0x0A0D0D0A, 1, ENHANCED_PACKET]
    assert splitter.rest == pcapng.STATISTICS_BYTES - 1


@pytest.mark.parametrize("size", [0, 8, 13, MAX_BLOCK + 4])
def test_a_block_that_can_not_be_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        list(Splitter().feed(FILE + bytes(4) + size.to_bytes(4, "little")))
