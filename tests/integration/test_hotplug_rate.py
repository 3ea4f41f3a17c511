"""Hundreds of hotplug events a second on a real kernel, through monitor and control to who listens to them: none is
lost, and control is woken by what is new only.

Needs the user-mode Linux launcher: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the repository.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.hotplug_rate_in_machine import PLUGGED
from tests.integration.uml import needs_uml, of, run
from usbbridge.monitor.hotplug import BUFFER

pytestmark = [
    needs_uml,
    pytest.mark.timeout(630),
]

HEARD = {"libudev": True, "netlink": True}
FEW = 5
"Turns of a process that nothing woke: a timer, or a look at what another has said meanwhile."


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """What happened in each step, in one boot."""
    return run("hotplug_rate_in_machine.py", patience=600)


@of("lies", "replugs")
def test_both_sources_hear_every_event(
    step: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    record_property("events a second", step["rate"])  # 219 to 250 on a host that has little else to do
    assert step["heard"] == HEARD
    assert step["all"] >= step["sent"]


@of("lies", "replugs")
def test_the_monitor_has_room_for_every_event_and_reads_it(step: dict[str, Any]) -> None:
    assert (step["lost"], step["waiting"]) == (0, 0)


@of("lies")
def test_who_listens_is_not_told_what_is_no_news(step: dict[str, Any]) -> None:
    assert step["lies"] == step["sent"]
    assert step["told"] == 0
    assert step["turns of control"] <= FEW


@of("replugs")
def test_every_device_that_the_kernel_tells_of_is_passed_on_as_come_and_as_gone(step: dict[str, Any]) -> None:
    expected = {"same": True, "contradictions": []}
    assert (step["monitor"], step["control"]) == (expected, expected)
    assert step["turns of control"] > FEW, "or they are not counted in this kernel"
    assert len(step["came"]) == len(step["went"]) == step["rounds"] * len(PLUGGED) > 0


@of("restart")
def test_where_libudev_is_missing_the_monitor_does_without(step: dict[str, Any]) -> None:
    assert step == {"libudev": False}


@of("flood", "flood without libudev")
def test_after_more_events_than_there_is_room_for_what_is_there_is_told(step: dict[str, Any]) -> None:
    assert step["waiting"] > BUFFER
    assert step["lost"] > 0
    assert step["said"] > 0
    assert step["fresh"]
    assert all(device.startswith("usb") for device in step["same"]), "only root hubs stay as they were"
    assert step["contradictions"] == []


@of("after", "after without libudev")
def test_after_that_events_are_heard_as_before(step: dict[str, Any]) -> None:
    assert step == {"told": {"monitor": [1, 1], "control": [1, 1]}, "lost": 0}


@of("traffic")
def test_what_a_vm_reads_costs_control_and_the_monitor_nothing(step: dict[str, Any]) -> None:
    assert max(step["control"] + step["monitor"]) <= FEW
    once, four_times = step["encoder"]
    assert FEW < once < four_times, "or they are not counted in this kernel"


@of("end")
def test_the_service_ends_as_ever(step: dict[str, Any]) -> None:
    assert step == {"status": 0}
