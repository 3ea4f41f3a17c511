"""What is said of units and processes."""

import pwd
from pathlib import Path

import pytest

from tests.fakes.service import FakeService, status
from tests.unit.doctor.conftest import SOMEBODY, Look
from tests.unit.monitor.fake_sysfs import FakeSysfs
from usbbridge.doctor import installation
from usbbridge.doctor.finding import Finding, Level
from usbbridge.doctor.installation import UNITS, findings, part_of

RUNNING = """#!/bin/sh
for word; do case $word in *.service) unit=$word;; esac; done
cat "$(dirname "$0")/$unit"
"""
WELL = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "UnitFileState": "enabled",
    "Result": "success",
    "NRestarts": "0",
}


@pytest.fixture
def systemd(sysfs: FakeSysfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that was booted by systemd, where everything is installed and runs: the folder where a file for each
    unit holds what `systemctl show` prints of it."""
    for unit in UNITS:
        sysfs.write(f"etc/systemd/system/{unit}", "[Unit]")
    (sysfs.root / "run/systemd/system").mkdir(parents=True)
    sysfs.link("etc/systemd/system/sleep.target.wants/usbbridge-sleep.service", "etc/systemd/system")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "systemctl").write_text(RUNNING)
    (folder / "systemctl").chmod(0o755)
    monkeypatch.setattr(installation.shutil, "which", lambda name: str(folder / name))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: None)
    for unit in UNITS:
        show(folder, unit)
    return folder


def show(folder: Path, unit: str, **changed: str) -> None:
    (folder / unit).write_text("".join(f"{name}={value}\n" for name, value in (WELL | changed).items()))


def wrong(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.level is not Level.OK]


def test_units_that_run_are_well(look: Look, systemd: Path) -> None:
    found = list(findings(look()))
    assert [(finding.subject, finding.found) for finding in found] == [(u, "active (running), enabled") for u in UNITS]


@pytest.mark.parametrize(
    ("changed", "level", "what", "command"),
    [
        ({"LoadState": "masked"}, Level.PROBLEM, "masked", "sudo systemctl unmask UNIT"),
        ({"LoadState": "not-found"}, Level.PROBLEM, "does not know it", "sudo systemctl daemon-reload"),
        ({"ActiveState": "failed", "Result": "exit-code"}, Level.PROBLEM, "exit-code", "sudo systemctl restart UNIT"),
        ({"ActiveState": "inactive"}, Level.PROBLEM, "does not run", "sudo systemctl enable --now UNIT"),
        ({"UnitFileState": "disabled"}, Level.WARNING, "not enabled", "sudo systemctl enable UNIT"),
        ({"NRestarts": "7"}, Level.WARNING, "restarted 7 times", "sudo journalctl -u UNIT -n 50 --no-pager"),
    ],
)
def test_a_unit_that_is_not_well_is_told_with_what_helps(
    look: Look, systemd: Path, changed: dict[str, str], level: Level, what: str, command: str
) -> None:
    show(systemd, UNITS[1], **changed)
    (finding,) = wrong(list(findings(look(user=SOMEBODY))))
    assert (finding.subject, finding.level) == (UNITS[1], level)
    assert what in finding.found
    assert command.replace("UNIT", UNITS[1]) in finding.commands


def test_a_systemctl_that_fails_is_a_finding(look: Look, systemd: Path) -> None:
    (systemd / UNITS[0]).unlink()
    (finding,) = wrong(list(findings(look())))
    assert (finding.subject, finding.level) == (UNITS[0], Level.WARNING)
    assert "could not be looked at" in finding.found


def test_a_unit_that_is_missing_is_a_problem(look: Look, systemd: Path, sysfs: FakeSysfs) -> None:
    (sysfs.root / "etc/systemd/system" / UNITS[0]).unlink()
    (finding,) = wrong(list(findings(look())))
    assert (finding.level, finding.found) == (Level.PROBLEM, f"not installed: {UNITS[0]}")


def test_sleep_without_its_unit_is_a_warning(look: Look, systemd: Path, sysfs: FakeSysfs) -> None:
    (sysfs.root / "etc/systemd/system/sleep.target.wants/usbbridge-sleep.service").unlink()
    (finding,) = wrong(list(findings(look())))
    assert (finding.subject, finding.level) == ("usbbridge-sleep.service", Level.WARNING)


def test_a_user_that_is_missing_is_a_problem(
    look: Look, systemd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", unknown)
    assert [finding.found for finding in wrong(list(findings(look())))] == ["there is no user usbbridge"]


def test_nothing_installed_is_a_warning_unless_a_service_runs(
    look: Look, request: pytest.FixtureRequest
) -> None:
    (finding,) = findings(look(user=SOMEBODY))
    assert (finding.level, finding.commands) == (Level.WARNING, ("sudo usbbridge install-service",))
    service: FakeService = request.getfixturevalue("service")
    service.serve(status())
    (finding,) = findings(look())
    assert (finding.level, finding.found) == (Level.OK, "not installed; the service that runs was started by hand")


def test_a_users_own_unit_is_asked_of_the_users_manager(
    look: Look, systemd: Path, sysfs: FakeSysfs, tmp_path: Path
) -> None:
    for unit in UNITS:
        (sysfs.root / "etc/systemd/system" / unit).unlink()
    own = tmp_path / "home/systemd/user/usbbridge.service"
    own.parent.mkdir(parents=True)
    own.touch()
    show(systemd, "usbbridge.service", ActiveState="inactive", SubState="dead")
    (finding,) = wrong(list(findings(look(user=SOMEBODY))))
    assert finding.commands[0] == "systemctl --user enable --now usbbridge.service"


# ---- processes


@pytest.mark.parametrize(
    ("command", "part"),
    [
        (["/usr/bin/python3", "/usr/bin/usbbridge", "monitor"], "monitor"),
        (["/opt/venv/bin/python", "-m", "usbbridge", "control"], "control"),
        (["python", "-P", "-m", "usbbridge.encoder", "5"], "encoder"),
        (["/opt/venv/bin/python", "-P", "-m", "usbbridge.control"], "control"),
        (["/opt/venv/bin/python", "-P", "-m", "usbbridge.monitor"], "monitor"),
        (["python", "-m", "usbbridge.doctor"], ""),
        (["usbbridge", "service", "--verbose"], "service"),
        (["usbbridge", "doctor"], ""),
        (["vi", "usbbridge"], ""),
        (["grep", "-r", "usbbridge", "monitor.py"], ""),
        ([], ""),
    ],
)
def test_our_processes_are_known_by_their_command_lines(command: list[str], part: str) -> None:
    assert part_of(command) == part


def run(sysfs: FakeSysfs, pid: int, *command: str) -> None:
    folder = sysfs.root / "proc" / str(pid)
    folder.mkdir()
    (folder / "cmdline").write_bytes("\0".join(command).encode() + b"\0")


def test_processes_are_told_with_their_users(look: Look, sysfs: FakeSysfs) -> None:
    run(sysfs, 20, "python3", "/usr/bin/usbbridge", "control")
    run(sysfs, 7, "python3", "/usr/bin/usbbridge", "monitor")
    run(sysfs, 30, "python3", "-m", "usbbridge.encoder", "4")
    run(sysfs, 31, "bash")
    name = Path(sysfs.root).owner()
    (finding,) = [finding for finding in findings(look()) if finding.subject == "processes"]
    expected = f"monitor (process 7, user {name}), control (process 20, user {name}), 1 encoder"
    assert (finding.level, finding.found) == (Level.OK, expected)


def test_an_encoder_that_runs_as_root_beside_an_installed_service_is_a_warning(
    look: Look, systemd: Path, sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = installation.Process(30, "encoder", 0)
    monkeypatch.setattr(installation, "processes", lambda root: [installation.Process(7, "monitor", 0), encoder])
    (finding,) = wrong(list(findings(look())))
    assert finding.found == "run as root: encoder (process 30, user root)"
