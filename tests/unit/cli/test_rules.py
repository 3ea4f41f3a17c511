"""`usbbridge rules`: what it prints, what it changes, and how it ends."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.monitor.fake_sysfs import FakeSysfs
from tests.unit.usb.samples import FLASH_DRIVE, FLASH_DRIVE_DEVICE
from usbbridge.compat.source import shipped_rules
from usbbridge.compat.store import Store
from usbbridge.config import Paths
from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.monitoring import REQUESTS, VERSION, Hello, Listed, Reload, Welcome


@pytest.fixture
def database(paths: object, tmp_path: Path) -> list[str]:
    """Options that name a database of this test; no service of this machine is asked."""
    return ["--database", str(tmp_path / "compat.db")]


def json_of(run: Run, *arguments: str) -> Any:
    status, out, err = run(["rules", *arguments, "--json"])
    assert (status, err) == (0, "")
    return json.loads(out)


# ---- list


def test_the_list_is_shown_in_its_order_with_what_each_rule_does(run: Run, database: list[str]) -> None:
    assert run(["rules", "add", "id=0781:*", "verdict=connect", "note=our sticks", *database])[0] == 0
    status, out, err = run(["rules", "list", *database])
    assert (status, err) == (0, "")
    headings, first, second, *_ = out.splitlines()
    assert headings.split() == ["RULE", "VERDICT", "IF", "NOTE"]
    assert first.split() == ["local:1", "connect", "id=0781:*", "our", "sticks"]
    assert second.startswith("30-never.toml:")


def test_local_rules_can_be_shown_alone(run: Run, database: list[str]) -> None:
    assert run(["rules", "list", "--local", *database]) == (
        0,
        "",
        "No local rules: `usbbridge rules add` makes them.\n",
    )
    run(["rules", "add", "id=0781:*,0951:*", "verdict=deny", "quirks=delay", *database])
    assert json_of(run, "list", "--local", *database) == [
        {"rule": "local:1", "id": ["0781:*", "0951:*"], "verdict": "deny", "quirks": ["delay"]}
    ]


def test_lists_are_lists_in_json_also_with_one_value(run: Run, database: list[str]) -> None:
    hub, *_ = json_of(run, "list", *database)
    assert hub["class"] == ["09"]
    assert {"rule", "class", "verdict", "note", "source"} == set(hub)


# ---- explain


def test_a_device_of_this_machine_is_explained(run: Run, sysfs: FakeSysfs, database: list[str]) -> None:
    status, out, err = run(["rules", "explain", "1-3", "--root", str(sysfs.root), *database])
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "1-3 046d:c31c Logitech [red]Keys[/red]: deny"
    assert lines[1].startswith("  because interface 0 (keyboard, 03/01/01) is denied by 60-input.toml:3: ")
    assert lines[2].startswith("  besides, interface 1 (HID, 03/00/00) follows the others, by 60-input.toml:")
    assert lines[3].startswith("  the rule's source: HID 1.11")


@pytest.mark.parametrize("selector", [["0781:5567"], ["cruzer"], ["--serial", "4C530001"]])
def test_a_device_is_named_as_everywhere(run: Run, sysfs: FakeSysfs, database: list[str], selector: list[str]) -> None:
    assert json_of(run, "explain", *selector, "--root", str(sysfs.root), *database)["bus_port"] == "1-2"


def test_a_device_that_is_not_there_is_status_4_and_an_ambiguous_one_2(
    run: Run, sysfs: FakeSysfs, database: list[str]
) -> None:
    assert run(["rules", "explain", "9-9", "--root", str(sysfs.root), *database])[0] == 4
    assert run(["rules", "explain", "--root", str(sysfs.root), *database])[0] == 2


@pytest.mark.parametrize("form", ["binary", "hexadecimal"])
def test_saved_descriptors_are_explained(run: Run, tmp_path: Path, database: list[str], form: str) -> None:
    data = FLASH_DRIVE_DEVICE + FLASH_DRIVE
    file = tmp_path / "stick"
    file.write_bytes(data if form == "binary" else data.hex(" ", 2).encode() + b"\n")
    found = json_of(run, "explain", "--descriptors", str(file), *database)
    assert (found["id"], found["verdict"], found["interface"]) == ("0781:5567", "allow", 0)
    assert found["passes"][0]["class"] == "08/06/50"
    assert found["passes"][0]["rule"]["verdict"] == "allow"


def test_what_are_no_descriptors_is_status_2_and_says_how_to_save_them(
    run: Run, tmp_path: Path, database: list[str]
) -> None:
    (tmp_path / "x").write_text("lsusb -v")
    status, _, err = run(["rules", "explain", "--descriptors", str(tmp_path / "x"), *database])
    assert status == 2
    assert "no USB descriptors" in err
    assert "/descriptors > FILE" in err


def test_what_was_learned_of_the_model_is_shown(run: Run, sysfs: FakeSysfs, database: list[str]) -> None:
    with Store.open(Path(database[1]), [shipped_rules()], clock=lambda: 86400.0) as store:
        store.record(0x0781, 0x5567, 0x0100, "attached")
        store.record(0x0781, 0x5567, 0x0100, "failed", "DeviceError", "it did not answer", resets=4, seconds=7200.0)
        store.record(0x0951, 0x1666, 0x0100, "attached")
    _, out, _ = run(["rules", "explain", "1-2", "--root", str(sysfs.root), *database])
    assert "learned of release 0100: attached 1 times, failed 1, 2.0 hours in all, reset 4 times (2.0 an hour)" in out
    assert "failed: it did not answer" in out
    found = json_of(run, "explain", "1-2", "--root", str(sysfs.root), *database)
    assert [model["failed"] for model in found["models"]] == [1]
    assert found["outcomes"][0]["vendor"] == "0781"


# ---- test


def test_a_made_up_device_is_judged(run: Run, database: list[str]) -> None:
    headset = ["test", "046d:0a44", "01/01/00", "01/02/00", "03/00/00"]
    assert json_of(run, *headset, *database)["verdict"] == "allow"
    key = json_of(run, "test", "1209:beee", "03/00/00@f1d0:0001", *database)
    assert (key["verdict"], key["passes"][0]["class"]) == ("allow", "03/00/00")
    assert json_of(run, "test", "1:2", "--device-class", "09/00/01", *database)["verdict"] == "deny"


def test_an_expectation_that_is_not_met_is_status_1(run: Run, database: list[str]) -> None:
    assert run(["rules", "test", "0781:5567", "08/06/50", "--expect", "allow", *database])[0] == 0
    status, _, err = run(["rules", "test", "0781:5567", "08/06/50", "--expect", "deny", *database])
    assert (status, err) == (1, "usbbridge: the verdict is allow, not deny\n")


def test_rules_can_be_tried_before_they_are_installed(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "10-mine.toml"
    conditions = ('id = "0781:*"', 'bcd-device = "0200"', 'serial = "A*"', 'port = "1-*"', 'speed = "super"')
    file.write_text("\n".join(("[[rule]]", *conditions, 'verdict = "connect"')))
    right = ["--bcd-device", "0200", "--serial", "A1", "--port", "1-2", "--speed", "super"]
    found = json_of(run, "test", "0781:1", "08/06/50", *right, "--rules", str(file))
    assert (found["verdict"], found["rule"]) == ("connect", "10-mine.toml:1")
    assert json_of(run, "test", "0781:1", "08/06/50", "--rules", str(file))["verdict"] == "ask"


@pytest.mark.parametrize(
    "arguments",
    [
        ["test"],
        ["test", "0781"],
        ["test", "0781:*", "08/06/50"],
        ["test", "0781:1", "08"],
        ["test", "0781:1", "08/06/50@f1d0"],
        ["test", "0781:1", "--speed", "warp"],
        ["test", "0781:1", "--bcd-device", "0100-"],
        ["test", "0781:1", "--expect", "maybe"],
        ["test", "0781:1", "--rules", "/nonexistent"],
        ["add"],
        ["add", "verdict"],
        ["add", "verdict=permit"],
        ["add", "class=08"],
        ["add", "verdict=deny", "verdict=allow"],
        ["remove"],
        ["remove", "50-x.toml:3"],
        ["remove", "9" * 30],
        ["export"],
        ["export", "--format", "xen"],
        ["import", "--format", "qemu", "nonsense"],
        ["explain", "1-2", "--descriptors", "/dev/null"],
        ["list", "more"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_status_2(run: Run, database: list[str], arguments: list[str]) -> None:
    status, out, err = run(["rules", *arguments])
    assert (status, out) == (2, "")
    assert err


# ---- check


def test_mistakes_in_files_are_told_and_are_status_1(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "50-x.toml"
    file.write_text('[[rule]]\nclass = "8"\nverdict = "deny"\n[[rule]]\nverdict = "deny"\n[[rule]]\nverdict = "deny"\n')
    status, out, err = run(["rules", "check", str(file)])
    assert (status, out) == (1, "2 rules, 2 problems\n")
    assert err.splitlines()[0].startswith(f"{file}:2: class: '8': a class is")
    assert err.splitlines()[1] == f"{file}:6: there twice, the same: 50-x.toml:4 comes first (warning)"
    _, out, _ = run(["rules", "check", "--json", str(tmp_path)])
    assert [(p["line"], p["fatal"]) for p in json.loads(out)["problems"]] == [(2, True), (6, False)]


def test_the_installed_rules_are_checked_if_none_are_named(run: Run, paths: object) -> None:
    status, out, err = run(["rules", "check"])
    assert (status, err) == (0, "")
    assert out.endswith(" rules, 0 problems\n")


# ---- add, remove


def test_a_rule_that_is_added_decides_and_can_be_removed(run: Run, database: list[str]) -> None:
    status, out, err = run(["rules", "add", "id=0781:5567", "class=08", "verdict=deny", *database])
    assert (status, out, err) == (0, "local:1: id=0781:5567 class=08 -> deny\n", "")
    assert json_of(run, "test", "0781:5567", "08/06/50", *database)["rule"] == "local:1"
    assert run(["rules", "remove", "local:1", *database])[1] == "removed local:1: id=0781:5567 class=08 -> deny\n"
    assert json_of(run, "test", "0781:5567", "08/06/50", *database)["verdict"] == "allow"


def test_removing_a_rule_that_is_not_there_is_status_4(run: Run, database: list[str]) -> None:
    status, _, err = run(["rules", "remove", "7", *database])
    assert status == 4
    assert "there is no local rule 7" in err


def test_a_rule_that_would_never_be_reached_is_status_5_and_can_be_put_first(run: Run, database: list[str]) -> None:
    run(["rules", "add", "id=0781:*", "verdict=deny", *database])
    status, _, err = run(["rules", "add", "id=0781:5567", "verdict=allow", *database])
    assert status == 5
    assert "never reached: local:1" in err
    assert "--first" in err
    added = json_of(run, "add", "--first", "id=0781:5567", "verdict=allow", *database)
    assert added["rule"] == "local:2"
    assert [rule["rule"] for rule in json_of(run, "list", "--local", *database)] == ["local:2", "local:1"]


def test_a_mistake_in_a_rule_is_explained(run: Run, database: list[str]) -> None:
    status, _, err = run(["rules", "add", "clas=08", "verdict=alow", *database])
    assert status == 2
    assert "clas: there is no such key; did you mean class?" in err
    assert "did you mean allow?" in err


def test_the_running_monitor_is_told_to_judge_anew(run: Run, database: list[str], paths: Paths) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(paths.monitor_socket))
        listener.listen()
        heard: list[object] = []

        def monitor() -> None:
            sock, _ = listener.accept()
            with sock:
                channel = MessageChannel(sock, REQUESTS)
                heard.append(channel.receive())
                channel.send(Welcome(VERSION))
                channel.send(Listed())
                heard.extend(iter(channel.receive, None))

        thread = threading.Thread(target=monitor)
        thread.start()
        assert run(["rules", "add", "verdict=deny", *database])[::2] == (0, "")
        thread.join()
    assert heard == [(Hello(VERSION), ()), (Reload(), ())]


def test_a_monitor_that_does_not_want_to_hear_it_is_told_of(run: Run, database: list[str], paths: Paths) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(paths.monitor_socket))
        listener.listen()
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        status, _, err = run(["rules", "add", "verdict=deny", *database])
        thread.join()
    assert status == 0
    assert "judged anew when they are used" in err


# ---- export, import


def test_the_list_is_exported_with_warnings_on_the_other_stream(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "10-mine.toml"
    file.write_text('[[rule]]\nclass = "08"\nverdict = "deny"\n[[rule]]\nport = "1-2"\nverdict = "deny"\n')
    places = ["--rules", str(file)]
    status, out, err = run(["rules", "export", "--format", "qemu", "--ask", "deny", *places])
    assert (status, out) == (0, "0x08:-1:-1:-1:0|-1:-1:-1:-1:0\n")
    assert err.startswith("warning: 10-mine.toml:4: ")
    found = json_of(run, "export", "--format", "usbredir", *places)
    assert found["filter"] == "0x08,-1,-1,-1,0|-1,-1,-1,-1,1"
    assert len(found["warnings"]) == 1


def test_a_filter_is_imported_once(run: Run, database: list[str]) -> None:
    filtered = ["rules", "import", "--format", "usbredir", "0x08,-1,-1,-1,0", *database]
    status, out, err = run(filtered)
    assert (status, out) == (0, "2 rules added, from local:1 on\n")
    assert "warning: the filter refuses what none of its rules is about" in err
    assert run(filtered)[1] == "0 rules added\n"
    assert json_of(run, "test", "0781:5567", "08/06/50", *database)["verdict"] == "deny"


def test_an_import_can_be_looked_at_first_and_its_rules_kept_in_a_file(
    run: Run, database: list[str], tmp_path: Path
) -> None:
    (tmp_path / "filter").write_text("0x08:-1:-1:-1:0\n")
    arguments = ["--format", "qemu", str(tmp_path / "filter"), "--otherwise", "allow", "--print"]
    status, out, err = run(["rules", "import", *arguments, *database])
    assert (status, err) == (0, "")
    (tmp_path / "10-imported.toml").write_text(out)
    assert run(["rules", "check", str(tmp_path / "10-imported.toml")])[1] == "3 rules, 0 problems\n"
    assert run(["rules", "list", "--local", *database])[1] == ""


# ---- as a whole


def test_explaining_loads_nothing_heavy() -> None:
    code = (
        "import sys; from usbbridge.cli.main import main;"
        "main(['rules', 'test', '0781:5567', '08/06/50', '--rules', sys.argv[1]]);"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    environment = os.environ | {"USBBRIDGE_MODE": "user"}
    command = [sys.executable, "-c", code, shipped_rules()]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded.isdisjoint({"asyncio", "rich", "construct", "cryptography", "lz4", "usb1", "xml", "ssl"})


@pytest.mark.parametrize("verb", ["list", "explain", "test", "check", "add", "remove", "export", "import"])
def test_every_verb_has_help(run: Run, verb: str) -> None:
    status, out, _ = run(["rules", verb, "--help"])
    assert status == 0
    assert len(out.splitlines()) >= 6
    assert max(map(len, out.splitlines())) <= 80
