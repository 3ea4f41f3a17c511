"""SuperSpeed disks with USB Attached SCSI: through bulk streams where there are some, and as plain disks where not."""

import sys
from pathlib import Path

from tests.e2e.rig import MIB, Usbbridge, detach, sha256, with_ticket
from tests.integration.uml import needs_uml
from tools.lab import REPOSITORY, Client, NativeClient, Vm

PYTHON = str(Path(sys.executable).absolute())

DISK = "46f4:0003"  # QEMU's usb-uas
STREAMS = 16  # of its endpoints
READERS, PART = 4, 4  # that read at once, and MiB of each
WRITTEN_AT, WRITTEN = 8, 4  # MiB


def guest_hash(vm: Vm, block: str) -> str:
    """The hash of 16 MiB that several processes in the guest read at once, so that several streams are in use."""
    read = f"dd if={block} of=/tmp/part-$n bs=1M skip=$((n*{PART})) count={PART} iflag=direct status=none &"
    parts = " ".join(f"/tmp/part-{n}" for n in range(READERS))
    return vm.shell(f"for n in {{0..{READERS - 1}}}; do {read} done; wait; sha256sum < <(cat {parts})").text.split()[0]


def guest_writes(vm: Vm, block: str) -> str:
    """Have the guest write random bytes, and compare what it reads then; their hash."""
    vm.shell(f"head -c {WRITTEN * MIB} /dev/urandom > /tmp/written")
    vm.shell(f"dd if=/tmp/written of={block} bs=1M seek={WRITTEN_AT} conv=fsync status=none")
    vm.shell(f"dd if={block} bs=1M skip={WRITTEN_AT} count={WRITTEN} iflag=direct status=none | cmp - /tmp/written")
    return vm.run(["sha256sum", "/tmp/written"]).text.split()[0]


def guest_drivers(vm: Vm, ids: str) -> list[str]:
    """The drivers of a device in the guest."""
    links = vm.links(f"{vm.wait_usb_device(ids)}/*:*/driver")
    return [Path(target).name for target in links.values()]


def commands_at_once(vm: Vm, block: str) -> int:
    """How many the guest's driver gives a disk: uas keeps two of the streams that it got for other things."""
    return int(vm.read_text(f"/sys/block/{Path(block).name}/device/queue_depth"))


def test_streams_of_a_controller_answer_several_commands_at_once(
    client: Client, usbbridge: Usbbridge, small: Path
) -> None:
    disk = client.plug("usb-uas", image=small, speed="super")
    client.wait_driver(disk, "uas")
    client.run([PYTHON, "-m", "tests.e2e.checks.bulk_streams", disk.bus_port], cwd=str(REPOSITORY))
    client.wait_driver(disk, "uas")


def test_guest_uses_the_bulk_streams_of_a_uas_disk(
    client: Client, vm: Vm, usbbridge: Usbbridge, small: Path
) -> None:
    disk = client.plug("usb-uas", image=small, speed="super")
    client.wait_driver(disk, "uas")
    before = sha256(small)

    with usbbridge.attach(disk.bus_port, vm.spice, *with_ticket()) as attached:
        block = vm.wait_block_device()
        assert guest_drivers(vm, DISK) == ["uas"]
        assert commands_at_once(vm, block) == STREAMS - 2
        assert guest_hash(vm, block) == before
        written = guest_writes(vm, block)
        detach(attached)

    vm.wait_no_block_device()
    client.wait_driver(disk, "uas")
    assert sha256(small, WRITTEN_AT, WRITTEN) == written


@needs_uml
def test_disk_is_bulk_only_for_the_guest_where_the_client_has_no_streams(native: NativeClient, vm: Vm) -> None:
    native.put("/tmp/ticket", f"{vm.options.ticket}\n".encode())
    before = native.shell(f"head -c {READERS * PART}M /dev/urandom | tee /tmp/uas.img | sha256sum").text.split()[0]
    disk = native.emulate("uas,image=/tmp/uas.img", super_speed=True)

    with Usbbridge(native).attach(disk.bus_port, vm.spice, *with_ticket("/tmp/ticket")) as attached:
        block = vm.wait_block_device()
        assert guest_drivers(vm, "1d6b:0104") == ["usb-storage"]
        assert guest_hash(vm, block) == before
        written = guest_writes(vm, block)
        detach(attached)

    native.withdraw(disk)
    data = native.shell(f"dd if=/tmp/uas.img bs=1M skip={WRITTEN_AT} count={WRITTEN} status=none | sha256sum").text
    assert data.split()[0] == written
