"""`usbbridge detach`."""

import json

import pytest

from tests.fakes.service import FakeService, device, status, stick
from tests.unit.cli.conftest import Run
from usbbridge.config import Paths
from usbbridge.errors import NotFoundError, NotPermittedError, RefusedError, UsageError, UsbBridgeError
from usbbridge.ipc.api import State
from usbbridge.ipc.codec import to_json

NAME = "1-2 0781:5567 SanDisk Cruzer Blade"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["1-2"], {"device": "1-2", "serial": "", "keep": False}),
        (["cruzer", "--keep"], {"device": "cruzer", "serial": "", "keep": True}),
        (["--serial", "4C53"], {"device": "", "serial": "4C53", "keep": False}),
        (["0781:5567", "--serial", "4C53"], {"device": "0781:5567", "serial": "4C53", "keep": False}),
    ],
)
def test_what_is_asked_of_the_service(
    run: Run, service: FakeService, arguments: list[str], wanted: dict[str, object]
) -> None:
    service.answers["detach"] = device()
    assert run(["detach", *arguments]) == (0, f"{NAME} is back\n", "")
    assert service.asked == [("detach", wanted)]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "no device was named"),
        (["--keep"], "no device was named"),
        (["--all", "1-2"], "--all and a device contradict each other"),
        (["--all", "--serial", "1"], "--all and a device contradict each other"),
        (["1-2", "1-3"], "unexpected extra argument"),
        (["--serial"], "requires an argument"),
        (["1-2", "--vm", "desk"], "No such option"),
    ],
)
def test_wrong_usage_is_status_2(run: Run, service: FakeService, arguments: list[str], complaint: str) -> None:
    code, out, err = run(["detach", *arguments])
    assert (code, out) == (2, "")
    assert complaint in err
    assert service.asked == []


def test_a_service_that_does_not_run_is_status_4(run: Run, paths: Paths) -> None:
    code, out, err = run(["detach", "1-2"])
    assert (code, out) == (4, "")
    assert "not running" in err


@pytest.mark.parametrize(
    "error", [UsageError("which?"), NotPermittedError("no"), NotFoundError("none"), UsbBridgeError("broken")]
)
def test_each_error_has_its_exit_status(run: Run, service: FakeService, error: UsbBridgeError) -> None:
    service.answers["detach"] = error
    assert run(["detach", "1-2"]) == (error.exit_status, "", f"usbbridge: {error.message}\n")


def test_what_goes_on_being_remembered_is_said(run: Run, service: FakeService) -> None:
    service.answers["detach"] = device(remembered=True)
    _, out, _ = run(["detach", "1-2", "--keep"])
    assert out == f"{NAME} is back; it is attached again when it is replugged\n"


def test_json_is_an_array_of_devices(run: Run, service: FakeService) -> None:
    service.answers["detach"] = device()
    code, out, _ = run(["detach", "1-2", "--json"])
    assert (code, json.loads(out)) == (0, [to_json(device())])


def test_all_are_those_that_are_away(run: Run, service: FakeService) -> None:
    away = [device(State.ATTACHED), device(State.WAITING, stick("1-4", devnum=4, name="Other"))]
    service.serve(status(*away, device(plugged=stick("1-3", devnum=3))))
    service.answers["detach"] = lambda params, peer: device(plugged=stick(params["device"][:3], name="It"))
    code, out, err = run(["detach", "--all", "--keep"])
    assert (code, out, err) == (0, "1-2 0781:5567 It is back\n1-4 0781:5567 It is back\n", "")
    assert service.asked[1:] == [
        ("detach", {"device": "1-2#2", "keep": True}),
        ("detach", {"device": "1-4#4", "keep": True}),
    ]


def test_all_goes_on_after_an_error_and_ends_with_its_status(run: Run, service: FakeService) -> None:
    service.serve(status(device(State.ATTACHED), device(State.ATTACHED, stick("1-4", devnum=4))))
    service.answers["detach"] = lambda params, peer: RefusedError("no") if params["device"] == "1-2#2" else device()
    assert run(["detach", "--all"]) == (5, f"{NAME} is back\n", "usbbridge: no\n")


def test_all_of_none_is_done(run: Run, service: FakeService) -> None:
    service.serve(status(device()))
    assert run(["detach", "--all"]) == (0, "", "No device is at a VM.\n")
    assert run(["detach", "--all", "--json"]) == (0, "[]\n", "")
