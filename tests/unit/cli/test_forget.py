"""`usbbridge forget`."""

import json
from dataclasses import replace

import pytest

from tests.fakes.service import REMEMBERED, FakeService, status
from tests.unit.cli.conftest import Run
from usbbridge.config import Paths
from usbbridge.errors import NotFoundError, NotPermittedError, UsbBridgeError
from usbbridge.ipc.codec import to_json

BY_PORT = replace(REMEMBERED, serial="", port="1-4", name="Other")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["1-4"], {"device": "1-4", "serial": "", "all": False}),
        (["--serial", "4C53"], {"device": "", "serial": "4C53", "all": False}),
        (["--all"], {"device": "", "serial": "", "all": True}),
    ],
)
def test_what_is_asked_of_the_service(
    run: Run, service: FakeService, arguments: list[str], wanted: dict[str, object]
) -> None:
    service.serve(status(choices=(REMEMBERED,)))
    service.answers["forget"] = ()
    assert run(["forget", *arguments])[0] == 0
    assert service.asked[-1] == ("forget", wanted)


@pytest.mark.parametrize("arguments", [[], ["--all", "1-2"], ["--all", "--serial", "1"], ["1-2", "1-3"], ["--keep"]])
def test_wrong_usage_is_status_2(run: Run, service: FakeService, arguments: list[str]) -> None:
    code, out, _ = run(["forget", *arguments])
    assert (code, out) == (2, "")
    assert service.asked == []


def test_what_is_forgotten_is_said(run: Run, service: FakeService) -> None:
    service.serve(status(choices=(REMEMBERED, BY_PORT)))
    service.answers["forget"] = (REMEMBERED,)
    assert run(["forget", "1-4"]) == (0, "forgotten: 0781:5567 Other (in port 1-4) -> desk\n", "")
    service.answers["forget"] = (BY_PORT,)
    _, out, _ = run(["forget", "cruzer"])
    assert out == "forgotten: 0781:5567 SanDisk Cruzer Blade (serial number 4C530001) -> desk\n"


def test_nothing_to_forget_is_said(run: Run, service: FakeService) -> None:
    service.serve(status())
    service.answers["forget"] = ()
    assert run(["forget", "--all"]) == (0, "", "Nothing of it was remembered.\n")


def test_json_is_what_is_left(run: Run, service: FakeService) -> None:
    service.serve(status(choices=(REMEMBERED, BY_PORT)))
    service.answers["forget"] = (BY_PORT,)
    code, out, _ = run(["forget", "--json", "cruzer"])
    assert (code, json.loads(out)) == (0, [to_json(BY_PORT)])


@pytest.mark.parametrize("error", [NotFoundError("nothing", hint="look"), NotPermittedError("no", hint="ask")])
def test_each_error_has_its_exit_status(run: Run, service: FakeService, error: UsbBridgeError) -> None:
    service.serve(status())
    service.answers["forget"] = error
    assert run(["forget", "x"]) == (error.exit_status, "", f"usbbridge: {error.message}\n  {error.hint}\n")


def test_a_service_that_does_not_run_is_status_4(run: Run, paths: Paths) -> None:
    assert run(["forget", "--all"])[0] == 4
