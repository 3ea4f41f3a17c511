"""The monitor as a process, on a real kernel: hotplug, hand-over, the mount guard, and who is not served.

Needs the user-mode Linux launcher: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the repository.
"""

from typing import Any

import pytest

from tests.integration.uml import needs_uml, of, run

pytestmark = [
    needs_uml,
    pytest.mark.timeout(430),
]

STICK = "1-1 1d6b:0104 Linux Foundation Multifunction Composite Gadget"
MOUNTED = f"{STICK} is in use: sda1 is mounted at /tmp/my stick"
SWAP = f"{STICK} is in use: sda1 is in use as swap"
KEYBOARD = 0x01 << 16 | 0x06
"Usage page Generic Desktop, usage Keyboard (HID Usage Tables 1.5 §4)."


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """What happened in each step, in one boot."""
    return run("monitor_in_machine.py", patience=400)


@of("present")
def test_what_is_there_at_the_start_is_told_with_its_verdict(step: dict[str, Any]) -> None:
    assert step["entry"] == ["1d6b:0104", "stick", ["usb-storage"]]
    assert (step["verdict"], step["obstacle"], step["id"]) == ("allow", True, True)
    assert bytes.fromhex(step["descriptors"])[8:12] == bytes.fromhex("6b1d0401")


@of("plugged")
def test_a_device_is_told_of_when_it_goes_and_when_it_comes_with_all_its_interfaces(step: dict[str, Any]) -> None:
    assert step["gone"]
    assert (step["complete at once"], step["another id"]) == (1, True)
    assert step["told"] <= 2, "when its interface was there, and when that had its driver"


@of("handed over")
def test_a_device_is_handed_over_as_an_open_node(step: dict[str, Any]) -> None:
    assert step["answer"] == ["opened", 7]
    assert step["node"].startswith("/dev/bus/usb/001/")
    assert step["listed"] == "1-1"
    assert step["no obstacle of our own"]


@of("handed over")
def test_no_descriptor_keeps_the_name_of_a_disk_that_was_detached(step: dict[str, Any]) -> None:
    assert step["holds"] == []


@of("handed over")
def test_who_asks_for_a_device_that_is_out_is_refused_after_a_while(step: dict[str, Any]) -> None:
    kind, status, message = step["while out"]
    assert (kind, status) == ("refused", 5)
    assert message.endswith("is still in use by an earlier attachment")


@of("handed over")
def test_a_holder_that_is_killed_gives_the_device_back(step: dict[str, Any]) -> None:
    assert (step["driver"], step["listed after"]) == ("usb-storage", [])


@of("guarded")
def test_a_mounted_drive_is_refused_with_the_place_named(step: dict[str, Any]) -> None:
    assert step["told"] == MOUNTED
    assert step["refused"] == ["refused", 5, MOUNTED, True]


@of("guarded")
def test_a_mounted_drive_is_unmounted_if_that_is_wanted(step: dict[str, Any]) -> None:
    assert step["unmounted"] == ["opened", False]


@of("guarded")
def test_a_drive_can_not_be_mounted_between_the_check_and_the_claim(step: dict[str, Any]) -> None:
    assert all(step["mount while it is out"])
    assert step["mount after"] == 0


@of("guarded")
def test_force_takes_a_mounted_drive(step: dict[str, Any]) -> None:
    assert step["forced"] == ["opened", True]


@of("busy")
def test_a_drive_that_can_not_be_unmounted_is_refused_with_the_reason(step: dict[str, Any]) -> None:
    status, message = step["used"]
    assert status == 5
    assert message.startswith(f"{STICK} is in use: sda1 can't be unmounted: ")
    assert "busy" in message


@of("busy")
def test_a_mount_that_only_another_namespace_has_counts(step: dict[str, Any]) -> None:
    assert step["hidden"] == [5, f"{STICK}: sda is in use, by something that /proc does not show", False]


@of("busy")
def test_swap_counts_and_is_noticed_when_it_begins(step: dict[str, Any]) -> None:
    assert step["swap told"] == SWAP
    assert step["swap"] == [5, f"{STICK} stays here: sda1 is in use as swap"]


@of("adopted")
def test_a_holder_outlives_the_monitor_and_is_adopted_by_the_next(step: dict[str, Any]) -> None:
    assert (step["still claimed"], step["obstacle"]) == ("usbfs", True)
    assert (step["asked for meanwhile"], step["claimed"]) == ("refused", "usbfs")
    assert step["driver"] == "usb-storage"


@of("orphaned")
def test_what_a_killed_monitor_had_handed_out_and_nobody_holds_is_given_back_at_the_start(step: dict[str, Any]) -> None:
    assert step["left"] == ""
    assert step["at start"] == "usb-storage"
    assert step["listed after"] == []


@of("unclaimed")
def test_a_holder_that_nobody_knows_is_another_program_until_it_ends(step: dict[str, Any]) -> None:
    assert step["obstacle"] == "in-use"
    assert step["driver"] == "usb-storage"


@of("unplugged while out")
def test_a_device_that_is_unplugged_while_it_is_out_is_another_when_it_comes_again(step: dict[str, Any]) -> None:
    assert step == {"again": "opened", "returned": 1}


@of("rounds")
def test_fifty_rounds_leave_no_descriptor_behind(step: dict[str, Any]) -> None:
    assert (step["fds"], step["threads"]) == (0, 1)


@of("lost")
def test_when_events_are_lost_everything_is_looked_at(step: dict[str, Any]) -> None:
    assert step["said"]


def test_where_udevd_runs_it_is_listened_to(said: dict[str, Any]) -> None:
    if "with udevd" not in said:
        pytest.skip("no systemd-udevd is installed")
    assert said["with udevd"] == {"answer": "opened", "said": True}, said["log"]


NOT_PERMITTED = [
    "unknown kind",
    "no json",
    "wrong field",
    "before hello",
    "hello twice",
    "other version",
    "open without a lease",
    "a lease that is a file",
    "a descriptor too many",
    "outcome",
    "control reloads",
]


@pytest.mark.parametrize("what", NOT_PERMITTED)
@of("not permitted")
def test_what_is_not_permitted_ends_the_connection(step: dict[str, Any], what: str) -> None:
    assert step[what] is True


@of("not permitted")
def test_control_is_served_and_other_users_are_not(step: dict[str, Any]) -> None:
    assert step["control is greeted"] >= 1
    assert step["another user"] == "PermissionError"


@of("not permitted")
def test_who_asks_for_what_is_not_there_is_only_told_so(step: dict[str, Any]) -> None:
    assert step["not there"] == 4


@of("denied")
def test_a_request_for_a_denied_device_is_refused_and_ends_the_connection(step: dict[str, Any]) -> None:
    assert (step["verdict"], step["usages"]) == ("deny", [KEYBOARD])
    assert step["answer"] == ["refused", 5]
    assert (step["fd"], step["ended"], step["said"]) == (-1, True, True)


@of("a second instance")
def test_a_second_monitor_does_not_start(step: dict[str, Any]) -> None:
    assert step["status"] == 5


@of("end")
def test_a_monitor_that_is_told_to_end_leaves_no_socket(step: dict[str, Any]) -> None:
    assert step == {"status": 0, "left": ["handed-out.json"]}
