"""Opening `disk:PATH[,ro]`: what the device is, and what is refused with what advice."""

import fcntl
import os
import struct
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.backend.bulk_only_host import Host, read_10, read_16
from usbbridge.backend.emulated.disk import open_disk, parse_spec
from usbbridge.backend.emulated.medium import open_medium
from usbbridge.errors import NotFoundError, NotPermittedError, RefusedError, UsageError
from usbbridge.usb.ch9 import ClassCode, Speed, TransferType
from usbbridge.usb.descriptors import parse_string

PASSED, FAILED = 0, 1


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        ("disk:/a/b.img", ("/a/b.img", False)),
        ("disk:/a/b.img,ro", ("/a/b.img", True)),
        ("b.img,ro", ("b.img", True)),
        ("disk:a,b.iso", ("a,b.iso", False)),
    ],
)
def test_specs(spec, parsed):
    assert parse_spec(spec) == parsed


@pytest.mark.parametrize("spec", ["disk:", "disk:,ro", "", "disk:a\0b"])
def test_specs_that_name_nothing(spec):
    with pytest.raises(UsageError):
        parse_spec(spec)


@pytest.mark.parametrize(
    ("speed", "bcd_usb", "packet_0", "packet", "burst"),
    [(Speed.HIGH, 0x0200, 64, 512, None), (Speed.SUPER, 0x0300, 9, 1024, 15)],
)
def test_descriptors(plug_in, image, speed, bcd_usb, packet_0, packet, burst):
    host = plug_in(image, speed=speed)
    descriptor, configuration = host.device.descriptor, host.device.configuration()
    assert (host.device.speed, descriptor.bcd_usb, descriptor.max_packet_size0) == (speed, bcd_usb, packet_0)
    (interface,) = configuration.interfaces
    assert (interface.class_, interface.subclass, interface.protocol) == (ClassCode.MASS_STORAGE, 6, 0x50)
    for endpoint, address in zip(interface.endpoints, (0x81, 0x02), strict=True):
        assert (endpoint.address, endpoint.transfer_type, endpoint.packet_bytes) == (address, TransferType.BULK, packet)
        assert (endpoint.companion.max_burst if endpoint.companion else None) == burst


def test_the_object_store_of_a_super_speed_disk_is_well_formed(plug_in, image):
    bos = plug_in(image, speed=Speed.SUPER).control(0x80, 6, 0x0F00, 0, 255).data
    assert struct.unpack_from("<BBHB", bos) == (5, 15, len(bos), 2)
    assert (bos[5], bos[12], 5 + bos[5] + bos[12]) == (7, 10, len(bos))


def test_other_speeds_are_refused(image):
    with pytest.raises(UsageError, match="full speed"):
        open_disk(f"disk:{image}", speed=Speed.FULL)


def test_the_serial_number_stays_and_is_the_images_own(plug_in, image, tmp_path):
    def serial(path):
        host = plug_in(f"{path},ro")
        return parse_string(host.control(0x80, 6, 0x0303, 0x0409, 255).data)

    other = tmp_path / "other.img"
    other.write_bytes(bytes(512))
    link = tmp_path / "link.img"
    link.symlink_to(image)
    assert serial(image) == serial(link) != serial(other)
    assert len(serial(image)) == 24
    assert set(serial(image)) <= set("0123456789ABCDEF")


def test_it_is_called_what_the_user_called_it(plug_in, image):
    assert plug_in(f"{image},ro").device.name == f"disk:{image}"


def test_a_size_that_is_no_whole_number_of_blocks_is_rounded_up_with_zeros(plug_in, tmp_path):
    path = tmp_path / "odd.img"
    path.write_bytes(b"\x77" * 1000)
    host = plug_in(path)
    assert host.read(read_10(0, 2), 1024).data == b"\x77" * 1000 + bytes(24)
    assert host.read(read_10(1, 1), 512, chunk=300).data == b"\x77" * 488 + bytes(24)
    assert host.write(read_10(1, 1, 0x2A), b"\x55" * 512).status == PASSED
    assert path.read_bytes() == b"\x77" * 512 + b"\x55" * 512


def test_an_odd_iso_is_rounded_up_too(plug_in, tmp_path):
    path = tmp_path / "odd.iso"
    path.write_bytes(b"\x77" * 3000)
    assert plug_in(path).read(read_10(1, 1), 2048).data == b"\x77" * 952 + bytes(1096)


def test_an_image_of_more_than_2_tib_is_served_with_16_byte_commands(plug_in, tmp_path):
    path, blocks = tmp_path / "huge.img", (3 << 40) // 512
    path.touch()
    os.truncate(path, 3 << 40)
    host = plug_in(path)
    assert host.read(bytes((0x25,)) + bytes(9), 8).data == struct.pack(">II", 0xFFFFFFFF, 512)
    long = bytes((0x9E, 0x10)) + bytes(8) + (32).to_bytes(4) + bytes(2)
    assert struct.unpack_from(">QI", host.read(long, 32).data) == (blocks - 1, 512)
    data = os.urandom(1024)
    assert host.write(read_16(blocks - 2, 2, 0x8A), data).status == PASSED
    assert host.read(read_16(blocks - 2, 2), 1024).data == data
    host.run(read_16(blocks, 1))
    sense = host.read(bytes((3, 0, 0, 0, 18, 0)), 18).data
    assert (sense[0], sense[3:7]) == (0x70, bytes(4))  # the block's number has no room, and the sense data say so


def test_an_iso_of_more_than_8_tib_is_refused(tmp_path):
    path = tmp_path / "huge.iso"
    path.touch()
    os.truncate(path, (8 << 40) + 2048)
    with pytest.raises(UsageError, match="8 TiB"):
        open_disk(f"disk:{path}")


def test_a_missing_image(tmp_path):
    with pytest.raises(NotFoundError, match=r"no disk image .*nothing\.img"):
        open_disk(f"disk:{tmp_path}/nothing.img")


def test_a_folder_a_fifo_and_an_empty_file_are_no_disks(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    for name, message in ((".", "folder"), ("fifo", "neither"), ("empty", "empty")):
        for suffix in ("", ",ro"):
            with pytest.raises(UsageError, match=message):
                open_disk(f"disk:{tmp_path / name}{suffix}")


def test_an_image_that_cannot_be_written_is_refused_with_the_way_out(image, as_nobody):
    image.chmod(0o444)
    with as_nobody(), pytest.raises(NotPermittedError, match="can't be opened for writing") as refusal:
        open_disk(f"disk:{image}")
    assert refusal.value.hint == f"add ,ro for a read-only disk: disk:{image},ro"
    with as_nobody(), closing(open_disk(f"disk:{image},ro")) as device:
        assert Host(device).read(read_10(0, 1), 512).status == PASSED


def test_an_image_that_cannot_even_be_read(image, as_nobody):
    image.chmod(0o000)
    with as_nobody(), pytest.raises(NotPermittedError, match="can't be read"):
        open_disk(f"disk:{image},ro")


@pytest.mark.parametrize(("first", "second"), [("", ""), ("", ",ro"), (",ro", "")])
def test_a_second_user_beside_a_writer_is_refused(plug_in, image, first, second):
    host = plug_in(f"{image}{first}")
    with pytest.raises(RefusedError, match="in use"):
        open_disk(f"disk:{image}{second}")
    host.device.close()
    open_disk(f"disk:{image}{second}").close()


def test_readers_may_share(plug_in, image):
    first, second = (plug_in(f"{image},ro") for _ in range(2))
    assert first.read(read_10(0, 1), 512) == second.read(read_10(0, 1), 512)


def test_read_only_never_opens_for_writing(plug_in, image, tmp_path):
    disc = tmp_path / "disc.iso"
    disc.write_bytes(bytes(2048))
    for spec in (f"{image},ro", disc, f"{disc},ro"):
        plug_in(spec)
    opened = [fd for fd in Path("/proc/self/fd").iterdir() if os.path.realpath(fd).startswith(str(tmp_path))]
    assert [fcntl.fcntl(int(fd.name), fcntl.F_GETFL) & os.O_ACCMODE for fd in opened] == [os.O_RDONLY] * 3


def test_closing_lets_go_of_the_image(image):
    open_disk(f"disk:{image}").close()
    medium = open_medium(str(image), 512, writable=True)
    medium.close()
    medium.close()
