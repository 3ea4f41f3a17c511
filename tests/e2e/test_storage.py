"""The main job: what is on a disk in the client is read and written in the VM."""

from pathlib import Path

import pytest

from tests.e2e.rig import CA_FILE, MIB, Usbbridge, detach, sha256, with_ticket
from tools.lab import Client, Vm

# What the guest writes, in MiB.
WRITTEN_AT, WRITTEN = 8, 16

STICK = "46f4:0001"  # QEMU's usb-storage


def target(vm: Vm, kind: str) -> tuple[str, list[str]]:
    """A way to the VM: the target and the options it takes."""
    match kind:
        case "plain":
            return vm.spice, with_ticket()
        case "tls":
            return vm.spice_tls, [*with_ticket(), "--ca-file", CA_FILE]
        case _:
            return vm.tcp, []


def guest_hash(vm: Vm, block: str) -> str:
    """The hash of a whole disk as the guest reads it."""
    return vm.shell(f"dd if={block} bs=1M iflag=direct status=none | sha256sum").text.split()[0]


def guest_writes(vm: Vm, block: str) -> str:
    """Have the guest write random bytes and sync; their hash."""
    vm.shell(f"head -c {WRITTEN * MIB} /dev/urandom > /tmp/written")
    vm.shell(f"dd if=/tmp/written of={block} bs=1M seek={WRITTEN_AT} conv=fsync status=none; sync")
    return vm.run(["sha256sum", "/tmp/written"]).text.split()[0]


@pytest.mark.parametrize(
    ("way", "speed", "rate"),
    [
        ("plain", "high", "480"),
        ("plain", "super", "5000"),
        ("tls", "high", "480"),
        ("tls", "super", "5000"),
        ("tcp", "high", "480"),
        ("tcp", "super", "5000"),
    ],
)
def test_stick_is_read_and_written_in_the_guest(
    client: Client, vm: Vm, usbbridge: Usbbridge, image: Path, way: str, speed: str, rate: str
) -> None:
    stick = client.plug("usb-storage", image=image, speed=speed)
    before = client.shell(f"sha256sum < {client.wait_block_device()}").text.split()[0]
    where, options = target(vm, way)

    with usbbridge.attach(stick.bus_port, where, *options) as attached:
        block = vm.wait_block_device()
        assert vm.read_text(f"{vm.wait_usb_device(STICK)}/speed") == rate
        assert client.drivers(stick) == ["usbfs"]
        assert guest_hash(vm, block) == before
        written = guest_writes(vm, block)
        detach(attached)

    vm.wait_no_block_device()
    client.wait_driver(stick, "usb-storage")
    assert client.holders(client.node(stick)) == []
    assert sha256(image, WRITTEN_AT, WRITTEN) == written


def test_disk_image_is_a_flash_drive_that_the_guest_reads_and_writes(
    client: Client, vm: Vm, usbbridge: Usbbridge
) -> None:
    before = client.shell("head -c 64M /dev/urandom | tee /tmp/disk.img | sha256sum").text.split()[0]

    with usbbridge.attach("disk:/tmp/disk.img", vm.spice, *with_ticket()) as attached:
        block = vm.wait_block_device()
        assert guest_hash(vm, block) == before
        written = guest_writes(vm, block)
        detach(attached)

    vm.wait_no_block_device()
    part = f"dd if=/tmp/disk.img bs=1M skip={WRITTEN_AT} count={WRITTEN} status=none | sha256sum"
    assert client.shell(part).text.split()[0] == written


def test_read_only_disk_image_cannot_be_written_by_the_guest(client: Client, vm: Vm, usbbridge: Usbbridge) -> None:
    before = client.shell("head -c 1M /dev/urandom | tee /tmp/disk.img | sha256sum").text.split()[0]

    with usbbridge.attach("disk:/tmp/disk.img,ro", vm.spice, *with_ticket()) as attached:
        block = vm.wait_block_device()
        assert vm.read_text(f"/sys/block/{Path(block).name}/ro") == "1"
        assert vm.shell(f"dd if=/dev/zero of={block} count=1 conv=fsync", check=False).status != 0
        assert guest_hash(vm, block) == before
        detach(attached)

    assert client.shell("sha256sum < /tmp/disk.img").text.split()[0] == before


def test_iso_is_a_cd_rom_that_the_guest_mounts(client: Client, vm: Vm, usbbridge: Usbbridge) -> None:
    client.shell("rm -rf /tmp/tree; mkdir /tmp/tree; head -c 8M /dev/urandom > /tmp/tree/DATA.BIN")
    client.shell("genisoimage -quiet -V USBBRIDGE -o /tmp/lab.iso /tmp/tree")
    content = client.shell("sha256sum < /tmp/tree/DATA.BIN").text

    with usbbridge.attach("disk:/tmp/lab.iso", vm.spice_tls, *with_ticket(), "--ca-file", CA_FILE) as attached:
        assert vm.wait_block_device() == "/dev/sr0"
        vm.shell("mkdir -p /mnt/cd; mount -t iso9660 -o ro /dev/sr0 /mnt/cd")
        assert vm.shell("sha256sum < /mnt/cd/data.bin").text == content
        vm.shell("umount /mnt/cd")
        detach(attached)

    vm.wait_no_block_device()
