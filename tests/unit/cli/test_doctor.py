"""`usbbridge doctor` as it is typed."""

import json
from collections.abc import Callable

import pytest

from tests.fakes.service import FakeService, status
from tests.unit.cli.conftest import Run
from tests.unit.monitor.fake_sysfs import FakeSysfs
from usbbridge.config import Paths

Json = Callable[..., tuple[int, list[dict[str, object]]]]


@pytest.fixture
def report(run: Run, sysfs: FakeSysfs, paths: Paths) -> Json:
    """Runs it with --json: (exit status, findings)."""

    def report(*arguments: str) -> tuple[int, list[dict[str, object]]]:
        status, out, err = run(["doctor", "--json", "--root", str(sysfs.root), *arguments])
        assert err == ""
        return status, json.loads(out)["findings"]

    return report


def test_it_looks_at_everything_and_ends_well_where_there_is_no_problem(report: Json) -> None:
    status, findings = report()
    assert status == 0
    assert {finding["area"] for finding in findings} >= {"Software", "USB", "Service", "Configuration", "Devices"}
    assert not [finding for finding in findings if "could not be looked at" in str(finding["found"])]


def test_a_problem_ends_it_with_status_1(report: Json) -> None:
    assert report("1-2")[0] == 1  # it is mounted
    assert report("--vm", "nobody")[0] == 1
    assert report("9-9")[0] == 1


def test_only_the_device_that_was_named_is_looked_at(report: Json) -> None:
    _, findings = report("--serial", "4C530001")
    subjects = {finding["subject"] for finding in findings if finding["area"] == "Devices"}
    assert subjects == {"1-2 0781:5567 SanDisk Cruzer Blade"}


def test_text_ends_with_the_sum(run: Run, sysfs: FakeSysfs, paths: Paths) -> None:
    status, out, err = run(["doctor", "1-2", "--root", str(sysfs.root)])
    assert (status, err) == (1, "")
    assert "problem  1-2 0781:5567 SanDisk Cruzer Blade: is in use: sda1 is mounted at /media/stick" in out
    assert out.splitlines()[-1].startswith("1 problem, ")
    assert "\x1b" not in out


def test_names_that_are_not_utf_8_are_printed_all_the_same(run: Run, sysfs: FakeSysfs, paths: Paths) -> None:
    name = "disk-\udcff"
    for option in ([], ["--json"]):
        status, out, _ = run(["doctor", name, "--root", str(sysfs.root), *option])
        assert status == 1
    assert name in {finding["subject"] for finding in json.loads(out)["findings"]}


def test_the_service_is_asked_for_its_status_and_nothing_else(
    report: Json, service: FakeService
) -> None:
    service.serve(status())
    report()
    assert [method for method, _ in service.asked] == ["status"]


@pytest.mark.parametrize("arguments", [["1-2", "1-3"], ["--force"], ["--vm"]])
def test_what_makes_no_sense_is_a_wrong_usage(run: Run, arguments: list[str]) -> None:
    assert run(["doctor", *arguments])[0] == 2


def test_help_says_what_it_is_for(run: Run) -> None:
    status, out, _ = run(["doctor", "--help"])
    assert status == 0
    assert "Nothing is changed" in out
