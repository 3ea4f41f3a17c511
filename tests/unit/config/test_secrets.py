"""Who can read the files that the configuration names."""

import grp
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.config.conftest import Write
from usbbridge.config import examine
from usbbridge.config.reach import ANYBODY, Reader, obstacle
from usbbridge.config.secrets import warnings

Warn = Callable[[], list[str]]


@pytest.fixture
def warn(write: Write, tmp_path: Path) -> Warn:
    """Warnings about a VM with a password and a CA file, less the folder's name."""
    tls = "[vm.desk]\ntarget = 'spice+tls://h:1'\npassword-file = 'password'\nca-file = 'ca.pem'\n"

    def warn() -> list[str]:
        loaded = examine(write(tls))
        assert loaded.config is not None
        return [str(problem).replace(f"{tmp_path}/", "") for problem in warnings(loaded.config, loaded.origins)]

    (tmp_path / "ca.pem").write_text("")
    (tmp_path / "password").write_text("secret")
    (tmp_path / "password").chmod(0o600)
    return warn


def test_files_of_which_all_is_well_are_not_mentioned(warn: Warn) -> None:
    assert warn() == []


def test_a_password_that_everybody_can_read_is_mentioned(warn: Warn, tmp_path: Path) -> None:
    (tmp_path / "password").chmod(0o604)
    assert warn() == [
        "usbbridge.toml:3: vm.desk.password-file: "
        "everybody on this machine can read the password in password (chmod o= password)"
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to any group")
def test_a_password_that_a_group_can_read_is_mentioned(warn: Warn, tmp_path: Path) -> None:
    group = next(entry for entry in grp.getgrall() if entry.gr_gid != 0)
    os.chown(tmp_path / "password", 0, group.gr_gid)
    (tmp_path / "password").chmod(0o640)
    (warning,) = warn()
    assert f"the group {group.gr_name} can read the password" in warning


def test_files_that_are_not_there_are_mentioned(warn: Warn, tmp_path: Path) -> None:
    (tmp_path / "password").unlink()
    (tmp_path / "ca.pem").unlink()
    (tmp_path / "ca.pem").mkdir()
    assert warn() == [
        "usbbridge.toml:3: vm.desk.password-file: password can't be looked at: No such file or directory",
        "usbbridge.toml:4: vm.desk.ca-file: ca.pem is not a file",
    ]


def test_what_the_unit_hides_from_control_is_mentioned(
    warn: Warn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tmp_path.is_relative_to("/tmp") or os.geteuid() != 0:
        pytest.skip("not root with a folder below /tmp")
    monkeypatch.setenv("USBBRIDGE_MODE", "system")
    assert [warning.rpartition(" is not seen")[0] for warning in warn()] == [
        "usbbridge.toml:3: vm.desk.password-file: password",
        "usbbridge.toml:4: vm.desk.ca-file: ca.pem",
    ]


def test_the_first_thing_in_the_way_is_found(tmp_path: Path) -> None:
    me, other = Reader(os.geteuid()), Reader(os.geteuid() + 4711)
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "file"
    file.touch(mode=0o600)
    tmp_path.chmod(0o700)
    assert obstacle(file, me) is None
    in_the_way = obstacle(file, other)
    assert in_the_way is not None
    assert tmp_path.is_relative_to(in_the_way)
    with pytest.raises(FileNotFoundError):
        obstacle(folder / "none", me)
    assert obstacle(Path("/etc/passwd"), ANYBODY) is None


def test_the_class_decides_even_if_it_may_less_than_others() -> None:
    """As the kernel has it: the owner's bits hold for the owner, whatever others may."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    file = Path("/var/tmp/usbbridge-test-reach")
    file.touch()
    try:
        os.chown(file, 4711, 4712)
        file.chmod(0o004)
        assert obstacle(file, Reader(4711)) == file
        assert obstacle(file, Reader(4713, frozenset({4712}))) == file
        assert obstacle(file, ANYBODY) is None
        assert obstacle(file, Reader(0)) is None
    finally:
        file.unlink()
