"""What `usbbridge list` prints."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.service import FakeService, Peer, device, status, stick
from tests.unit.cli.conftest import Run
from tests.unit.monitor.fake_sysfs import FakeSysfs
from usbbridge.cli import list as list_verb
from usbbridge.compat.rule import Verdict
from usbbridge.config import Paths
from usbbridge.errors import NotPermittedError
from usbbridge.ipc.api import DeviceStatus, State
from usbbridge.usb.entry import Obstacle, Reason


def test_plain_text_is_aligned_and_gives_the_reason(run: Run, sysfs: FakeSysfs) -> None:
    status, out, err = run(["list", "--root", str(sysfs.root)])
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "BUS-PORT  ID         CLASS          DRIVER       NAME                      ATTACH",
        "1-2       0781:5567  storage        usb-storage  SanDisk Cruzer Blade      "
        "no: is in use: sda1 is mounted at /media/stick",
        "1-3       046d:c31c  keyboard, HID  usbhid       Logitech [red]Keys[/red]  yes",
    ]


def test_root_hubs_are_shown_when_asked_for(run: Run, sysfs: FakeSysfs) -> None:
    _, out, _ = run(["list", "--all", "--root", str(sysfs.root)])
    assert out.splitlines()[1].startswith("usb1      1d6b:0002  hub")
    assert out.splitlines()[1].endswith("no: is a hub")


def test_json_holds_what_the_manual_says(run: Run, sysfs: FakeSysfs) -> None:
    _, out, _ = run(["list", "--json", "--root", str(sysfs.root)])
    stick, keyboard = json.loads(out)
    assert stick == {
        "bus_port": "1-2",
        "bus": 1,
        "device": 2,
        "node": f"{sysfs.root}/dev/bus/usb/001/002",
        "vendor": "0781",
        "product": "5567",
        "version": "0100",
        "class": 0,
        "subclass": 0,
        "protocol": 0,
        "classes": ["storage"],
        "speed": "high",
        "name": "SanDisk Cruzer Blade",
        "manufacturer": "SanDisk",
        "product_name": "Cruzer Blade",
        "serial": "4C530001",
        "configuration": 1,
        "interfaces": [
            {"number": 0, "alternate": 0, "class": 8, "subclass": 6, "protocol": 80, "driver": "usb-storage"},
        ],
        "obstacle": {
            "reason": "in-use",
            "message": "1-2 0781:5567 SanDisk Cruzer Blade is in use: sda1 is mounted at /media/stick",
            "hint": "unmount it (or stop what uses it) first: taking it away now could lose data",
        },
        "state": None,
        "vm": None,
        "message": None,
        "verdict": None,
        "because": None,
        "remembered": None,
    }
    assert keyboard["obstacle"] is None
    assert keyboard["serial"] is None
    assert keyboard.keys() == stick.keys()


def test_every_key_of_the_json_is_in_the_manual(run: Run, sysfs: FakeSysfs) -> None:
    _, out, _ = run(["list", "--json", "--root", str(sysfs.root)])
    manual = (Path(__file__).parents[3] / "usbbridge/man/usbbridge.1").read_text()
    stick = json.loads(out)[0]
    keys = {*stick, *stick["interfaces"][0], *stick["obstacle"]}
    words = manual.partition(".SH JSON OUTPUT")[2].partition(".SS attach")[0].split()
    assert keys <= set(words)


def test_a_machine_without_usb_has_an_empty_list(run: Run, tmp_path: Path) -> None:
    assert run(["list", "--root", str(tmp_path)]) == (0, "", "No USB devices here.\n")
    assert run(["list", "--json", "--root", str(tmp_path)]) == (0, "[]\n", "")


def on_a_terminal(*arguments: str) -> list[str]:
    ours, theirs = pty.openpty()
    code = "import sys; from usbbridge.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "list", *arguments]
    subprocess.run(command, stdout=theirs, check=True, env=os.environ | {"TERM": "dumb", "COLUMNS": "80"})
    os.close(theirs)
    lines = [line.rstrip() for line in os.read(ours, 65536).decode().splitlines()]
    os.close(ours)
    return lines


def test_a_terminal_gets_a_table_with_the_reason_below_the_name(sysfs: FakeSysfs) -> None:
    assert on_a_terminal("--root", str(sysfs.root)) == [
        "BUS-PORT  ID         CLASS          DRIVER       NAME",
        "1-2       0781:5567  storage        usb-storage  SanDisk Cruzer Blade",
        "                                                 is in use: sda1 is mounted at",
        "                                                 /media/stick",
        "1-3       046d:c31c  keyboard, HID  usbhid       Logitech [red]Keys[/red]",
    ]


# ---- with a service

MOUNTED = Obstacle(Reason.IN_USE, "1-3 0781:5567 Stick is in use: sda1 is mounted at /media/stick", "unmount it")
HUB = Obstacle(Reason.HUB, "usb1 0781:5567 Hub is a hub")
AWAY = [
    (device(), "local"),
    (device(plugged=stick("1-3", name="Stick", obstacle=MOUNTED)), "local: is in use: sda1 is mounted at /media/stick"),
    (device(plugged=stick(verdict=Verdict.DENY, because="keyboards stay here")), "denied: keyboards stay here"),
    (device(plugged=stick(verdict=Verdict.DENY, because="")), "denied"),
    (device(State.WAITING, message="no route", retry_in=8.2), "waiting for desk: no route; again in 8 s"),
    (device(State.QUEUED, message="both channels are in use"), "queued for desk: both channels are in use"),
    (device(State.OPENING), "attaching to desk"),
    (device(State.ATTACHING), "attaching to desk"),
    (device(State.ATTACHED, channel=1), "attached to desk"),
    (device(State.DETACHING), "detaching from desk"),
    (device(State.FAILED, message="the VM's filter rejects it"), "failed for desk: the VM's filter rejects it"),
    (device(State.SUSPENDED), "suspended, goes back to desk"),
    (device(State.FAILED, vm=None, message="no VM is configured"), "failed: no VM is configured"),
]


@pytest.mark.parametrize(("shown", "words"), AWAY)
def test_the_service_tells_where_a_device_is(run: Run, service: FakeService, shown: DeviceStatus, words: str) -> None:
    service.serve(status(shown))
    code, out, err = run(["list"])
    assert (code, err) == (0, "")
    heading, row = out.splitlines()
    assert heading.split() == ["BUS-PORT", "ID", "CLASS", "NAME", "STATE"]
    assert row.startswith(f"{shown.device.entry.bus_port}       0781:5567  storage  {shown.device.entry.name}")
    assert row[heading.index("STATE") :] == words


def test_json_from_the_service_has_what_the_system_would_tell_and_more(
    run: Run, service: FakeService, sysfs: FakeSysfs
) -> None:
    service.serve(status(device(State.ATTACHED, channel=1, remembered=True)))
    (told,) = json.loads(run(["list", "--json"])[1])
    (seen, _) = json.loads(run(["list", "--json", "--root", str(sysfs.root)])[1])
    assert told.keys() == seen.keys()
    expected = {"state": "attached", "vm": "desk", "verdict": "allow", "because": "storage", "remembered": True}
    assert told.items() >= expected.items()


def test_root_hubs_of_the_service_are_left_out_too(run: Run, service: FakeService) -> None:
    service.serve(status(device(plugged=stick("usb1", obstacle=HUB, name="Hub"))))
    assert run(["list"]) == (0, "", "No USB devices here.\n")
    assert "local: is a hub" in run(["list", "--all"])[1]


def test_whoever_may_not_ask_the_service_sees_what_the_system_tells(
    run: Run, service: FakeService, sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_verb, "ROOT", sysfs.root)
    service.answers["status"] = NotPermittedError("not for you")
    code, out, err = run(["list"])
    assert (code, err) == (0, "")
    assert out.startswith("BUS-PORT  ID         CLASS          DRIVER")


def test_without_a_service_the_system_is_asked(
    run: Run, paths: Paths, sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_verb, "ROOT", sysfs.root)
    assert run(["list"])[1].startswith("BUS-PORT  ID         CLASS          DRIVER")


def test_a_service_that_ends_is_said_and_the_system_asked(
    run: Run, service: FakeService, sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(params: object, peer: Peer) -> None:
        peer.hang_up()

    monkeypatch.setattr(list_verb, "ROOT", sysfs.root)
    service.answers["status"] = end
    code, out, err = run(["list"])
    assert code == 0
    assert err == "usbbridge: the service has ended; this is what the system says\n"
    assert out.startswith("BUS-PORT")


def test_a_terminal_has_the_state_in_a_column_and_the_reason_below_the_name(service: FakeService) -> None:
    waiting = device(State.WAITING, message="connection refused", retry_in=8.0)
    service.serve(status(waiting, device(plugged=stick("1-3", devnum=3, name="[red]Keys"))))
    assert on_a_terminal() == [
        "BUS-PORT  ID         CLASS    NAME                              STATE",
        "1-2       0781:5567  storage  SanDisk Cruzer Blade              waiting for desk",
        "                              connection refused; again in 8 s",
        "1-3       0781:5567  storage  [red]Keys                         local",
    ]
