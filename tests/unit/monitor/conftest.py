from pathlib import Path

import pytest

from tests.unit.monitor.fake_sysfs import FakeSysfs


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    """A machine with one root hub and nothing plugged in."""
    return FakeSysfs(tmp_path)
