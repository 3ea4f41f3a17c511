"""What is gathered, and for whose service."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.fakes.service import FakeService, device, status, stick
from tests.unit.doctor.conftest import Look
from tests.unit.monitor.fake_sysfs import FakeSysfs
from usbbridge.config.paths import MODE_VARIABLE
from usbbridge.doctor.case import _in_mode, is_systems, user_name


@pytest.fixture
def somebody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """The environment of a user who is not root."""
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    return {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}


def test_a_user_who_has_no_service_is_told_of_the_systems(somebody: Mapping[str, str], tmp_path: Path) -> None:
    def put(path: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()

    assert not is_systems(tmp_path, somebody)
    put("etc/usbbridge/usbbridge.toml")
    assert is_systems(tmp_path, somebody)
    put("home/.config/usbbridge/usbbridge.toml")
    assert not is_systems(tmp_path, somebody)
    put("run/usbbridge/control.sock")  # the runtime folder of this user is where the system's would be: theirs is first
    assert not is_systems(tmp_path, somebody)


def test_the_service_that_runs_comes_before_what_is_configured(somebody: Mapping[str, str], tmp_path: Path) -> None:
    own = tmp_path / "home/.config/usbbridge/usbbridge.toml"
    own.parent.mkdir(parents=True)
    own.touch()
    root = tmp_path / "root"
    (root / "run/usbbridge").mkdir(parents=True)
    (root / "run/usbbridge/control.sock").touch()
    assert is_systems(root, somebody)


def test_who_says_which_is_believed(somebody: Mapping[str, str], tmp_path: Path) -> None:
    assert is_systems(tmp_path, {**somebody, "USBBRIDGE_MODE": "system"})
    (tmp_path / "etc/usbbridge").mkdir(parents=True)
    (tmp_path / "etc/usbbridge/usbbridge.toml").touch()
    assert not is_systems(tmp_path, {**somebody, "USBBRIDGE_MODE": "user"})
    assert not is_systems(tmp_path, {**somebody, "USBBRIDGE_CONFIG": "/a/file"})


@pytest.mark.parametrize("before", [None, "user"])
def test_the_environment_is_left_as_it_was(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MODE_VARIABLE, raising=False)
    if before:
        monkeypatch.setenv(MODE_VARIABLE, before)
    with _in_mode("system"):
        assert os.environ[MODE_VARIABLE] == "system"
    assert os.environ.get(MODE_VARIABLE) == before


def test_a_device_that_was_replugged_is_not_the_one_the_service_tells_of(
    look: Look, sysfs: FakeSysfs, service: FakeService
) -> None:
    sysfs.stick()
    service.serve(status(device(plugged=stick(devnum=2))))
    case = look()
    entry = case.devices.got[-1]
    assert case.served is not None
    assert case.served.device(entry) is not None
    service.serve(status(device(plugged=stick(devnum=9))))
    case = look()
    assert case.served is not None
    assert case.served.device(entry) is None


def test_a_user_without_a_name_has_a_number() -> None:
    assert user_name(4_000_000_000) == "4000000000"
