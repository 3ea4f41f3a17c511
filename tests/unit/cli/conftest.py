from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.fakes.service import FakeService
from tests.unit.monitor.fake_sysfs import FakeSysfs
from usbbridge.cli.main import main
from usbbridge.config import Paths, load

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


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Where this test's service would listen, and its configuration is; a service of this machine is not looked for."""
    file = tmp_path / "etc/usbbridge.toml"
    file.parent.mkdir()
    sockets = f'control-socket = "{tmp_path}/run/control.sock"\nmonitor-socket = "{tmp_path}/monitor.sock"\n'
    file.write_text(f"[paths]\n{sockets}")
    monkeypatch.setenv("USBBRIDGE_CONFIG", str(file))
    monkeypatch.setenv("USBBRIDGE_MODE", "user")
    monkeypatch.setattr(Paths, "client_sockets", lambda self: [self.control_socket])
    return load().paths


@pytest.fixture
def service(paths: Paths) -> Iterator[FakeService]:
    """A service that does what the test says, and that verbs find."""
    service = FakeService(paths.control_socket)
    yield service
    service.stop()
