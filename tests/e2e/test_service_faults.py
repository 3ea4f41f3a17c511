"""What goes wrong in real life, and is put right without anybody's help: dead processes, VMs and networks."""

import json
import os
import random
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import Machines
from tests.e2e.rig import MIB, Measured, sha256
from tests.e2e.service_rig import CHOICES, DATABASE, INSIDE, VM_NAME, Entry, Service, eventually, facts, roles
from tools.lab import Client, Plugged, Process, Vm

ROUNDS = int(os.environ.get("USBBRIDGE_ROUNDS", "1"))
"Of each kill test: every change is tried with a few, a release with a hundred."
ROUND_SECONDS = 90
"A round may take so long, on a slow and busy machine."

# From the restart of what was killed until the device is in the guest again, or with its kernel driver.
SOON = 2.0

# The read is under way once this much of it has come; the process is killed within so many seconds from then.
UNDER_WAY = MIB
MOMENT = 1.5

CUT_SECONDS = 30.0


def reading(vm: Vm) -> Process:
    """A read of the whole disk in the guest, under way; of what is read, only the first part comes out."""
    disk = vm.wait_block_device()
    rest = f"exec dd if={disk} bs=256k iflag=direct skip=4 of=/dev/null status=none"
    reader = vm.start(["/bin/sh", "-c", f"dd if={disk} bs=1M count=1 iflag=direct status=none; {rest}"])
    reader.wait_bytes(UNDER_WAY)
    return reader


@dataclass(frozen=True)
class Census:
    """What must be the same after a round as before: nothing left behind, nothing lost."""

    processes: dict[str, int]
    descriptors: dict[str, list[int]]
    sockets: list[str]
    choices: str


def census(service: Service) -> Census:
    """As it is now. OSError if a process ends meanwhile."""
    client = service.client
    found = roles(client)
    return Census(
        processes={role: len(pids) for role, pids in found.items()},
        descriptors={role: sorted(len(facts(client, pid).fds) for pid in pids) for role, pids in found.items()},
        sockets=client.glob("/run/usbbridge*/*"),
        choices=client.read_text(CHOICES) if client.glob(CHOICES) else "",
    )


def settled(service: Service, before: Census | None = None) -> Census:
    """A census once all is quiet: the one of before, or, if there is none, two in a row that are the same."""
    last: list[Census | None] = [before]

    def look() -> Census | None:
        try:
            now = census(service)
        except OSError:
            return None
        same, last[0] = now == last[0], before or now
        return now if same and now.processes["encoder"] == 2 and service.spares() else None

    try:
        found = eventually(look, "quiet")
    except AssertionError:
        assert census(service) == before  # says in what it differs
        raise
    assert found is not None
    return found


def rows(client: Client) -> dict[str, int]:
    """How many rows each table of the compatibility list has; it must be sound."""
    found = json.loads(client.run(["/usr/bin/python3", "-I", "-S", str(INSIDE / "count_rows.py"), DATABASE]).text)
    assert found["sound"]
    return dict(found["rows"])


def given_back(client: Client, stick: Plugged, since: float) -> float | None:
    """When the device came back to its kernel driver after `since`, by the client's clock; None if it has not."""
    bound = client.uevents(ACTION="bind", SUBSYSTEM="usb", DRIVER="usb-storage")
    times = [at for at, event in bound if at > since and f"/{stick.bus_port}:" in event["DEVPATH"]]
    return min(times, default=None)


def kill(service: Service, stick: Plugged, victim: str) -> float:
    """Kill a process of the service that has the stick, and when that was, by the client's clock."""
    process = service.encoder_of(stick) if victim == "encoder" else service.one(victim)
    killed = service.client.now()
    service.client.run(["kill", "-KILL", str(process.pid)])
    return killed


def restarted(service: Service, victim: str, killed: float) -> float:
    """When what was killed was started again."""
    if victim == "encoder":
        return killed  # nothing has to be: its device is given back, or goes to the spare

    def look() -> float | None:
        pids = roles(service.client)[victim]
        # The time is in hundredths, rounded down.
        return next((found for pid in pids if (found := facts(service.client, pid).started) > killed - 0.01), None)

    found = eventually(look, f"restart of {victim}")
    assert found is not None
    return found


def is_connected(entry: Entry) -> bool:
    """Whether it says that control has the monitor's list."""
    return entry.event == "monitor" and bool(entry.data["connected"])


@pytest.mark.parametrize("victim", ["monitor", "control", "encoder"])
@pytest.mark.timeout(ROUNDS * ROUND_SECONDS + 120)
def test_killed_at_any_moment_of_a_read_leaves_the_device_in_its_place(
    service: Service, client: Client, vm: Vm, small: Path, measured: Measured, victim: str
) -> None:
    stick = client.plug("usb-storage", image=small, serial="KILLED")
    service.wait_attached(stick)
    service.run("attach", stick.bus_port, "--vm", VM_NAME)  # where it is already: that is remembered now
    vm.wait_block_device()
    before, had = settled(service), rows(client)
    assert "KILLED" in before.choices
    moments = random.Random(f"{victim} {ROUNDS}")
    slowest = 0.0

    for _ in range(ROUNDS):
        with reading(vm) as reader:
            threading.Event().wait(moments.uniform(0, MOMENT))  # the moment is at random
            mark, killed = service.watch.mark, kill(service, stick, victim)
            if victim == "monitor":  # the way from the device to the VM does not lead through it
                assert reader.wait().status == 0
                assert client.drivers(stick) == ["usbfs"]
                listed = service.watch.wait_entry(is_connected, "monitor", since=mark)
                slowest = max(slowest, listed.at - restarted(service, victim, killed))
            else:
                reader.wait()
                back = client.wait_until(lambda: given_back(client, stick, killed), "the device's return")  # noqa: B023
                assert back is not None
                assert back - restarted(service, victim, killed) < SOON
                slowest = max(slowest, back - killed)
        service.wait_attached(stick)
        vm.wait_block_device()
        after = settled(service, before)
        assert after == before

    default = f"the death of {victim} to the device's return"
    what = {"monitor": "the restart of monitor to control's having its list"}
    measured(f"from {what.get(victim, default)}, at most", slowest)
    now = rows(client)
    assert {table: count for table, count in had.items() if now.get(table, 0) < count} == {}
    disk = vm.wait_block_device()
    assert vm.shell(f"sha256sum < {disk}").text.split()[0] == sha256(small)


def test_vm_that_is_switched_off_and_on_has_its_devices_again(
    service: Service, machines: Machines, client: Client, small: Path, measured: Measured
) -> None:
    stick = client.plug("usb-storage", image=small, serial="POWER")
    service.wait_attached(stick)
    with reading(machines.vm):
        killed = client.now()
        machines.vm.kill()
        back = client.wait_until(lambda: given_back(client, stick, killed), "the device's return")
        assert back is not None
    measured("from the VM's death to the device's return by the service", back - killed)
    said = service.wait_state(stick, "waiting")
    assert said["message"]

    vm = machines.vm  # booted again, at the same place
    disk = vm.wait_block_device()
    assert vm.shell(f"sha256sum < {disk}").text.split()[0] == sha256(small)
    service.wait_attached(stick)
    assert service.watch.vms[VM_NAME]["state"] == "connected"


def test_network_that_is_cut_for_half_a_minute_comes_back_with_the_device(
    service: Service, client: Client, vm: Vm, small: Path
) -> None:
    stick = client.plug("usb-storage", image=small, serial="CUT")
    service.wait_attached(stick)
    with reading(vm):
        client.network(up=False)
        threading.Event().wait(CUT_SECONDS)  # the passing of real time is what is tested here
        client.network(up=True)

        def whole() -> bool:
            disks = vm.block_devices()
            return bool(disks) and service.watch.state(stick.bus_port) == "attached"

        eventually(whole, "the device in the guest")
    disk = vm.wait_block_device()
    assert vm.shell(f"sha256sum < {disk}").text.split()[0] == sha256(small)
    service.wait_attached(stick)


def test_service_that_is_stopped_gives_everything_back_and_leaves_nothing(
    service: Service, client: Client, vm: Vm, small: Path
) -> None:
    stick = client.plug("usb-storage", image=small, serial="STOPPED")
    service.wait_attached(stick)
    vm.wait_block_device()

    done = service.stop()

    assert done.status == 0
    vm.wait_no_block_device()
    client.wait_driver(stick, "usb-storage")
    assert client.glob("/run/usbbridge*/*.sock") == []
    assert client.shell(f"sha256sum < {client.wait_block_device()}").text.split()[0] == sha256(small)

    service.start()  # and knows the device again
    service.wait_attached(stick)
