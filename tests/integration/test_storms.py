"""Attaching, resets, settings, streams, over and over on devices of a real kernel: nothing is left of any of it.

A few rounds of each here. `USBBRIDGE_ROUNDS=1000` makes it as many, which takes half an hour, most of it the
kernel's waits in resets. Needs the user-mode Linux launcher: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the
repository.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.integration.storms_in_machine import STORMS
from tests.integration.test_redirect_usbfs import HERE, ROOT, UML, shown

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
    environment = os.environ | {"UML_OUT": str(shown()), "UML_TIMEOUT": str(MACHINE_SECONDS), "PYTHONPATH": str(ROOT)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    command = [str(UML), "--", sys.executable, str(HERE / "storms_in_machine.py"), str(ROUNDS)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, last = done.stdout.splitlines()  # before it, each storm by itself: for whoever watches, and after a time-out
    answer: dict[str, Any] = json.loads(last)
    return answer


def test_there_are_two_dozen() -> None:
    assert len(STORMS) == 24


@pytest.mark.skipif(not UML.exists(), reason=f"no user-mode Linux at {UML}; set USBBRIDGE_UML")
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
