"""Devices that lie and misbehave, on a real kernel: each is refused with a reason, or works; in bounded
time and memory; and is given back.

Needs the user-mode Linux launcher: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the repository.
"""

from typing import Any

import pytest

from tests.integration.uml import needs_uml, run
from tools.lab.devices.misbehaving import KINDS

PATIENCE = 900
"Seconds for all kinds; they take some 120 on a machine that has nothing else to do."
MEMORY = 100 << 10
"KiB that no process of ours may exceed; an encoder has some 30 MiB."

pytestmark = [
    needs_uml,
    pytest.mark.timeout(PATIENCE + 20),
]

GIVEN_UP = "given up by the kernel"
WORKING = {"none", "no-interfaces", "32-interfaces-announced", "total-one-more", "unknown-types", "strings-stall"}
"Kinds that do all that a device should, whatever they say."
MALFORMED = {"device-shorter", "endpoint-length-0", "endpoint-length-4", "total-0", "total-long", "33-interfaces"}
"Kinds that Linux takes and nobody can use."


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """What happened with each kind, in one boot."""
    return run("hostile_devices_in_machine.py", patience=PATIENCE)


def facts(said: dict[str, Any], kind: str) -> dict[str, Any]:
    """What happened with one that the kernel takes."""
    assert isinstance(said[kind], dict), said[kind]
    found: dict[str, Any] = said[kind]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_attached_or_refused_with_a_reason_and_given_back(said: dict[str, Any], kind: str) -> None:
    if said[kind] == GIVEN_UP:
        return
    found = facts(said, kind)
    assert found["status"] == (0 if found["attached"] else 1), found["lines"]
    assert not any("Traceback" in line for line in found["lines"]), found["lines"]
    if not found["attached"]:
        assert found["lines"][-1].startswith("usbbridge: 2-"), "the reason names the device"
    assert found["violations"] == []
    assert found["holders"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_backend_has_it_or_has_a_reason_in_bounded_time(said: dict[str, Any], kind: str) -> None:
    if said[kind] == GIVEN_UP:
        return
    used = facts(said, kind)["used"]
    assert "claimed" in used or used["error"][0] in ("DeviceError", "DeviceLostError"), used
    assert used.get("seconds", 0) < 60


def test_linux_takes_all_but_those_that_hide_what_they_are(said: dict[str, Any]) -> None:
    given_up = {kind for kind in KINDS if said[kind] == GIVEN_UP}
    assert given_up <= {
        "device-type",
        "header-length-0",
        "header-length-255",
        "255-configurations",
        "no-configurations",
    }


@pytest.mark.parametrize("kind", sorted(WORKING))
def test_what_is_only_a_little_wrong_works(said: dict[str, Any], kind: str) -> None:
    found = facts(said, kind)
    assert found["attached"]
    transfers = [found["used"][name] for name in ("control", "in", "out", "interrupt", "many")]
    assert transfers == ["COMPLETED"] * 5
    assert found["used"]["reset"]


@pytest.mark.parametrize("kind", sorted(MALFORMED))
def test_descriptors_that_contradict_themselves_are_told_of(said: dict[str, Any], kind: str) -> None:
    found = facts(said, kind)
    assert isinstance(found["seen"]["parsed"], str), "the parser says why"
    assert "its descriptors contradict themselves" in found["lines"][-1]


def test_every_endpoint_that_stalls_is_attached_and_given_back(said: dict[str, Any]) -> None:
    found = facts(said, "stalls")
    assert found["attached"]
    assert [found["used"][name] for name in ("control", "in", "out", "interrupt")] == ["COMPLETED", *["STALL"] * 3]


def test_a_device_that_babbles_is_stopped_at_the_size_that_was_asked_for(said: dict[str, Any]) -> None:
    assert [facts(said, "babbles")["used"][name] for name in ("in", "interrupt")] == ["OVERFLOW"] * 2


def test_a_device_that_hangs_gives_its_transfers_back_when_they_are_cancelled(said: dict[str, Any]) -> None:
    found = facts(said, "hangs")
    assert [found["used"][name] for name in ("control", "in", "out", "interrupt")] == ["hung"] * 4
    assert found["used"]["reset"]


def test_a_device_that_vanishes_in_a_transfer_is_lost(said: dict[str, Any]) -> None:
    used = facts(said, "vanishes")["used"]
    assert used["many"] in ("NO_DEVICE", "refused: NO_DEVICE")
    assert used["error"][0] == "DeviceLostError"


@pytest.mark.parametrize("kind", ["other-ids", "other-configuration"])
def test_a_device_that_changes_its_face_in_a_reset_is_not_taken_for_the_one_it_was(
    said: dict[str, Any], kind: str
) -> None:
    found = facts(said, kind)
    assert not found["attached"]
    assert found["lines"][-1].endswith("came back from a reset as another device")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("string")])
def test_no_name_can_do_more_than_be_shown(said: dict[str, Any], kind: str) -> None:
    found = facts(said, kind)
    assert all(line.isprintable() for line in [*found["lines"], found["seen"]["name"]]), found


def test_no_process_grew(said: dict[str, Any]) -> None:
    assert said["KiB of the largest process"] < MEMORY
