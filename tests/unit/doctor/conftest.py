import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.service import FakeService
from tests.unit.monitor.fake_sysfs import FakeSysfs
from usbbridge.config import Paths
from usbbridge.doctor.case import Case, User, gather

Look = Callable[..., Case]


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    """A machine with one root hub and nothing plugged in."""
    return FakeSysfs(tmp_path / "machine")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration's file, which moves all that the service has into the test's folder."""
    file = tmp_path / "etc/usbbridge.toml"
    file.parent.mkdir()
    moved = {"control-socket": "run/control.sock", "monitor-socket": "run/monitor.sock", "database": "compat.db"}
    file.write_text("".join(["[paths]\n", *(f'{key} = "{tmp_path / path}"\n' for key, path in moved.items())]))
    monkeypatch.setenv("USBBRIDGE_CONFIG", str(file))
    monkeypatch.setenv("USBBRIDGE_MODE", "user")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Paths, "client_sockets", lambda self: [self.control_socket])
    return file


@pytest.fixture
def look(config: Path, sysfs: FakeSysfs) -> Look:
    """Gathers a case; fields that are given by name are replaced in it."""

    def look(**fields: Any) -> Case:
        asked = {name: fields.pop(name) for name in ("device", "serial", "vm") if name in fields}
        return dataclasses.replace(gather(sysfs.root, **asked), **fields)

    return look


@pytest.fixture
def service(config: Path, tmp_path: Path) -> Iterator[FakeService]:
    """A service that does what the test says, and that is found."""
    service = FakeService(tmp_path / "run/control.sock")
    yield service
    service.stop()


SOMEBODY = User(1000, "ann", frozenset({"ann"}))
ROOT = User(0, "root", frozenset({"root"}))
