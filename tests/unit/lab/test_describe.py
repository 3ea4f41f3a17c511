"""Descriptors put together from their parts."""

import pytest

from tools.lab.devices.describe import configuration, interface
from usbbridge.usb.ch9 import ClassCode, Speed
from usbbridge.usb.descriptors import parse_configuration


@pytest.mark.parametrize(
    ("speed", "max_power"), [(Speed.FULL, 250), (Speed.HIGH, 250), (Speed.SUPER, 62), (Speed.SUPER_PLUS, 62)]
)
def test_power_is_told_in_the_unit_of_the_speed(speed, max_power):
    made = configuration(interface(0, ClassCode.HID), milliamperes=500, speed=speed)
    assert parse_configuration(made).max_power == max_power


def test_interfaces_are_counted_once_however_many_settings_they_have():
    made = configuration(interface(0, ClassCode.VIDEO), interface(1, ClassCode.VIDEO), interface(1, 14, alternate=1))
    assert made[4] == 2
    assert len(parse_configuration(made).interfaces) == 3
