"""The service under a real systemd, as `install-service` sets it up: started, restarted, watched, stopped."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Machines
from tests.e2e.rig import Measured, sha256
from tests.e2e.service_rig import USER, Service, eventually, facts
from tools.lab import Client, Lab, Vm

MONITOR, CONTROL = "usbbridge-monitor.service", "usbbridge-control.service"
UNITS = {"monitor": MONITOR, "control": CONTROL}

# In place of the units' own minute; an emulated processor must not be taken for a hang.
WATCHDOG_SECONDS = 8

SECCOMP_FILTER = "2"

# The units can't see home directories, and there the interpreter that runs these tests may lie.
IN_A_HOME = any(Path(sys.base_prefix).is_relative_to(home) for home in ("/root", "/home"))


class Installed(Service):
    """The service as two units of systemd."""

    def _make_user(self) -> None:
        force = ["--force"] if IN_A_HOME else []  # where the units hide its interpreter, it refuses otherwise
        self.run("install-service", *force)

    def start(self) -> None:
        """Enable and start both units, and wait until control has the monitor's list."""
        for unit in UNITS.values():
            lines = ["[Service]", f"WatchdogSec={WATCHDOG_SECONDS}", *(["ProtectHome=read-only"] if IN_A_HOME else [])]
            self.client.shell(f"mkdir -p /run/systemd/system/{unit}.d")
            self.client.put(f"/run/systemd/system/{unit}.d/lab.conf", "\n".join([*lines, ""]).encode())
        self.client.run(["systemctl", "daemon-reload"])
        self.client.run(["systemctl", "enable", "--now", MONITOR, CONTROL])
        self.watch.wait(lambda: self.watch.running and self.watch.monitor, "service")

    def close(self) -> None:
        """End what follows it."""
        self.watch.close()

    @property
    def log(self) -> str:
        """The units' journal."""
        return self.client.journal("--unit=usbbridge-*")

    def main_process(self, role: str) -> int:
        """The main process of a unit; 0 if it does not run."""
        return int(self.show(role, "MainPID"))

    def show(self, role: str, name: str) -> str:
        """A property of a unit."""
        return self.client.run(["systemctl", "show", "--value", f"--property={name}", UNITS[role]]).text

    def wait_restarted(self, role: str, pid: int) -> int:
        """Wait until a unit has another main process."""

        def look() -> int:
            now = self.main_process(role)
            return now if now not in (0, pid) and self.show(role, "ActiveState") == "active" else 0

        return eventually(look, f"restart of {role}")


@pytest.fixture(scope="module")
def systemd_client(lab: Lab) -> Iterator[Client]:
    """A client machine with systemd as its first process."""
    client = lab.client(systemd=True)
    yield client
    client.close()


@pytest.fixture(scope="module")
def installed(systemd_client: Client, machines: Machines) -> Iterator[Installed]:
    """The service, installed and started in it."""
    service = Installed(systemd_client, machines.vm)
    service.start()
    yield service
    service.close()


@pytest.fixture
def service(installed: Installed, tidied: Machines) -> Iterator[Installed]:
    """The same, with nothing plugged in."""
    installed.begin()
    yield installed
    installed.client.unplug_all()


@pytest.fixture
def client(systemd_client: Client) -> Client:
    """The client machine with systemd."""
    return systemd_client


def test_units_start_at_boot_and_run_with_the_least_rights(
    service: Installed, client: Client, vm: Vm, small: Path, measured: Measured
) -> None:
    stick = client.plug("usb-storage", image=small, serial="UNITS")
    service.wait_attached(stick)
    user = int(client.run(["id", "-u", USER]).text)
    monitor, control, encoder = service.one("monitor"), service.one("control"), service.encoder_of(stick)

    for role in UNITS:
        assert service.show(role, "UnitFileState") == "enabled"
        assert service.show(role, "ActiveState") == "active"
    assert monitor.uids == {0}
    for process in (control, encoder):
        assert process.uids == {user}
        assert process.capabilities("Eff", "Prm", "Inh", "Amb", "Bnd") == 0
        assert process.status["NoNewPrivs"] == "1"
        assert process.status["Seccomp"] == SECCOMP_FILTER
    assert (control.usb_nodes, encoder.usb_nodes) == ([], [client.node(stick)])
    assert client.run(["systemctl", "--failed", "--no-legend"]).text == ""
    measured("[MB] resident under systemd: monitor", monitor.megabytes)
    measured("[MB] resident under systemd: control", control.megabytes)


def test_units_are_sound(client: Client, service: Installed) -> None:
    done = client.run(["systemd-analyze", "verify", "--man=no", MONITOR, CONTROL], check=False)
    assert (done.status, done.error) == (0, "")
    for unit, limit in ((CONTROL, 20), (MONITOR, 100)):
        rated = client.run(
            ["systemd-analyze", "security", "--json=short", "--threshold", str(limit), unit], check=False
        )
        assert rated.status == 0, rated.text


def test_killed_units_are_started_again_and_the_device_is_in_the_guest(
    service: Installed, client: Client, vm: Vm, small: Path
) -> None:
    stick = client.plug("usb-storage", image=small, serial="UNIT-KILLED")
    service.wait_attached(stick)
    pids = {role: service.main_process(role) for role in UNITS}

    client.run(["kill", "-KILL", *map(str, pids.values())])

    for role, pid in pids.items():
        service.wait_restarted(role, pid)
    service.watch.wait(lambda: service.watch.monitor, "control with the monitor's list")
    service.wait_attached(stick)
    assert vm.shell(f"sha256sum < {vm.wait_block_device()}").text.split()[0] == sha256(small)


def test_units_that_hang_are_killed_by_the_watchdog_and_started_again(
    service: Installed, client: Client, measured: Measured
) -> None:
    pids = {role: service.main_process(role) for role in UNITS}
    stopped = client.now()

    client.run(["kill", "-STOP", *map(str, pids.values())])

    for role, pid in pids.items():
        again = service.wait_restarted(role, pid)
        measured(f"from {role}'s hanging to its restart", facts(client, again).started - stopped)
        assert "watchdog" in client.journal(f"--unit={UNITS[role]}").lower()
    service.watch.wait(lambda: service.watch.monitor, "control with the monitor's list")


def test_stopped_units_leave_the_device_with_its_kernel_driver(
    service: Installed, client: Client, vm: Vm, small: Path
) -> None:
    stick = client.plug("usb-storage", image=small, serial="UNIT-STOPPED")
    service.wait_attached(stick)
    vm.wait_block_device()

    client.run(["systemctl", "stop", CONTROL, MONITOR])

    client.wait_driver(stick, "usb-storage")
    vm.wait_no_block_device()
    assert client.shell(f"sha256sum < {client.wait_block_device()}").text.split()[0] == sha256(small)
    assert [service.show(role, "Result") for role in UNITS] == ["success", "success"]
    assert client.glob("/run/usbbridge*/*.sock") == []
    service.start()
    service.wait_attached(stick)
