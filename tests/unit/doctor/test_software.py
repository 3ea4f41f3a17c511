"""What is said of the program itself."""

import sys
from pathlib import Path

import pytest

from tests.unit.doctor.conftest import Look
from usbbridge.doctor import software
from usbbridge.doctor.finding import Finding, Level
from usbbridge.doctor.software import findings


def by_subject(found: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in found}


def test_this_installation_is_well(look: Look) -> None:
    found = by_subject(list(findings(look())))
    assert {finding.level for finding in found.values()} == {Level.OK}
    assert sys.executable in found["Python"].found


def test_a_python_that_is_too_old_is_a_problem() -> None:
    assert software._python((3, 10)).level is Level.PROBLEM


def test_packages_that_are_missing_are_named_with_the_command(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(software._PACKAGES, "no_such_module", "no-such-package")
    packages = by_subject(list(findings(look())))["Python packages"]
    assert (packages.level, packages.found) == (Level.PROBLEM, "missing: no-such-package")
    assert packages.commands == (f"{sys.executable} -m pip install no-such-package",)


def test_a_libusb_that_can_not_be_loaded_is_a_problem(
    look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("USBBRIDGE_LIBUSB", str(tmp_path / "nothing.so"))
    libusb = by_subject(list(findings(look())))["libusb"]
    assert libusb.level is Level.PROBLEM
    assert "unset it" in libusb.remedy
