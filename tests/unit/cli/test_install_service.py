"""`usbbridge install-service`, into a folder that stands for a system's root, and into a user's own."""

import os
import shutil
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from usbbridge.config import load

COMMAND = "/opt/usbbridge/bin/usbbridge"
VERB = ["install-service", "--command", COMMAND]


@pytest.fixture(autouse=True)
def no_system_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tools make of the files is tests/integration/test_units.py's question; here none is found."""
    monkeypatch.setattr(shutil, "which", lambda name: None)


def tree(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def image(tmp_path: Path) -> list[str]:
    return ["--root", str(tmp_path)]


def test_files_are_written_and_what_comes_next_is_said(run: Run, image: list[str], tmp_path: Path) -> None:
    status, out, err = run(VERB + image)
    assert (status, err) == (0, "")
    assert len(tree(tmp_path)) == 6
    assert f"written    {tmp_path}/etc/systemd/system/usbbridge-control.service\n" in out
    assert "not run    systemd-sysusers" in out
    assert f"systemctl --root={tmp_path} enable usbbridge-monitor usbbridge-control" in out
    modes = {file.stat().st_mode & 0o777 for file in tmp_path.rglob("*") if file.is_file()}
    assert modes == {0o644}


def test_a_second_time_nothing_changes(run: Run, image: list[str], tmp_path: Path) -> None:
    run(VERB + image)
    before = tree(tmp_path)
    out = run(VERB + image)[1]
    assert "written" not in out
    assert tree(tmp_path) == before


def test_files_of_another_version_are_replaced_and_the_configuration_is_not(
    run: Run, image: list[str], tmp_path: Path
) -> None:
    run(["install-service", "--command", "/old/usbbridge", *image])
    config = tmp_path / "etc/usbbridge/usbbridge.toml"
    config.write_text("# mine\n")
    out = run(VERB + image)[1]
    assert f"yours      {config}\n" in out
    assert config.read_text() == "# mine\n"
    assert COMMAND in (tmp_path / "etc/systemd/system/usbbridge-monitor.service").read_text()


@pytest.mark.parametrize("more", [[], ["--uninstall"]])
def test_what_was_changed_by_hand_is_left_alone_unless_forced(
    run: Run, image: list[str], tmp_path: Path, more: list[str]
) -> None:
    run(VERB + image)
    unit = tmp_path / "etc/systemd/system/usbbridge-monitor.service"
    unit.write_text(unit.read_text() + "# tuned\n")
    before = tree(tmp_path)
    status, _, err = run(VERB + image + more)
    assert status == 5
    assert str(unit) in err
    assert "--force" in err
    assert tree(tmp_path) == before
    assert run([*VERB, *image, *more, "--force"])[0] == 0
    assert unit.exists() == (not more)


def test_uninstall_removes_exactly_what_was_written(run: Run, image: list[str], tmp_path: Path) -> None:
    other = tmp_path / "etc/systemd/system/other.service"
    other.parent.mkdir(parents=True)
    other.write_text("[Service]\n")
    state = tmp_path / "var/lib/usbbridge/choices.json"
    state.parent.mkdir(parents=True)
    state.write_text("{}")
    run(VERB + image)
    status, out, _ = run([*VERB, *image, "--uninstall"])
    assert status == 0
    assert tree(tmp_path).keys() == {
        "etc/systemd/system/other.service",
        "etc/usbbridge/usbbridge.toml",
        "var/lib/usbbridge/choices.json",
    }
    assert f"left       {tmp_path}/etc/usbbridge, {tmp_path}/var/lib/usbbridge (--purge removes them)" in out
    assert run([*VERB, *image, "--uninstall", "--purge"])[0] == 0
    assert tree(tmp_path).keys() == {"etc/systemd/system/other.service"}


def test_uninstall_of_nothing_is_no_error(run: Run, image: list[str]) -> None:
    assert run([*VERB, *image, "--uninstall"]) == (0, "There is nothing to remove.\n", "")


def test_print_shows_every_file_and_writes_none(run: Run, image: list[str], tmp_path: Path) -> None:
    status, out, _ = run([*VERB, *image, "--print"])
    assert (status, tree(tmp_path)) == (0, {})
    run(VERB + image)
    for place, text in tree(tmp_path).items():
        assert f"==> {tmp_path}/{place} <==\n{text}\n" in out
    out = run([*VERB, *image, "--print", "--uninstall"])[1]
    assert len(out.splitlines()) == 5
    assert all(line.startswith(f"would remove {tmp_path}/etc/") for line in out.splitlines())


def test_a_users_own_service(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("USBBRIDGE_MODE", "user")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    status, out, _ = run([*VERB, "--user"])
    assert status == 0
    assert tree(tmp_path).keys() == {"config/systemd/user/usbbridge.service", "config/usbbridge/usbbridge.toml"}
    assert "not run    systemctl --user daemon-reload: systemd does not run here" in out
    assert load().files == (tmp_path / "config/usbbridge/usbbridge.toml",)


def test_only_root_changes_the_system(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    status, _, err = run(VERB)
    assert status == 3
    assert err.startswith("usbbridge: only root can change the system's service\n  sudo /")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root tries things as another user")
def test_a_command_that_the_service_can_not_run_is_refused(run: Run) -> None:
    status, out, err = run(["install-service", "--command", "/proc/no/such/usbbridge"])
    assert (status, out) == (5, "")
    assert "the service" in err
    assert "/opt/usbbridge" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--purge"],
        ["--user", "--root", "/tmp"],
        ["--root", "/nowhere"],
        ["--root", "/tmp", "--command", "usbbridge"],
        ["extra"],
        ["--enable"],
    ],
)
def test_wrong_usage_is_status_2(run: Run, arguments: list[str]) -> None:
    assert run(["install-service", *arguments])[0] == 2
