"""The serial port by the book."""

import struct

import pytest

from tests.unit.lab.usb_host import Host
from tools.lab.devices import acm, fifo
from tools.lab.devices.acm import BREAK, CARRIER, ENDLESS, IN, NOTIFY, OUT, READY
from usbbridge.backend.base import Status
from usbbridge.usb.ch9 import Speed

TO, FROM = 0x21, 0xA1


@pytest.fixture
def host():
    made = Host(acm.create(Speed.HIGH, {}))
    yield made
    made.device.close()


def state(host: Host) -> int | None:
    """The next notification's, None when there is none."""
    found = host.read(NOTIFY, 16)
    if found is None:
        return None
    assert found[:8] == struct.pack("<BBHHH", 0xA1, acm.SERIAL_STATE, 0, 0, 2)
    return int.from_bytes(found[8:], "little")


def test_what_is_sent_comes_back(host):
    assert host.read(IN, 64) is None
    assert host.write(OUT, b"hello, ") is Status.COMPLETED
    assert host.write(OUT, b"world") is Status.COMPLETED
    assert host.read(IN, 64) == b"hello, world"


def test_a_waiting_read_is_served_by_a_write(host):
    pending = host.submit(IN, 64)
    host.write(OUT, b"x")
    assert pending.done.data == b"x"


def test_a_port_that_nobody_reads_takes_no_more_until_somebody_does(host):
    while (waiting := host.submit(OUT, bytes(1000))).done is not None:
        pass
    assert len(host.read(IN, 65536)) >= fifo.FULL
    assert waiting.done.status is Status.COMPLETED


def test_line_coding_is_kept(host):
    coding = acm.LINE_CODING.pack(115200, 2, 1, 7)
    assert host.control(FROM, acm.GET_LINE_CODING, data=7).data == acm.LINE_CODING.pack(9600, 0, 0, 8)
    assert host.control(TO, acm.SET_LINE_CODING, data=coding).status is Status.COMPLETED
    assert host.control(FROM, acm.GET_LINE_CODING, data=7).data == coding
    assert host.device.function.baud_rate == 115200


def test_line_coding_of_another_size_is_refused(host):
    assert host.control(TO, acm.SET_LINE_CODING, data=bytes(6)).status is Status.STALL


def test_lines_are_plugged_to_each_other_and_each_change_is_notified(host):
    host.control(TO, acm.SET_CONTROL_LINE_STATE, acm.DTR)
    host.control(TO, acm.SET_CONTROL_LINE_STATE, acm.DTR)
    host.control(TO, acm.SET_CONTROL_LINE_STATE, acm.DTR | acm.RTS)
    host.control(TO, acm.SET_CONTROL_LINE_STATE, 0)
    assert [state(host) for _ in range(4)] == [CARRIER, CARRIER | READY, 0, None]


def test_a_break_begins_and_ends(host):
    host.control(TO, acm.SEND_BREAK, ENDLESS)
    assert (state(host), state(host)) == (BREAK, None)
    host.control(TO, acm.SEND_BREAK, 0)
    assert (state(host), state(host)) == (0, None)
    host.control(TO, acm.SEND_BREAK, 250)
    assert (state(host), state(host), state(host)) == (BREAK, 0, None)


def test_states_that_nobody_fetches_do_not_pile_up(host):
    for i in range(3 * acm.MAX_NOTIFICATIONS):
        host.control(TO, acm.SET_CONTROL_LINE_STATE, i % 2)
    found = 0
    while state(host) is not None:
        found += 1
    assert found == acm.MAX_NOTIFICATIONS


def test_a_restart_forgets_everything(host):
    host.write(OUT, b"abc")
    host.control(TO, acm.SET_CONTROL_LINE_STATE, acm.DTR)
    host.device.reset()
    assert host.read(IN, 64) is None
    assert state(host) is None


def test_requests_to_the_data_interface_are_refused(host):
    assert host.control(FROM, acm.GET_LINE_CODING, 0, 1, 7).status is Status.STALL
