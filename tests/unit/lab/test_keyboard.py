"""The keyboard that types a word when its Caps Lock lamp is lit."""

import pytest

from tests.unit.lab.usb_host import Host
from tools.lab.devices import keyboard
from tools.lab.devices.keyboard import CAPS_LOCK, HID, HID_DESCRIPTOR, IN, REPORT, REPORT_DESCRIPTOR, WORD
from usbbridge.backend.base import Status
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import Request, Speed


@pytest.fixture
def host():
    made = Host(keyboard.create(Speed.LOW, {}))
    yield made
    made.device.close()


def light(host: Host, lamps: int) -> Status:
    return host.control(0x21, keyboard.SET_REPORT, 0x0200, 0, bytes((lamps,))).status


def typed(host: Host) -> str:
    text = ""
    while (report := host.read(IN, 8)) is not None:
        text += chr(report[2] - 4 + ord("a")) if report[2] else "."
    return text


def test_the_lamp_makes_it_type_each_key_going_down_and_up(host):
    assert typed(host) == ""
    assert light(host, CAPS_LOCK) is Status.COMPLETED
    assert typed(host) == "".join(f"{letter}." for letter in WORD)


def test_only_lighting_that_lamp_does(host):
    light(host, 0x01)
    assert typed(host) == ""
    light(host, CAPS_LOCK)
    light(host, CAPS_LOCK | 0x01)
    light(host, 0)
    assert typed(host).replace(".", "") == WORD


def test_what_nobody_fetches_does_not_pile_up(host):
    for _ in range(100):
        light(host, CAPS_LOCK)
        light(host, 0)
    assert len(typed(host)) <= keyboard.MAX_REPORTS


def test_it_is_described_to_its_interface(host):
    assert host.control(0x81, Request.GET_DESCRIPTOR, REPORT << 8, 0, 255).data == REPORT_DESCRIPTOR
    assert host.control(0x81, Request.GET_DESCRIPTOR, HID << 8, 0, 255).data == HID_DESCRIPTOR
    assert host.control(0x81, Request.GET_DESCRIPTOR, 0x23 << 8, 0, 255).status is Status.STALL


def test_idle_rate_and_protocol_are_kept(host):
    assert host.control(0xA1, keyboard.GET_PROTOCOL, data=1).data == b"\1"
    host.control(0x21, keyboard.SET_PROTOCOL, 0)
    host.control(0x21, keyboard.SET_IDLE, 0x7D00)
    assert host.control(0xA1, keyboard.GET_PROTOCOL, data=1).data == b"\0"
    assert host.control(0xA1, keyboard.GET_IDLE, data=1).data == b"\x7d"
    assert host.control(0x21, keyboard.SET_PROTOCOL, 2).status is Status.STALL
    assert host.control(0x21, keyboard.SET_REPORT, 0x0200, 0, b"12").status is Status.STALL


@pytest.mark.parametrize(("options", "claim"), [({}, (0, 0)), ({"boot": "yes"}, (1, 1))])
def test_it_claims_the_boot_protocol_if_told_to(options, claim):
    [interface] = Host(keyboard.create(Speed.LOW, options)).device.configuration().interfaces
    assert (interface.subclass, interface.protocol) == claim


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(UsageError):
        keyboard.create(Speed.LOW, {"boot": "perhaps"})
