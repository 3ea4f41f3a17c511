"""The objects of control's API: what they hold by default, and what stays as it is for the clients that there are."""

import dataclasses
import json
from pathlib import Path

import pytest

from usbbridge.compat.rule import Verdict
from usbbridge.errors import RemoteProtocolError
from usbbridge.ipc import api
from usbbridge.ipc.api import (
    MAX_LINE,
    MAX_REQUEST,
    METHODS,
    Attach,
    Choice,
    DeviceStatus,
    Remember,
    Right,
    SessionState,
    State,
    Status,
    VmStatus,
)
from usbbridge.ipc.codec import from_json, to_json
from usbbridge.ipc.monitoring import MAX_DESCRIPTORS, PluggedDevice
from usbbridge.usb.ch9 import Speed
from usbbridge.usb.entry import DeviceEntry, InterfaceEntry, Obstacle, Reason

ENTRY = DeviceEntry(
    *("1-2.3", 1, 7, Path("/dev/bus/usb/001/007"), 0x0781, 0x5567, 0x0100, 0, 0, 0, Speed.HIGH),
    *("SanDisk", "Cruzer Blade", "4C530001", 1, (InterfaceEntry(0, 0, 8, 6, 80, "usb-storage"),)),
    *("SanDisk Cruzer Blade", Obstacle(Reason.IN_USE, "it is mounted", "unmount it")),
)
PLUGGED = PluggedDevice("1-2.3#7", ENTRY, "12010002", Verdict.ALLOW, "storage", "20-storage.toml:3", ("no-reset",))
DEVICE = DeviceStatus(PLUGGED, State.WAITING, "desk", 0, 1e9, 2.5, 3, "no answer", "is it on?", "LinkError", 1)
STATUS = Status(
    *("0.1.0", 4711, True, (DEVICE,)),
    (VmStatus("desk", "spice://vmhost:5900", True, SessionState.CONNECTED, 2, 1, 0),),
    (Choice(0x0781, 0x5567, "4C530001", "", "desk", "SanDisk Cruzer Blade"),),
)


def test_a_status_comes_back_as_it_was_told() -> None:
    assert from_json(Status, json.loads(json.dumps(to_json(STATUS))), "a status") == STATUS


def test_a_device_is_told_in_the_words_that_are_documented() -> None:
    told = to_json(DEVICE)
    assert (told["state"], told["device"]["verdict"], told["device"]["entry"]["speed"]) == ("waiting", "allow", 2)
    assert told["device"]["entry"]["obstacle"]["reason"] == "in-use"
    assert told["device"]["entry"]["interfaces"][0]["class_"] == 8


def test_version_1_keeps_its_methods_and_their_rights() -> None:
    assert api.VERSION == 1
    view, attach, admin = Right
    assert {name: right for name, (_, right) in METHODS.items()} == {
        "status": view,
        "subscribe": view,
        "attach": attach,
        "detach": attach,
        "capture": attach,
        "forget": attach,
        "vm-check": attach,
        "suspend": admin,
        "resume": admin,
        "reload": admin,
    }


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_has_a_default(method: str) -> None:
    """A client says only what it wants, and one that is older than a parameter says nothing about it."""
    params, _ = METHODS[method]
    assert from_json(params, {}, "parameters") == params()


def test_version_1_keeps_the_fields_that_clients_know() -> None:
    known = {
        DeviceStatus: "device state vm channel since retry_in attempts message hint error status remembered encoder"
        " to_vm from_vm",
        VmStatus: "name target default state channels used queued retry_in message hint error status",
        Choice: "vendor product serial port vm name",
        Status: "version pid monitor devices vms choices suspended",
        Attach: "device serial vm remember unmount force wait",
    }
    for cls, names in known.items():
        assert set(names.split()) <= {field.name for field in dataclasses.fields(cls)}


def test_parameters_of_another_type_are_refused() -> None:
    for params in ({"device": 1}, {"unmount": "yes"}, {"remember": "sometimes"}, {"vm": None}, {"speed": "high"}):
        with pytest.raises(RemoteProtocolError):
            from_json(Attach, params, "parameters of attach")


def test_what_is_attached_is_remembered_unless_told_otherwise() -> None:
    assert Attach().remember is Remember.AUTO
    assert not Attach().force
    assert not Attach().unmount
    assert from_json(Attach, {"remember": "no"}, "it").remember is Remember.NO


def test_a_bus_full_of_devices_fits_into_a_line() -> None:
    """127 devices a bus (USB 2.0 §8.3.2.1), with a common size of descriptors, or with the most there can be."""
    plain = dataclasses.replace(PLUGGED, descriptors="00" * 512)
    large = dataclasses.replace(PLUGGED, descriptors="00" * MAX_DESCRIPTORS)
    for devices in ((plain,) * 127, (large,) * 127):
        status = dataclasses.replace(STATUS, devices=tuple(DeviceStatus(device) for device in devices))
        assert len(json.dumps({"id": 1, "result": to_json(status)})) < MAX_LINE


def test_the_longest_request_that_makes_sense_fits() -> None:
    attach = Attach("x" * 1000, "y" * 126, "spice://" + "z" * 4096)
    assert len(json.dumps({"id": 1 << 53, "method": "attach", "params": to_json(attach)})) < MAX_REQUEST
