"""The device that does on request all that devices can do."""

import struct
import zlib

import pytest

from tests.unit.lab.usb_host import Host
from tools.lab.devices import paragon
from tools.lab.devices.paragon import (
    BULK_IN,
    BULK_OUT,
    INTERRUPT_IN,
    INTERRUPT_OUT,
    MESSAGES_IN,
    PRODUCT,
    SHORT_BYTES,
    Manner,
    Order,
)
from usbbridge.backend.base import Status
from usbbridge.usb.ch9 import Speed, TransferType

TO, FROM = 0x40, 0xC0


@pytest.fixture
def host():
    made = Host(paragon.create(Speed.HIGH, {}))
    yield made
    made.device.close()


def behave(host: Host, endpoint: int, manner: Manner) -> None:
    assert host.control(TO, Order.BEHAVE, manner, endpoint).status is Status.COMPLETED


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER])
def test_it_has_every_kind_of_endpoint_at_every_speed(speed):
    made = Host(paragon.create(speed, {}))
    configuration = made.device.configuration()
    kinds = {e.transfer_type for setting in configuration.interfaces for e in setting.endpoints}
    assert kinds == {TransferType.BULK, TransferType.INTERRUPT, TransferType.ISO}
    made.device.set_configuration(2)
    assert [setting.number for setting in made.device.configuration().interfaces] == [0]
    made.device.close()


def test_it_stands_for_another_product():
    made = Host(paragon.create(Speed.HIGH, {"ids": "1210:001c"}))
    assert (made.device.descriptor.vendor, made.device.descriptor.product) == (0x1210, 0x001C)
    made.device.close()


def test_without_being_told_so_it_stands_for_none(host):
    assert host.device.descriptor.product == PRODUCT


def test_what_is_read_counts(host):
    assert host.read(BULK_IN, 300) == bytes(n % 251 for n in range(300))
    assert host.read(BULK_IN, 10) == bytes(n % 251 for n in range(300, 310))
    host.device.reset()
    assert host.read(BULK_IN, 3) == bytes(range(3))


def test_what_is_written_is_summed_up(host):
    host.write(BULK_OUT, b"some")
    host.write(BULK_OUT, b" words")
    found = host.control(FROM, Order.SUM, 0, BULK_OUT, 12).data
    assert struct.unpack("<3I", found) == (2, 10, zlib.crc32(b"some words"))


def test_what_is_stored_is_kept_even_through_a_reset(host):
    host.control(TO, Order.STORE, 0, 0, b"kept")
    host.device.reset()
    assert host.control(FROM, Order.STORE, 0, 0, 64).data == b"kept"


def test_it_stalls_until_the_halt_is_cleared(host):
    behave(host, BULK_OUT, Manner.STALL)
    assert host.write(BULK_OUT, b"x") is Status.STALL
    assert host.write(BULK_OUT, b"x") is Status.STALL
    host.device.clear_halt(BULK_OUT)
    assert host.write(BULK_OUT, b"x") is Status.COMPLETED


def test_it_is_short_once(host):
    behave(host, BULK_IN, Manner.SHORT)
    assert len(host.read(BULK_IN, 64)) == SHORT_BYTES
    assert len(host.read(BULK_IN, 64)) == 64


def test_it_waits_until_it_is_told_otherwise(host):
    behave(host, BULK_IN, Manner.WAIT)
    assert host.read(BULK_IN, 64) is None


@pytest.mark.parametrize("endpoint", [INTERRUPT_IN, MESSAGES_IN])
def test_messages_come_when_they_are_ordered(host, endpoint):
    assert host.read(endpoint, 64) is None
    host.control(TO, Order.SAY, 2, endpoint)
    assert [host.read(endpoint, 64) for _ in range(3)] == [b"\1" * 8, b"\2" * 8, None]


@pytest.mark.parametrize(
    ("order", "value", "endpoint"),
    [(Order.BEHAVE, 99, BULK_IN), (Order.SAY, 1, BULK_IN), (Order.SAY, 60_000, INTERRUPT_IN), (77, 0, INTERRUPT_OUT)],
)
def test_an_order_that_makes_no_sense_is_refused(host, order, value, endpoint):
    assert host.control(TO, order, value, endpoint).status is Status.STALL
