from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.unit.monitor.fake_sysfs import FakeSysfs
from usbbridge.cli.main import main

Run = Callable[[Sequence[str]], tuple[int, str, str]]


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    """A machine with a flash drive that is mounted, and a keyboard."""
    tree = FakeSysfs(tmp_path)
    tree.stick()
    tree.mount("8:1", "/media/stick", "/dev/sda1")
    tree.device("1-3", "046d:c31c", manufacturer="Logitech", product="[red]Keys[/red]", speed="1.5")
    tree.interface("1-3", 0, "03/01/01", "usbhid")
    tree.interface("1-3", 1, "03/00/00", "usbhid")
    return tree


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process: (exit status, standard output, standard error)."""

    def run(arguments: Sequence[str]) -> tuple[int, str, str]:
        status = main(arguments)
        return status, *capsys.readouterr()

    return run
