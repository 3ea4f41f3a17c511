"""Setup packets and the numbers of chapter 9."""

import pytest

from usbbridge.usb.ch9 import (
    Feature,
    Recipient,
    Request,
    RequestType,
    SetupPacket,
    Speed,
    request_type,
)


def test_setup_packet_is_read_in_little_endian() -> None:
    setup = SetupPacket.parse(bytes.fromhex("8006000200001200"))
    assert setup == SetupPacket(0x80, Request.GET_DESCRIPTOR, 0x0200, 0, 18)
    assert setup.is_in
    assert setup.kind is RequestType.STANDARD
    assert setup.recipient == Recipient.DEVICE


def test_setup_packet_goes_back_to_the_same_bytes() -> None:
    wire = bytes.fromhex("0201000081000000")
    setup = SetupPacket.parse(wire)
    assert setup.pack() == wire
    assert (setup.request, setup.value) == (Request.CLEAR_FEATURE, Feature.ENDPOINT_HALT)
    assert setup.recipient == Recipient.ENDPOINT


def test_setup_packet_is_read_from_the_front_of_a_larger_buffer() -> None:
    buffer = bytearray(b"\x21\xff\x00\x00\x01\x00\x00\x00rest")
    setup = SetupPacket.parse(memoryview(buffer))
    assert (setup.kind, setup.recipient, setup.index) == (RequestType.CLASS, Recipient.INTERFACE, 1)


@pytest.mark.parametrize(
    ("kind", "recipient", "is_in", "byte"),
    [
        (RequestType.STANDARD, Recipient.DEVICE, True, 0x80),
        (RequestType.CLASS, Recipient.INTERFACE, False, 0x21),
        (RequestType.CLASS, Recipient.INTERFACE, True, 0xA1),
        (RequestType.STANDARD, Recipient.ENDPOINT, False, 0x02),
        (RequestType.VENDOR, Recipient.DEVICE, True, 0xC0),
    ],
)
def test_request_type_is_composed_of_direction_kind_and_recipient(
    kind: RequestType, recipient: Recipient, is_in: bool, byte: int
) -> None:
    assert request_type(kind, recipient, is_in=is_in) == byte


@pytest.mark.parametrize(
    ("mbps", "speed"),
    [(1.5, Speed.LOW), (480, Speed.HIGH), (5000, Speed.SUPER), (20000, Speed.SUPER_PLUS), (7, Speed.UNKNOWN)],
)
def test_speed_is_named_after_linux_megabits(mbps: float, speed: Speed) -> None:
    assert Speed.from_mbps(mbps) is speed
