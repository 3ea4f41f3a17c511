"""Commands that free a disk, from what the machine says of its use."""

from pathlib import Path

from tests.unit.monitor.fake_sysfs import FakeSysfs
from usbbridge.doctor.remedies import freeing
from usbbridge.monitor.blockuse import BlockUse


def commands(sysfs: FakeSysfs, uuid: str = "") -> list[str]:
    use, folder = BlockUse(sysfs.root), (sysfs.root / "sys/bus/usb/devices/1-2").resolve()
    return freeing(use.of(folder), [mount.place for mount in use.mounts(folder)], lambda name: uuid)


def test_what_is_mounted_is_unmounted_the_innermost_first(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    sysfs.mount("8:1", "/mnt", "/dev/sda1")
    sysfs.mount("8:1", "/mnt/it's\\040here", "/dev/sda1")
    assert commands(sysfs) == ["umount '/mnt/it'\"'\"'s here'", "umount /mnt"]


def test_swap_is_switched_off(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    sysfs.append("proc/swaps", "/dev/sda1 partition 1024 0 -2")
    assert commands(sysfs) == ["swapoff /dev/sda1"]


def test_what_is_mapped_is_ended_by_who_made_it(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    sysfs.stack("dm-0", "253:0", "sda1", mapped="vault-data")
    assert commands(sysfs, "LVM-abc") == ["lvchange -an /dev/mapper/vault-data"]
    assert commands(sysfs, "CRYPT-LUKS2-abc") == ["cryptsetup close vault-data"]
    assert commands(sysfs, "other") == ["dmsetup remove vault-data"]


def test_raid_and_loop_devices_are_stopped(sysfs: FakeSysfs, tmp_path: Path) -> None:
    sysfs.stick()
    sysfs.stack("md127", "9:127", "sda1")
    sysfs.stack("loop0", "7:0")
    sysfs.write("sys/devices/virtual/block/loop0/loop/backing_file", "/dev/sda")
    assert sorted(commands(sysfs)) == ["losetup -d /dev/loop0", "mdadm --stop /dev/md127"]


def test_for_what_it_does_not_know_it_has_no_command(sysfs: FakeSysfs) -> None:
    assert freeing(["sda1 is part of a mounted btrfs", "sda is in use"], [], lambda name: "") == []
