"""Records of transfers, held against the layout of `struct usbmon_packet` in Documentation/usb/usbmon.rst."""

import struct
from dataclasses import replace
from typing import Any

import pytest

from usbbridge.capture.pcapng import MAX_PACKET
from usbbridge.capture.usbmon import COMPLETE, EINPROGRESS, ERROR, HEADER, SUBMIT, Address, Event, Urb
from usbbridge.usb.ch9 import TransferType

WHERE = Address(3, 7)
NOW = 1_700_000_000_123_456
SETUP = bytes.fromhex("8006000100001200")

OFFSETS = {
    "id": (0, "Q"),
    "type": (8, "B"),
    "xfer_type": (9, "B"),
    "epnum": (10, "B"),
    "devnum": (11, "B"),
    "busnum": (12, "H"),
    "flag_setup": (14, "c"),
    "flag_data": (15, "c"),
    "ts_sec": (16, "q"),
    "ts_usec": (24, "i"),
    "status": (28, "i"),
    "length": (32, "I"),
    "len_cap": (36, "I"),
    "setup": (40, "8s"),
    "error_count": (40, "i"),
    "numdesc": (44, "i"),
    "interval": (48, "i"),
    "start_frame": (52, "i"),
    "xfer_flags": (56, "I"),
    "ndesc": (60, "I"),
}
"Offsets as the kernel's documentation lists them."


def record(event: Event, *, payload: bool = True) -> tuple[bytes, int]:
    parts, length = event.record(WHERE, NOW, payload=payload)
    return b"".join(parts), length


def field(data: bytes, name: str) -> Any:
    offset, kind = OFFSETS[name]
    return struct.unpack_from("<" + kind, data, offset)[0]


def fields(data: bytes, *names: str) -> tuple[Any, ...]:
    return tuple(field(data, name) for name in names)


def test_the_header_has_the_size_of_the_kernels() -> None:
    assert HEADER.size == 64


def test_a_control_transfer_begins_with_its_setup_packet() -> None:
    urb = Urb(0x1122334455667788, TransferType.CONTROL, 0x80)
    data, length = record(Event(urb, SUBMIT, EINPROGRESS, 18, setup=SETUP))
    assert length == len(data) == 64
    assert fields(data, "id", "type", "xfer_type", "epnum") == (urb.id, ord("S"), 2, 0x80)
    assert fields(data, "devnum", "busnum", "ts_sec", "ts_usec") == (7, 3, 1_700_000_000, 123_456)
    assert fields(data, "flag_setup", "flag_data", "setup") == (b"\0", b"<", SETUP)
    assert fields(data, "status", "length", "len_cap", "xfer_flags") == (-115, 18, 0, 0x200)


def test_its_end_has_the_data() -> None:
    event = Event(Urb(1, TransferType.CONTROL, 0x80), COMPLETE, 0, 3, memoryview(b"abc"))
    data, length = record(event)
    assert length == len(data) == 67
    assert data[64:] == b"abc"
    assert fields(data, "type", "flag_setup", "flag_data", "length", "len_cap") == (ord("C"), b"-", b"\0", 3, 3)


@pytest.mark.parametrize(
    ("kind", "number"),
    [(TransferType.ISO, 0), (TransferType.INTERRUPT, 1), (TransferType.CONTROL, 2), (TransferType.BULK, 3)],
)
def test_kinds_of_transfers_have_the_kernels_numbers(kind: TransferType, number: int) -> None:
    assert field(record(Event(Urb(1, kind, 0x81), COMPLETE, 0, 0))[0], "xfer_type") == number


def test_what_was_sent_stands_at_the_beginning_and_is_only_counted_at_the_end() -> None:
    urb = Urb(1, TransferType.BULK, 0x02)
    begin, end = (record(Event(urb, SUBMIT, EINPROGRESS, 4, b"abcd"))[0], record(Event(urb, COMPLETE, 0, 4))[0])
    assert (begin[64:], *fields(begin, "flag_data", "xfer_flags")) == (b"abcd", b"\0", 0)
    assert (end[64:], *fields(end, "flag_data", "length", "len_cap")) == (b"", b">", 4, 0)


def test_a_refusal_is_an_event_of_its_own() -> None:
    data, _ = record(Event(Urb(1, TransferType.INTERRUPT, 0x83, 8), ERROR, -19, 0))
    assert fields(data, "type", "status", "flag_data", "interval") == (ord("E"), -19, b"E", 8)


def test_without_payload_the_length_stays() -> None:
    event = Event(Urb(1, TransferType.BULK, 0x81), COMPLETE, 0, 512, bytes(512))
    data, length = record(event, payload=False)
    assert (len(data), length) == (64, 64 + 512)
    assert fields(data, "length", "len_cap", "flag_data") == (512, 0, b"<")


def test_what_is_too_long_for_a_packet_is_cut() -> None:
    size = 2 * MAX_PACKET
    data, length = record(Event(Urb(1, TransferType.BULK, 0x81), COMPLETE, 0, size, bytes(size)))
    assert (len(data), length) == (MAX_PACKET, 64 + size)
    assert fields(data, "length", "len_cap") == (size, MAX_PACKET - 64)


ISO = Event(
    *(Urb(1, TransferType.ISO, 0x85, 1), COMPLETE, 0, 5, b"abc" + bytes(5) + b"de"),
    packets=((0, 0, 3), (-71, 4, 0), (0, 8, 2)),
)


def test_isochronous_packets_are_described_before_the_data() -> None:
    data, length = record(ISO)
    assert length == len(data) == 64 + 3 * 16 + 10
    assert fields(data, "xfer_type", "error_count", "numdesc", "ndesc", "len_cap") == (0, 1, 3, 3, 58)
    assert [struct.unpack_from("<iII", data, 64 + 16 * i) for i in range(3)] == [(0, 0, 3), (-71, 4, 0), (0, 8, 2)]
    assert data[112:] == b"abc" + bytes(5) + b"de"


def test_without_payload_isochronous_packets_are_described() -> None:
    data, length = record(ISO, payload=False)
    assert (len(data), length) == (64 + 48, 64 + 48 + 10)
    assert fields(data, "flag_data", "ndesc", "len_cap") == (b"<", 3, 48)


def test_the_kernels_number_of_packets_is_described() -> None:
    data, _ = record(replace(ISO, packets=((0, 0, 1),) * 200))
    assert fields(data, "numdesc", "ndesc") == (200, 128)
    assert len(data) == 64 + 128 * 16 + 10


def test_packets_that_are_to_come_are_no_errors() -> None:
    data, _ = record(replace(ISO, type=SUBMIT, packets=((EINPROGRESS, 0, 3),)))
    assert field(data, "error_count") == 0
