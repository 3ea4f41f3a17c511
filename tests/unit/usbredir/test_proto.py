"""Numbers and tables of the protocol."""

import subprocess
import sys

import pytest

from usbbridge.usbredir.packets import PACKET_CLASSES
from usbbridge.usbredir.proto import (
    ALL_CAPS,
    DIRECTIONS,
    Cap,
    PacketType,
    consistent,
    endpoint_address,
    endpoint_index,
)


def test_every_packet_type_has_a_class_and_a_direction() -> None:
    assert set(PACKET_CLASSES) == set(DIRECTIONS) == set(PacketType)
    assert all(cls.type is packet for packet, cls in PACKET_CLASSES.items())


def test_packet_types_are_those_of_the_protocol() -> None:
    assert sorted(PacketType) == [*range(28), *range(100, 105)]


def test_there_are_eight_capabilities() -> None:
    assert sum(Cap) == ALL_CAPS == 0xFF


@pytest.mark.parametrize(("address", "index"), [(0x00, 0), (0x0F, 15), (0x80, 16), (0x81, 17), (0x8F, 31)])
def test_endpoint_addresses_and_indexes(address: int, index: int) -> None:
    assert endpoint_index(address) == index
    assert endpoint_address(index) == address


def test_bulk_streams_needs_max_packet_sizes() -> None:
    assert consistent(Cap.BULK_STREAMS | Cap.FILTER) == Cap.FILTER
    assert consistent(ALL_CAPS) == ALL_CAPS


def test_the_codec_does_not_import_construct() -> None:
    code = "import sys, usbbridge.usbredir.codec; print('construct' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
