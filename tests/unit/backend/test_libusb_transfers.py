"""Transfers of the libusb backend as libusb itself allocates them; nothing is submitted, there is no device."""

import ctypes
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from usbbridge.backend import libusb_library
from usbbridge.backend.base import ISO_ACTUAL, ISO_FIELDS, ISO_LENGTH, ISO_STATUS, Status
from usbbridge.backend.libusb_transfers import POOL_BYTES, TransferEngine, UsbTransfer

libusb_library.load()
import usb1  # noqa: E402  # it must be told of the library first


@pytest.fixture
def engine() -> Iterator[TransferEngine]:
    context = usb1.USBContext(with_device_discovery=False)
    context.open()
    made = TransferEngine(context, SimpleNamespace(_USBDeviceHandle__handle=ctypes.c_void_p(0)))
    yield made
    made.close(0.0)
    context.close()


def descriptors(transfer: UsbTransfer) -> list[tuple[int, int, int]]:
    """The packets' descriptors as libusb has them, behind its struct libusb_transfer."""
    kind = usb1.libusb1.libusb_iso_packet_descriptor
    address = transfer.address + usb1.libusb1.libusb_transfer.iso_packet_desc.offset
    array = (kind * transfer.packets).from_address(address)
    return [(each.length, each.actual_length, each.status) for each in array]


def test_the_table_of_packets_is_libusbs_own(engine: TransferEngine) -> None:
    transfer = engine.take_iso(3, 200)
    for i in range(3):
        transfer.iso[i * ISO_FIELDS + ISO_LENGTH] = 100 + i
        transfer.iso[i * ISO_FIELDS + ISO_ACTUAL] = i
        transfer.iso[i * ISO_FIELDS + ISO_STATUS] = Status.OVERFLOW
    assert descriptors(transfer) == [(100, 0, 6), (101, 1, 6), (102, 2, 6)]
    assert (transfer.packets, len(transfer.iso), transfer.capacity) == (3, 9, 1024)


def test_a_transfer_comes_back_for_the_same_number_of_packets_only(engine: TransferEngine) -> None:
    first = engine.take_iso(8, 128)
    engine.give_back(first)
    assert engine.take(1024) is not first
    assert engine.take_iso(4, 256) is not first
    assert engine.take_iso(8, 120) is first


def test_a_transfer_without_packets_comes_back_for_its_size(engine: TransferEngine) -> None:
    first = engine.take(1000)
    assert first.packets == 0
    engine.give_back(first)
    assert engine.take_iso(1, 1000) is not first
    assert engine.take(1024) is first


def test_what_is_kept_is_bounded_for_isochronous_transfers_too(engine: TransferEngine) -> None:
    taken = [engine.take_iso(1, POOL_BYTES // 4) for _ in range(5)]
    for transfer in taken:
        engine.give_back(transfer)
    again = [engine.take_iso(1, POOL_BYTES // 4) for _ in range(5)]
    assert sum(transfer in taken for transfer in again) == 4


@pytest.mark.parametrize(("packets", "length"), [(0, 64), (9, 64), (8, 65), (1, 1 << 20)])
def test_more_than_there_is_room_for_is_never_given_to_libusb(
    engine: TransferEngine, packets: int, length: int
) -> None:
    transfer = engine.take_iso(8, 64)
    for i in range(8):
        transfer.iso[i * ISO_FIELDS + ISO_LENGTH] = length
    assert engine.submit_iso(transfer, 0x81, packets) is Status.ERROR
    assert engine.in_flight() == 0
