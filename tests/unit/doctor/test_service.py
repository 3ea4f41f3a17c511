"""What is said of the service, running and not."""

import getpass
import grp
import os
import socket
from pathlib import Path

import pytest

from tests.fakes.service import GREETING, FakeService, status
from tests.unit.doctor.conftest import SOMEBODY, Look
from tests.unit.monitor.fake_sysfs import FakeSysfs
from usbbridge.doctor import case as cases
from usbbridge.doctor.case import User
from usbbridge.doctor.finding import Finding, Level
from usbbridge.doctor.installation import UNITS
from usbbridge.doctor.service import findings
from usbbridge.errors import NotPermittedError


def by_subject(found: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in found}


def test_a_service_that_is_well(look: Look, service: FakeService) -> None:
    service.serve(status())
    found = list(findings(look()))
    assert {finding.level for finding in found} == {Level.OK}
    assert [finding.found for finding in found] == [
        "it runs, version 0.1.0, process 4711",
        "control is connected to it",
        f"{getpass.getuser()} may admin, attach, view",
    ]


def test_no_service_where_none_is_installed_is_a_warning(look: Look) -> None:
    (finding,) = findings(look())
    assert (finding.level, finding.found) == (Level.WARNING, "it does not run")
    assert "attach --foreground" in finding.remedy


def test_no_service_where_one_is_installed_is_a_problem(look: Look, sysfs: FakeSysfs) -> None:
    for unit in UNITS:
        sysfs.write(f"usr/lib/systemd/system/{unit}", "[Unit]")
    (finding,) = findings(look(user=SOMEBODY))
    assert (finding.level, finding.found) == (Level.PROBLEM, "it is installed, but nobody answers")
    assert finding.commands[0] == "sudo systemctl restart usbbridge-monitor.service usbbridge-control.service"


def test_a_socket_that_nobody_listens_on_is_named(look: Look, tmp_path: Path) -> None:
    path = tmp_path / "run/control.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    (finding,) = findings(look())
    assert finding.found == f"it does not run; an earlier one has left {path}"


def test_a_service_that_hangs_is_not_waited_for(
    look: Look, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "SERVICE_SECONDS", 0.05)
    service.greeting = b""
    (finding,) = findings(look())
    assert finding.level is Level.PROBLEM
    assert "answer" in finding.found


@pytest.mark.parametrize(
    ("greeting", "words"),
    [(b"HTTP/1.1 400\r\n\r\n", "not JSON"), ({**GREETING, "usbbridge": 2}, "version 2")],
)
def test_what_is_not_our_service_is_said_not_to_be(
    look: Look, service: FakeService, greeting: object, words: str
) -> None:
    service.greeting = greeting
    (finding,) = findings(look())
    assert finding.level is Level.PROBLEM
    assert words in finding.found


def test_an_old_service_is_to_be_restarted(look: Look, service: FakeService) -> None:
    service.greeting = {**GREETING, "version": "0.0.9"}
    service.serve(status())
    found = by_subject(list(findings(look())))
    assert found["service"].level is Level.WARNING
    assert "0.0.9" in found["service"].found


def test_a_service_without_its_monitor_has_a_problem(look: Look, service: FakeService) -> None:
    service.serve(status(monitor=False))
    monitor = by_subject(list(findings(look())))["monitor"]
    assert monitor.level is Level.PROBLEM
    assert monitor.found.endswith("monitor.sock, which is not there)")


def test_a_suspended_service_is_a_warning(look: Look, service: FakeService) -> None:
    service.serve(status(suspended=True))
    monitor = by_subject(list(findings(look(user=SOMEBODY))))["monitor"]
    assert (monitor.level, monitor.commands) == (Level.WARNING, ("sudo usbbridge resume",))


def test_who_may_not_see_is_told_what_there_is_to_tell(look: Look, service: FakeService) -> None:
    service.greeting = {**GREETING, "may": []}
    service.answers["status"] = NotPermittedError("you may not see it")
    found = by_subject(list(findings(look())))
    assert found["service"].level is Level.OK
    assert found["monitor"].found == "nothing is known of it: you may not see it"
    assert found["your rights"].level is Level.PROBLEM


def test_who_may_not_attach_is_told_which_group_to_join(look: Look, service: FakeService, config: Path) -> None:
    group = grp.getgrgid(0).gr_name
    with config.open("a") as file:
        file.write(f'[access]\ngroups = ["nobody-has-this-one", "{group}"]\n')
    service.greeting = {**GREETING, "may": ["view"]}
    service.serve(status())
    rights = by_subject(list(findings(look(user=SOMEBODY))))["your rights"]
    assert (rights.level, rights.found) == (Level.PROBLEM, "ann may not attach devices")
    assert rights.commands == (f"sudo usermod -aG {group} ann",)


def test_who_has_joined_the_group_since_is_told_to_log_in_again(
    look: Look, service: FakeService, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = grp.struct_group(("plugdev", "x", 4321, ["ann"]))
    monkeypatch.setattr(grp, "getgrnam", lambda name: joined)
    service.greeting = {**GREETING, "may": ["view"]}
    service.serve(status())
    rights = by_subject(list(findings(look(user=SOMEBODY))))["your rights"]
    assert (rights.remedy, rights.commands) == (
        "you were made a member of plugdev since you logged in: log out, and in again",
        (),
    )


def test_who_is_asking_is_told_by_name() -> None:
    user = User.current()
    assert (user.uid, user.is_root) == (os.geteuid(), os.geteuid() == 0)
    assert grp.getgrgid(os.getegid()).gr_name in user.groups
