"""Real usbfs: the libusb backend, and `usbbridge attach` with a drive and a keyboard of a real kernel.

Needs the user-mode Linux launcher: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the repository.
"""

from typing import Any

import pytest

from tests.integration.uml import needs_uml, of, run
from usbbridge.redirect.limits import INTERRUPT_TRANSFERS

pytestmark = [
    needs_uml,
    pytest.mark.timeout(430),
]

STICK = "1-1 1d6b:0104 Linux Foundation Multifunction Composite Gadget"
STEPS = [
    "connected to the VM",
    "the VM's USB port answers: usbbridge loopback VM",
    f"announced to the VM: {STICK}",
    f"attached: {STICK}",
]
COMPLETED, ERROR, CANCELLED, STALL = 0, 1, 3, 4


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """What happened in each step, in one boot."""
    return run("redirect_in_machine.py", patience=400)


@of("unprivileged")
def test_a_process_without_rights_uses_the_device_whose_descriptor_it_was_handed(step: dict[str, Any]) -> None:
    assert step["may open"] is False
    assert step["name"] == "1-1 the stick"
    assert step["ids"] == [0x1D6B, 0x0104, "HIGH", 1]
    assert step["endpoints"] == ["BULK", "BULK"]
    assert step["descriptor"] == [COMPLETED, "6b1d0401"]
    assert step["command"] == [COMPLETED, COMPLETED, "USBStag!"]


@of("unprivileged")
def test_the_kernels_driver_goes_with_the_claim_and_comes_back_with_the_close(step: dict[str, Any]) -> None:
    assert step["driver before"] == "usb-storage"
    assert step["driver claimed"] == step["driver after a reset"] == step["driver configured"] == "usbfs"
    assert step["driver closed"] == "usb-storage"


@of("unprivileged")
def test_a_stall_and_an_unknown_endpoint_are_results(step: dict[str, Any]) -> None:
    assert step["stall"][1] == STALL
    assert step["unknown endpoint"] == ERROR


@of("unprivileged")
def test_cancelled_transfers_come_back_in_any_order(step: dict[str, Any]) -> None:
    drained, second, drained_again, ended, in_flight, statuses = step["cancel"]
    assert (drained, second) == (True, [1])
    assert (drained_again, ended, in_flight) == (True, [0, 1, 2], 0)
    assert statuses == [CANCELLED] * 3


@of("whole drive")
def test_a_drive_is_read_and_written_through_the_command(step: dict[str, Any]) -> None:
    assert step["driver attached"] == "usbfs"
    assert step["same"]
    assert step["written"]
    assert step["violations"] == []


@of("whole drive")
def test_ctrl_c_gives_the_drive_back(step: dict[str, Any]) -> None:
    assert step["status"] == 0
    assert step["lines"][:-1] == STEPS
    assert step["lines"][-1].startswith("detached (8.4 MB to the VM, ")
    assert (step["driver"], step["holders"]) == ("usb-storage", [])


@of("encoder killed")
def test_an_encoder_that_is_killed_leaves_nothing_behind(step: dict[str, Any]) -> None:
    assert step["read"] == "ConnectionLostError"
    assert step["status"] == 1
    reason = "the encoder process ended unexpectedly (signal SIGKILL); the device was given back to the system"
    assert step["lines"][-1] == f"usbbridge: {reason}"
    assert (step["driver"], step["holders"]) == ("usb-storage", [])


@of("command killed")
def test_a_command_that_is_killed_leaves_nothing_behind(step: dict[str, Any]) -> None:
    assert step["read"] == "TaskAbortedError", "the guest was told"
    assert step["status"] == -9
    assert (step["driver"], step["holders"]) == ("usb-storage", [])


@of("vm killed")
def test_a_vm_that_is_killed_ends_the_command_and_the_drive_is_given_back(step: dict[str, Any]) -> None:
    assert step["status"] == 1
    assert step["lines"][-2].endswith("closed the connection")
    assert (step["driver"], step["holders"]) == ("usb-storage", [])


@of("unplugged")
def test_a_drive_that_is_unplugged_ends_the_command_and_the_guest_is_told(step: dict[str, Any]) -> None:
    assert step["read"] == "TaskAbortedError"
    assert step["status"] == 1
    assert step["lines"][-1] == f"usbbridge: {STICK} was unplugged"
    assert step["holders"] == []


@of("keyboard")
def test_every_report_of_a_keyboard_arrives_in_order(step: dict[str, Any]) -> None:
    assert step["driver attached"] == "usbfs"
    assert step["numbered"]
    assert step["reports"]


@of("keyboard")
def test_a_keyboard_that_is_unplugged_while_it_is_received_from_leaves_nothing(step: dict[str, Any]) -> None:
    assert step["error"] == "1-1 keyboard was unplugged"
    assert step["all back"] == [True, 0]
    assert (step["pending"], step["holders"]) == (0, [])


@of("keyboard given back")
def test_a_keyboard_that_is_received_from_is_given_back(step: dict[str, Any]) -> None:
    assert (step["driver attached"], step["in flight"]) == ("usbfs", INTERRUPT_TRANSFERS)
    assert (step["driver"], step["holders"]) == ("usbhid", [])
