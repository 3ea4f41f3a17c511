"""What is said of the configuration."""

import os
from pathlib import Path

import pytest

from tests.unit.doctor.conftest import SOMEBODY, Look
from usbbridge.doctor.configuration import findings
from usbbridge.doctor.finding import Level

DESK = '[vm.desk]\ntarget = "spice://127.0.0.1:5900"\n'


def test_a_sound_one_is_told_with_its_vms(look: Look, config: Path) -> None:
    config.write_text(config.read_text() + DESK)
    (finding,) = findings(look())
    assert (finding.level, finding.found) == (Level.OK, f"{config}; VMs: desk")


def test_every_mistake_is_a_problem_with_its_line(look: Look, config: Path) -> None:
    config.write_text('[vm.desk]\ntarget = "nonsense"\n[acces]\n')
    found = list(findings(look()))
    assert {finding.level for finding in found} == {Level.PROBLEM}
    assert any(finding.found.startswith(f"{config}:2: vm.desk.target: ") for finding in found)
    assert any(finding.found.startswith(f"{config}:3: ") for finding in found)
    assert found[0].commands == ("usbbridge config check",)


def test_no_vm_is_a_warning_with_the_command_that_adds_one(look: Look, config: Path) -> None:
    (finding,) = findings(look())
    assert (finding.level, finding.found) == (Level.WARNING, f"{config} names no VM")
    assert finding.commands[0].startswith("usbbridge vm add ")


def test_no_file_at_all_is_the_same(
    look: Look, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("USBBRIDGE_CONFIG")
    (finding,) = findings(look())
    file = tmp_path / "home/usbbridge/usbbridge.toml"
    assert (finding.level, finding.found) == (Level.WARNING, f"there is none ({file})")


def test_a_file_that_is_not_ones_own_to_read_is_no_problem(
    look: Look, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("nonsense")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # to root, whom the tests may run as, all is open
    (finding,) = findings(look(user=SOMEBODY))
    assert (finding.level, finding.commands) == (Level.WARNING, ("sudo usbbridge doctor",))
    assert finding.found == f"{config} is not for ann to read, so nothing is known of it here"


def test_several_vms_and_no_default_is_a_warning(look: Look, config: Path) -> None:
    config.write_text(config.read_text() + DESK + DESK.replace("desk", "lab").replace("5900", "5901"))
    _, finding = findings(look())
    assert (finding.level, finding.found) == (Level.WARNING, "none of the 2 VMs is the default")


def test_a_password_that_everybody_may_read_is_a_warning(look: Look, config: Path, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("secret")
    secret.chmod(0o644)
    config.write_text(config.read_text() + DESK + f'password-file = "{secret}"\n')
    levels = {finding.level for finding in findings(look()) if str(secret) in finding.found}
    assert levels == {Level.WARNING}
