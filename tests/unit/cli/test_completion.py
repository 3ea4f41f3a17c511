"""What is completed in a shell: quickly, and silently whatever happens."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.service import DESK, REMEMBERED, FakeService, Peer, device, status, stick
from tests.unit.cli.conftest import Run
from tests.unit.monitor.fake_sysfs import FakeSysfs
from usbbridge.cli import completion, dropins
from usbbridge.cli.main import VERBS, usbbridge
from usbbridge.compat.rule import Verdict
from usbbridge.config import Paths
from usbbridge.errors import NotPermittedError
from usbbridge.ipc.api import State, VmStatus
from usbbridge.monitor import inventory
from usbbridge.usb.entry import Obstacle, Reason

SCRIPT = (
    "import sys; from usbbridge.config import Paths; from usbbridge.cli.main import main;"
    "Paths.client_sockets = lambda self: [self.control_socket]; sys.exit(main())"
)
MOUNTED = Obstacle(Reason.IN_USE, "1-5 is in use", "unmount it")


def completed(*words: str) -> list[str]:
    """What is offered for the last of these words."""
    from click.shell_completion import ShellComplete

    class Shell(ShellComplete):
        name = "test"

    *before, last = words
    shell = Shell(usbbridge, {}, "usbbridge", "_USBBRIDGE_COMPLETE")
    return [item.value for item in shell.get_completions(before, last)]


@pytest.fixture
def full(service: FakeService) -> FakeService:
    """A service with devices in every state and two VMs."""
    devices = (
        device(State.ATTACHED),
        device(plugged=stick("1-3", devnum=3, name="Kingston DataTraveler 3.0", serial="K-1")),
        device(plugged=stick("1-4", devnum=4, name="Kingston Traveller", serial="odd serial")),
        device(plugged=stick("1-5", devnum=5, name="Mounted", serial="", obstacle=MOUNTED)),
        device(plugged=stick("1-6", devnum=6, name="Denied", serial="", verdict=Verdict.DENY)),
        device(State.WAITING, stick("2-1", devnum=7, name="Waiting", serial="")),
    )
    service.serve(status(*devices, vms=(DESK, VmStatus("lab", "tcp://h:1")), choices=(REMEMBERED,)))
    return service


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["attach", ""], ["1-3", "1-4", "2-1"]),
        (["capture", ""], ["1-2", "2-1"]),
        (["attach", "1"], ["1-3", "1-4"]),
        (["attach", "07"], ["0781:5567"]),
        (["attach", "data"], ["datatraveler"]),
        (["attach", "DataT"], ["DataTraveler"]),
        (["attach", "king"], []),
        (["attach", "trav"], ["traveller"]),
        (["attach", "zzz"], []),
        (["attach", "--vm", ""], ["desk", "lab"]),
        (["attach", "1-3", "--vm", "d"], ["desk"]),
        (["attach", "--by", "s"], ["serial"]),
        (["attach", "--serial", ""], ["4C530001", "K-1"]),
        (["attach", "--unm"], ["--unmount"]),
        (["detach", ""], ["1-2", "2-1"]),
        (["detach", "--al"], ["--all"]),
        (["detach", "wait"], ["waiting"]),
        (["forget", ""], ["0781:5567"]),
        (["vm", ""], ["add", "check", "list", "remove"]),
        (["vm", "check", "l"], ["lab"]),
        (["vm", "remove", ""], ["desk", "lab"]),
        (["att"], ["attach"]),
        (["completion", "f"], ["fish"]),
    ],
)
def test_what_there_is_is_offered(full: FakeService, words: list[str], expected: list[str]) -> None:
    assert completed(*words) == expected


def test_verbs_are_all_offered() -> None:
    assert completed("") == list(VERBS)


def test_without_a_service_the_system_and_the_configuration_are_asked(
    paths: Paths, sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory.devices, "__defaults__", (sysfs.root,))
    dropins.add("desk", ["spice://h:1"], {}, is_default=False)
    assert completed("attach", "1") == ["1-3"]
    assert completed("attach", "--vm", "") == ["desk"]
    assert completed("detach", "") == []
    assert completed("forget", "") == []


def broken_config(service: FakeService, paths: Paths) -> None:
    paths.config.write_text("[[[")


def hanging(service: FakeService, paths: Paths) -> None:
    service.greeting = b""


def dying(service: FakeService, paths: Paths) -> None:
    def die(params: object, peer: Peer) -> None:
        peer.hang_up()

    service.answers["status"] = die


def lying(service: FakeService, paths: Paths) -> None:
    service.answers["status"] = {"devices": 7}


def refusing(service: FakeService, paths: Paths) -> None:
    service.answers["status"] = NotPermittedError("no")


def babbling(service: FakeService, paths: Paths) -> None:
    service.greeting = b"\xff\n"


@pytest.mark.parametrize("trouble", [broken_config, hanging, dying, lying, refusing, babbling])
@pytest.mark.parametrize("words", ["attach ", "detach ", "forget ", "attach --vm ", "attach --serial ", "vm check "])
def test_whatever_is_wrong_nothing_is_said(
    service: FakeService,
    paths: Paths,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    trouble: object,
    words: str,
) -> None:
    monkeypatch.setattr(completion, "PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(inventory.devices, "__defaults__", (tmp_path,))
    trouble(service, paths)
    assert completed(*words.split(" ")) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("words", ["nope x", "attach --nope x", "vm nope x", "attach 1 2 3 4", "--nope", "list x y z"])
def test_nonsense_before_the_word_is_no_reason_for_an_error(paths: Paths, words: str) -> None:
    asking = {"_USBBRIDGE_COMPLETE": "bash_complete", "COMP_WORDS": f"usbbridge {words}"}
    asking["COMP_CWORD"] = str(words.count(" ") + 1)
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=os.environ | asking, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_the_devices(full: FakeService, shell: str) -> None:
    asking = {"_USBBRIDGE_COMPLETE": f"{shell}_complete", "COMP_WORDS": "usbbridge attach 1-3", "COMP_CWORD": "2"}
    asking["COMP_CWORD"] = "1-3" if shell == "fish" else "2"
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=os.environ | asking, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "1-3" in done.stdout
    assert ("Kingston" in done.stdout) == (shell != "bash"), "bash has no room for what it is"


def test_the_scripts_are_good_shell(run: Run, tmp_path: Path) -> None:
    _, script, _ = run(["completion", "bash"])
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("arguments", [[], ["tcsh"], ["bash", "zsh"]])
def test_wrong_usage_is_status_2(run: Run, arguments: list[str]) -> None:
    assert run(["completion", *arguments])[:2] == (2, "")
