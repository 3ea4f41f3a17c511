"""`usbbridge status`."""

import json

import pytest

from tests.fakes.service import DESK, REMEMBERED, FakeService, device, status, stick
from tests.unit.cli.conftest import Run
from usbbridge.cli.status import as_lines
from usbbridge.config import Paths
from usbbridge.errors import NotPermittedError
from usbbridge.ipc.api import SessionState, State, VmStatus
from usbbridge.ipc.codec import to_json
from usbbridge.usb.entry import Obstacle, Reason

LAB = VmStatus("lab", "tcp://lab:4000", state=SessionState.WAITING, retry_in=3.0, message="no route", hint="is it on?")
NOW = 1000.0


def test_everything_is_told_with_what_to_do(run: Run, service: FakeService) -> None:
    connected = VmStatus("desk", "spice://vmhost:5900", True, SessionState.CONNECTED, channels=2, used=1, queued=1)
    failed = device(State.FAILED, stick("1-3", devnum=3, name="Other"), message="the VM's filter", hint="allow it")
    attached = device(State.ATTACHED, channel=1, since=700.0, to_vm=2_500_000, from_vm=1200)
    everything = status(attached, failed, vms=(connected, LAB), choices=(REMEMBERED,))
    assert list(as_lines(everything, NOW)) == [
        "service  running, version 0.1.0, process 4711",
        "monitor  connected",
        "VMs",
        "  desk  spice://vmhost:5900  default  connected, 1 of 2 channels in use, 1 device waiting for a channel",
        "  lab   tcp://lab:4000                not reachable: no route; again in 3 s",
        "    is it on?",
        "devices",
        "  1-2  0781:5567  SanDisk Cruzer Blade  attached to desk, channel 1, for 5 min, 2.5 MB to the VM, "
        "1.2 kB from it",
        "  1-3  0781:5567  Other                 failed for desk: the VM's filter",
        "    allow it",
        "remembered",
        "  0781:5567 SanDisk Cruzer Blade (serial number 4C530001) -> desk",
    ]
    service.answers["status"] = everything
    code, out, err = run(["status"])
    assert (code, err) == (0, "")
    assert out.startswith("service  running")
    assert service.asked == [("status", {"stats": True})]


def test_a_service_without_anything_says_what_to_do_first() -> None:
    assert list(as_lines(status(vms=()), NOW))[2:] == [
        "VMs",
        "  none is configured",
        "    usbbridge vm add NAME TARGET, for instance: usbbridge vm add desk spice://vmhost:5900",
        "devices",
        "  none is plugged in",
    ]


def test_a_monitor_that_is_gone_is_said_with_what_to_do() -> None:
    lines = list(as_lines(status(monitor=False), NOW))
    assert lines[1].startswith("monitor  not connected: no device can be attached")
    assert "usbbridge-monitor" in lines[2]


def test_a_machine_that_sleeps_is_said() -> None:
    assert "asleep   every device was taken back" in list(as_lines(status(suspended=True), NOW))


def test_a_remembered_device_that_is_mounted_has_the_hint_of_its_obstacle() -> None:
    mounted = Obstacle(Reason.IN_USE, "1-2 is in use", "unmount it")
    assert "    unmount it" in list(as_lines(status(device(plugged=stick(obstacle=mounted), remembered=True)), NOW))
    assert "    unmount it" not in list(as_lines(status(device(plugged=stick(obstacle=mounted))), NOW))


def test_hubs_are_left_out() -> None:
    hub = device(plugged=stick("usb1", obstacle=Obstacle(Reason.HUB, "is a hub")))
    assert list(as_lines(status(hub), NOW))[-1] == "  none is plugged in"


def test_json_is_what_the_service_says(run: Run, service: FakeService) -> None:
    service.serve(status(device(State.ATTACHED), choices=(REMEMBERED,)))
    code, out, _ = run(["status", "--json"])
    assert (code, json.loads(out)) == (0, to_json(status(device(State.ATTACHED), choices=(REMEMBERED,))))


def test_a_service_that_does_not_run_is_status_4_with_a_hint(run: Run, paths: Paths) -> None:
    code, out, err = run(["status"])
    assert (code, out) == (4, "")
    assert "systemctl start" in err


def test_whoever_may_not_see_it_is_told(run: Run, service: FakeService) -> None:
    service.answers["status"] = NotPermittedError("not for you", hint="ask root")
    assert run(["status"]) == (3, "", "usbbridge: not for you\n  ask root\n")


@pytest.mark.parametrize("arguments", [["desk"], ["--all"]])
def test_wrong_usage_is_status_2(run: Run, service: FakeService, arguments: list[str]) -> None:
    assert run(["status", *arguments])[:2] == (2, "")


def test_a_vm_that_was_not_asked_is_no_error() -> None:
    assert "  desk  spice://vmhost:5900  default  not connected, as nothing needs it" in list(
        as_lines(status(vms=(DESK,)), NOW)
    )


def test_why_a_vm_is_not_reachable_is_said_once() -> None:
    waiting = device(State.WAITING, vm="lab", message=LAB.message, hint=LAB.hint, retry_in=3.0)
    lines = list(as_lines(status(waiting, vms=(LAB,)), NOW))
    assert lines[-1] == "  1-2  0781:5567  SanDisk Cruzer Blade  waiting for lab: again in 3 s"
    assert sum(LAB.message in line for line in lines) == 1
