"""What every verb prints with --json is as the schema says (`usbbridge/ipc/schema.json`)."""

import json
import threading
from pathlib import Path

import pytest

from tests.fakes.service import DESK, REMEMBERED, FakeService, Peer, device, status, stick
from tests.unit.cli.conftest import Run
from tests.unit.cli.test_usage import COMMANDS, has_json
from tests.unit.monitor.fake_sysfs import FakeSysfs
from tests.unit.schemas import SCHEMA, check, check_lines, check_text
from usbbridge.capture import pcapng
from usbbridge.cli.demo import Narrator
from usbbridge.cli.demo import as_object as demo_object
from usbbridge.cli.foreground import JsonLines
from usbbridge.cli.watch import JsonLines as WatchLines
from usbbridge.config import Paths
from usbbridge.doctor.finding import as_object as doctor_object
from usbbridge.doctor.finding import ok, warning
from usbbridge.errors import RefusedError, UsbBridgeError
from usbbridge.ipc.api import DeviceStatus, State
from usbbridge.ipc.codec import to_json
from usbbridge.ipc.messages import Ended, Progressed, Stats
from usbbridge.usb.entry import Obstacle, Reason

HUB = stick("usb1", obstacle=Obstacle(Reason.HUB, "a hub", "plug it in elsewhere"))


@pytest.fixture
def busy(service: FakeService) -> FakeService:
    """A service with something in every field."""
    attached = device(State.ATTACHED, channel=1, since=1.5, remembered=True, encoder=7, to_vm=1)
    failed = device(State.FAILED, stick("1-3"), message="no", hint="do", error="RefusedError", status=5, retry_in=1.0)
    service.serve(status(attached, failed, device(plugged=HUB), choices=(REMEMBERED,)))
    service.answers |= {"detach": device(), "forget": (REMEMBERED,), "vm-check": DESK, "attach": attached}
    return service


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["list", "--all"], "list"),
        (["status"], "status"),
        (["detach", "1-2"], "detach"),
        (["detach", "--all"], "detach"),
        (["forget", "1-2"], "forget"),
        (["vm"], "vm"),
        (["vm", "list"], "vm"),
        (["vm", "check"], "vm check"),
        (["config", "check"], "config check"),
        (["config", "show"], "config show"),
    ],
)
def test_one_value(run: Run, busy: FakeService, arguments: list[str], name: str) -> None:
    code, out, _ = run([*arguments, "--json"])
    assert code == 0
    check_text(name, out)


RULES: list[tuple[list[str], str]] = [
    (["list"], "rules list"),
    (["check"], "rules check"),
    (["export", "--format", "qemu"], "rules export"),
    (["export", "--format", "libvirt"], "rules export"),
    (["test", "0781:5567", "08/06/50"], "rules test"),
    (["test", "046d:0a44", "01/01/00", "03/00/00@000c:0001", "--device-class", "ef/02/01"], "rules test"),
    (["test", "dead:beef", "ff/00/00"], "rules test"),
    (["add", "id=0781:*", "class=08,09", "verdict=connect", "quirks=no-reset", "note=mine"], "rules add"),
]


@pytest.mark.parametrize(("arguments", "name"), RULES)
def test_the_compatibility_list(run: Run, paths: Paths, tmp_path: Path, arguments: list[str], name: str) -> None:
    with paths.config.open("a") as file:
        file.write(f'database = "{tmp_path}/compat.db"\n')
    code, out, err = run(["rules", *arguments, "--json"])
    assert (code, err) == (0, "")
    check_text(name, out)


def test_devices_without_a_service(run: Run, sysfs: FakeSysfs) -> None:
    check_text("list", run(["list", "--all", "--json", "--root", str(sysfs.root)])[1])


def test_vms_without_a_service(run: Run, paths: Paths) -> None:
    assert run(["vm", "add", "desk", "spice://h:1"])[0] == 0
    check_text("vm", run(["vm", "--json"])[1])


def test_a_configuration_with_mistakes(run: Run, paths: Paths) -> None:
    paths.config.write_text("nonsense = 1\n")
    code, out, _ = run(["config", "check", "--json"])
    assert code == 2
    check_text("config check", out)
    assert json.loads(out)["problems"]


def test_an_attachment_by_the_service(run: Run, busy: FakeService) -> None:
    def attach(params: object, peer: Peer) -> DeviceStatus:
        peer.tell("device", device(State.OPENING))
        return device(State.ATTACHED, channel=1)

    busy.answers["attach"] = attach
    assert check_lines("attach", run(["attach", "1-2", "--json"])[1]) == 2
    busy.answers["attach"] = RefusedError("no", hint="do")
    assert check_lines("attach", run(["attach", "1-2", "--json"])[1]) == 1


def test_a_capture(run: Run, busy: FakeService, tmp_path: Path) -> None:
    busy.answers["capture"] = device(State.ATTACHED)
    blocks = pcapng.section_header("") + pcapng.interface("", "") + pcapng.packet(1, [b"1"], 1)
    thread = threading.Thread(target=lambda: busy.captures.get().say_bytes(blocks))
    thread.start()
    code, out, _ = run(["capture", "1-2", "-o", str(tmp_path / "x"), "--count", "1", "--json"])
    thread.join()
    assert code == 0
    check_text("capture", out)


def test_an_attachment_in_the_foreground(capsys: pytest.CaptureFixture[str]) -> None:
    display = JsonLines()
    for step in ("linked", "hello", "announced", "attached"):
        display.show(Progressed(step, "1"))
    display.show(Stats(1, 2, 3))
    display.end(Ended(0))
    display.end(Ended(5, "no", "do", "RefusedError"))
    assert check_lines("attach-foreground", capsys.readouterr().out) == 7


def test_what_is_watched(capsys: pytest.CaptureFixture[str]) -> None:
    display = WatchLines()
    display.begin(to_json(status(device())))
    display.event("device", to_json(device()))
    display.lost()
    display.back()
    assert check_lines("watch", capsys.readouterr().out) == 4


def test_what_the_doctor_has_found() -> None:
    check("doctor", doctor_object([ok("libusb", "is there"), warning("udev", "is not", "why", "do", "command")]))


@pytest.mark.parametrize("error", [None, UsbBridgeError("it broke")])
def test_the_demonstration(error: UsbBridgeError | None) -> None:
    narrator = Narrator(quiet=True)
    narrator.step("VM", "listens")
    check("demo", demo_object(narrator, None, error, 1.5))


def test_every_verb_that_has_json_is_in_the_schema() -> None:
    assert {verb for verb, command in COMMANDS.items() if has_json(command)} - {"vm list"} <= SCHEMA["$defs"].keys()
