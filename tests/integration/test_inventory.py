"""The inventory on a real kernel's sysfs, with a mass-storage gadget as the flash drive.

Needs the user-mode Linux launcher: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the repository.
"""

from typing import Any

import pytest

from tests.integration.uml import needs_uml, run

pytestmark = [
    needs_uml,
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """What was said of the drive in each state, in one boot."""
    return run("inventory_in_machine.py", patience=150)


def test_the_drive_is_described(said: dict[str, Any]) -> None:
    assert said["words"] == ["1d6b:0104", "Nobody Flash [bold]Drive", "LAB1", "/dev/bus/usb/001/002", "HIGH"]
    assert said["kind"] == [["storage"], ["usb-storage"], 1, 1]


def test_a_drive_that_nobody_uses_can_be_attached(said: dict[str, Any]) -> None:
    assert said["free"] is None


def test_a_user_without_rights_is_told_so(said: dict[str, Any]) -> None:
    assert said["without rights"] == ["no-permission", "no permission to open /dev/bus/usb/001/002"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("mounted", "is in use: sda is mounted at /tmp/my stick"),
        ("swap", "is in use: sda is in use as swap"),
        ("claimed", "is in use by another program"),
    ],
)
def test_a_drive_in_use_says_by_what(said: dict[str, Any], state: str, message: str) -> None:
    assert said[state] == ["in-use", message]


def test_an_unconfigured_drive_can_be_attached(said: dict[str, Any]) -> None:
    assert said["unconfigured"] == [None, None]


def test_a_drive_that_was_not_authorized_says_so(said: dict[str, Any]) -> None:
    assert said["not authorized"] == ["not-authorized", "is blocked: the kernel was told not to authorize it"]


def test_an_unplugged_drive_is_gone(said: dict[str, Any]) -> None:
    assert said["unplugged"] == []
