"""The whole service on a real kernel: monitor, control and encoders, each as who it should be, and killed in turn.

Needs the user-mode Linux launcher: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the repository.
"""

import os
from typing import Any

import pytest

from tests.integration.uml import needs_uml, of, run

ROUNDS = int(os.environ.get("USBBRIDGE_ROUNDS", "1"))
"How often each process is killed: a hundred times take half an hour."

pytestmark = [
    needs_uml,
    pytest.mark.timeout(430 + 30 * ROUNDS),
]

USER = ["1"]
"`daemon`, as whom control runs in the machine."
CONTROL_KIB, ENCODER_KIB = 38 << 10, 25 << 10


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """What happened in each step, in one boot."""
    return run("service_in_machine.py", patience=400 + 30 * ROUNDS)


@of("attach")
def test_a_drive_is_attached_and_the_vm_reads_it(step: dict[str, Any]) -> None:
    assert (step["state"], step["driver"], step["same"]) == ("attached", "usbfs", True)
    assert step["encoders"] == 2, "the one at work, and the next"


@of("attach")
def test_only_the_monitor_has_rights_and_only_the_encoder_the_device(step: dict[str, Any]) -> None:
    assert step["monitor"]["uids"] == ["0"]
    for part in (step["control"], step["encoder"]):
        assert (part["uids"], part["capabilities"], part["no new privileges"]) == (USER, 0, "1")
    assert [step[part]["nodes"] for part in ("monitor", "control", "encoder")] == [0, 0, 1]


@of("attach")
def test_they_are_small(step: dict[str, Any]) -> None:
    assert step["control"]["RSS"] < CONTROL_KIB
    assert step["encoder"]["RSS"] < ENCODER_KIB


@of("detach")
def test_a_detached_drive_is_with_its_driver_when_that_is_answered(step: dict[str, Any]) -> None:
    assert step == {"state": "local", "driver": "usb-storage"}


@of("encoder killed")
def test_after_the_death_of_its_encoder_a_drive_is_attached_again(step: dict[str, Any]) -> None:
    assert (step["same encoder"], step["same"]) == ([False], True)


@of("control killed")
def test_after_the_death_of_control_a_drive_is_attached_again(step: dict[str, Any]) -> None:
    assert (step["same encoder"], step["same"]) == ([False], True)


@of("monitor killed")
def test_the_death_of_the_monitor_disturbs_nobody(step: dict[str, Any]) -> None:
    assert (step["reads"], step["same encoder"], step["same"]) == (["whole"], [True], True)


def test_nothing_is_leaked_by_all_that(said: dict[str, Any]) -> None:
    counted = [said[f"{whom} killed"]["fds"] for whom in ("encoder", "control", "monitor")]
    assert max(fds["control"] for fds in counted) <= said["attach"]["control"]["fds"]
    assert max(fds["monitor"] for fds in counted) <= said["attach"]["monitor"]["fds"]
    for whom in ("encoder", "control", "monitor"):
        facts = said[f"{whom} killed"]
        assert facts["encoders"] == 2, "the one at work, and the next"
        assert facts["sockets"] == 3, "monitor's, control's and the manager's"
        assert facts["lost"] == []


@of("end")
def test_at_the_end_the_drive_is_back_and_nothing_is_left(step: dict[str, Any]) -> None:
    assert step == {"status": 0, "driver": "usb-storage", "processes": 0, "left": []}


def test_the_vm_had_no_complaints(said: dict[str, Any]) -> None:
    assert said["violations"] == []
