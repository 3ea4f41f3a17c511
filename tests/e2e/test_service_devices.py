"""Several devices at once, and devices that move: which is which, and where each goes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.rig import sha256
from tests.e2e.service_rig import STICK, VM_NAME, Service
from tools.lab import Client, Lab, Vm

PORTS = (5, 6, 7, 8)


@pytest.fixture
def images(lab: Lab) -> list[Path]:
    """Three small disks that differ."""
    return [lab.image(f"identical-{number}.img", 1 << 20) for number in range(3)]


@pytest.fixture
def by_choice(service: Service) -> Iterator[Service]:
    """The service where sticks go to a VM only if somebody has said so."""
    rule = service.add_rule(f"id={STICK}", "verdict=allow")
    yield service
    service.client.unplug_all()
    service.run("rules", "remove", rule)
    service.run("forget", "--all")


def guest_hashes(vm: Vm) -> set[str]:
    """The content of every disk in the guest."""
    return {vm.shell(f"sha256sum < {disk}").text.split()[0] for disk in vm.block_devices()}


def test_sticks_of_one_kind_are_told_apart_by_their_serial_numbers_in_any_port(
    by_choice: Service, client: Client, vm: Vm, images: list[Path]
) -> None:
    chosen = client.plug("usb-storage", image=images[0], port=PORTS[0], serial="FIRST")
    other = client.plug("usb-storage", image=images[1], port=PORTS[1], serial="SECOND")
    by_choice.run("attach", "--serial", "FIRST", "--vm", VM_NAME)

    chosen, other = client.move(chosen, PORTS[2]), client.move(other, PORTS[0])

    by_choice.wait_attached(chosen)
    by_choice.wait_state(other, "local")
    vm.wait_block_device()
    assert guest_hashes(vm) == {sha256(images[0])}
    assert client.drivers(other) == ["usb-storage"]


def test_twins_with_one_serial_number_are_told_apart_by_their_ports(
    by_choice: Service, client: Client, vm: Vm, images: list[Path]
) -> None:
    chosen = client.plug("usb-storage", image=images[0], port=PORTS[0], serial="TWIN")
    other = client.plug("usb-storage", image=images[1], port=PORTS[1], serial="TWIN")
    by_choice.wait_state(other, "local")
    by_choice.run("attach", chosen.bus_port, "--vm", VM_NAME)
    by_choice.wait_attached(chosen)

    chosen = client.move(chosen)
    by_choice.wait_attached(chosen)
    other = client.move(other)
    by_choice.wait_state(other, "local")

    assert by_choice.watch.state(chosen.bus_port) == "attached"
    vm.wait_block_device()
    assert guest_hashes(vm) == {sha256(images[0])}


def test_rule_that_is_added_holds_at_once_for_what_is_plugged_in(
    by_choice: Service, client: Client, images: list[Path]
) -> None:
    stick = client.plug("usb-storage", image=images[0], serial="JUDGED")
    by_choice.wait_state(stick, "local")

    rule = by_choice.add_rule("--first", f"id={STICK}", "verdict=deny")

    try:
        by_choice.watch.wait(lambda: by_choice.watch.verdict(stick.bus_port) == "deny", "denied stick")
    finally:
        by_choice.run("rules", "remove", rule)
    by_choice.watch.wait(lambda: by_choice.watch.verdict(stick.bus_port) == "allow", "allowed stick")


def test_third_device_waits_until_one_of_two_channels_is_free(
    service: Service, client: Client, vm: Vm, images: list[Path]
) -> None:
    sticks = []
    for number, image in enumerate(images[:2]):
        sticks.append(client.plug("usb-storage", image=image, port=PORTS[number], serial=f"QUEUE{number}"))
        service.wait_attached(sticks[-1])
    third = client.plug("usb-storage", image=images[2], port=PORTS[2], serial="QUEUE2")

    said = service.wait_state(third, "queued")
    assert all(stick.bus_port in said["message"] for stick in sticks)
    assert client.drivers(third) == ["usb-storage"]
    assert third.bus_port in service.run("status").text

    service.run("detach", sticks[0].bus_port)
    service.wait_attached(third)
    vm.wait_until(lambda: len(vm.block_devices()) == 2, "both disks")
    assert guest_hashes(vm) == {sha256(images[1]), sha256(images[2])}
    assert {found["channel"] for found in service.watch.devices.values() if found["state"] == "attached"} == {0, 1}
