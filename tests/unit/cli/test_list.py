"""What `usbbridge list` prints."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.unit.cli.conftest import Run
from tests.unit.monitor.fake_sysfs import FakeSysfs


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


def test_a_terminal_gets_a_table_with_the_reason_below_the_name(sysfs: FakeSysfs) -> None:
    ours, theirs = pty.openpty()
    code = "import sys; from usbbridge.cli.main import main; sys.exit(main())"
    subprocess.run(
        [sys.executable, "-c", code, "list", "--root", str(sysfs.root)],
        stdout=theirs,
        check=True,
        env=os.environ | {"TERM": "dumb"},
    )
    os.close(theirs)
    lines = [line.rstrip() for line in os.read(ours, 65536).decode().splitlines()]
    os.close(ours)
    assert lines == [
        "BUS-PORT  ID         CLASS          DRIVER       NAME",
        "1-2       0781:5567  storage        usb-storage  SanDisk Cruzer Blade",
        "                                                 is in use: sda1 is mounted at",
        "                                                 /media/stick",
        "1-3       046d:c31c  keyboard, HID  usbhid       Logitech [red]Keys[/red]",
    ]
