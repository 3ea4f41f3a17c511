from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.device import FakeDevice
from tests.fakes.encoder import RawVm, RunningEncoder
from usbbridge.backend.base import Device
from usbbridge.encoder import main
from usbbridge.ipc.messages import Start


@pytest.fixture
def encoder() -> Iterator[RunningEncoder]:
    running = RunningEncoder()
    yield running
    running.close()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """The device that the encoder opens, whatever it is asked for."""
    device = FakeDevice()

    def open_it(start: Start, fd: int | None) -> Device:
        return device

    monkeypatch.setattr(main, "open_device", open_it)
    return device


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[RawVm]:
    raw = RawVm(tmp_path)
    yield raw
    raw.close()
