from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.monitor.fake_sysfs import FakeSysfs
from tests.unit.monitor.rig import Rig


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    """A machine with one root hub and nothing plugged in."""
    return FakeSysfs(tmp_path)


@pytest.fixture
def rig(sysfs: FakeSysfs, tmp_path: Path) -> Iterator[Rig]:
    """The monitor of that machine."""
    made = Rig(sysfs, tmp_path / "bridge")
    yield made
    made.close()
