"""Control as a process: `usbbridge control`, its signals, what it tells the service manager, what it costs."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.control import bench
from tests.fakes.monitor import plugged
from usbbridge.config import Vm
from usbbridge.control import main as module
from usbbridge.control import privileges
from usbbridge.errors import NotFoundError, NotPermittedError
from usbbridge.ipc.monitoring import Synced

SECONDS = 20.0
IDLE_KIB = 38 << 10
"What control may have in memory: with the monitor's it has to stay below 60 MB."

AS_A_USER = """
import os, sys
os.geteuid = lambda: 1000
from usbbridge.cli.main import main
sys.exit(main(["control"]))
"""
"The verb; root, too, stays who he is: `test_root_becomes_another_user` tests the rest."


class Running:
    """`usbbridge control` in a folder, with the test for a service manager."""

    def __init__(self, folder: Path, stderr: int = subprocess.PIPE, **environment: str) -> None:
        self.folder, self._stderr = folder, stderr
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(folder / "notify"))
        self.manager.settimeout(SECONDS)
        (folder / "usbbridge.toml").write_text(
            f'[paths]\nmonitor-socket = "{folder}/monitor.sock"\ncontrol-socket = "{folder}/control.sock"\n'
            f'choices = "{folder}/choices.json"\n'
        )
        self.environment = os.environ | {
            "USBBRIDGE_CONFIG": str(folder / "usbbridge.toml"),
            "USBBRIDGE_MODE": "user",
            "NOTIFY_SOCKET": str(folder / "notify"),
            **environment,
        }
        self.process = self.start()

    def start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-P", "-c", AS_A_USER], env=self.environment, stderr=self._stderr, text=True
        )

    def hears(self, state: str) -> None:
        """Wait until the service manager is told that."""
        while state not in self.manager.recv(4096).decode().split("\n"):
            pass

    def end(self) -> tuple[int, str]:
        """Its exit status, and what it has said."""
        _, said = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, said

    def greeting(self) -> dict:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SECONDS)
            client.connect(str(self.folder / "control.sock"))
            return json.loads(client.makefile().readline())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.manager.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    started = Running(tmp_path)
    yield started
    started.close()


def test_it_is_ready_serves_and_ends_without_leaving_anything(running: Running) -> None:
    running.hears("READY=1")
    assert running.greeting()["usbbridge"] == 1
    assert (running.folder / "control.sock").stat().st_mode & 0o777 == 0o600
    running.process.terminate()
    running.hears("STOPPING=1")
    status, said = running.end()
    assert status == 0
    assert "ended" in said.splitlines()[-1]
    assert {file.name for file in running.folder.iterdir()} == {"notify", "usbbridge.toml"}


def test_one_that_was_killed_is_followed_by_one_that_runs(running: Running) -> None:
    running.hears("READY=1")
    running.process.kill()
    running.end()
    running.process = running.start()
    running.hears("READY=1")
    assert running.greeting()["usbbridge"] == 1


def test_a_second_one_says_that_one_runs_already(running: Running) -> None:
    running.hears("READY=1")
    second = running.start()
    _, said = second.communicate(timeout=SECONDS)
    assert second.returncode == 5
    assert "another process serves" in said


def test_a_hangup_has_it_read_its_configuration(running: Running) -> None:
    running.hears("READY=1")
    running.process.send_signal(signal.SIGHUP)
    running.hears("RELOADING=1")
    running.hears("READY=1")
    (running.folder / "usbbridge.toml").write_text("nonsense")
    running.process.send_signal(signal.SIGHUP)
    running.hears("READY=1")
    running.process.terminate()
    status, said = running.end()
    assert status == 0
    assert "the configuration is left as it was" in said


def test_the_watchdog_is_fed(tmp_path: Path) -> None:
    running = Running(tmp_path, WATCHDOG_USEC="100000")
    running.hears("READY=1")
    for _ in range(3):
        running.hears("WATCHDOG=1")
    running.close()


@pytest.mark.parametrize("is_journal", [True, False])
def test_the_journal_is_told_how_grave_a_line_is_and_nobody_else(tmp_path: Path, is_journal: bool) -> None:
    with (tmp_path / "said").open("w+") as said:
        status = os.fstat(said.fileno())
        stream = f"{status.st_dev}:{status.st_ino if is_journal else 1}"
        running = Running(tmp_path, stderr=said.fileno(), JOURNAL_STREAM=stream)
        running.hears("READY=1")
        running.process.terminate()
        running.end()
        running.close()
        lines = said.seek(0) or said.read().splitlines()
    assert lines
    assert all((line.startswith("<") and line[2] == ">") is is_journal for line in lines)
    assert any(line.startswith("<4>the monitor can't be reached") for line in lines) is is_journal


def test_it_is_small_when_idle_and_loads_nothing_for_the_terminal(running: Running) -> None:
    running.hears("READY=1")
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    (resident,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident < IDLE_KIB
    loaded = Path(f"/proc/{running.process.pid}/maps").read_text()
    assert not [name for name in ("cryptography", "lz4", "libusb", "sqlite") if name in loaded]


# ---- signals, in the test's own process


def test_devices_are_taken_back_before_the_end(tmp_path: Path) -> None:
    async def run() -> None:
        async with bench(tmp_path, plugged(), vms=(Vm("raw", ("tcp://127.0.0.1:1",)),)) as b:
            process = module._Process(b.control)
            await b.monitor.hears(Synced)
            client = await b.client()
            assert (await client.result("attach", device="1-2"))["state"] == "attached"
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(SECONDS):
                await process.until_told()
                await process.take_back()
            assert b.monitor.leases == {}
            assert (await client.call("resume"))["error"]["status"] == 5

    asyncio.run(run())


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    stick = plugged()
    stuck = stick.__class__(stick.id, stick.entry.__class__(**_fields(stick.entry) | {"name": "stuck"}))

    async def run() -> None:
        async with bench(tmp_path, stuck, vms=(Vm("raw", ("tcp://127.0.0.1:1",)),)) as b:
            process = module._Process(b.control)
            await b.monitor.hears(Synced)
            client = await b.client()
            assert (await client.result("attach", device="1-2"))["state"] == "attached"
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(SECONDS):
                await process.until_told()
                taking = asyncio.ensure_future(process.take_back())
                await asyncio.sleep(0)
                assert not taking.done()
                os.kill(os.getpid(), signal.SIGINT)
                await taking

    asyncio.run(run())


def _fields(value: object) -> dict:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


# ---- whom it runs as


def test_without_its_user_root_does_not_run_it(tmp_path: Path) -> None:
    from tests.fakes.control import paths_in

    with pytest.raises(NotFoundError, match="no user 'nobody-of-that-name'") as caught:
        privileges.drop("nobody-of-that-name", paths_in(tmp_path))
    assert "useradd" in caught.value.hint
    with pytest.raises(NotPermittedError, match="who is root"):
        privileges.drop("root", paths_in(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_becomes_another_user_for_good(tmp_path: Path) -> None:
    code = """
import json, os
from pathlib import Path
from tests.fakes.control import paths_in
from usbbridge.control.privileges import drop
folder = Path(os.environ["FOLDER"])
drop("nobody", paths_in(folder / "run"))
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
found = {name: status[name].split() for name in ("Uid", "Gid", "Groups", "CapPrm", "CapEff", "NoNewPrivs")}
try:
    os.setuid(0)
except PermissionError:
    found["root again"] = False
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"FOLDER": str(tmp_path)},
        cwd=Path(__file__).parents[3],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    uid = found["Uid"][0]
    assert uid != "0"
    assert found["Uid"] == [uid] * 4
    assert len(set(found["Gid"])) == 1
    assert "0" not in found["Groups"]
    assert int(found["CapPrm"][0], 16) == int(found["CapEff"][0], 16) == 0
    assert found["NoNewPrivs"] == ["1"]
    assert found["root again"] is False
    assert (tmp_path / "run").stat().st_uid == int(uid)
