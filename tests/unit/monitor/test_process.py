"""The monitor as a process: how it begins, what it needs, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

COMMANDS = [["-m", "usbbridge", "monitor"], ["-m", "usbbridge.monitor"]]


class Place:
    """A folder with a configuration of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        lines = [f'{key} = "{folder}/{name}"' for key, name in PATHS.items()]
        (folder / "usbbridge.toml").write_text("\n".join(["[paths]", *lines]))
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notices.bind(str(folder / "notify"))
        self.notices.settimeout(20)

    def environment(self, **more: str) -> dict[str, str]:
        own = {"USBBRIDGE_CONFIG": f"{self.folder}/usbbridge.toml", "USBBRIDGE_MODE": "user", "HOME": str(self.folder)}
        return os.environ | own | {"NOTIFY_SOCKET": str(self.folder / "notify")} | more

    def heard(self, state: str) -> None:
        while self.notices.recv(100).decode() != state:
            pass

    @contextmanager
    def monitor(self, *command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        arguments = [sys.executable, "-P", *(command or COMMANDS[0])]
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=self.environment(**environment))
        with process:
            try:
                yield process
            finally:
                process.kill()


PATHS = {
    "monitor-socket": "run/monitor.sock",
    "control-socket": "run/control.sock",
    "database": "compat.db",
    "choices": "choices.json",
    "handed-out": "run/handed-out.json",
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.notices.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_it_says_when_it_is_ready_and_ends_when_it_is_told(place: Place, command: list[str]) -> None:
    with place.monitor(*command) as process:
        place.heard("READY=1")
        assert (place.folder / "run/monitor.sock").is_socket()
        process.send_signal(signal.SIGTERM)
        place.heard("STOPPING=1")
        assert process.wait() == 0
        assert list((place.folder / "run").iterdir()) == []


def test_it_reads_the_rules_again_when_it_is_told(place: Place) -> None:
    with place.monitor() as process:
        place.heard("READY=1")
        process.send_signal(signal.SIGHUP)
        place.heard("READY=1")


def test_the_watchdog_is_told_that_it_lives(place: Place) -> None:
    with place.monitor(WATCHDOG_USEC="100000"):
        place.heard("READY=1")
        place.heard("WATCHDOG=1")
        place.heard("WATCHDOG=1")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_one_says_that_one_runs(place: Place, command: list[str]) -> None:
    with place.monitor() as process:
        place.heard("READY=1")
        with place.monitor(*command) as second:
            assert second.wait() == 5
            assert second.stderr is not None
            assert "another process serves" in second.stderr.read()
        assert process.poll() is None


def test_neither_asyncio_nor_what_speaks_to_the_network_is_loaded() -> None:
    code = "import sys; import usbbridge.monitor.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    unwanted = {"asyncio", "ssl", "logging", "click", "construct", "cryptography", "lz4", "usb1", "http"}
    assert unwanted & set(done.stdout.split()) == set()
    assert not any(name.startswith(("usbbridge.usbredir", "usbbridge.control")) for name in done.stdout.split())
