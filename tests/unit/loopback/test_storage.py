"""Enumeration and the disk driver against the real usb-host with an emulated disk, joined without sockets."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.loopback.wires import Wire
from usbbridge.backend.emulated.disk import open_disk
from usbbridge.errors import DeviceError
from usbbridge.loopback.enumeration import UsbDevice, bind_disk, enumerate_device, get_descriptor
from usbbridge.loopback.storage import DATA_PROTECT, ILLEGAL_REQUEST, TYPE_CD_DVD, Disk, Drive, ScsiError
from usbbridge.usb.ch9 import DescriptorType, Speed
from usbbridge.usb.descriptors import Configuration, DescriptorError, DeviceDescriptor, Interface

SIZE = 1 << 20
CONTENT = os.urandom(SIZE)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(params=[Speed.HIGH, Speed.SUPER], ids=["high speed", "super speed"])
def wire(image: Path, request: pytest.FixtureRequest) -> Iterator[Wire]:
    joined = Wire(open_disk(f"disk:{image}", speed=request.param))
    yield joined
    joined.host.disconnect()
    joined.host.close()


def mounted(wire: Wire) -> tuple[Disk, Drive]:
    disk = wire.run(bind_disk(wire.run(enumerate_device())))
    assert disk.drive is not None
    return disk, disk.drive


def read(wire: Wire, disk: Disk, block: int, size: int, *, long: bool = False) -> bytes:
    into = memoryview(bytearray(size))
    wire.run(disk.read(block, into, long=long))
    return bytes(into)


def test_a_new_device_is_described_and_configured(wire: Wire) -> None:
    device = wire.run(enumerate_device())
    assert device.descriptor == wire.device.descriptor
    assert device.configuration == wire.device.configuration()
    assert (device.manufacturer, bool(device.product), bool(device.serial)) == ("usbbridge", True, True)
    assert device.name.startswith("1d6b:0104 usbbridge")


def test_a_descriptor_that_is_not_there_is_an_error(wire: Wire) -> None:
    with pytest.raises(DescriptorError):
        wire.run(get_descriptor(DescriptorType.STRING, 99, 255, 0x0409))


def test_what_is_no_disk_is_said_to_be_none(wire: Wire) -> None:
    descriptor = DeviceDescriptor(0x200, 0, 0, 0, 64, 1, 2, 3)
    keyboard = UsbDevice(descriptor, Configuration(1, 0x80, 50, 0, (Interface(0, 0, 3, 1, 1),)))
    with pytest.raises(DeviceError, match="0001:0002 is no Bulk-Only"):
        wire.run(bind_disk(keyboard))


def test_the_drive_says_what_it_is(wire: Wire) -> None:
    _, drive = mounted(wire)
    assert (drive.blocks, drive.block_size, drive.size) == (SIZE // 512, 512, SIZE)
    assert not drive.write_protected
    assert drive.vendor


@pytest.mark.parametrize("long", [False, True], ids=["READ(10)", "READ(16)"])
def test_blocks_are_read(wire: Wire, long: bool) -> None:
    disk, _ = mounted(wire)
    assert read(wire, disk, 3, 100 * 512, long=long) == CONTENT[3 * 512 : 103 * 512]


@pytest.mark.parametrize("long", [False, True], ids=["WRITE(10)", "WRITE(16)"])
def test_blocks_are_written_and_on_the_image_after_a_synchronize(wire: Wire, image: Path, long: bool) -> None:
    disk, _ = mounted(wire)
    data = os.urandom(200 * 512)
    wire.run(disk.write(5, data, long=long))
    wire.run(disk.synchronize())
    assert image.read_bytes() == CONTENT[: 5 * 512] + data + CONTENT[205 * 512 :]


def test_a_read_past_the_end_is_refused_and_the_next_one_works(wire: Wire) -> None:
    disk, drive = mounted(wire)
    with pytest.raises(ScsiError) as refused:
        read(wire, disk, drive.blocks, 512)
    assert refused.value.key == ILLEGAL_REQUEST
    assert read(wire, disk, 0, 512) == CONTENT[:512]


def test_the_device_works_on_after_a_reset_recovery(wire: Wire) -> None:
    disk, _ = mounted(wire)
    wire.run(disk.transport.reset_recovery())
    assert read(wire, disk, 0, 512) == CONTENT[:512]


def test_a_read_only_drive_says_so_and_refuses_writes(image: Path) -> None:
    wire = Wire(open_disk(f"disk:{image},ro"))
    disk, drive = mounted(wire)
    assert drive.write_protected
    with pytest.raises(ScsiError) as refused:
        wire.run(disk.write(0, bytes(512)))
    assert refused.value.key == DATA_PROTECT
    assert image.read_bytes() == CONTENT
    wire.host.close()


def test_an_iso_is_a_cd(tmp_path: Path) -> None:
    path = tmp_path / "debian.iso"
    path.write_bytes(CONTENT)
    wire = Wire(open_disk(f"disk:{path}"))
    disk, drive = mounted(wire)
    assert (drive.device_type, drive.block_size, drive.write_protected) == (TYPE_CD_DVD, 2048, True)
    assert read(wire, disk, 7, 2048) == CONTENT[7 * 2048 : 8 * 2048]
    wire.host.close()


def test_bytes_may_come_in_any_pieces(image: Path) -> None:
    wire = Wire(open_disk(f"disk:{image}"), step=7)
    disk, _ = mounted(wire)
    assert read(wire, disk, 0, 64 * 512) == CONTENT[: 64 * 512]
    wire.host.close()


def test_a_detach_reaches_the_guest_and_is_acknowledged(image: Path) -> None:
    wire = Wire(open_disk(f"disk:{image}"))
    mounted(wire)
    wire.host.disconnect()
    wire.pump()
    assert wire.watcher.told == ["announced", "detached"]
    assert wire.host.acknowledged
    wire.host.close()
