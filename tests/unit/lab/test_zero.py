"""The gadget zero of every type of endpoint: what usbtest's cases rely on, and that wrong data doesn't pass."""

import pytest

from tests.unit.lab.usb_host import Host
from tools.lab.devices import zero
from usbbridge.backend.base import Status
from usbbridge.backend.emulated.function import ERROR
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import DIR_IN, Speed, TransferType
from usbbridge.usb.descriptors import parse_configuration

TO_DEVICE, FROM_DEVICE = 0x40, 0xC0
TO_ENDPOINT, SET_FEATURE, HALT = 0x02, 3, 0
WRONG = bytes(99) + b"\1" + bytes(412)


def make(speed: Speed = Speed.HIGH) -> zero.Zero:
    return zero.create(speed, {})


@pytest.fixture
def host() -> Host:
    """A host that has selected the setting with all endpoints."""
    made = Host(make())
    made.device.set_interface(0, 1)
    return made


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH])
def test_second_setting_has_every_type_of_endpoint_in_both_directions(speed: Speed) -> None:
    first, second = parse_configuration(make(speed).model.configurations[0]).interfaces
    kinds = [(end.transfer_type, end.is_in) for end in second.endpoints]
    types = (TransferType.BULK, TransferType.ISO, TransferType.INTERRUPT)
    assert kinds == [(kind, is_in) for kind in types for is_in in (True, False)]
    assert {end.transfer_type for end in first.endpoints} == {TransferType.BULK}


@pytest.mark.parametrize("speed", [Speed.LOW, Speed.SUPER])
def test_other_speeds_are_refused(speed: Speed) -> None:
    with pytest.raises(UsageError, match="the gadget zero has no"):
        make(speed)


@pytest.mark.parametrize("number", [zero.BULK_NUMBER, zero.INTERRUPT_NUMBER])
def test_sends_and_takes_zeros(host: Host, number: int) -> None:
    assert host.read(number, 1024) == bytes(1024)
    assert host.write(number, bytes(1024)) is Status.COMPLETED


def test_isochronous_packets_are_zeros_of_the_endpoints_size() -> None:
    gadget = make()
    room = bytearray(b"\xa5" * 1024)
    assert gadget.send_packet(DIR_IN | zero.ISO_NUMBER, memoryview(room)) == zero.ISO_PACKET
    assert room == bytes(zero.ISO_PACKET) + b"\xa5" * (1024 - zero.ISO_PACKET)
    assert gadget.receive_packet(zero.ISO_NUMBER, memoryview(room)[:100]) == 100


@pytest.mark.parametrize("number", [zero.BULK_NUMBER, zero.INTERRUPT_NUMBER])
def test_wrong_data_halts_the_endpoint(host: Host, number: int) -> None:
    assert host.write(number, WRONG) is Status.STALL


def test_wrong_isochronous_packet_is_told_by_all_that_come_later_until_it_is_configured_anew(host: Host) -> None:
    gadget = host.device.function
    assert gadget.receive_packet(zero.ISO_NUMBER, memoryview(WRONG)) == ERROR
    host.device.set_interface(0, 1)
    host.device.clear_halt(zero.BULK_NUMBER)
    assert gadget.receive_packet(zero.ISO_NUMBER, memoryview(bytes(8))) == ERROR
    assert host.write(zero.BULK_NUMBER, bytes(8)) is Status.STALL
    host.device.set_configuration(1)
    assert host.write(zero.BULK_NUMBER, bytes(8)) is Status.COMPLETED


def test_control_data_is_stored_and_read_back(host: Host) -> None:
    written = bytes(range(256)) * 4
    assert host.control(TO_DEVICE, zero.STORE, data=written).status is Status.COMPLETED
    assert host.control(FROM_DEVICE, zero.READ_BACK, data=len(written)).data == written
    assert host.control(FROM_DEVICE, zero.READ_BACK, data=3).data == written[:3]


@pytest.mark.parametrize(
    ("kind", "request_", "value", "size"),
    [
        (TO_DEVICE, zero.STORE, 0, zero.STORED + 1),
        (TO_DEVICE, zero.STORE, 1, 8),
        (FROM_DEVICE, zero.STORE, 0, 8),
        (TO_DEVICE, zero.READ_BACK, 0, 8),
        (TO_DEVICE, 0x5D, 0, 8),
    ],
)
def test_other_requests_stall(host: Host, kind: int, request_: int, value: int, size: int) -> None:
    data = size if kind & DIR_IN else bytes(size)
    assert host.control(kind, request_, value, data=data).status is Status.STALL


@pytest.mark.parametrize("address", [zero.BULK_NUMBER, DIR_IN | zero.BULK_NUMBER])
def test_host_can_halt_an_endpoint_and_clear_that(host: Host, address: int) -> None:
    transfer = bytes(8) if address < DIR_IN else 8
    assert host.control(TO_ENDPOINT, SET_FEATURE, HALT, address).status is Status.COMPLETED
    halted = host.submit(address, transfer).done
    host.device.clear_halt(address)
    again = host.submit(address, transfer).done
    assert [done.status for done in (halted, again) if done] == [Status.STALL, Status.COMPLETED]
