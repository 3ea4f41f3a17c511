"""libusbredirhost and usbbridge, driven by the same guests, with the same device, on a real kernel: every answer is
compared.

Needs the user-mode Linux launcher: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the repository; and Debian's
libusbredirhost1. The guests are in parity/scripts.py, the device is tools.lab.devices.paragon, and where the two are
meant to differ is listed in parity/differences.py.
"""

import ctypes.util

import pytest

from tests.integration.parity.differences import DIFFERENCES, ENDED, OURS, REFERENCE, Difference, Lines
from tests.integration.parity.guest import Heard
from tests.integration.parity.script import Script
from tests.integration.parity.scripts import SCRIPTS
from tests.integration.uml import needs_uml, run_lines

MACHINE_SECONDS = 280

pytestmark = [
    needs_uml,
    pytest.mark.skipif(ctypes.util.find_library("usbredirhost") is None, reason="libusbredirhost1 is not installed"),
    pytest.mark.timeout(MACHINE_SECONDS + 20),
]


@pytest.fixture(scope="module")
def heard() -> dict[str, dict[str, Heard]]:
    """What the guests heard, by script, host and step; one boot for all."""
    facts = run_lines("parity_in_machine.py", patience=MACHINE_SECONDS)
    for each in facts:  # pytest shows it if something fails
        print(f"---- {each['script']}: {each['seconds']:.2f} s\n{each['log']}")
    return {each["script"]: each["heard"] for each in facts}


def answers(heard: dict[str, dict[str, Heard]], script: str, step: str) -> tuple[Lines, Lines]:
    """What the reference and we said in one step."""
    reference, ours = (tuple(heard[script][host][step]) for host in (REFERENCE, OURS))
    return reference, ours


@pytest.mark.parametrize("script", [script.name for script in SCRIPTS])
def test_both_hosts_answer_alike(heard: dict[str, dict[str, Heard]], script: str) -> None:
    reference, ours = (heard[script][host] for host in (REFERENCE, OURS))
    listed = {each.step for each in DIFFERENCES if each.script == script}
    steps = [step for step in reference if step in ours and step not in listed]
    assert {step: ours[step] for step in steps} == {step: reference[step] for step in steps}


def _called(difference: Difference) -> str:
    return f"{difference.script}: {difference.step}"


@pytest.mark.parametrize("difference", DIFFERENCES, ids=_called)
def test_a_listed_difference_is_there(heard: dict[str, dict[str, Heard]], difference: Difference) -> None:
    reference, ours = answers(heard, difference.script, difference.step)
    assert (reference, ours) == (difference.reference, difference.ours)
    assert reference != ours


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_played_to_its_end(heard: dict[str, dict[str, Heard]], script: Script) -> None:
    """Unless a listed difference has ended a connection."""
    ends = {host for each in DIFFERENCES if each.script == script.name for host in ended(each)}
    steps = [step.label for step in script.steps]
    for host in {REFERENCE, OURS} - ends:
        assert [step for step in heard[script.name][host] if step in steps] == steps


def ended(difference: Difference) -> list[str]:
    """The hosts whose connection ended there."""
    both = {REFERENCE: difference.reference, OURS: difference.ours}
    return [host for host, lines in both.items() if ENDED in lines]


def test_each_difference_is_listed_once_with_a_reason() -> None:
    places = [(each.script, each.step) for each in DIFFERENCES]
    assert len(set(places)) == len(places)
    assert all(each.reason for each in DIFFERENCES)
