"""The service on a client machine as quick as a real one, with a virtual machine that is emulated: how soon a device is
where it belongs, and that it is nowhere else, whoever dies.

Needs the user-mode Linux launcher: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the repository.
"""

import json
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import Machines
from tests.e2e.rig import Measured, sha256
from tests.e2e.service_rig import (
    CHOICES,
    DATABASE,
    INSIDE,
    VM_NAME,
    Entry,
    Service,
    eventually,
    facts,
    given_back,
    reading,
    roles,
)
from tests.integration.uml import needs_uml
from tools.lab import NativeClient, Stick, Vm

pytestmark = needs_uml

ROUNDS = int(os.environ.get("USBBRIDGE_ROUNDS", "2"))
"Of each kill test: every change is tried with a few, a release with a hundred."
ROUND_SECONDS = 90
"A round may take so long, on a slow and busy machine."

# From the restart of what was killed until the device is in the guest again, or with its kernel driver.
SOON = 2.0

# From the announcement of a stick by the client's kernel to that by the guest's: what a person takes for "at once".
AT_ONCE = 1.0
TRIES = 12
"How often it may take longer because this host was busy with something else."

SOON_AGAIN = "[retry]\nfirst = 0.2\nlongest = 1.0\n"
"What was killed many times is tried again ever later, a minute in the end: that is not what is looked at here."

# The process is killed within so many seconds from the beginning of a read.
MOMENT = 1.0


@pytest.fixture(scope="module")
def running(machines: Machines) -> Iterator[Service]:
    """The service in the machine, for all tests."""
    service = Service(machines.native, machines.vm, SOON_AGAIN)
    service.start()
    yield service
    service.close()


@pytest.fixture
def service(running: Service, native: NativeClient) -> Service:
    """The service in it, with nothing plugged in."""
    running.begin()
    return running


def plugged_at(client: NativeClient, stick: Stick) -> float:
    """When the client's kernel announced a stick that has just been plugged in, by the client's clock."""
    events = client.uevents(ACTION="add", DEVTYPE="usb_device")
    return max(at for at, event in events if event["DEVPATH"].endswith(f"/{stick.bus_port}"))


def seconds_to_the_guest(client: NativeClient, vm: Vm, image: Path) -> float:
    """Plug a stick in, and see how long it takes from the client's kernel to the guest's; then pull it out again."""
    vm.wait_no_usb_device()
    began = vm.now()
    stick = client.plug(image=image, serial="BRIDGED")
    vm.wait_until(lambda: vm.arrivals(began), "stick")
    [(arrived, _)] = vm.arrivals(began)
    there, here = vm.clock(), client.clock()
    seconds = there.on_host(arrived) - here.on_host(plugged_at(client, stick))
    vm.wait_block_device()
    client.unplug(stick)
    return seconds


def test_plugged_stick_is_in_the_guest_at_once(
    service: Service, native: NativeClient, vm: Vm, small: Path, measured: Measured
) -> None:
    times = []
    while len(times) < TRIES and min(times, default=AT_ONCE) >= AT_ONCE:
        service.wait_spare()
        times.append(seconds_to_the_guest(native, vm, small))
        measured("from the announcement of a stick by the client's kernel to that by the guest's", times[-1])
    assert min(times) < AT_ONCE


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


def rows(client: NativeClient) -> dict[str, int]:
    """How many rows each table of the compatibility list has; it must be sound."""
    found = json.loads(client.run(["/usr/bin/python3", "-I", "-S", str(INSIDE / "count_rows.py"), DATABASE]).text)
    assert found["sound"]
    return dict(found["rows"])


def kill(service: Service, stick: Stick, victim: str) -> float:
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
    service: Service, native: NativeClient, vm: Vm, small: Path, measured: Measured, victim: str
) -> None:
    stick = native.plug(image=small, serial="KILLED")
    service.wait_attached(stick)
    service.run("attach", stick.bus_port, "--vm", VM_NAME)  # where it is already: that is remembered now
    vm.wait_block_device()
    before, had = settled(service), rows(native)
    assert "KILLED" in before.choices
    moments = random.Random(f"{victim} {ROUNDS}")
    slowest = 0.0

    for _ in range(ROUNDS):
        with reading(vm) as reader:
            threading.Event().wait(moments.uniform(0, MOMENT))  # the moment is at random
            mark, killed = service.watch.mark, kill(service, stick, victim)
            if victim == "monitor":  # the way from the device to the VM does not lead through it
                assert reader.wait().status == 0
                assert native.drivers(stick) == ["usbfs"]
                listed = service.watch.wait_entry(is_connected, "monitor", since=mark)
                slowest = max(slowest, listed.at - restarted(service, victim, killed))
            else:
                reader.wait()
                back = native.wait_until(lambda: given_back(native, stick, killed), "the device's return")  # noqa: B023
                assert back is not None
                assert back - restarted(service, victim, killed) < SOON
                slowest = max(slowest, back - killed)
        service.wait_attached(stick)
        vm.wait_block_device()
        after = settled(service, before)
        assert after == before

    default = f"the death of {victim} to the device's return"
    what = {"monitor": "the restart of monitor to control's having its list"}
    measured(f"from {what.get(victim, default)}, at most in {ROUNDS} rounds", slowest)
    now = rows(native)
    assert {table: count for table, count in had.items() if now.get(table, 0) < count} == {}
    disk = vm.wait_block_device()
    assert vm.shell(f"sha256sum < {disk}").text.split()[0] == sha256(small)
