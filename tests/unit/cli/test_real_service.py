"""The verbs against control itself; only the monitor is scripted."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.service import stick
from tests.unit.cli.conftest import Run
from tests.unit.schemas import check, check_text
from usbbridge.config import Paths, load
from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.client import ServiceClient
from usbbridge.ipc.monitoring import REQUESTS, VERSION, Hello, Listed, Plugged, Welcome

OBJECTS = {"subscribe": "Status", "status": "Status", "vm-check": "VmStatus"}
OBJECTS |= {"attach": "DeviceStatus", "detach": "DeviceStatus"}
NAME = "1-2 0781:5567 SanDisk Cruzer Blade"


class ScriptedMonitor(threading.Thread):
    """Tells one control of one flash drive, and answers nothing."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._listener.bind(str(path))
        self._listener.listen()

    def run(self) -> None:
        connection, _ = self._listener.accept()
        self._listener.close()
        channel = MessageChannel(connection, REQUESTS)
        while (received := channel.receive()) is not None:
            if isinstance(received[0], Hello):
                for answer in (Welcome(VERSION), Plugged(stick()), Listed()):
                    channel.send(answer)
        channel.close()


CONTROL = (
    "import asyncio; from usbbridge.config import load; from usbbridge.control import main;"
    "asyncio.run(main._serve(load(), lambda: print('ready', flush=True)))"
)
"Control as whoever runs the tests: as root, `run` would become another user, who may not read the tests' files."


@pytest.fixture
def control(paths: Paths, tmp_path: Path) -> Iterator[None]:
    """Control with a flash drive, and a VM that is switched off."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with paths.config.open("a") as file:
        file.write(f'choices = "{tmp_path}/choices.json"\n')
        file.write(f'[vm.desk]\ntarget = "spice://127.0.0.1:{port}"\n')
    monitor = ScriptedMonitor(paths.monitor_socket)
    monitor.start()
    with subprocess.Popen([sys.executable, "-c", CONTROL], stdout=-1, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with ServiceClient.connect(load().paths) as client:
            if not client.call("subscribe")["devices"]:
                assert any(name == "device" for name, _ in client.events())
        yield
        process.terminate()
    monitor.join()
    assert process.returncode == 0


@pytest.mark.usefixtures("control")
def test_a_device_is_listed_attached_watched_detached_and_forgotten(run: Run) -> None:
    assert run(["list"])[1].splitlines()[1].split()[-1] == "local"
    code, out, err = run(["attach", "cruzer"])
    assert (code, err) == (0, "")
    assert out.splitlines()[-1 if out.endswith("desk") else 0].startswith(f"{NAME}: waiting for desk")
    (listed,) = json.loads(run(["list", "--json"])[1])
    assert (listed["state"], listed["vm"], listed["remembered"]) == ("waiting", "desk", True)
    assert "-> desk" in run(["status"])[1]
    assert run(["detach", "1-2", "--keep"])[0] == 0
    assert run(["forget", "cruzer"])[1].startswith("forgotten: 0781:5567 SanDisk Cruzer Blade")
    assert json.loads(run(["status", "--json"])[1])["choices"] == []


@pytest.mark.usefixtures("control")
def test_errors_have_their_exit_statuses(run: Run) -> None:
    assert run(["attach", "9-9"])[0] == 4
    assert run(["attach", "1-2", "--vm", "nope"])[0] in (2, 4)
    assert run(["detach", "9-9"])[0] == 4
    assert run(["vm", "check"])[0] == 4
    assert run(["attach", "1-2", "--vm", "gopher://x"])[0] == 2


@pytest.mark.usefixtures("control")
def test_a_vm_that_is_added_is_known_at_once(run: Run) -> None:
    assert run(["vm", "add", "lab", "tcp://127.0.0.1:1"])[1].endswith("the service has read it\n")
    assert [vm["name"] for vm in json.loads(run(["vm", "--json"])[1])] == ["desk", "lab"]
    assert run(["vm", "remove", "lab"])[0] == 0
    assert [vm["name"] for vm in json.loads(run(["vm", "--json"])[1])] == ["desk"]


@pytest.mark.usefixtures("control")
def test_every_line_is_as_the_schema_says(paths: Paths) -> None:
    requests = [
        {"id": 1, "method": "subscribe"},
        {"id": "two", "method": "attach", "params": {"device": "1-2"}},
        {"id": 3, "method": "vm-check", "params": {"vm": "desk"}},
        {"id": 4, "method": "detach", "params": {"device": "1-2"}},
        {"id": 5, "method": "nonsense"},
        {"id": 6, "method": "attach", "params": {"device": "9-9"}},
        {"id": 7, "method": "status", "params": {"stats": True}},
    ]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(load().paths.control_socket))
        with connection.makefile("rw") as lines:
            check_text("Greeting", lines.readline())
            for request in requests:
                lines.write(json.dumps(request) + "\n")
                lines.flush()
                answer: dict[str, object] = {}
                while answer.get("id") != request["id"]:
                    answer = json.loads(lines.readline())
                    check("Line", answer)
                if request["method"] in OBJECTS and "result" in answer:
                    check(OBJECTS[str(request["method"])], answer["result"])
