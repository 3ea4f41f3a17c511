"""Isochronous transfers: the libusb backend, real usbfs and vhci-hcd, from and to an emulated device that counts.

Needs the user-mode Linux launcher: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the repository.
"""

from typing import Any

import pytest

from tests.integration.uml import needs_uml, of, run

PATIENCE = 400
"Seconds for all steps; they take some 40 on a machine that has nothing else to do."

pytestmark = [
    needs_uml,
    pytest.mark.timeout(PATIENCE + 20),
]

COMPLETED, ERROR, OVERFLOW = 0, 1, 6


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """What happened in each step, in one boot."""
    return run("backend_iso_in_machine.py", patience=PATIENCE)


@pytest.mark.parametrize(
    ("step", "speed", "packets"),
    [
        ("in at high speed", "HIGH", 8000),
        ("in at full speed", "FULL", 600),
        ("in at super speed", "SUPER", 4000),
        ("every eighth microframe", "HIGH", 504),
    ],
    indirect=["step"],
)
def test_thousands_of_packets_arrive_whole_and_without_a_gap(step: dict[str, Any], speed: str, packets: int) -> None:
    assert (step["speed"], step["packets"], step["sent"]) == (speed, packets, packets)
    assert step["as sent"]
    assert step["holders"] == []


@of("out")
def test_thousands_of_packets_are_sent_whole_and_without_a_gap(step: dict[str, Any]) -> None:
    assert step["sent"] == 4000
    assert step["counts"] == [0, 4000, 0]
    assert step["all"]


@of("both ways")
def test_both_directions_at_once(step: dict[str, Any]) -> None:
    assert step["sent"][1] == step["counts"][1] >= 1000
    assert step["counts"][2] == 0
    assert step["numbered"]


@of("damaged")
def test_damaged_and_long_packets_arrive_as_errors_between_the_others(step: dict[str, Any]) -> None:
    assert step["transfer"] == [COMPLETED]
    expected = []
    for index in range(32):
        sent = index + 1
        if sent % 10 == 0:
            expected.append([-1, 0, ERROR])
        elif sent % 7 == 0:
            expected.append([-1, 0, OVERFLOW])
        else:
            expected.append([index, 4 if sent % 4 == 0 else 512, COMPLETED])
    assert step["packets"] == expected


@of("many packets")
def test_a_transfer_may_have_more_packets_than_usbfs_takes_at_once_and_fewer_than_it_has_room_for(
    step: dict[str, Any],
) -> None:
    assert step["numbered"]
    assert step["few"] == COMPLETED
    assert step["few came"] == [512, 512, 512, 0]


@of("refused")
def test_what_the_kernel_or_the_table_does_not_take_is_an_error_and_not_in_flight(step: dict[str, Any]) -> None:
    assert step.pop("in flight") == 0
    assert set(step.values()) == {ERROR}


@of("cancelled")
def test_cancelled_transfers_come_back_and_the_next_ones_are_served(step: dict[str, Any]) -> None:
    assert (step["drained"], step["in flight"], step["ended"]) == (True, 0, 8)
    assert step["some cancelled"]
    assert step["again"]


@of("closed")
def test_a_device_is_closed_in_full_flight_and_counts_from_0_when_it_is_opened_again(step: dict[str, Any]) -> None:
    assert step["rounds"] == [True] * 3
    assert step["holders"] == []


@of("settings")
def test_another_setting_has_other_packets(step: dict[str, Any]) -> None:
    assert step["sizes"] == [[128], [512], [128]]


@of("unplugged")
def test_all_transfers_of_a_device_that_is_unplugged_come_back(step: dict[str, Any]) -> None:
    assert (step["in flight"], step["last"]) == (0, "NO_DEVICE")
    assert step["exporter"] == 0
    assert step["holders"] == []


@of("streams")
def test_a_lack_of_bulk_streams_is_said_with_whose_it_is(step: dict[str, Any]) -> None:
    assert step["high speed"] == [
        "DeviceError",
        "1-1 device runs at high speed, and bulk streams need super speed",
    ]
    name, message = step["no streams"]
    assert name == "DeviceError"
    assert message.startswith("1-1 device: making bulk streams on endpoints 0x81, 0x02 failed: the host controller")
