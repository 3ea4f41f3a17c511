"""Emulated disks on image files with known content, and a device with the probe."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.unit.backend.bulk_only_host import Host
from tests.unit.backend.probe import Owner, Probe
from usbbridge.backend.emulated.device import EmulatedDevice
from usbbridge.backend.emulated.disk import open_disk

BLOCKS = 64


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """64 blocks, no two alike."""
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(BLOCKS * 512))
    return path


@pytest.fixture
def plug_in() -> Iterator[Callable[..., Host]]:
    """Open `disk:` specs; they are closed when the test ends."""
    hosts: list[Host] = []

    def plug_in(spec: str | Path, **options: object) -> Host:
        hosts.append(Host(open_disk(f"disk:{spec}", **options)))
        return hosts[-1]

    yield plug_in
    for host in hosts:
        host.device.close()


@pytest.fixture
def host(image: Path, plug_in: Callable[..., Host]) -> Host:
    """The image as a writable flash drive."""
    return plug_in(image)


@pytest.fixture
def as_nobody(tmp_path: Path) -> Callable[[], AbstractContextManager[None]]:
    """A context without root's power over file permissions, if there is such power."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        if os.geteuid() == 0:
            folder.chmod(folder.stat().st_mode | 0o011)

    @contextmanager
    def as_nobody() -> Iterator[None]:
        me = os.geteuid()
        if me == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(me)

    return as_nobody


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def device(probe: Probe) -> Iterator[EmulatedDevice]:
    """The device that the probe is."""
    made = EmulatedDevice(probe, "probe")
    yield made
    made.close()


@pytest.fixture
def owner(device: EmulatedDevice) -> Owner:
    return Owner(device)
