"""`usbbridge watch`: what it tells of what it hears, and how it gets over a restart of the service."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.service import DESK, REMEMBERED, FakeService, device, status, stick
from tests.unit.cli.conftest import Run
from usbbridge.cli import watch
from usbbridge.cli.watch import JsonLines, Lines, LiveTable, Picture
from usbbridge.config import Paths
from usbbridge.errors import NotPermittedError
from usbbridge.ipc.api import SessionState, State
from usbbridge.ipc.codec import to_json
from usbbridge.usb.entry import Obstacle, Reason

NAME = "1-2 0781:5567 SanDisk Cruzer Blade"
OTHER = stick("1-3", devnum=3, name="Other")
CONNECTED = replace(DESK, state=SessionState.CONNECTED, channels=2, used=1)
HUB = stick("1-1", devnum=9, obstacle=Obstacle(Reason.HUB, "is a hub"))

EVENTS: list[tuple[str, object, str]] = [
    ("device", device(State.ATTACHED), f"{NAME}: attached to desk"),
    ("device", device(State.ATTACHED, to_vm=7), ""),
    ("device", device(plugged=OTHER), "1-3 0781:5567 Other: local"),
    ("device", device(plugged=HUB), ""),
    ("vm", CONNECTED, "VM desk: connected, 1 of 2 channels in use"),
    ("vm", CONNECTED, ""),
    ("device-gone", {"id": "1-3#3"}, "1-3 0781:5567 Other: unplugged"),
    ("device-gone", {"id": "9-9#9"}, ""),
    ("choices", (REMEMBERED,), "remembered: 0781:5567 SanDisk Cruzer Blade (serial number 4C530001) -> desk"),
    ("choices", (), "remembered: nothing"),
    ("monitor", {"connected": False}, "the monitor is not connected: no device can be attached"),
    ("monitor", {"connected": True}, "the monitor is connected"),
    ("weather", {"sun": True}, ""),
]
"Events in their order, and the line that each is worth."


class Enough(BaseException):
    """The test has heard what it wanted."""


class Told:
    """A display that calls `then` with each thing it is told."""

    def __init__(self, then: Callable[[str, Any], None]) -> None:
        self.begin = lambda status: then("begin", status)
        self.event = then
        self.lost = lambda: then("lost", None)
        self.back = lambda: then("back", None)
        self.close = lambda: None


def test_each_event_is_a_line_if_anything_has_changed() -> None:
    picture = Picture()
    picture.begin(status(device()))
    assert [picture.apply(name, to_json(data)) for name, data, _ in EVENTS] == [line for _, _, line in EVENTS]
    assert list(picture.devices) == ["1-2#2"]


def test_pipes_get_what_is_there_and_then_what_changes(capsys: pytest.CaptureFixture[str]) -> None:
    display = Lines()
    display.begin(to_json(status(device(), monitor=False)))
    display.event("device", to_json(device(State.ATTACHED)))
    display.event("weather", None)
    display.lost()
    display.back()
    display.close()
    lines = capsys.readouterr().out.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    assert [line[9:] for line in lines] == [
        "VM desk: not connected, as nothing needs it",
        f"{NAME}: local",
        "the monitor is not connected: no device can be attached",
        f"{NAME}: attached to desk",
        "the service has ended; waiting for it to come back",
        "the service is back",
    ]


def test_json_lines_are_the_services_own_events(capsys: pytest.CaptureFixture[str]) -> None:
    display = JsonLines()
    display.begin(to_json(status(device())))
    display.event("device-gone", {"id": "1-2#2"})
    display.event("weather", {"sun": True})
    display.lost()
    display.back()
    display.close()
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"event": "status", "data": to_json(status(device()))},
        {"event": "device-gone", "data": {"id": "1-2#2"}},
        {"event": "weather", "data": {"sun": True}},
        {"event": "service", "data": {"connected": False}},
        {"event": "service", "data": {"connected": True}},
    ]


def test_a_terminal_shows_a_table_and_is_left_as_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    display = LiveTable()
    display.begin(to_json(status(device(), device(plugged=stick("1-10", devnum=5, name="[red]Keys")))))
    display.event("device", to_json(device(State.ATTACHED)))
    display.event("monitor", {"connected": False})
    display.lost()
    display.back()
    display.begin(to_json(status()))
    display.close()
    out = capsys.readouterr().out
    words = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out)
    assert re.search(r"^1-10 +0781:5567 +\[red\]Keys +local$", words, re.MULTILINE)
    assert "SanDisk Cruzer Blade  attached to desk" in words
    assert "the monitor is not connected" in words
    assert "waiting for it to come back" in words
    assert "desk  spice://vmhost:5900  not connected" in words
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l"), "the cursor is back"


def test_a_service_that_is_restarted_is_found_again(
    service: FakeService, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[FakeService] = []

    def meanwhile(seconds: float) -> None:
        """In the place of a sleep."""
        started.append(FakeService(paths.control_socket))
        started[0].serve(status(device(plugged=OTHER)))

    def then(name: str, data: Any) -> None:
        heard.append(name)
        if name == "begin" and len(heard) == 1:
            service.subscribers.get().tell("monitor", {"connected": True})
        elif name == "monitor":
            service.stop()
        elif name == "begin":
            assert data == to_json(status(device(plugged=OTHER)))
            raise Enough

    heard: list[str] = []
    monkeypatch.setattr(watch.time, "sleep", meanwhile)
    service.answers["subscribe"] = lambda params, peer: service.subscribers.put(peer) or status()
    with pytest.raises(Enough):
        watch.follow(Told(then))
    assert heard == ["begin", "monitor", "lost", "back", "begin"]
    started[0].stop()


def test_without_a_service_it_does_not_begin(run: Run, paths: Paths) -> None:
    code, out, err = run(["watch"])
    assert (code, out) == (4, "")
    assert "not running" in err


def test_whoever_may_not_see_it_is_told(run: Run, service: FakeService) -> None:
    service.answers["subscribe"] = NotPermittedError("not for you")
    assert run(["watch", "--json"]) == (3, "", "usbbridge: not for you\n")


@pytest.mark.parametrize("arguments", [["1-2"], ["--once"]])
def test_wrong_usage_is_status_2(run: Run, arguments: list[str]) -> None:
    assert run(["watch", *arguments])[:2] == (2, "")


def test_a_line_is_there_at_once_and_ctrl_c_ends_it_well(service: FakeService) -> None:
    service.serve(status(device()))
    code = (
        "import sys; from usbbridge.config import Paths; from usbbridge.cli.main import main;"
        "Paths.client_sockets = lambda self: [self.control_socket]; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "watch"]
    with subprocess.Popen(command, env=os.environ, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().endswith("VM desk: not connected, as nothing needs it\n")
        assert process.stdout.readline().endswith(f"{NAME}: local\n")
        service.subscribers.get().tell("device", device(State.ATTACHED))
        assert process.stdout.readline().endswith(f"{NAME}: attached to desk\n")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (0, "", "")


def test_it_ends_with_whoever_read_it_though_nothing_happens(service: FakeService) -> None:
    service.serve(status(device()))
    code = (
        "import sys; from usbbridge.config import Paths; from usbbridge.cli.main import main;"
        "Paths.client_sockets = lambda self: [self.control_socket]; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "watch", "--json"]
    with subprocess.Popen(command, env=os.environ, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["event"] == "status"
        service.subscribers.get()
        process.stdout.close()
        try:
            assert process.wait(20) == 1
        finally:
            process.kill()
        assert process.stderr.read() == ""
