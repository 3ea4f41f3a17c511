"""Attaching, resets, settings, streams, over and over on devices of a real kernel: nothing is left of any of it.

A few rounds of each here. `USBBRIDGE_ROUNDS=1000` makes it as many, which takes half an hour, most of it the
kernel's waits in resets. Needs the user-mode Linux launcher: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the
repository.
"""

import os
from typing import Any

import pytest

from tests.integration.storms_in_machine import STORMS
from tests.integration.uml import needs_uml, run

ROUNDS = int(os.environ.get("USBBRIDGE_ROUNDS", "5"))
MACHINE_SECONDS = 200 + 10 * ROUNDS
"One round of all of them takes two and a half; the rest is for a machine that has other things to do, too."

OBJECTS = 40
"Python objects more than before that are no leak: what was made for the first time. One a round would be one too many."
RESIDENT = 1 << 10
"KiB of the process likewise: the C library keeps what it was given for a while."
KERNEL = 4 << 10
"KiB of kernel memory that can't be reclaimed likewise; it is the whole machine's."


@pytest.fixture(scope="module")
def left() -> dict[str, Any]:
    """What each storm left, all in one boot and one process."""
    return run("storms_in_machine.py", ROUNDS, patience=MACHINE_SECONDS)


def test_there_are_two_dozen() -> None:
    assert len(STORMS) == 24


@needs_uml
@pytest.mark.timeout(MACHINE_SECONDS + 100)
@pytest.mark.parametrize("name", STORMS)
def test_a_storm_leaves_nothing_and_a_working_device(left: dict[str, Any], name: str) -> None:
    facts = left[name]
    assert isinstance(facts, dict), facts
    assert (facts["rounds"], facts["working"]) == (ROUNDS, True)
    assert facts["descriptors"] == 0
    assert facts["objects"] <= OBJECTS
    assert facts["resident"] <= RESIDENT
    assert facts["kernel"] <= KERNEL
