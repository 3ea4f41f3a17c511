"""The FTDI adapter with its loopback plug."""

import struct

import pytest

from tests.unit.lab.usb_host import Host
from tools.lab.devices import fifo, ftdi
from tools.lab.devices.ftdi import CTS, DCD, DSR, IN, OUT, Sio
from usbbridge.backend.base import Status
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import Speed

TO, FROM = 0x40, 0xC0


@pytest.fixture(params=[Speed.FULL, Speed.HIGH], ids=["full", "high"])
def host(request):
    made = Host(ftdi.create(request.param, {}))
    yield made
    made.device.close()


def packet(host: Host) -> int:
    return 64 if host.device.speed is Speed.FULL else 512


def unpacked(data: bytes, size: int) -> bytes:
    """Without the two bytes of status before each packet."""
    return b"".join(data[at + 2 : at + size] for at in range(0, len(data), size))


def modem(host: Host) -> int:
    return host.control(FROM, Sio.GET_MODEM_STATUS, data=2).data[0] & 0xF0


@pytest.mark.parametrize("size", [1, 61, 62, 63, 509, 510, 511, 2000])
def test_what_is_sent_comes_back_in_packets_that_begin_with_status(host, size):
    data = bytes(i % 251 for i in range(size))
    assert host.write(OUT, data) is Status.COMPLETED
    found = host.read(IN, 4096)
    assert unpacked(found, packet(host)) == data
    assert len(found) == size + 2 * (size // (packet(host) - 2) + 1)


def test_a_transfer_that_is_too_small_is_filled_and_the_rest_comes_with_the_next(host):
    size = packet(host)
    host.write(OUT, bytes(range(200)) * 5)
    parts = []
    while (part := host.read(IN, size)) is not None and len(part) == size:
        parts.append(part)
    assert unpacked(b"".join([*parts, part]), size) == bytes(range(200)) * 5


def test_nothing_to_say_is_nothing_said(host):
    assert host.read(IN, 512) is None


def test_a_change_of_the_modem_lines_is_told_once_without_data(host):
    host.control(TO, Sio.MODEM_CTRL, 0x0303)
    found = host.read(IN, 512)
    assert (len(found), found[0] & 0xF0) == (2, CTS | DSR | DCD)
    assert host.read(IN, 512) is None


def test_a_waiting_transfer_ends_when_a_line_changes(host):
    pending = host.submit(IN, 512)
    assert pending.done is None
    host.control(TO, Sio.MODEM_CTRL, 0x0101)
    assert pending.done.data[0] & 0xF0 == DSR | DCD


def test_only_the_lines_in_the_mask_are_set(host):
    host.control(TO, Sio.MODEM_CTRL, 0x0303)
    host.control(TO, Sio.MODEM_CTRL, 0x0100)
    assert modem(host) == CTS
    host.control(TO, Sio.MODEM_CTRL, 0x0200)
    assert modem(host) == 0


@pytest.mark.parametrize(
    ("value", "index", "rate"),
    [(0x4138, 0, 9600), (0x001A, 0, 115385), (0x8003, 0, 923077), (0x0000, 0, 3_000_000), (0x0001, 0, 2_000_000)],
)
def test_baud_rates_are_what_the_divisor_says(value, index, rate):
    device = ftdi.create(Speed.FULL, {})
    Host(device).control(TO, Sio.SET_BAUD_RATE, value, index)
    assert device.baud_rate == rate


def test_a_high_speed_chip_has_a_faster_clock():
    device = ftdi.create(Speed.HIGH, {})
    Host(device).control(TO, Sio.SET_BAUD_RATE, 0x0001, 0x0200)  # bit 17 of the divisor, beside port 0
    assert device.baud_rate == 8_000_000


def test_the_latency_timer_is_kept(host):
    assert host.control(FROM, Sio.GET_LATENCY_TIMER, data=1).data == b"\x10"
    assert host.control(TO, Sio.SET_LATENCY_TIMER, 1).status is Status.COMPLETED
    assert host.control(FROM, Sio.GET_LATENCY_TIMER, data=1).data == b"\x01"
    assert host.control(TO, Sio.SET_LATENCY_TIMER, 0).status is Status.STALL


def test_the_eeprom_bears_the_identity_and_its_checksum(host):
    words = [host.control(FROM, Sio.READ_EEPROM, 0, i, 2).data for i in range(64)]
    values = struct.unpack("<64H", b"".join(words))
    assert values[1:4] == (0x0403, host.device.descriptor.product, host.device.descriptor.bcd_device)
    checksum = 0xAAAA
    for value in values[:-1]:
        checksum ^= value
        checksum = (checksum << 1 | checksum >> 15) & 0xFFFF
    assert values[-1] == checksum
    assert host.control(FROM, Sio.READ_EEPROM, 0, 64, 2).status is Status.STALL


@pytest.mark.parametrize("what", [ftdi.RESET_ALL, ftdi.PURGE_RX])
def test_a_purge_forgets_what_was_not_fetched(host, what):
    host.write(OUT, b"abc")
    host.control(TO, Sio.RESET, what)
    assert host.read(IN, 512) is None


def test_a_line_that_nobody_reads_takes_no_more_until_somebody_does(host):
    while (waiting := host.submit(OUT, bytes(1000))).done is not None:
        pass
    assert len(unpacked(host.read(IN, 65536), packet(host))) >= fifo.FULL
    assert waiting.done.status is Status.COMPLETED


def test_the_generator_starts_anew_at_each_opening():
    host = Host(ftdi.create(Speed.FULL, {"generate": "1000"}))
    for _ in range(2):
        host.control(TO, Sio.RESET, ftdi.RESET_ALL)
        assert unpacked(host.read(IN, 4096), 64) == ftdi.generated(1000)
    assert host.write(OUT, b"swallowed") is Status.COMPLETED
    assert host.read(IN, 512) is None


def test_unknown_requests_are_refused(host):
    assert host.control(TO, 0x77).status is Status.STALL
    assert host.control(FROM, 0x77, data=1).status is Status.STALL
    assert host.control(0x21, 0).status is Status.STALL


@pytest.mark.parametrize("options", [{"generate": "many"}, {"generate": "99999999"}, {"colour": "red"}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(UsageError):
        ftdi.create(Speed.FULL, options)


def test_there_is_none_for_super_speed():
    with pytest.raises(UsageError):
        ftdi.create(Speed.SUPER, {})
