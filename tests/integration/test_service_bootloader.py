"""Devices that come back as another, on a real kernel: the whole service, and a VM that makes a board change.

Needs the user-mode Linux launcher: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the repository.
"""

from typing import Any

import pytest

from tests.integration.uml import needs_uml, of, run

pytestmark = [
    needs_uml,
    pytest.mark.timeout(630),
]

SOON = 10.0
"Seconds to be followed in: without any wait after a failure it takes one or two, on a busy machine more."
CHANGES = ("started", "touched", "started again", "detached")


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """What happened in each step, in one boot."""
    return run("bootloader_in_machine.py", patience=600)


@of("declared", "declared, not remembered")
def test_a_board_stays_with_the_vm_through_every_change_that_the_vm_makes(step: dict[str, Any]) -> None:
    assert step["faces"] == ["46f4:0115"]
    assert [step[change]["state"] for change in CHANGES] == ["attached"] * len(CHANGES)
    assert max(step[change]["seconds"] for change in CHANGES) < SOON


@of("declared", "declared, not remembered")
def test_giving_it_back_forgets_all_its_faces(step: dict[str, Any]) -> None:
    assert step["choices"] == []


@of("held")
def test_one_that_was_given_back_for_now_stays_here_when_it_changes(step: dict[str, Any]) -> None:
    assert step["states"] == ["local"]


@of("another")
def test_what_takes_its_place_is_not_taken_for_it(step: dict[str, Any]) -> None:
    assert step["states"] == ["local"]


@of("undeclared")
def test_one_that_nobody_has_declared_is_followed_while_a_vm_has_it(step: dict[str, Any]) -> None:
    assert step["seconds"] < SOON


@of("not followed")
def test_unless_that_is_not_wanted(step: dict[str, Any]) -> None:
    assert step["states"] == ["local"]


def test_the_service_ends_well_and_the_vm_had_no_complaints(said: dict[str, Any]) -> None:
    assert (said["end"], said["violations"]) == ({"status": 0}, [])
