"""The `struct` formats used at run time are the construct layouts, byte for byte."""

from struct import Struct
from typing import Any

import pytest

from usbbridge.usb import ch9, descriptors, layouts

PAIRS = [
    pytest.param(ch9.SETUP_STRUCT, layouts.SETUP, id="setup"),
    pytest.param(descriptors.DEVICE_STRUCT, layouts.DEVICE, id="device"),
    pytest.param(descriptors.CONFIGURATION_STRUCT, layouts.CONFIGURATION, id="configuration"),
    pytest.param(descriptors.INTERFACE_STRUCT, layouts.INTERFACE, id="interface"),
    pytest.param(descriptors.ENDPOINT_STRUCT, layouts.ENDPOINT, id="endpoint"),
    pytest.param(descriptors.COMPANION_STRUCT, layouts.SUPERSPEED_COMPANION, id="companion"),
]


@pytest.mark.parametrize(("fast", "layout"), PAIRS)
def test_both_take_the_same_bytes_for_the_same_fields(fast: Struct, layout: Any) -> None:
    wire = bytes(range(0xA0, 0xA0 + fast.size))
    assert layout.sizeof() == fast.size
    fields = layout.parse(wire)
    assert tuple(fields[field.name] for field in layout.subcons) == fast.unpack(wire)
    assert layout.build(fields) == wire


def test_setup_packet_fields_stand_in_the_order_of_the_layout() -> None:
    wire = bytes.fromhex("a1fe341278560100")
    fields = layouts.SETUP.parse(wire)
    setup = ch9.SetupPacket.parse(wire)
    assert setup == ch9.SetupPacket(*[fields[field.name] for field in layouts.SETUP.subcons])


def test_device_descriptor_fields_stand_in_the_order_of_the_layout() -> None:
    wire = bytes.fromhex("12011003010203090d1a3412560078050a02")[:18]
    fields = layouts.DEVICE.parse(wire[:1] + b"\x01" + wire[2:])
    device = descriptors.parse_device(wire)
    assert device == descriptors.DeviceDescriptor(*[fields[field.name] for field in layouts.DEVICE.subcons[2:]])
