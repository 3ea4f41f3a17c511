"""The service as an administrator sets it up: what its processes may do, and what happens to a stick and a keyboard."""

import threading
from pathlib import Path

from tests.e2e.rig import Measured, sha256
from tests.e2e.service_rig import (
    INSIDE,
    MONITOR_SOCKET,
    PYTHON,
    RAW_NAME,
    USER,
    Facts,
    Service,
    eventually,
    facts,
    roles,
)
from tools.lab import Client, Plugged, Vm

REFUSED = 5

# Megabytes of resident memory.
MONITOR_AND_CONTROL = 60
ENCODER = 25

# How long nothing may happen in any process.
IDLE_SECONDS = 10.0
QUIET_SECONDS = 2.0

# Processes with one device attached.
ROLES = {"service": 1, "monitor": 1, "control": 1, "encoder": 2}

# From the client's kernel to the guest's, in seconds. It is to be one at most where processors are not emulated; here
# they are, some 20 times slower, and other things may be going on: what it is can be read in the summary.
IN_THE_GUEST = 10.0


def plugged_at(client: Client, stick: Plugged) -> float:
    """When the client's kernel announced a device, by the client's clock."""
    events = client.uevents(ACTION="add", DEVTYPE="usb_device")
    return max(at for at, event in events if event["DEVPATH"].endswith(f"/{stick.bus_port}"))


def client_hash(client: Client, disk: str) -> str:
    """The hash of a whole disk as the client's kernel reads it."""
    return client.shell(f"sha256sum < {disk}").text.split()[0]


def test_stick_goes_to_the_guest_by_itself_and_comes_back_by_detach(
    service: Service, client: Client, vm: Vm, small: Path, measured: Measured
) -> None:
    service.wait_spare()
    began, mark = vm.now(), service.watch.mark
    stick = client.plug("usb-storage", image=small, serial="BRIDGED")
    vm.wait_until(lambda: vm.arrivals(began), "stick")
    [(arrived, _)] = vm.arrivals(began)
    there, here = vm.clock(), client.clock()
    announced = plugged_at(client, stick)
    in_guest = there.on_host(arrived) - here.on_host(announced)
    for state in ("opening", "attaching", "attached"):
        entry = service.watch.wait_entry(
            lambda entry, state=state: entry.event == "device" and entry.data["state"] == state, state, since=mark
        )
        measured(f"from the client kernel's announcement of a stick to its being {state}", entry.at - announced)
    measured(f"from the client kernel's announcement to the guest kernel's (±{there.error + here.error:.3f})", in_guest)
    assert in_guest < IN_THE_GUEST

    assert client.drivers(stick) == ["usbfs"]
    block = vm.wait_block_device()
    assert vm.shell(f"sha256sum < {block}").text.split()[0] == sha256(small)

    done = service.run("detach", stick.bus_port)
    assert done.status == 0
    vm.wait_no_block_device()
    client.wait_driver(stick, "usb-storage")
    assert client_hash(client, client.wait_block_device()) == sha256(small)
    service.wait_state(stick, "local")


def test_processes_have_the_rights_they_need_and_no_others(
    service: Service, client: Client, vm: Vm, small: Path, measured: Measured
) -> None:
    stick = client.plug("usb-storage", image=small, serial="RIGHTS")
    service.wait_attached(stick)
    user = int(client.run(["id", "-u", USER]).text)
    monitor, control, encoder = service.one("monitor"), service.one("control"), service.encoder_of(stick)
    spares = [facts(client, service.wait_spare())]

    assert monitor.uids == {0}
    assert monitor.usb_nodes == []
    for process in (control, encoder, *spares):
        assert process.uids == {user}
        assert process.capabilities("Eff", "Prm", "Inh", "Amb") == 0
        assert "0" not in process.status["Groups"].split()
    assert control.usb_nodes == []
    assert encoder.usb_nodes == [client.node(stick)]
    assert all(spare.usb_nodes == [] for spare in spares)
    assert service.run_as(USER, "head", "-c1", client.node(stick), check=False).status != 0

    measured("[MB] resident: monitor", monitor.megabytes)
    measured("[MB] resident: control", control.megabytes)
    measured("[MB] resident: encoder", encoder.megabytes)
    for spare in spares:
        measured("[MB] resident: spare encoder", spare.megabytes)
    assert monitor.megabytes + control.megabytes < MONITOR_AND_CONTROL
    assert encoder.megabytes < ENCODER


def test_keyboard_is_denied_and_a_forged_request_for_it_ends_the_connection(service: Service, client: Client) -> None:
    keyboard = client.plug("usb-kbd")
    told = service.watch.wait(lambda: service.watch.device(keyboard.bus_port), "keyboard")
    assert told is not None
    assert told["device"]["verdict"] == "deny"
    identity = told["device"]["id"]

    done = service.run("attach", keyboard.bus_port, check=False)
    assert done.status == REFUSED
    assert "rule" in done.error

    control = service.one("control").pid
    for fields in (["asked=true"], ["asked=true", "force=true"], []):
        forged = [PYTHON, str(INSIDE / "forged_open.py"), MONITOR_SOCKET, identity, *fields]
        refused, *rest = service.run_as(USER, *forged).text.splitlines()
        assert refused.startswith(f"refused {REFUSED} ")
        assert rest == ["end"]
    assert client.drivers(keyboard) == ["usbhid"]
    assert service.one("control").pid == control
    assert service.watch.monitor


def test_stranger_is_not_served_by_the_monitor(service: Service, client: Client, small: Path) -> None:
    stick = client.plug("usb-storage", image=small, serial="STRANGER")
    identity = service.wait_attached(stick)["device"]["id"]

    done = service.run_as(
        "nobody", PYTHON, str(INSIDE / "forged_open.py"), MONITOR_SOCKET, identity, "asked=true", check=False
    )

    assert "opened" not in done.text
    assert done.status != 0


def wakeups(client: Client, process: Facts) -> int:
    """How often any of its threads has gone to sleep so far."""
    total = 0
    for path in client.glob(f"/proc/{process.pid}/task/*/status"):
        lines = dict(line.partition(":")[::2] for line in client.read_text(path).splitlines())
        total += int(lines["voluntary_ctxt_switches"])
    return total


def wakeups_of_all(service: Service) -> dict[str, int]:
    """The same of every process, by role and number."""
    found = roles(service.client)
    return {
        f"{role} {pid}": wakeups(service.client, facts(service.client, pid)) for role in found for pid in found[role]
    }


def quiet(service: Service) -> dict[str, int]:
    """What `wakeups_of_all` is once nothing goes on any more of what a test has begun."""

    def still() -> dict[str, int]:
        before = wakeups_of_all(service)
        threading.Event().wait(QUIET_SECONDS)
        after = wakeups_of_all(service)
        return after if after == before else {}

    return eventually(still, "quiet")


def test_nothing_wakes_up_while_nothing_happens(service: Service, client: Client, vm: Vm, small: Path) -> None:
    stick = client.plug("usb-storage", image=small, serial="IDLE")
    service.wait_attached(stick)
    service.run("attach", stick.bus_port, "--vm", RAW_NAME)  # a SPICE server sends pings, and its device is nudged
    service.wait_attached(stick)
    vm.wait_block_device()
    service.wait_spare()
    before = quiet(service)

    threading.Event().wait(IDLE_SECONDS)  # the passing of real time is what is tested here

    assert wakeups_of_all(service) == before
    assert {name.split()[0]: len(roles(client)[name.split()[0]]) for name in before} == ROLES
