"""Who gets a device, who does not, and how it comes back."""

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.unit.monitor.fake_sysfs import FakeSysfs
from tests.unit.monitor.rig import RULES, Client, Rig
from usbbridge.compat.rule import Verdict
from usbbridge.ipc.monitoring import Adopt, Open, Opened, Outcome, Refused, Returned, Synced
from usbbridge.monitor import opening
from usbbridge.monitor.blockuse import Mount

STICK = "1-2#2"


@pytest.fixture
def client(sysfs: FakeSysfs, rig: Rig) -> Client:
    """A client, and a stick and a keyboard are there."""
    sysfs.stick()
    sysfs.keyboard()
    sysfs.device("1-4", "1234:5678", class_="ff", product="Strange")
    rig.source.happen(None)
    made = rig.client()
    made.until(lambda: made.at("1-4"))
    return made


def refused(client: Client, device: str, **options: bool) -> Refused:
    answer, lease = client.open(device, **options)
    assert lease.recv(1) == b"", "the lease was closed"
    lease.close()
    assert isinstance(answer, Refused)
    return answer


def test_the_descriptor_is_that_of_the_node(client: Client, sysfs: FakeSysfs) -> None:
    answer, lease = client.open(STICK)
    assert answer == Opened(1)
    (fd,) = client.fds
    assert os.path.samestat(os.fstat(fd), (sysfs.root / "dev/bus/usb/001/002").stat())
    lease.close()


def test_a_device_that_is_out_is_no_obstacle_to_itself(client: Client, sysfs: FakeSysfs, rig: Rig) -> None:
    _, lease = client.open(STICK)
    sysfs.driver("1-2", "usbfs")
    rig.happen("unbind", "1-2:1.0")
    client.until(lambda: client.at("1-2").entry.drivers == ("usbfs",))
    assert client.at("1-2").entry.obstacle is None
    lease.close()


def test_the_end_of_the_lease_gives_it_back(client: Client, rig: Rig) -> None:
    _, lease = client.open(STICK)
    assert "1-2" in (rig.paths.handed_out).read_text()
    lease.close()
    client.until(lambda: Returned(STICK) in client.heard)
    assert "1-2" not in (rig.paths.handed_out).read_text()


def test_what_a_dying_process_has_still_claimed_is_tried_again(client: Client, sysfs: FakeSysfs, rig: Rig) -> None:
    _, lease = client.open(STICK)
    sysfs.driver("1-2", "usbfs")
    lease.close()
    rig.until(rig.monitor.leases.orphans)
    client.hear()
    assert Returned(STICK) not in client.heard
    sysfs.driver("1-2", "")
    client.until(lambda: Returned(STICK) in client.heard)


def test_the_next_holder_waits_for_the_one_before(client: Client) -> None:
    _, first = client.open(STICK)
    second = client.ask(STICK)
    first.close()
    client.until(lambda: len(client.all(Opened)) == 2)
    assert [type(m) for m in client.heard if isinstance(m, Opened | Returned)] == [Opened, Returned, Opened]
    second.close()


def test_the_next_holder_does_not_wait_for_ever(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "WAIT_SECONDS", 0.01)
    _, first = client.open(STICK)
    answer = refused(client, STICK)
    assert (answer.status, answer.error) == (5, "RefusedError")
    assert "still in use by an earlier attachment" in answer.message
    first.close()


def test_one_request_for_a_device_is_worked_on_at_a_time(client: Client) -> None:
    _, first = client.open(STICK)
    waiting = client.ask(STICK)
    assert "being opened for another request" in refused(client, STICK).message
    waiting.close()
    first.close()


def test_a_client_that_goes_takes_its_request_along(client: Client, rig: Rig) -> None:
    _, first = client.open(STICK)
    other = rig.client()
    waiting = other.ask(STICK)
    rig.until(lambda: STICK in rig.monitor.opener._openings)
    other.close()
    rig.until(lambda: not rig.monitor.opener._openings)
    assert waiting.recv(1) == b""
    waiting.close()
    first.close()


def test_a_denied_device_is_refused_and_the_connection_ends(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    answer = refused(client, "1-3#3", force=True, unmount=True)
    assert answer.status == 5
    assert "the compatibility list denies it: interface 0 (keyboard, 03/01/01)" in answer.message
    client.until(lambda: client.ended)
    assert client.fds == []
    assert f"process {os.getpid()} of user {os.getuid()} was ended: it asked for 1-3 " in capsys.readouterr().err


def test_a_device_to_be_asked_for_is_only_had_by_asking(client: Client) -> None:
    assert client.at("1-4").verdict is Verdict.ASK
    answer, lease = client.open("1-4#4", asked=True)
    assert isinstance(answer, Opened)
    lease.close()
    client.until(lambda: client.all(Returned))
    assert "only be attached by asking for it" in refused(client, "1-4#4", asked=False).message
    client.until(lambda: client.ended)


def test_who_could_not_know_that_a_device_is_denied_by_now_is_only_refused(
    client: Client, rig: Rig, sysfs: FakeSysfs
) -> None:
    (rig.rules / "10-test.toml").write_text(RULES.replace('"allow"', '"deny"'))
    rig.store.reload()
    answer = refused(client, STICK)
    assert "denies it" in answer.message
    client.until(lambda: client.at("1-2").verdict is Verdict.DENY)
    assert not client.ended


def test_a_device_that_is_not_there_is_not_found(client: Client) -> None:
    answer = refused(client, "1-9#9")
    assert (answer.status, answer.error) == (4, "NotFoundError")


def test_a_device_that_has_just_gone_is_not_found(client: Client, sysfs: FakeSysfs) -> None:
    sysfs.unplug("1-2")
    assert refused(client, STICK).status == 4


def test_a_device_of_another_program_is_refused_even_by_force(client: Client, sysfs: FakeSysfs) -> None:
    sysfs.driver("1-2", "usbfs")
    assert "is in use by another program" in refused(client, STICK, force=True).message


def test_a_mounted_device_is_refused_with_the_place_named(client: Client, sysfs: FakeSysfs) -> None:
    sysfs.mount("8:1", "/media/stick", "/dev/sda1")
    answer = refused(client, STICK)
    assert answer.message.endswith("is in use: sda1 is mounted at /media/stick")
    assert "--unmount" in answer.hint
    answer, lease = client.open(STICK, force=True)
    assert isinstance(answer, Opened)
    lease.close()


def unmounted(sysfs: FakeSysfs) -> str:
    """What makes the made-up machine's mounts end."""
    return f"import pathlib; pathlib.Path({str(sysfs.root / 'proc/self/mountinfo')!r}).write_text('')"


def unmount_by(rig: Rig, code: str) -> None:
    """Unmount with a process that runs `code` with the mount point as its argument."""
    rig.monitor.opener._unmount_commands = lambda mount: [[sys.executable, "-c", code, mount.place]]


def test_a_mounted_device_is_unmounted_first_if_that_is_wanted(client: Client, sysfs: FakeSysfs, rig: Rig) -> None:
    sysfs.mount("8:1", "/media/stick", "/dev/sda1")
    unmount_by(rig, unmounted(sysfs))
    answer, lease = client.open(STICK, unmount=True)
    assert isinstance(answer, Opened)
    lease.close()


def test_what_keeps_a_device_from_being_unmounted_is_said(client: Client, sysfs: FakeSysfs, rig: Rig) -> None:
    sysfs.mount("8:1", "/media/stick", "/dev/sda1")
    unmount_by(rig, "import sys; sys.exit('first\\ntarget is busy')")
    answer = refused(client, STICK, unmount=True)
    assert answer.message.endswith("is in use: sda1 can't be unmounted: target is busy")


def test_others_are_served_while_a_device_is_unmounted(
    client: Client, sysfs: FakeSysfs, rig: Rig, tmp_path: Path
) -> None:
    sysfs.mount("8:1", "/media/stick", "/dev/sda1")
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    unmount_by(rig, f"open({str(gate)!r}).read(); {unmounted(sysfs)}")
    lease = client.ask(STICK, unmount=True)
    answer, other = client.open("1-4#4")
    assert isinstance(answer, Opened)
    gate.write_text("")
    client.until(lambda: len(client.all(Opened)) == 2)
    lease.close()
    other.close()


def test_who_goes_while_a_device_is_unmounted_is_not_given_it(
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
    gate.write_text("")
    rig.until(lambda: len(rig.loop._watched) == watched - 2)
    assert not rig.monitor.leases.is_out(STICK)
    lease.close()


def test_a_disk_without_mounts_has_nothing_to_unmount(client: Client, rig: Rig) -> None:
    rig.monitor.opener._unmount_commands = lambda mount: pytest.fail(str(mount))
    answer, lease = client.open(STICK, unmount=True)
    assert isinstance(answer, Opened)
    lease.close()
    assert Mount("sda1", "/x").place == "/x"


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, None])
def test_a_lease_whose_end_could_not_be_noticed_ends_the_connection(client: Client, kind: int | None) -> None:
    if kind is None:
        reader, writer = os.pipe()
    else:
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        reader, writer = one.detach(), other.detach()
    client.channel.send(Open(1, STICK, True), reader)
    client.until(lambda: client.ended)
    os.close(reader)
    os.close(writer)


# ---- through a restart of the monitor


def lease_of(client: Client, device: str) -> tuple[socket.socket, socket.socket]:
    """A device that is handed out: the holder's end and control's copy of the monitor's."""
    holder, monitors = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.channel.send(Open(1, device, True), monitors.fileno())
    client.until(lambda: client.all(Opened))
    return holder, monitors


def restart(rig: Rig) -> Client:
    rig.end()
    rig.begin()
    return rig.client()


def test_a_holder_is_adopted_and_its_end_noticed(client: Client, rig: Rig, sysfs: FakeSysfs) -> None:
    holder, monitors = lease_of(client, STICK)
    sysfs.driver("1-2", "usbfs")
    client = restart(rig)
    assert client.at("1-2").entry.obstacle is None
    client.channel.send(Adopt(STICK), monitors.fileno())
    client.channel.send(Synced())
    monitors.close()
    rig.until(lambda: rig.monitor.leases.is_alive(STICK))
    sysfs.driver("1-2", "")
    holder.close()
    client.until(lambda: Returned(STICK) in client.heard)


def test_adopting_what_this_monitor_has_handed_out_changes_nothing(client: Client, rig: Rig) -> None:
    holder, monitors = lease_of(client, STICK)
    other = rig.client()
    other.channel.send(Adopt(STICK), monitors.fileno())
    other.channel.send(Synced())
    other.channel.send(Adopt(STICK), monitors.fileno())
    monitors.close()
    _, lease = other.open("1-4#4")
    assert Returned(STICK) not in other.heard
    holder.close()
    other.until(lambda: Returned(STICK) in other.heard)
    lease.close()


def test_what_nobody_has_adopted_goes_back(client: Client, rig: Rig) -> None:
    holder, monitors = lease_of(client, STICK)
    client = restart(rig)
    client.channel.send(Synced())
    client.until(lambda: Returned(STICK) in client.heard)
    holder.close()
    monitors.close()


def test_a_device_that_was_not_handed_out_can_not_be_adopted(client: Client, rig: Rig) -> None:
    holder, monitors = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.channel.send(Adopt("1-3#3"), monitors.fileno())
    monitors.close()
    holder.setblocking(True)
    _, lease = client.open(STICK)
    assert holder.recv(1) == b""
    assert not rig.monitor.leases.is_out("1-3#3")
    holder.close()
    lease.close()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version":1,"devices":[1]}', '{"version":9,"devices":[]}'])
def test_a_damaged_list_of_what_was_handed_out_is_taken_for_empty(client: Client, rig: Rig, content: str) -> None:
    holder, monitors = lease_of(client, STICK)
    rig.paths.handed_out.write_text(content)
    client = restart(rig)
    answer, lease = client.open(STICK)
    assert isinstance(answer, Opened)
    for sock in (holder, monitors, lease):
        sock.close()


# ---- outcomes


def test_outcomes_are_remembered_for_the_model_even_when_the_device_has_gone(
    client: Client, rig: Rig, sysfs: FakeSysfs
) -> None:
    sysfs.unplug("1-2")
    rig.happen("remove", "1-2")
    client.until(lambda: client.at("1-2") is None)
    client.channel.send(Outcome(STICK, "ended", "DeviceLostError", "it was unplugged", 2, 3.5))
    rig.until(lambda: rig.store.outcomes())
    (outcome,) = rig.store.outcomes()
    assert (outcome.vendor, outcome.product, outcome.result, outcome.resets) == (0x0781, 0x5567, "ended", 2)


@pytest.mark.parametrize(
    "outcome",
    [Outcome(STICK, "won"), Outcome(STICK, "ended", seconds=float("nan")), Outcome(STICK, "ended", resets=-1)],
)
def test_an_outcome_that_can_not_be_true_ends_the_connection(client: Client, rig: Rig, outcome: Outcome) -> None:
    client.channel.send(outcome)
    client.until(lambda: client.ended)
    assert rig.store.outcomes() == []


def test_nothing_is_written_beside_the_list_of_what_is_out(client: Client, rig: Rig) -> None:
    _, lease = client.open(STICK)
    names = sorted(path.name for path in Path(rig.paths.handed_out).parent.iterdir())
    assert names == ["handed-out.json", "m.sock", "m.sock.lock"]
    lease.close()
