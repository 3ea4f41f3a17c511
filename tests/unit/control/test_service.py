"""`usbbridge service`: two parts kept running, with parts that only pretend."""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from usbbridge.cli.service import PartError, Supervisor, _Part

SECONDS = 20.0
PART = str(Path(__file__).parents[2] / "fakes/service_part.py")
SUPERVISE = """
import sys
from usbbridge.cli import service
from usbbridge.cli.main import complain
from usbbridge.errors import UsbBridgeError
part, log = sys.argv[1:3]
service.END_SECONDS.update(monitor=float(sys.argv[3]), control=float(sys.argv[3]))
orders = {"monitor": sys.argv[4].split(), "control": sys.argv[5].split()}
try:
    sys.exit(service.Supervisor({n: [sys.executable, part, n, log, *o] for n, o in orders.items()}).run())
except UsbBridgeError as error:
    complain(error)
    sys.exit(error.exit_status)
"""


class Service:
    """A supervisor, and what its parts and itself say."""

    def __init__(self, folder: Path, monitor: str = "", control: str = "", end_seconds: float = SECONDS) -> None:
        self.log, self.manager = (self._bound(folder / name) for name in ("log", "manager"))
        self.pids: dict[str, int] = {}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, PART, str(folder / "log"), str(end_seconds), monitor, control],
            env=os.environ | {"NOTIFY_SOCKET": str(folder / "manager")},
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def _bound(path: Path) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(str(path))
        sock.settimeout(SECONDS)
        return sock

    def hears(self) -> str:
        """The next thing that happens to a part."""
        name, what, *pid = self.log.recv(100).decode().split()
        if pid:
            self.pids[name] = int(pid[0])
        return f"{name} {what}"

    def manager_hears(self) -> str:
        return self.manager.recv(100).decode()

    def is_up(self) -> None:
        assert {self.hears(), self.hears()} == {"monitor started", "control started"}
        assert self.manager_hears() == "READY=1"

    def end(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, said

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.log.close()
        self.manager.close()
        for pid in self.pids.values():
            assert not Path(f"/proc/{pid}").exists(), "a part is left"


@pytest.fixture
def service(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    running = Service(tmp_path, **getattr(request, "param", {}))
    yield running
    running.close()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_is_ready_when_both_are_and_ends_control_first(service: Service, signum: int) -> None:
    service.is_up()
    service.process.send_signal(signum)
    assert service.manager_hears() == "STOPPING=1"
    assert [service.hears(), service.hears()] == ["control SIGTERM", "monitor SIGTERM"]
    assert service.end()[0] == 0


@pytest.mark.parametrize("name", ["monitor", "control"])
def test_a_part_that_dies_is_started_again(service: Service, name: str) -> None:
    service.is_up()
    before = dict(service.pids)
    os.kill(service.pids[name], signal.SIGKILL)
    assert service.hears() == f"{name} started"
    assert service.pids[name] != before.pop(name)
    assert service.pids.items() >= before.items(), "the other goes on"
    service.process.terminate()
    status, said = service.end()
    assert status == 0
    assert f"{name} ended (signal 9); started again in" in said


@pytest.mark.parametrize("service", [{"control": "fails"}], indirect=True)
def test_a_part_that_can_not_even_be_started_ends_it_with_its_status(service: Service) -> None:
    status, said = service.end()
    assert status == 5
    assert "control ended as soon as it was started (status 5)" in said


def test_a_hangup_is_passed_on(service: Service) -> None:
    service.is_up()
    service.process.send_signal(signal.SIGHUP)
    assert {service.hears(), service.hears()} == {"monitor SIGHUP", "control SIGHUP"}
    service.process.terminate()
    assert service.end()[0] == 0


@pytest.mark.parametrize("service", [{"control": "stays", "end_seconds": 0.2}], indirect=True)
def test_one_that_does_not_end_is_killed(service: Service) -> None:
    service.is_up()
    service.process.terminate()
    assert service.end()[0] == 0
    assert service.hears() == "control SIGTERM"
    assert service.hears() == "monitor SIGTERM"


@pytest.mark.parametrize("service", [{"control": "stays"}], indirect=True)
def test_a_second_signal_is_passed_on_too(service: Service) -> None:
    service.is_up()
    for _ in range(2):
        service.process.terminate()
        assert service.hears() == "control SIGTERM"
    os.kill(service.pids["control"], signal.SIGKILL)
    assert service.hears() == "monitor SIGTERM"
    assert service.end()[0] == 0


@pytest.mark.parametrize("service", [{"monitor": "lies"}], indirect=True)
def test_only_a_part_itself_says_that_it_is_ready(service: Service) -> None:
    assert {service.hears(), service.hears()} == {"monitor started", "control started"}
    service.process.terminate()
    assert service.manager_hears() == "STOPPING=1"
    assert service.end()[0] == 0


class Unstartable(subprocess.Popen[bytes]):
    """For a part whose process the kernel refuses to make."""

    def __init__(self, command: list[str], **options: object) -> None:
        if command[0] == "none":
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        super().__init__(command, **options)  # type: ignore[call-overload]


def test_no_part_is_left_if_another_can_not_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", Unstartable)
    supervisor = Supervisor({"monitor": ["sleep", "60"], "control": ["none"]})
    with pytest.raises(PartError, match="control can't be started: Resource temporarily unavailable"):
        supervisor.run()
    assert not any(part.process for part in supervisor._parts)


def test_a_part_that_can_not_be_started_again_is_tried_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Unstartable)
    supervisor = Supervisor({"monitor": ["none"]})
    (part,) = supervisor._parts
    part.was_ready, part.restart_at = True, 0.0
    supervisor._look_after({})
    assert part.restart_at is not None
    assert "monitor can't be started: Resource temporarily unavailable" in capsys.readouterr().err


def test_a_part_that_can_not_catch_a_hangup_yet_gets_it_when_it_is_ready() -> None:
    part = _Part("monitor", ["sleep", "60"])
    part.start({})
    assert part.process is not None
    sent: list[int] = []
    with part.process as process:
        process.send_signal = sent.append  # type: ignore[method-assign]
        part.hang_up()
        assert sent == [], "it would end by that"
        part.says_ready()
        assert sent == [signal.SIGHUP]
        part.hang_up()
        assert sent == [signal.SIGHUP, signal.SIGHUP]
        os.kill(process.pid, signal.SIGKILL)
