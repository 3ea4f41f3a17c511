"""Checks run side by side; none hides or holds up the others."""

import sys
import threading
import types
from collections.abc import Iterator

import pytest

from tests.unit.doctor.conftest import Look
from usbbridge.doctor import examination
from usbbridge.doctor.case import Case, attempt
from usbbridge.doctor.examination import AREAS, examine, guarded
from usbbridge.doctor.finding import Finding, Level, ok
from usbbridge.errors import RefusedError


@pytest.fixture
def areas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three checks: one that is well, one that fails in the middle, one whose module is not there."""

    def fails(case: Case) -> Iterator[Finding]:
        yield ok("first", "it is there")
        raise RuntimeError("the second is not")

    modules = {"well": lambda case: [ok("well", "yes")], "fails": fails}
    for name, check in modules.items():
        module = types.ModuleType(name)
        module.findings = check
        monkeypatch.setitem(sys.modules, f"usbbridge.doctor.{name}", module)
    monkeypatch.setattr(examination, "AREAS", {"Fails": "fails", "Missing": "missing", "Well": "well"})


def test_a_check_that_fails_is_a_finding_and_hides_nothing(areas: None, look: Look) -> None:
    found = examine(look(), ["Fails", "Missing", "Well"])
    assert [(finding.area, finding.level, finding.found) for finding in found] == [
        ("Fails", Level.OK, "it is there"),
        ("Fails", Level.WARNING, "could not be looked at: RuntimeError: the second is not"),
        (
            "Missing",
            Level.WARNING,
            "could not be looked at: ModuleNotFoundError: No module named 'usbbridge.doctor.missing'",
        ),
        ("Well", Level.OK, "yes"),
    ]


def test_a_check_that_never_ends_is_given_up_and_what_it_found_is_kept(
    monkeypatch: pytest.MonkeyPatch, look: Look
) -> None:
    begun, end = threading.Event(), threading.Event()

    def hangs(case: Case) -> Iterator[Finding]:
        yield ok("first", "it is there")
        begun.set()
        end.wait()

    module = types.ModuleType("hangs")
    module.findings = hangs
    monkeypatch.setitem(sys.modules, "usbbridge.doctor.hangs", module)
    monkeypatch.setattr(examination, "AREAS", {"Hangs": "hangs"})
    waiting = examination._Running("Hangs", examination._check("Hangs"), look())
    assert begun.wait(10)
    found = waiting.wait(0)
    end.set()
    assert [finding.found for finding in found] == ["it is there", "this took too long to look at, and was given up"]


def test_an_error_of_ours_says_what_to_do() -> None:
    def check() -> list[Finding]:
        raise RefusedError("it is in use", hint="end that")

    (finding,) = guarded("it", check)
    assert (finding.found, finding.remedy) == ("could not be looked at: it is in use", "end that")


def test_what_is_tried_within_a_limit_is_left_behind_after_it() -> None:
    end = threading.Event()
    assert isinstance(attempt(end.wait, 0.01).error, TimeoutError)
    end.set()
    assert attempt(lambda: 5, 10).got == 5
    with pytest.raises(ZeroDivisionError):
        _ = attempt(lambda: 1 // 0, 10).got


def test_nothing_but_bare_folders_is_needed(look: Look) -> None:
    """No service, no database, no systemd, no udev: everything is looked at all the same, and nothing fails."""
    found = examine(look())
    assert {finding.area for finding in found} == AREAS.keys() - {"Virtual machines"}
    assert [finding for finding in found if "could not be looked at" in finding.found] == []
