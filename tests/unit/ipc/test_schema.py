"""The JSON Schema says what the API and the command line say; no more, no less."""

import dataclasses
import inspect
import json
from enum import Enum
from importlib.resources import files

import pytest
from jsonschema import Draft202012Validator, ValidationError

from tests.fakes.service import DESK, GREETING, REMEMBERED, device, status, stick
from tests.unit.schemas import SCHEMA, check
from usbbridge.ipc import api, monitoring
from usbbridge.ipc.codec import to_json
from usbbridge.usb import entry

OBJECTS = {
    name: cls
    for module in (entry, monitoring, api)
    for name, cls in inspect.getmembers(module, dataclasses.is_dataclass)
    if name in SCHEMA["$defs"]
}
ENUMS = {
    name: cls
    for module in (entry, monitoring, api)
    for name, cls in inspect.getmembers(module, lambda one: isinstance(one, type) and issubclass(one, Enum))
    if name in SCHEMA["$defs"]
}


def test_it_is_a_schema_and_travels_with_the_package() -> None:
    assert json.loads(files("usbbridge.ipc").joinpath("schema.json").read_text()) == SCHEMA
    Draft202012Validator.check_schema(SCHEMA)


def test_every_object_of_the_api_is_in_it() -> None:
    of_the_api = {name for name, cls in vars(api).items() if dataclasses.is_dataclass(cls)}
    assert of_the_api <= OBJECTS.keys()
    assert {name for name, cls in vars(api).items() if isinstance(cls, type) and issubclass(cls, Enum)} <= {
        *ENUMS,
        "StrEnum",
    }


@pytest.mark.parametrize("name", OBJECTS)
def test_each_object_has_its_fields(name: str) -> None:
    assert list(SCHEMA["$defs"][name]["properties"]) == [field.name for field in dataclasses.fields(OBJECTS[name])]


@pytest.mark.parametrize("name", ENUMS)
def test_each_word_that_may_stand_in_a_field_is_listed(name: str) -> None:
    assert SCHEMA["$defs"][name]["enum"] == [member.value for member in ENUMS[name]]


def test_each_method_has_its_parameters() -> None:
    assert SCHEMA["$defs"]["Request"]["properties"]["method"]["enum"] == list(api.METHODS)
    for method, (cls, _) in api.METHODS.items():
        check("Request", {"id": 1, "method": method, "params": to_json(cls())})
        with pytest.raises(ValidationError):
            check("Request", {"id": 1, "method": method, "params": {"nonsense": 1}})


def test_what_is_said_is_as_the_schema_has_it() -> None:
    everything = to_json(status(device(api.State.ATTACHED, stick()), choices=(REMEMBERED,)))
    check("Greeting", GREETING)
    check("Status", everything)
    check("Line", {"id": 1, "result": everything})
    check("Line", {"id": None, "error": {"status": 2, "error": "UsageError", "message": "no", "hint": ""}})
    events = {"device": to_json(device()), "device-gone": {"id": "1-2#2"}, "vm": to_json(DESK)}
    for event, data in (events | {"choices": [to_json(REMEMBERED)], "monitor": {"connected": True}}).items():
        check("Event", {"event": event, "data": data})
        check("Line", {"event": event, "data": data})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("Greeting", GREETING | {"usbbridge": 2}),
        ("Greeting", GREETING | {"may": ["everything"]}),
        ("Event", {"event": "device", "data": {"id": "1-2#2"}}),
        ("Event", {"event": "weather", "data": None}),
        ("DeviceStatus", to_json(device()) | {"state": "lost"}),
        ("DeviceStatus", to_json(device()) | {"mood": "good"}),
        ("VmStatus", {"name": "desk"}),
    ],
)
def test_what_is_wrong_is_noticed(name: str, wrong: object) -> None:
    with pytest.raises(ValidationError):
        check(name, wrong)
