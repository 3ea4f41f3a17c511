"""What is read about devices from sysfs, and why some could not be attached."""

from pathlib import Path

import pytest

from tests.unit.monitor.fake_sysfs import HUB_DEVICE, FakeSysfs
from usbbridge.errors import NotFoundError, NotPermittedError, RefusedError, UsageError
from usbbridge.monitor.blockuse import BlockUse
from usbbridge.monitor.inventory import devices, explained, node_obstacle
from usbbridge.usb.ch9 import Speed
from usbbridge.usb.entry import DeviceEntry, InterfaceEntry, Reason
from usbbridge.usb.selection import find


def only(sysfs: FakeSysfs, bus_port: str = "1-2") -> DeviceEntry:
    (entry,) = [entry for entry in devices(sysfs.root) if entry.bus_port == bus_port]
    return entry


def in_use(sysfs: FakeSysfs) -> str:
    """Why the stick is in use, without its name."""
    obstacle = only(sysfs).obstacle
    assert obstacle is not None
    assert obstacle.reason is Reason.IN_USE
    assert isinstance(obstacle.error(), RefusedError)
    return obstacle.message.partition(" is in use: ")[2]


def test_a_flash_drive_is_read_in_full(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    assert only(sysfs) == DeviceEntry(
        bus_port="1-2",
        busnum=1,
        devnum=2,
        node=sysfs.root / "dev/bus/usb/001/002",
        vendor=0x0781,
        product=0x5567,
        bcd_device=0x0100,
        class_=0,
        subclass=0,
        protocol=0,
        speed=Speed.HIGH,
        manufacturer="SanDisk",
        product_name="Cruzer Blade",
        serial="4C530001",
        configuration=1,
        interfaces=(InterfaceEntry(0, 0, 8, 6, 0x50, "usb-storage"),),
        name="SanDisk Cruzer Blade",
        obstacle=None,
    )
    assert str(only(sysfs)) == "1-2 0781:5567 SanDisk Cruzer Blade"
    assert only(sysfs).classes == ("storage",)


def test_devices_come_in_the_order_of_their_ports(sysfs: FakeSysfs) -> None:
    for place in ("1-10", "1-2.3", "1-2", "1-2.3.1"):
        sysfs.device(place, "1234:5678")
    assert [entry.bus_port for entry in devices(sysfs.root)] == ["usb1", "1-2", "1-2.3", "1-2.3.1", "1-10"]


def test_interfaces_of_a_composite_device_are_its_own(sysfs: FakeSysfs) -> None:
    sysfs.device("1-1", "046d:c31c")
    sysfs.interface("1-1", 1, "03/00/00", "usbhid")
    sysfs.interface("1-1", 0, "03/01/01", "usbhid")
    sysfs.device("1-1.1", "1234:5678", class_="ff")
    sysfs.interface("1-1.1", 10, "ff/00/00", alternate=2)
    keyboard, other = only(sysfs, "1-1"), only(sysfs, "1-1.1")
    assert [interface.number for interface in keyboard.interfaces] == [0, 1]
    assert keyboard.classes == ("keyboard", "HID")
    assert keyboard.drivers == ("usbhid",)
    assert other.interfaces == (InterfaceEntry(10, 2, 0xFF, 0, 0, ""),)
    assert other.classes == ("vendor specific",)


def test_a_machine_without_usb_has_no_devices(tmp_path: Path) -> None:
    assert devices(tmp_path) == []


def test_a_device_that_goes_away_while_being_read_is_left_out(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    (sysfs.root / f"sys/{HUB_DEVICE}/1-2/bcdDevice").unlink()
    assert [entry.bus_port for entry in devices(sysfs.root)] == ["usb1"]


def test_a_device_that_goes_away_while_its_link_is_followed_is_no_failure(
    sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path is looked at first, and then read if it is a link."""
    sysfs.stick()
    entry = only(sysfs)

    def gone(path: object, **_: object) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr("os.readlink", gone)
    assert explained(sysfs.root, entry, BlockUse(sysfs.root)).bus_port == "1-2"


def test_a_devices_words_cannot_upset_a_terminal(sysfs: FakeSysfs) -> None:
    product = "\x1b[31mred\u202edeb\x07\n\u200bx"
    sysfs.device("1-2", "1234:5678", manufacturer="  A \t B ", product=product, serial="a" * 1000)
    entry = only(sysfs)
    assert entry.name == "A B [31mred deb x"
    assert len(entry.serial) == 126


def test_bytes_that_are_no_text_are_replaced(sysfs: FakeSysfs) -> None:
    sysfs.device("1-2", "1234:5678")
    (sysfs.root / f"sys/{HUB_DEVICE}/1-2/product").write_bytes(b"caf\xe9\n")
    assert only(sysfs).name == "caf\ufffd"


SPEEDS = [("1.5", Speed.LOW), ("10000", Speed.SUPER_PLUS), ("53.3-480", Speed.UNKNOWN)]


@pytest.mark.parametrize(("mbps", "speed"), SPEEDS)
def test_speed_is_read_as_linux_writes_it(sysfs: FakeSysfs, mbps: str, speed: Speed) -> None:
    sysfs.device("1-2", "1234:5678", speed=mbps)
    assert only(sysfs).speed is speed


def test_an_unconfigured_device_can_be_attached(sysfs: FakeSysfs) -> None:
    sysfs.device("1-2", "1234:5678", bConfigurationValue="")
    assert only(sysfs).configuration is None
    assert only(sysfs).obstacle is None


def test_a_device_without_strings_is_named_by_the_id_database(sysfs: FakeSysfs) -> None:
    database = ("0780  Other", "0781  SanDisk Corp.", "\t5566  Not it", "\t5567  Cruzer Blade")
    sysfs.write("usr/share/misc/usb.ids", *database)
    sysfs.device("1-2", "0781:5567")
    sysfs.device("1-3", "0781:5567", product="Own Name")
    assert only(sysfs).name == "SanDisk Corp. Cruzer Blade"
    assert only(sysfs, "1-3").name == "Own Name"


def test_hubs_cannot_be_attached(sysfs: FakeSysfs) -> None:
    sysfs.device("1-2", "05e3:0608", class_="09")
    for entry in devices(sysfs.root):
        assert entry.obstacle is not None
        assert entry.obstacle.reason is Reason.HUB
    assert [entry.is_root_hub for entry in devices(sysfs.root)] == [True, False]


def test_a_device_that_the_kernel_has_not_authorized_cannot_be_attached(sysfs: FakeSysfs) -> None:
    sysfs.device("1-2", "1234:5678", authorized="0")
    obstacle = only(sysfs).obstacle
    assert obstacle is not None
    assert obstacle.reason is Reason.NOT_AUTHORIZED


def test_a_missing_node_is_an_obstacle(sysfs: FakeSysfs) -> None:
    sysfs.device("1-2", "1234:5678", node=False)
    obstacle = only(sysfs).obstacle
    assert obstacle is not None
    assert "has no device node" in obstacle.message
    assert isinstance(obstacle.error(), NotFoundError)


def test_a_missing_permission_comes_with_the_udev_rule_that_would_give_it(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    obstacle = node_obstacle(only(sysfs), lambda node: False)
    assert obstacle is not None
    assert 'ATTR{idVendor}=="0781", ATTR{idProduct}=="5567", TAG+="uaccess"' in obstacle.hint
    assert isinstance(obstacle.error(), NotPermittedError)


def test_a_device_claimed_by_a_program_is_in_use(sysfs: FakeSysfs) -> None:
    sysfs.device("1-2", "1234:5678")
    sysfs.interface("1-2", 0, "ff/00/00", "usbfs")
    obstacle = only(sysfs).obstacle
    assert obstacle is not None
    assert obstacle.message == "1-2 1234:5678 is in use by another program"


def test_a_device_exported_by_usbip_is_in_use(sysfs: FakeSysfs) -> None:
    sysfs.device("1-2", "1234:5678")
    driver = sysfs.root / f"sys/{HUB_DEVICE}/1-2/driver"
    driver.unlink()
    driver.symlink_to("usbip-host")
    obstacle = only(sysfs).obstacle
    assert obstacle is not None
    assert obstacle.message.endswith("in use by the kernel driver usbip-host")


def test_a_mounted_disk_names_its_mount_points(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    sysfs.mount("8:1", r"/media/My\040Stick", "/dev/sda1")
    sysfs.mount("8:1", "/mnt", "/dev/disk/by-label/x")
    assert in_use(sysfs) == "sda1 is mounted at /media/My Stick, sda1 is mounted at /mnt"


def test_another_devices_mount_does_not_matter(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    sysfs.device("1-3", "1234:5678")
    sysfs.interface("1-3", 0, "08/06/50", "uas")
    sysfs.disk("1-3", "sdb")
    sysfs.mount("8:16", "/mnt", "/dev/sdb")
    assert only(sysfs).obstacle is None
    assert only(sysfs, "1-3").obstacle is not None


def test_a_disk_behind_a_hub_does_not_make_its_neighbours_busy(sysfs: FakeSysfs) -> None:
    sysfs.stick("1-2")
    sysfs.device("1-20", "1234:5678")
    sysfs.mount("8:1", "/mnt", "/dev/sda1")
    assert only(sysfs, "1-20").obstacle is None


def test_swap_on_the_disk_is_a_use(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    sysfs.append("proc/swaps", "/dev/sda1                               partition\t1048572\t\t0\t\t-2")
    assert in_use(sysfs) == "sda1 is in use as swap"


def test_an_encrypted_disk_is_used_where_its_plain_side_is_mounted(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    sysfs.stack("dm-0", "254:0", "sda1", mapped="luks-1")
    assert in_use(sysfs) == "sda1 is part of dm-0 (luks-1)"
    sysfs.stack("dm-1", "254:7", "dm-0", mapped="vg-home")
    sysfs.mount("254:7", "/home", "/dev/mapper/vg-home")
    assert in_use(sysfs) == "dm-1 is mounted at /home"


def test_a_loop_of_holders_ends(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    sysfs.stack("dm-0", "254:0", "sda1")
    sysfs.link("sys/class/block/dm-0/holders/dm-0", "sys/class/block/dm-0")
    assert in_use(sysfs) == "dm-0 is in use"


def test_btrfs_is_found_although_it_hides_its_device_numbers(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    sysfs.mount("0:44", "/mnt", "/dev/sda1", "btrfs")
    assert in_use(sysfs) == "sda1 is mounted at /mnt"


def test_a_second_disk_of_a_btrfs_is_in_use_though_no_mount_names_it(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    sysfs.link("sys/fs/btrfs/6d1f/devices/sda", "sys/class/block/sda")
    sysfs.mount("0:44", "/mnt", "/dev/vdb", "btrfs")
    assert in_use(sysfs) == "sda is part of a mounted btrfs"


def test_a_loop_device_on_the_disk_is_a_use(sysfs: FakeSysfs) -> None:
    sysfs.stick()
    sysfs.stack("loop0", "7:0")
    sysfs.write("sys/devices/virtual/block/loop0/loop/backing_file", "/dev/sda1")
    assert in_use(sysfs) == "sda1 is part of loop0"


@pytest.fixture
def three(sysfs: FakeSysfs) -> list[DeviceEntry]:
    sysfs.stick()
    sysfs.device("1-3", "0781:5567", manufacturer="SanDisk", product="Cruzer Blade", serial="4C530002")
    sysfs.device("1-4", "046d:c31c", manufacturer="Logitech", product="USB Keyboard")
    return devices(sysfs.root)


@pytest.mark.parametrize(
    ("selector", "serial", "bus_port"),
    [
        ("1-2", None, "1-2"),
        ("046d:c31c", None, "1-4"),
        ("46D:C31C", None, "1-4"),
        ("keyBOARD", None, "1-4"),
        ("logitech usb", None, "1-4"),
        (None, "4C530002", "1-3"),
        ("0781:5567", "4C530001", "1-2"),
        ("usb1", None, "usb1"),
    ],
)
def test_a_device_is_found(three: list[DeviceEntry], selector: str | None, serial: str | None, bus_port: str) -> None:
    assert find(three, selector, serial=serial).bus_port == bus_port


@pytest.mark.parametrize("selector", ["1-9", "1234:5678", "webcam", "1-2.1", "1d6b:0002", "xhci"])
def test_a_device_that_is_not_there_is_not_found(three: list[DeviceEntry], selector: str) -> None:
    with pytest.raises(NotFoundError, match=f"no USB device is known as {selector}") as caught:
        find(three, selector)
    assert "usbbridge list" in caught.value.hint


def test_a_wrong_serial_number_is_said(three: list[DeviceEntry]) -> None:
    with pytest.raises(NotFoundError, match=r"known as 1-2 \(serial number X\)"):
        find(three, "1-2", serial="X")


@pytest.mark.parametrize("selector", ["0781:5567", "cruzer"])
def test_an_ambiguous_name_lists_the_candidates(three: list[DeviceEntry], selector: str) -> None:
    with pytest.raises(UsageError) as caught:
        find(three, selector)
    assert caught.value.message == (
        f"{selector} could be any of 2 devices:\n"
        "  1-2 0781:5567 SanDisk Cruzer Blade (serial number 4C530001)\n"
        "  1-3 0781:5567 SanDisk Cruzer Blade (serial number 4C530002)"
    )


def test_no_name_at_all_is_a_usage_error(three: list[DeviceEntry]) -> None:
    with pytest.raises(UsageError):
        find(three, "")
