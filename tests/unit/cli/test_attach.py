"""`usbbridge attach` by the service: what it is asked for, what is shown, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.fakes.service import FakeService, Peer, device, status, stick
from tests.unit.cli.conftest import Run
from usbbridge.config import Paths
from usbbridge.errors import NotFoundError, NotPermittedError, RefusedError, UsageError, UsbBridgeError
from usbbridge.ipc.api import Attach, DeviceStatus, Remember, State
from usbbridge.ipc.codec import from_json

ATTACHED = device(State.ATTACHED, channel=1)
NAME = "1-2 0781:5567 SanDisk Cruzer Blade"


@pytest.fixture
def asking(service: FakeService) -> FakeService:
    """A service with a flash drive, which it attaches."""
    service.serve(status(device(), device(plugged=stick("1-3", devnum=3, name="Other"))))
    service.answers["attach"] = ATTACHED
    return service


def steps(*devices: DeviceStatus) -> Any:
    """An answer that tells of these before the last of them is the result."""

    def answer(params: object, peer: Peer) -> DeviceStatus:
        for one in devices:
            peer.tell("device", one)
        return devices[-1]

    return answer


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["1-2"], Attach(device="1-2")),
        (["cruzer", "--vm", "desk"], Attach(device="cruzer", vm="desk")),
        (["0781:5567", "--vm", "spice://h:1"], Attach(device="0781:5567", vm="spice://h:1")),
        (["--serial", "4C53"], Attach(serial="4C53")),
        (["cruzer", "--serial", "4C53"], Attach(device="cruzer", serial="4C53")),
        (["1-2", "--once"], Attach(device="1-2", remember=Remember.NO)),
        (["1-2", "--by", "serial"], Attach(device="1-2", remember=Remember.SERIAL)),
        (["1-2", "--by", "port"], Attach(device="1-2", remember=Remember.PORT)),
        (["1-2", "--unmount"], Attach(device="1-2", unmount=True)),
        (["1-2", "--force"], Attach(device="1-2", force=True)),
        (["1-2", "--no-wait"], Attach(device="1-2", wait=False)),
    ],
)
def test_what_is_asked_of_the_service(run: Run, asking: FakeService, arguments: list[str], wanted: Attach) -> None:
    assert run(["attach", *arguments])[0] == 0
    method, params = asking.asked[-1]
    assert method == "attach"
    assert from_json(Attach, params, "attach") == wanted


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "no device was named"),
        (["disk:a.iso"], "no disk images"),
        (["1-2", "--once", "--by", "port"], "--once and --by contradict each other"),
        (["1-2", "--by", "colour"], "'colour' is not one of"),
        (["1-2", "--vm"], "requires an argument"),
        (["1-2", "1-3"], "unexpected extra argument"),
        (["1-2", "--host-subject", "CN=x"], "--host-subject needs --foreground"),
        (["1-2", "--password-file", __file__], "--password-file needs --foreground"),
        (["1-2", "--ca-file", __file__], "--ca-file needs --foreground"),
        (["1-2", "--capture", "x"], "--capture needs --foreground"),
        (["1-2", "--no-compression"], "--no-compression needs --foreground"),
        (["1-2", "--foreground", "--vm", "tcp://h:1", "--once"], "--once can't be used with --foreground"),
        (["1-2", "--foreground", "--vm", "tcp://h:1", "--by", "port"], "--by can't be used with --foreground"),
        (["1-2", "--foreground", "--vm", "tcp://h:1", "--unmount"], "--unmount can't be used with --foreground"),
        (["1-2", "--foreground", "--vm", "tcp://h:1", "--force"], "--force can't be used with --foreground"),
        (["1-2", "--foreground", "--vm", "tcp://h:1", "--no-wait"], "--no-wait can't be used with --foreground"),
    ],
)
def test_wrong_usage_is_status_2_and_asks_nobody(
    run: Run, asking: FakeService, arguments: list[str], complaint: str
) -> None:
    code, out, err = run(["attach", *arguments])
    assert (code, out) == (2, "")
    assert complaint in err
    assert asking.asked == []


def test_without_a_service_it_says_how_to_start_one_or_do_without(run: Run, paths: Paths) -> None:
    code, out, err = run(["attach", "1-2"])
    assert (code, out) == (4, "")
    assert err.startswith("usbbridge: the usbbridge service is not running\n")
    assert "systemctl start" in err
    assert "--foreground" in err


@pytest.mark.parametrize(
    "error",
    [
        UsageError("0781:5567 could be any of 2 devices"),
        NotPermittedError("you may not"),
        NotFoundError("no VM desk"),
        RefusedError("a rule denies it", hint="usbbridge rules explain 1-2"),
        UsbBridgeError("broken"),
    ],
)
def test_each_error_has_its_exit_status_and_hint(run: Run, asking: FakeService, error: UsbBridgeError) -> None:
    asking.answers["attach"] = error
    hint = f"  {error.hint}\n" if error.hint else ""
    assert run(["attach", "1-2"]) == (error.exit_status, "", f"usbbridge: {error.message}\n{hint}")


def test_each_step_is_a_line_and_nothing_is_said_twice(run: Run, asking: FakeService) -> None:
    other = device(State.ATTACHED, plugged=stick("1-3", devnum=3, name="Other"))
    opening, attaching = device(State.OPENING), device(State.ATTACHING)
    asking.answers["attach"] = steps(device(), opening, opening, other, attaching, ATTACHED)
    assert run(["attach", "cruzer"]) == (0, f"{NAME}: attaching to desk\n{NAME}: attached to desk\n", "")


def test_a_device_that_has_to_wait_is_no_error_and_what_to_do_is_said(run: Run, asking: FakeService) -> None:
    asking.answers["attach"] = device(State.WAITING, message="connection refused", retry_in=4.0, hint="start the VM")
    code, out, err = run(["attach", "1-2"])
    assert (code, err) == (0, "")
    assert out == f"{NAME}: waiting for desk: connection refused; again in 4 s\n  start the VM\n"


def test_json_lines_follow_the_device(run: Run, asking: FakeService) -> None:
    asking.answers["attach"] = steps(device(State.OPENING), ATTACHED)
    code, out, _ = run(["attach", "1-2", "--json"])
    assert code == 0
    fields = {"detail": "", "device": "1-2#2", "vm": "desk"}
    assert [json.loads(line) for line in out.splitlines()] == [
        {"event": "opening", **fields, "channel": None},
        {"event": "attached", **fields, "channel": 1},
    ]


def test_json_lines_end_with_the_error(run: Run, asking: FakeService) -> None:
    asking.answers["attach"] = RefusedError("a rule denies it", hint="see the rules")
    code, out, err = run(["attach", "1-2", "--json"])
    assert code == 5
    assert json.loads(out) == {
        "event": "ended",
        "status": 5,
        "error": "RefusedError",
        "message": "a rule denies it",
        "hint": "see the rules",
    }
    assert "a rule denies it" in err


def test_a_name_that_may_mean_several_is_left_to_the_service(run: Run, asking: FakeService) -> None:
    asking.answers["attach"] = steps(device(State.OPENING), ATTACHED)
    assert run(["attach", "0781:5567"]) == (0, f"{NAME}: attached to desk\n", "")


def test_ctrl_c_leaves_it_to_the_service_and_says_so(asking: FakeService, paths: Paths) -> None:
    code = (
        "import sys; from usbbridge.config import Paths; from usbbridge.cli.main import main;"
        "Paths.client_sockets = lambda self: [self.control_socket]; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "attach", "1-2"]
    asking.answers["attach"] = lambda params, peer: peer.tell("device", device(State.OPENING))
    with subprocess.Popen(
        command, env=os.environ | {"PYTHONUNBUFFERED": "1"}, stdout=-1, stderr=-1, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{NAME}: attaching to desk\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err == "usbbridge: the service goes on (attaching to desk); `usbbridge detach 1-2` ends it\n"
