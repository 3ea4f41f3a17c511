"""Devices that lie: what they say, and what the parser of descriptors makes of it."""

import pytest

from tools.lab.devices.lies import LIES
from tools.lab.devices.misbehaving import BEHAVIOURS, IN, KINDS, Misbehaving, create
from usbbridge.backend.base import Status
from usbbridge.backend.emulated.device import EmulatedDevice
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import DescriptorType, Request, SetupPacket, Speed
from usbbridge.usb.descriptors import (
    MAX_INTERFACES,
    MAX_SETTINGS,
    DescriptorError,
    parse_configuration,
    parse_device,
    parse_string,
)

HARMLESS = {
    "no-interfaces",
    "32-interfaces-announced",
    "255-interfaces-announced",
    "interface-number-255",
    "30-endpoints-announced",
    "no-endpoints-announced",
    "255-configurations",
    "no-configurations",
    "configuration-value-0",
    "endpoint-in-two-interfaces",
    "endpoint-reserved-bits",
    "endpoint-control",
    "interval-0",
    "interval-255",
    "packet-0",
    "packet-65535",
    "nested-associations",
    "association-of-nothing",
    "unknown-types",
    "many-small",
    "string-255",
    "string-lies",
    "string-length-0",
    "string-type",
    "string-surrogates",
    "string-terminal",
    "strings-stall",
}
"Lies that the parser may believe, or that are about strings: the kernel's and the bridge's own limits deal with them."


def said(kind: str, descriptor: DescriptorType, index: int = 0, length: int = 0xFFFF) -> bytes:
    """What a device of this kind answers GET_DESCRIPTOR with."""
    device = EmulatedDevice(create(Speed.HIGH, {"kind": kind}), kind)
    transfer = device.take(length)
    transfer.setup[:] = SetupPacket(0x80, Request.GET_DESCRIPTOR, descriptor << 8 | index, 0x409, length).pack()
    transfer.on_done = lambda done: None
    device.submit_control(transfer, length)
    device.reap()
    data = bytes(transfer.data[: transfer.actual])
    device.close()
    return data


@pytest.mark.parametrize("kind", LIES)
def test_a_lie_is_a_descriptor_error_or_within_the_limits(kind: str) -> None:
    device, configuration_bytes = said(kind, DescriptorType.DEVICE), said(kind, DescriptorType.CONFIGURATION)
    if kind not in HARMLESS:
        with pytest.raises(DescriptorError):
            (parse_device(device), parse_configuration(configuration_bytes))
        return
    parse_device(device)
    configuration = parse_configuration(configuration_bytes)
    assert len(configuration.numbers) <= MAX_INTERFACES
    assert len(configuration.interfaces) <= MAX_SETTINGS


@pytest.mark.parametrize("kind", [kind for kind in LIES if kind.startswith("string-")])
def test_a_string_that_is_none_is_an_error_or_text(kind: str) -> None:
    try:
        text = parse_string(said(kind, DescriptorType.STRING, 2))
    except DescriptorError:
        assert kind in ("string-length-0", "string-type")
        return
    assert len(text) <= 127
    text.encode()  # no half of a surrogate pair


def test_every_kind_has_a_bcd_device_of_its_own() -> None:
    assert len({Misbehaving(kind, Speed.HIGH).model.device.bcd_device for kind in KINDS}) == len(KINDS)


def test_all_kinds_are_named() -> None:
    assert set(KINDS) == {"none", *BEHAVIOURS, *LIES}
    with pytest.raises(UsageError, match="kind=friendly"):
        create(Speed.HIGH, {"kind": "friendly"})


def test_one_that_hangs_answers_nothing_once_it_is_configured() -> None:
    device = EmulatedDevice(create(Speed.HIGH, {"kind": "hangs"}), "hangs")
    device.set_configuration(1)
    ended = []
    for submit in (
        lambda t: device.submit_control(t, 18),
        lambda t: device.submit_bulk(t, IN, 64),
    ):
        transfer = device.take(64)
        transfer.setup[:] = SetupPacket(0x80, Request.GET_DESCRIPTOR, 0x0100, 0, 18).pack()
        transfer.on_done = ended.append
        assert submit(transfer) is Status.COMPLETED
        device.reap()
        assert ended == []
        device.cancel(transfer)
        device.reap()
        assert ended.pop().status == Status.CANCELLED
    device.close()
