"""Whether the service can run the command that its units name. Only root can try it as another user."""

import os
from pathlib import Path

import pytest

from usbbridge.errors import RefusedError
from usbbridge.units import command
from usbbridge.units.command import demand_reach, installed_command

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root tries things as another user")


@pytest.fixture
def open_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that all may read, and nothing but the command itself needed to run it."""
    for folder in (tmp_path, *tmp_path.parents[:-2]):  # up to /tmp
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o755)
    monkeypatch.setattr(command, "_needed", lambda path: [path])
    monkeypatch.setattr(command, "HIDDEN", ())
    return tmp_path


def script(file: Path, text: str, mode: int = 0o755) -> Path:
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(mode)
    return file


def test_the_command_of_this_python_is_found() -> None:
    found = installed_command()
    assert found.is_absolute()
    assert found.name == "usbbridge"
    assert os.access(found, os.X_OK)


@root_only
def test_it_is_run_as_a_user_without_rights_or_environment(open_folder: Path) -> None:
    demand_reach(script(open_folder / "usbbridge", 'test "$(id -u)" != 0 -a "$1" = --version -a -z "$HOME"'))


@root_only
def test_a_folder_that_is_closed_to_others_is_named(open_folder: Path) -> None:
    inside = open_folder / "closed"
    inside.mkdir(mode=0o700)
    with pytest.raises(RefusedError, match=f"others may not enter {inside} ") as caught:
        demand_reach(script(inside / "usbbridge", "exit 0"))
    assert "/opt/usbbridge" in caught.value.hint


@root_only
def test_what_it_says_itself_is_the_reason_if_nothing_is_closed(open_folder: Path) -> None:
    with pytest.raises(RefusedError, match=r"can't run .*usbbridge: No module named lost"):
        demand_reach(script(open_folder / "usbbridge", "echo No module named lost >&2; exit 1"))


def test_what_the_units_hide_is_refused_before_it_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "HIDDEN", (tmp_path,))
    with pytest.raises(RefusedError, match=f"its unit hides {tmp_path} from it"):
        demand_reach(script(tmp_path / "usbbridge", "exit 0"))
