"""The struct formats of the codec against the declarations made with construct."""

from collections.abc import Iterator
from typing import Any

import pytest
from construct import Construct

from usbbridge.usbredir import layouts
from usbbridge.usbredir.proto import ALL_CAPS, Cap, PacketType
from usbbridge.usbredir.wire import HELLO_HEADER, Wire, wire

LAYOUT_CAPS = [
    Cap(0),
    Cap.CONNECT_DEVICE_VERSION,
    Cap.EP_INFO_MAX_PACKET_SIZE,
    Cap.EP_INFO_MAX_PACKET_SIZE | Cap.BULK_STREAMS,
    Cap.BULK_LENGTH_32BIT,
    Cap.IDS_64BIT,
    ALL_CAPS,
]


def flat(value: Any) -> Iterator[Any]:
    """The values of what construct or struct parsed, lists taken apart, fields that do not exist left out."""
    if isinstance(value, dict):
        for name, each in value.items():
            if not name.startswith("_"):
                yield from flat(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from flat(each)
    elif isinstance(value, bytes):
        yield from value
    elif value is not None:
        yield value


def declared(construct: Construct, data: bytes) -> list[Any]:
    parsed = construct.parse(data)
    assert construct.build(parsed) == data
    return list(flat(parsed))


@pytest.mark.parametrize("caps", LAYOUT_CAPS)
@pytest.mark.parametrize("packet", PacketType)
def test_a_type_header_is_what_construct_declares(packet: PacketType, caps: Cap) -> None:
    body = wire(caps).bodies[packet]
    sample = bytes((7 * n + 3) % 256 for n in range(body.size))
    assert declared(layouts.type_header(packet, caps), sample) == list(flat(body.unpack(sample)))


@pytest.mark.parametrize("caps", [Cap(0), Cap.IDS_64BIT])
def test_the_header_is_what_construct_declares(caps: Cap) -> None:
    header = wire(caps).header
    sample = bytes(range(header.size))
    assert declared(layouts.header(caps), sample) == list(header.unpack(sample))


@pytest.mark.parametrize("packet", PacketType)
def test_headers_together_are_one_after_the_other(packet: PacketType) -> None:
    formats = wire(ALL_CAPS)
    assert formats.packets[packet].format == formats.header.format + formats.bodies[packet].format[1:]
    assert formats.packets[packet].size == formats.header.size + formats.bodies[packet].size


def test_hello_has_the_narrow_header() -> None:
    assert HELLO_HEADER.size == 12
    assert wire(Cap(0)).header is HELLO_HEADER


@pytest.mark.parametrize(
    ("packet", "caps", "size"),
    [
        (PacketType.DEVICE_CONNECT, Cap(0), 8),
        (PacketType.DEVICE_CONNECT, Cap.CONNECT_DEVICE_VERSION, 10),
        (PacketType.INTERFACE_INFO, ALL_CAPS, 132),
        (PacketType.EP_INFO, Cap(0), 96),
        (PacketType.EP_INFO, Cap.EP_INFO_MAX_PACKET_SIZE, 160),
        (PacketType.EP_INFO, ALL_CAPS, 288),
        (PacketType.BULK_STREAMS_STATUS, ALL_CAPS, 9),
        (PacketType.START_BULK_RECEIVING, ALL_CAPS, 10),
        (PacketType.STOP_BULK_RECEIVING, ALL_CAPS, 5),
        (PacketType.BULK_RECEIVING_STATUS, ALL_CAPS, 6),
        (PacketType.CONTROL_PACKET, ALL_CAPS, 10),
        (PacketType.BULK_PACKET, Cap(0), 8),
        (PacketType.BULK_PACKET, Cap.BULK_LENGTH_32BIT, 10),
        (PacketType.BUFFERED_BULK_PACKET, ALL_CAPS, 10),
    ],
)
def test_sizes_are_those_of_the_protocol_text(packet: PacketType, caps: Cap, size: int) -> None:
    assert wire(caps).bodies[packet].size == size


def test_layouts_are_built_once_for_each_set_of_capabilities() -> None:
    assert wire(ALL_CAPS) is wire(ALL_CAPS)
    assert isinstance(wire(Cap(0)), Wire)
