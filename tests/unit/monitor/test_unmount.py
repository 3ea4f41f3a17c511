"""Unmounting: who is asked, in which order, and for how long."""

import os
import sys
from pathlib import Path

import pytest

from tests.unit.monitor.fake_sysfs import HUB_DEVICE, FakeSysfs
from usbbridge.monitor import unmount
from usbbridge.monitor.blockuse import BlockUse, Disk, Mount
from usbbridge.monitor.loop import Loop
from usbbridge.monitor.unmount import Unmounting, commands, mount_unit


@pytest.mark.parametrize(
    ("place", "unit"),
    [
        ("/", "-.mount"),
        ("/media/user/STICK", "media-user-STICK.mount"),
        ("/media//user/", "media-user.mount"),
        ("/media/my stick", "media-my\\x20stick.mount"),
        ("/media/a-b_c.d:e", "media-a\\x2db_c.d:e.mount"),
        ("/.hidden/.x", "\\x2ehidden-.x.mount"),
        ("/é", "\\xc3\\xa9.mount"),
    ],
)
def test_a_mount_point_has_the_unit_that_systemd_escape_says(place: str, unit: str) -> None:
    assert mount_unit(place) == unit


def installed(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).touch(mode=0o755)
    return str(folder)


def test_udisks_is_asked_first_and_umount_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmount, "SEARCH", installed(tmp_path, "udisksctl", "umount"))
    udisks, *_, last = commands(Mount("sda1", "/media/x"))
    assert udisks == [f"{tmp_path}/udisksctl", "unmount", "--no-user-interaction", "--block-device", "/dev/sda1"]
    assert last == [f"{tmp_path}/umount", "--", "/media/x"]


class Rig:
    """A stick that is mounted, and commands that are Python."""

    def __init__(self, sysfs: FakeSysfs) -> None:
        sysfs.stick()
        self.root = sysfs.root
        self.folder = sysfs.root / f"sys/{HUB_DEVICE}/1-2"
        self.table = sysfs.root / "proc/self/mountinfo"
        sysfs.mount("8:1", "/media/x", "/dev/sda1")
        sysfs.mount("8:1", "/media/x/deeper", "/dev/sda1")
        self.asked: list[Mount] = []
        self.loop = Loop()

    def unmount(self, *codes: str, seconds: float = 60.0) -> str:
        """Why it did not work; "" if it did. Each of `codes` is a way to unmount, with the mount point as argument."""
        answers: list[str] = []

        def ways(mount: Mount) -> list[list[str]]:
            self.asked.append(mount)
            return [[sys.executable, "-c", f"TABLE = {str(self.table)!r}\n{code}", mount.place] for code in codes]

        Unmounting(self.loop, self.root, self.folder, answers.append, ways, seconds).begin()
        while not answers:
            self.loop.turn()
        assert len(answers) == 1
        return answers[0]


REMOVE = """
import pathlib, sys
lines = pathlib.Path(TABLE).read_text().splitlines(keepends=True)
pathlib.Path(TABLE).write_text("".join(l for l in lines if f" {sys.argv[1]} " not in l))
"""
FAIL = "import sys; sys.exit('busy')"


@pytest.fixture
def rig(sysfs: FakeSysfs) -> Rig:
    return Rig(sysfs)


def test_what_is_mounted_deepest_is_unmounted_first(rig: Rig) -> None:
    assert rig.unmount(REMOVE) == ""
    assert [mount.place for mount in rig.asked] == ["/media/x/deeper", "/media/x"]


def test_the_next_way_is_tried_where_one_fails(rig: Rig) -> None:
    assert rig.unmount(FAIL, "pass", REMOVE) == ""


def test_the_last_words_of_each_way_are_the_reason(rig: Rig) -> None:
    denied = "import sys; sys.exit('some words\\nnot permitted\\n')"
    assert rig.unmount(FAIL, denied, FAIL) == "sda1 can't be unmounted: busy; not permitted"


def test_a_command_that_is_not_there_is_the_reason_too(rig: Rig) -> None:
    answers: list[str] = []
    ways = lambda mount: [["/no/such/umount"]]  # noqa: E731
    Unmounting(rig.loop, rig.root, rig.folder, answers.append, ways).begin()
    assert answers == ["sda1 can't be unmounted: /no/such/umount: No such file or directory"]


def test_a_command_that_takes_too_long_is_not_waited_for_and_not_broken_off(rig: Rig, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    assert "still being unmounted" in rig.unmount(f"open({str(gate)!r}).read()\n{REMOVE}", seconds=0.0)
    gate.write_text("")
    while rig.loop._watched:
        rig.loop.turn()
    assert "deeper" not in rig.table.read_text()


def test_the_disks_of_a_device_are_whole_ones(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    use, folder = BlockUse(sysfs.root), sysfs.root / f"sys/{HUB_DEVICE}/1-2"
    assert use.disks(folder) == [Disk("sda", "8:0")]
    assert use.mounts(folder) == []


def test_what_is_stacked_on_a_partition_is_found_too(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    sysfs.stack("dm-0", "253:0", "sda1", mapped="luks")
    sysfs.mount("253:0", "/media/secret", "/dev/mapper/luks")
    assert BlockUse(sysfs.root).mounts(sysfs.root / f"sys/{HUB_DEVICE}/1-2") == [Mount("dm-0", "/media/secret")]
