"""What control sends when it is no longer control's program that sends it, and what local users and devices may try."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.monitor.fake_sysfs import FakeSysfs
from tests.unit.monitor.rig import RULES, Client, Rig
from tests.unit.monitor.test_opening import STICK, refused, unmount_by, unmounted
from usbbridge.compat.rule import Verdict
from usbbridge.config import Config, MonitorConfig
from usbbridge.ipc.codec import MAX_MESSAGE
from usbbridge.ipc.monitoring import Adopt, Opened, Outcome
from usbbridge.monitor import main
from usbbridge.monitor.blockuse import BlockUse, Mount
from usbbridge.monitor.unmount import MAX_REASONS, Unmounting


@pytest.fixture
def client(sysfs: FakeSysfs, rig: Rig) -> Client:
    """A client, and a stick is there."""
    sysfs.stick()
    rig.source.happen(None)
    made = rig.client()
    made.until(lambda: made.at("1-2"))
    return made


# ---- by control


@pytest.mark.parametrize("device", ["x" * (MAX_MESSAGE - 200), "é" * (MAX_MESSAGE // 4)])
def test_a_name_that_fills_a_message_is_answered_and_not_repeated(client: Client, device: str) -> None:
    data = f'{{"kind":"open","request":1,"device":"{device}","asked":true}}'.encode()
    assert len(data) <= MAX_MESSAGE
    lease, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    socket.send_fds(client.sock, [data], [theirs.fileno()])
    client.until(lambda: any(message.kind == "refused" for message in client.heard))
    assert len(client.heard[-1].message) < 200
    lease.close()
    theirs.close()


FORGED = "1-2\n<1>usbbridge monitor: forged\x1b[2J"


def test_what_a_client_says_makes_no_lines_of_the_log(
    client: Client, rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(client, FORGED)
    holder, monitors = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.channel.send(Adopt(FORGED), monitors.fileno())
    monitors.close()
    rig.until(lambda: ended(holder))
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "forged" in line]
    assert all(line.startswith("usbbridge monitor: ") and line.isprintable() for line in lines)
    holder.close()


def ended(sock: socket.socket) -> bool:
    """Whether the other end is closed."""
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False


def test_an_outcome_in_no_encoding_is_remembered_all_the_same(client: Client, rig: Rig) -> None:
    client.channel.send(Outcome(STICK, "failed", "Odd\ud800", "half a character: \udfff"))
    rig.until(lambda: rig.store.outcomes())
    (outcome,) = rig.store.outcomes()
    assert (outcome.error, outcome.message) == ("Odd?", "half a character: ?")


@pytest.mark.parametrize("place", ["/", "/boot/efi", "/usr", "/home", "/run/live/medium"])
@pytest.mark.parametrize("option", ["force", "unmount"])
def test_a_disk_that_this_machine_runs_from_is_not_to_be_had_by_any_means(
    client: Client, sysfs: FakeSysfs, rig: Rig, place: str, option: str
) -> None:
    """Whoever may write to it is root after the next start."""
    sysfs.mount("8:1", place, "/dev/sda1")
    rig.monitor.opener._unmount_commands = lambda mount: pytest.fail(str(mount))
    answer = refused(client, STICK, **{option: True})
    assert f"sda1 is mounted at {place}" in answer.message
    assert "this machine" in answer.hint


def test_a_disk_that_is_swapped_to_is_not_taken_by_force(client: Client, sysfs: FakeSysfs) -> None:
    sysfs.append("proc/swaps", "/dev/sda1                               partition\t1048572\t\t0\t\t-2")
    assert "swapoff" in refused(client, STICK, force=True).hint


def test_what_was_allowed_before_it_was_unmounted_is_judged_again_afterwards(
    client: Client, sysfs: FakeSysfs, rig: Rig, tmp_path: Path
) -> None:
    sysfs.mount("8:1", "/media/stick", "/dev/sda1")
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    unmount_by(rig, f"open({str(gate)!r}).read(); {unmounted(sysfs)}")
    lease = client.ask(STICK, unmount=True)
    rig.until(lambda: STICK in rig.monitor.opener._openings)
    (rig.rules / "10-test.toml").write_text(RULES.replace('"allow"', '"deny"'))
    rig.monitor.reload()
    client.until(lambda: client.at("1-2").verdict is Verdict.DENY)
    gate.write_text("")
    client.until(lambda: client.ended or any(message.kind in ("opened", "refused") for message in client.heard))
    assert client.fds == []
    assert not client.all(Opened)
    assert not rig.monitor.leases.is_out(STICK)
    lease.close()


def test_one_unmounting_of_a_device_runs_at_a_time_however_often_it_is_asked_for(
    client: Client, sysfs: FakeSysfs, rig: Rig, tmp_path: Path
) -> None:
    sysfs.mount("8:1", "/media/stick", "/dev/sda1")
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    unmount_by(rig, f"open({str(gate)!r}).read(); {unmounted(sysfs)}")
    lease = client.ask(STICK, unmount=True)
    rig.until(lambda: STICK in rig.monitor.opener._openings)
    watched = len(rig.loop._watched)
    client.close()
    rig.until(lambda: not rig.monitor.opener._openings)
    other = rig.client()
    assert "is being unmounted" in refused(other, STICK, unmount=True).message
    assert len(rig.loop._watched) == watched, "the same process, and one client for another"
    gate.write_text("")
    rig.until(lambda: len(rig.loop._watched) == watched - 1)
    answer, again = other.open(STICK, unmount=True)
    assert isinstance(answer, Opened)
    lease.close()
    again.close()


# ---- by local users


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_a_mount_point_with_what_some_take_for_a_line_end_is_a_mount_point(sysfs: FakeSysfs, character: str) -> None:
    """A stick's label may say so, and udisks2 mounts it at a place of that name."""
    sysfs.stick()
    sysfs.mount("8:1", f"/media/a{character}b", "/dev/sda1")
    folder = sysfs.root / "sys/bus/usb/devices/1-2"
    assert BlockUse(sysfs.root).of(folder.resolve()) == ["sda1 is mounted at /media/a b"]


def test_lines_of_the_kernels_tables_that_are_none_are_passed_over(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    for line in ("", "90 21", "90 21 8:1 / /x rw", "90 21 8:1 / /x rw - ext4"):
        sysfs.append("proc/self/mountinfo", line)
    sysfs.mount("8:1", "/media/x", "/dev/sda1")
    folder = sysfs.root / "sys/bus/usb/devices/1-2"
    assert BlockUse(sysfs.root).of(folder.resolve()) == ["sda1 is mounted at /media/x"]


def test_reasons_for_not_being_unmounted_are_bounded_and_clean(sysfs: FakeSysfs, rig: Rig) -> None:
    sysfs.stick()
    sysfs.mount("8:1", "/media/x", "/dev/sda1")
    answers: list[str] = []
    code = "import sys; sys.exit('\\x1b[2J' + sys.argv[1] + chr(0x2028) * 200)"

    def ways(mount: Mount) -> list[list[str]]:
        return [["/usr/bin/env", "python3", "-c", code, str(number)] for number in range(MAX_REASONS + 2)]

    folder = (sysfs.root / "sys/bus/usb/devices/1-2").resolve()
    Unmounting(rig.loop, sysfs.root, folder, answers.append, ways).begin()
    rig.until(lambda: answers)
    assert answers[0].isprintable()
    assert answers[0].count(";") == MAX_REASONS - 1


# ---- by devices


def test_a_hid_interface_is_not_judged_before_its_driver_had_time_to_read_what_it_is_for(
    sysfs: FakeSysfs, rig: Rig
) -> None:
    client = rig.client()
    sysfs.device("1-5", "1111:2222", product="Both")
    sysfs.interface("1-5", 0, "03/00/00")
    sysfs.interface("1-5", 1, "08/06/50", "usb-storage")
    rig.happen("add", "1-5")
    rig.until(lambda: rig.monitor.table.is_pending("1-5"))
    client.hear()
    assert client.at("1-5") is None
    sysfs.driver("1-5", "usbhid")
    rig.happen("bind", "1-5:1.0")
    client.until(lambda: client.at("1-5"))
    assert client.at("1-5").entry.drivers == ("usbhid", "usb-storage")


def test_a_hid_interface_that_no_driver_wants_is_told_of_after_a_while(sysfs: FakeSysfs, rig: Rig) -> None:
    client = rig.client()
    sysfs.device("1-5", "1111:2222", product="Both")
    sysfs.interface("1-5", 0, "03/00/00")
    rig.happen("add", "1-5")
    client.until(lambda: client.at("1-5"))


def test_what_a_device_was_for_is_not_believed_of_the_next_one_with_its_number(sysfs: FakeSysfs, rig: Rig) -> None:
    """Device numbers come round again after 127, and events may be lost."""
    client = rig.client()
    sysfs.device("1-5", "1111:2222")
    sysfs.interface("1-5", 0, "03/00/00", "usbhid")
    sysfs.report_descriptor("1-5", bytes.fromhex("06d0f10901a101c0"))
    rig.happen("add", "1-5")
    client.until(lambda: client.at("1-5"))
    assert client.at("1-5").entry.interfaces[0].usages == (0xF1D00001,)
    sysfs.write("sys/bus/usb/devices/1-5/idProduct", "3333")
    sysfs.driver("1-5", "")
    rig.source.happen(None)
    client.until(lambda: client.at("1-5").entry.product == 0x3333)
    assert client.at("1-5").entry.interfaces[0].usages == ()


# ---- by what is damaged, and what changes


def test_rules_are_read_again_although_the_database_was_removed(client: Client, rig: Rig) -> None:
    for file in rig.folder.glob("compat.db*"):
        file.unlink()
    (rig.rules / "10-test.toml").write_text(RULES.replace('"allow"', '"deny"'))
    rig.monitor.reload()
    client.until(lambda: client.at("1-2").verdict is Verdict.DENY)


def test_a_folder_of_rules_that_comes_later_is_read_when_the_rules_are_read_again(rig: Rig, tmp_path: Path) -> None:
    folder = tmp_path / "rules.d"
    config = Config(monitor=MonitorConfig(rules=(folder,)), paths=replace(rig.paths, database=tmp_path / "later.db"))
    with main._open_store(config) as store:
        folder.mkdir()
        (folder / "10-ours.toml").write_text('[[rule]]\nid = "0001:0002"\nverdict = "deny"\n')
        assert store.reload()
        assert store.rules.rules[0].where == "10-ours.toml:1"


def test_every_notice_is_said_however_many_there_were(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(120):
        rig.store._database.notice(f"notice {number};")
        rig.monitor._say_notices()
    rig.monitor._say_notices()
    said = [line for line in capsys.readouterr().err.splitlines() if "notice" in line]
    assert len(said) == 120
