"""An emulated disk in a real Linux kernel: its USB core, usb-storage and SCSI disk driver are the judges.

Needs the user-mode Linux launcher: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the repository.
"""

import pytest

from tests.integration.uml import needs_uml, run

WRITABLE, READ_ONLY, SUPER, HUGE = range(4)

pytestmark = [
    pytest.mark.timeout(430),
    needs_uml,
]


@pytest.fixture(scope="module")
def kernel():
    """What the kernel made of five disks plugged in at once, in one boot."""
    return run("disk_linux_steps.py", patience=400)


def test_disks_appear_with_their_size_model_and_speed(kernel):
    sizes = (8 << 20, (4 << 20) + 512, 32 << 20, 3 << 40)
    for disk, size, speed in zip(kernel["disks"], sizes, ("480", "480", "5000", "5000"), strict=True):
        assert (disk["type"], disk["vendor"], disk["model"]) == ("0", "USB", "usbbridge disk")
        assert (disk["bytes"], disk["speed"], disk["removable"]) == (size, speed, "1")


def test_every_byte_read_equals_the_image(kernel):
    for device, image in kernel["hashes"]:
        assert device == image


def test_an_image_of_odd_size_is_served_to_its_last_byte(kernel):
    assert kernel["padded"]


def test_a_file_system_made_by_the_guest_is_in_the_image(kernel):
    for made in kernel["file_systems"]:
        assert [status for status, _ in made["steps"]] == [0, 0, 0, 0], made["steps"]
        assert made["file_is_in_image"]


def test_a_block_device_can_be_the_image_unless_it_is_mounted(kernel):
    assert kernel["opened_block_device"] == 8 << 20
    for made in kernel["file_systems"]:
        assert "is mounted or in use" in made["opened_while_mounted"]


def test_a_read_only_disk_is_seen_as_such_and_refuses_writes(kernel):
    assert [disk["read_only"] for disk in kernel["disks"]] == ["0", "1", "0", "0"]
    assert kernel["read_only_write"] == "Read-only file system"


def test_a_disk_with_a_write_cache_says_so(kernel):
    assert kernel["disks"][WRITABLE]["cache"] == "write back"
    assert kernel["disks"][READ_ONLY]["cache"] == "write through"


def test_a_disk_of_3_tib_is_written_and_read_at_its_end(kernel):
    assert kernel["huge"]


def test_partitions_are_found(kernel):
    assert kernel["partition"] == [2048, 4096]


def test_an_iso_is_a_cd_rom_drive_that_reads_ejects_and_then_is_empty(kernel):
    disc = kernel["disc"]
    assert (disc["type"], disc["model"], disc["block_size"]) == ("5", "usbbridge CD-ROM", 2048)
    assert disc["same"]
    assert disc["ready_eject_ready"] == [0, 0, 2]


def test_the_kernel_had_nothing_to_complain_of(kernel):
    text = "\n".join(kernel["kernel"])
    for complaint in ("reset high-speed", "reset SuperSpeed", "I/O error", "error -", "timed out", "WARNING"):
        assert complaint not in text, text


def test_the_exporter_ends_when_all_is_detached(kernel):
    assert kernel["exporter"] == 0
