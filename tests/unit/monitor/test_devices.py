"""What clients are told of devices: at first, and as things happen."""

from pathlib import Path

import pytest

from tests.unit.monitor.fake_sysfs import HUB_DEVICE, FakeSysfs
from tests.unit.monitor.rig import RULES, Rig
from tests.unit.monitor.test_hid import SECURITY_KEY
from usbbridge.compat.rule import Verdict
from usbbridge.ipc.monitoring import VERSION, Gone, Hello, Listed, Plugged, Reload, Returned, Welcome
from usbbridge.monitor.clients import MAX_BACKLOG
from usbbridge.usb.entry import Reason

DEVICE = bytes.fromhex("12010002000000406b1d0401010601020301")


def configuration(*triples: str) -> bytes:
    """A configuration with an interface of each class."""
    interfaces = b"".join(bytes((9, 4, n, 0, 0)) + bytes.fromhex(t) + b"\0" for n, t in enumerate(triples))
    return bytes((9, 2, 9 + len(interfaces), 0, len(triples), 1, 0, 0x80, 50)) + interfaces


def test_a_client_is_told_what_is_there_and_then_that_this_was_all(sysfs: FakeSysfs, rig: Rig) -> None:
    sysfs.stick()
    rig.happen("add", "1-2")
    client = rig.client()
    client.until(lambda: client.at("1-2"))
    first = rig.client()
    assert first.heard[0] == Welcome(VERSION)
    assert [type(message) for message in first.heard] == [Welcome, Plugged, Plugged, Listed]
    assert first.at("1-2").id == "1-2#2"
    assert (first.at("1-2").verdict, first.at("1-2").entry.obstacle) == (Verdict.ALLOW, None)


def test_a_device_that_is_plugged_in_is_told_of(sysfs: FakeSysfs, rig: Rig) -> None:
    client = rig.client()
    sysfs.stick()
    (sysfs.root / f"sys/{HUB_DEVICE}/1-2/descriptors").write_bytes(DEVICE)
    rig.happen("bind", "1-2:1.0")
    client.until(lambda: client.at("1-2"))
    assert bytes.fromhex(client.at("1-2").descriptors) == DEVICE


def test_a_device_that_is_unplugged_is_gone(sysfs: FakeSysfs, rig: Rig) -> None:
    sysfs.stick()
    rig.happen("add", "1-2")
    client = rig.client()
    client.until(lambda: client.at("1-2"))
    sysfs.unplug("1-2")
    rig.happen("remove", "1-2")
    client.until(lambda: Gone("1-2#2") in client.heard)


def test_another_device_in_the_same_port_is_another(sysfs: FakeSysfs, rig: Rig) -> None:
    sysfs.stick()
    rig.happen("add", "1-2")
    client = rig.client()
    client.until(lambda: client.at("1-2"))
    sysfs.unplug("1-2")
    sysfs.device("1-2", "1234:5678")
    rig.happen("remove", "1-2")
    client.until(lambda: "1-2#3" in client.devices)
    assert [type(m) for m in client.heard[-2:]] == [Gone, Plugged]


def test_what_has_not_changed_is_not_told_again(sysfs: FakeSysfs, rig: Rig) -> None:
    sysfs.stick()
    rig.happen("add", "1-2")
    client = rig.client()
    client.until(lambda: client.at("1-2"))
    rig.happen("change", "1-2")
    sysfs.device("1-4", "1234:5678")
    rig.happen("add", "1-4")
    client.until(lambda: client.at("1-4"))
    assert len([m for m in client.all(Plugged) if m.device.entry.bus_port == "1-2"]) == 1


def test_lost_events_mean_that_everything_is_looked_at(sysfs: FakeSysfs, rig: Rig) -> None:
    sysfs.stick()
    rig.happen("add", "1-2")
    client = rig.client()
    client.until(lambda: client.at("1-2"))
    sysfs.unplug("1-2")
    sysfs.device("1-4", "1234:5678")
    rig.source.happen(None)
    client.until(lambda: client.at("1-4"))
    assert client.at("1-2") is None


@pytest.mark.parametrize("are_lost", [False, True])
def test_a_device_is_not_told_of_before_all_its_interfaces_are_there(
    sysfs: FakeSysfs, rig: Rig, are_lost: bool
) -> None:
    """Also not if everything is looked at because events were lost."""
    client = rig.client()
    sysfs.device("1-2", "1234:5678", bNumInterfaces=" 2")
    sysfs.interface("1-2", 0, "08/06/50")
    sysfs.device("1-4", "1234:5678")
    if are_lost:
        rig.source.happen(None)
    else:
        rig.happen("add", "1-2")
        rig.happen("add", "1-4")
    client.until(lambda: client.at("1-4"))
    assert client.at("1-2") is None
    sysfs.interface("1-2", 1, "03/01/01")
    rig.happen("add", "1-2:1.1")
    client.until(lambda: client.at("1-2"))
    assert client.at("1-2").verdict is Verdict.DENY


def test_an_unconfigured_device_is_told_of_after_a_while_and_judged_by_all_it_could_be(
    sysfs: FakeSysfs, rig: Rig
) -> None:
    client = rig.client()
    sysfs.device("1-2", "1234:5678", bConfigurationValue="")
    (sysfs.root / f"sys/{HUB_DEVICE}/1-2/descriptors").write_bytes(DEVICE + configuration("080650", "030101"))
    rig.happen("add", "1-2")
    client.until(lambda: client.at("1-2"))
    assert client.at("1-2").entry.configuration is None
    assert client.at("1-2").verdict is Verdict.DENY


def test_a_mount_is_an_obstacle_and_its_end_the_end_of_it(sysfs: FakeSysfs, rig: Rig) -> None:
    sysfs.stick()
    rig.happen("add", "1-2")
    client = rig.client()
    client.until(lambda: client.at("1-2"))
    before = (sysfs.root / "proc/self/mountinfo").read_text()
    sysfs.mount("8:1", "/media/stick", "/dev/sda1")
    rig.happen("change", "dm-0", "block")  # any event of a block device: the fake's mountinfo announces nothing
    client.until(lambda: client.at("1-2").entry.obstacle)
    assert client.at("1-2").entry.obstacle.message.endswith("sda1 is mounted at /media/stick")
    sysfs.write("proc/self/mountinfo", before)
    rig.happen("change", "dm-0", "block")
    client.until(lambda: client.at("1-2").entry.obstacle is None)


def test_a_device_of_another_program_is_looked_at_until_it_is_free(
    sysfs: FakeSysfs, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usbbridge.monitor.main.CLAIM_SECONDS", 0.01)
    sysfs.stick()
    sysfs.driver("1-2", "usbfs")
    rig.happen("add", "1-2")
    client = rig.client()
    client.until(lambda: client.at("1-2"))
    assert client.at("1-2").entry.obstacle.reason is Reason.IN_USE
    sysfs.driver("1-2", "")
    client.until(lambda: client.at("1-2").entry.obstacle is None)


def test_usages_are_remembered_when_the_hid_driver_has_gone(sysfs: FakeSysfs, rig: Rig) -> None:
    client = rig.client()
    sysfs.device("1-2", "1050:0407")
    sysfs.interface("1-2", 0, "03/00/00", "usbhid")
    sysfs.report_descriptor("1-2", SECURITY_KEY)
    rig.happen("bind", "1-2:1.0")
    client.until(lambda: client.at("1-2"))
    assert client.at("1-2").entry.interfaces[0].usages == (0xF1D0_0001,)
    sysfs.driver("1-2", "usbfs")
    rig.happen("unbind", "1-2:1.0")
    client.until(lambda: client.at("1-2").entry.drivers == ("usbfs",))
    assert client.at("1-2").entry.interfaces[0].usages == (0xF1D0_0001,)


def test_new_rules_are_noticed_and_told(sysfs: FakeSysfs, rig: Rig) -> None:
    sysfs.stick()
    rig.happen("add", "1-2")
    client = rig.client()
    client.until(lambda: client.at("1-2"))
    (rig.rules / "10-test.toml").write_text(RULES.replace('"allow"', '"deny"'))
    client.channel.send(Reload())
    client.until(lambda: client.at("1-2").verdict is Verdict.DENY)


def test_rules_with_a_mistake_leave_the_old_ones_in_force(
    sysfs: FakeSysfs, rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    sysfs.stick()
    rig.happen("add", "1-2")
    client = rig.client()
    (rig.rules / "10-test.toml").write_text("[[rule")
    client.channel.send(Reload())
    rig.until(lambda: "the rules stay as they were" in capsys.readouterr().err)
    assert rig.client().at("1-2").verdict is Verdict.ALLOW


def test_a_client_that_does_not_read_is_disconnected_and_others_are_not(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    deaf, reader = rig.client(), rig.client()
    long = Returned("1-2#2" + "x" * 60_000)
    for _ in range(2 * MAX_BACKLOG // 60_000):
        rig.monitor.server.tell([long])
        reader.hear()
    assert "it does not read" in capsys.readouterr().err
    deaf.until(lambda: deaf.ended)
    assert not reader.ended


def test_clients_are_bounded(rig: Rig) -> None:
    served = [rig.client() for _ in range(8)]
    one_more = rig.stranger()
    one_more.until(lambda: one_more.ended)
    assert not any(client.ended for client in served)


@pytest.mark.parametrize("greeting", [Hello(VERSION + 1), Reload()])
def test_who_does_not_begin_as_is_proper_is_disconnected(rig: Rig, greeting: Hello | Reload) -> None:
    client = rig.stranger()
    client.channel.send(greeting)
    client.until(lambda: client.ended)
    assert client.all(Plugged) == []


def test_a_monitor_with_nothing_to_do_waits_without_an_end(sysfs: FakeSysfs, rig: Rig) -> None:
    sysfs.stick()
    rig.happen("add", "1-2")
    client = rig.client()
    client.until(lambda: client.at("1-2"))
    _, lease = client.open("1-2#2")
    assert rig.loop._timeout() is None
    lease.close()


def test_everything_is_closed_in_the_end(sysfs: FakeSysfs, tmp_path: Path) -> None:
    sysfs.stick()
    before = sorted(Path("/proc/self/fd").iterdir())
    rig = Rig(sysfs, tmp_path / "another")
    client = rig.client()
    _, lease = client.open("1-2#2")
    lease.close()
    rig.close()
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_device_that_goes_by_several_ids_is_told_of_with_the_others(sysfs: FakeSysfs, rig: Rig) -> None:
    sysfs.stick()
    rig.happen("add", "1-2")
    client = rig.client()
    client.until(lambda: client.at("1-2"))
    table = '[[identity]]\nname = "stick"\nids = ["0781:5567", "0781:0001", "18d1:d00d"]\n'
    (rig.rules / "20-ids.toml").write_text(table)
    client.channel.send(Reload())
    client.until(lambda: client.at("1-2").faces)
    assert client.at("1-2").faces == ("0781:0001", "18d1:d00d")
