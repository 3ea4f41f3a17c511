"""What is said of the machine's USB, its device nodes, and udev."""

import os
import shutil
from pathlib import Path

import pytest

from tests.fakes.service import FakeService, status
from tests.unit.doctor.conftest import ROOT, SOMEBODY, Look
from tests.unit.monitor.fake_sysfs import FakeSysfs
from usbbridge.doctor.finding import Finding, Level
from usbbridge.doctor.machine import container, findings


def by_subject(found: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in found}


def test_a_machine_with_usb(look: Look, sysfs: FakeSysfs) -> None:
    found = by_subject(list(findings(look(user=ROOT))))
    assert {finding.level for finding in found.values()} == {Level.OK}
    assert found["USB"].found == "1 bus"
    assert found["device nodes"].found == "root may open all 1"


@pytest.mark.parametrize(
    ("path", "content", "name", "remedy"),
    [
        (".dockerenv", "", "docker", "this is a container (docker)"),
        ("run/.containerenv", "", "podman", "this is a container (podman)"),
        ("run/systemd/container", "lxc", "lxc", "this is a container (lxc)"),
        ("proc/sys/kernel/osrelease", "5.15.167.4-microsoft-standard-WSL2", "WSL", "usbipd-win"),
        ("proc/sys/kernel/osrelease", "6.1.0-28-amd64", "", "firmware"),
    ],
)
def test_without_usb_it_says_where_usb_could_be(
    look: Look, sysfs: FakeSysfs, path: str, content: str, name: str, remedy: str
) -> None:
    shutil.rmtree(sysfs.root / "sys/bus")
    sysfs.write(path, content)
    found = by_subject(list(findings(look())))
    assert container(sysfs.root) == name
    assert found["USB"].level is Level.PROBLEM
    assert remedy in found["USB"].remedy
    assert "device nodes" not in found


def test_without_a_host_controller_there_is_a_problem(look: Look, sysfs: FakeSysfs) -> None:
    (sysfs.root / "sys/bus/usb/devices/usb1").unlink()
    assert by_subject(list(findings(look())))["USB"].found == "the kernel has USB, but no host controller"


def test_a_container_without_nodes_is_told_how_to_get_them(look: Look, sysfs: FakeSysfs) -> None:
    shutil.rmtree(sysfs.root / "dev")
    assert "devtmpfs" in by_subject(list(findings(look())))["device nodes"].remedy
    sysfs.write(".dockerenv")
    nodes = by_subject(list(findings(look())))["device nodes"]
    assert nodes.level is Level.PROBLEM
    assert "--device-cgroup-rule" in nodes.commands[0]


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that this user may not open; to root, whom the tests may run as, all are open."""
    monkeypatch.setattr(os, "access", lambda path, mode: "dev/bus/usb" not in str(path))


def test_nodes_that_one_may_not_open_matter_without_the_service_only(
    look: Look, closed: None, request: pytest.FixtureRequest
) -> None:
    nodes = by_subject(list(findings(look(user=SOMEBODY))))["device nodes"]
    assert (nodes.level, nodes.found) == (Level.WARNING, "ann may open 0 of 1")
    assert nodes.commands == ("sudo usbbridge install-service",)
    service: FakeService = request.getfixturevalue("service")
    service.serve(status())
    nodes = by_subject(list(findings(look(user=SOMEBODY))))["device nodes"]
    assert (nodes.level, nodes.found) == (Level.OK, "ann may open 0 of 1; the service opens them for you")


def test_udevd_is_missed_only_if_the_configuration_asks_for_it(look: Look, sysfs: FakeSysfs, config: Path) -> None:
    assert by_subject(list(findings(look())))["udev"].level is Level.OK
    with config.open("a") as file:
        file.write('[monitor]\nsource = "udev"\n')
    assert by_subject(list(findings(look())))["udev"].level is Level.PROBLEM
    sysfs.write("run/udev/control")
    assert by_subject(list(findings(look())))["udev"].found == "udevd runs"


def test_udev_rules_are_found_masked_or_missing(look: Look, sysfs: FakeSysfs) -> None:
    missing = by_subject(list(findings(look(user=SOMEBODY))))["udev rules"]
    assert (missing.level, missing.commands) == (Level.WARNING, ("sudo usbbridge install-service",))
    sysfs.write("usr/lib/udev/rules.d/70-usbbridge.rules", "# rules")
    assert by_subject(list(findings(look())))["udev rules"].level is Level.OK
    sysfs.write("etc/udev/rules.d/70-usbbridge.rules")
    masked = by_subject(list(findings(look())))["udev rules"]
    assert (masked.level, masked.found.endswith("is empty: it was masked")) == (Level.WARNING, True)
