"""The flash drive's commands: what they answer, what they refuse and with which sense data."""

import resource
import struct

import pytest

from tests.unit.backend.bulk_only_host import Host, read_10, read_16
from tests.unit.backend.conftest import BLOCKS
from usbbridge.backend.emulated.medium import Medium
from usbbridge.backend.emulated.scsi_disk import DiskUnit

PASSED, FAILED = 0, 1
INVALID_OPCODE, OUT_OF_RANGE, INVALID_FIELD = (5, 0x20, 0), (5, 0x21, 0), (5, 0x24, 0)
NO_MEDIUM, WRITE_PROTECTED, NO_SPACE = (2, 0x3A, 0), (7, 0x27, 0), (7, 0x27, 7)
READ_6, WRITE_6 = 0x08, 0x0A
INQUIRY, MODE_SENSE_6, START_STOP, PREVENT = 0x12, 0x1A, 0x1B, 0x1E


def command_6(code: int, lba: int, count: int) -> bytes:
    return struct.pack(">II", code << 24 | lba, count << 24)[:5] + b"\0"


def command_12(code: int, lba: int, count: int) -> bytes:
    return struct.pack(">BBIIBB", code, 0, lba, count, 0, 0)


def answer(host: Host, command: bytes, room: int = 255) -> bytes:
    """The data of a command that must succeed; the host makes room for more than the command asks for."""
    outcome = host.read(command, room)
    assert outcome.status == PASSED
    assert outcome.residue == room - len(outcome.data)
    return outcome.data


def inquiry(page: int | None = None, allocation: int = 255) -> bytes:
    return struct.pack(">BBBHB", INQUIRY, page is not None, page or 0, allocation, 0)


# ---- reading and writing

READS = {
    "6": command_6(READ_6, 5, 3),
    "10": read_10(5, 3),
    "12": command_12(0xA8, 5, 3),
    "16": read_16(5, 3),
}
WRITES = {
    "6": command_6(WRITE_6, 5, 3),
    "10": read_10(5, 3, 0x2A),
    "12": command_12(0xAA, 5, 3),
    "16": read_16(5, 3, 0x8A),
    "10, forced to the disk": b"\x2a\x08" + read_10(5, 3)[2:],
}


@pytest.mark.parametrize("size", READS)
def test_read(host, image, size):
    outcome = host.read(READS[size], 3 * 512)
    assert (outcome.data, outcome.status) == (image.read_bytes()[5 * 512 : 8 * 512], PASSED)


@pytest.mark.parametrize("size", WRITES)
def test_write(host, image, size):
    before, data = image.read_bytes(), bytes(range(256)) * 6
    assert host.write(WRITES[size], data).status == PASSED
    assert image.read_bytes() == before[: 5 * 512] + data + before[8 * 512 :]


def test_the_last_block_can_be_read_and_none_after_it(host, image):
    assert host.read(read_10(BLOCKS - 1, 1), 512).data == image.read_bytes()[-512:]
    assert host.read(read_10(BLOCKS - 1, 2), 1024).status == FAILED
    assert host.sense() == OUT_OF_RANGE


def test_a_count_of_0_is_none_but_256_in_six_byte_commands(host, plug_in, tmp_path):
    assert host.run(read_10(BLOCKS, 0)) == PASSED
    large = tmp_path / "large.img"
    large.write_bytes(bytes(300 * 512))
    assert len(plug_in(large).read(command_6(READ_6, 0, 0), 256 * 512).data) == 256 * 512


REACHING_TOO_FAR = {
    "read 6": command_6(READ_6, 0x1FFFFF, 1),
    "read 10": read_10(0xFFFFFFFF, 0xFFFF),
    "read 12": command_12(0xA8, 1, 0xFFFFFFFF),
    "read 16": read_16(0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF),
    "write 16": read_16(BLOCKS, 1, 0x8A),
    "verify 10": read_10(BLOCKS, 1, 0x2F),
    "verify 16": read_16(1 << 63, 1, 0x8F),
    "synchronize 10": read_10(BLOCKS + 1, 0, 0x35),
    "synchronize 16": read_16(0, BLOCKS + 1, 0x91),
}


@pytest.mark.parametrize("name", REACHING_TOO_FAR)
def test_blocks_that_do_not_exist_are_refused(host, name):
    assert host.run(REACHING_TOO_FAR[name]) == FAILED
    assert host.sense() == OUT_OF_RANGE


def test_the_sense_data_name_the_block(host):
    host.run(read_10(0x01020304, 1))
    sense = host.read(bytes((3, 0, 0, 0, 18, 0)), 18).data
    assert sense == bytes.fromhex("f00005 01020304 0a 00000000 2100 00000000")


def test_verify_compares_when_it_is_given_data(host, image):
    right = image.read_bytes()[: 3 * 512]
    verify = b"\x2f\x02" + read_10(0, 3)[2:]
    assert host.write(verify, right).status == PASSED
    assert host.write(verify, right[:1030] + b"?" + right[1031:], chunk=500).status == FAILED
    assert host.sense() == (0xE, 0x1D, 0)
    assert host.run(read_10(0, BLOCKS, 0x2F)) == PASSED


def test_synchronize_cache(host):
    assert host.run(read_10(0, 0, 0x35)) == PASSED
    assert host.run(read_16(0, 0, 0x91)) == PASSED


# ---- what the drive is

INQUIRIES = {
    "standard": (inquiry(), b"\x00\x80\x05\x02\x1f\0\0\0USB     usbbridge disk  1.0 "),
    "cut to five bytes": (inquiry(allocation=5), b"\x00\x80\x05\x02\x1f"),
    "no room": (inquiry(allocation=0), b""),
    "pages": (inquiry(0x00), b"\0\0\0\x05\x00\x80\x83\xb0\xb1"),
}


@pytest.mark.parametrize("name", INQUIRIES)
def test_inquiry(host, name):
    command, data = INQUIRIES[name]
    assert answer(host, command) == data


def test_its_identity_is_in_the_vital_product_data(host):
    serial = host.device.function.unit.serial.encode()
    assert answer(host, inquiry(0x80)) == b"\0\x80\0" + bytes((len(serial),)) + serial
    page = answer(host, inquiry(0x83))
    assert page[:4] == b"\0\x83\0" + bytes((len(page) - 4,))
    assert page[4:8] == bytes((0x02, 0x01, 0, 24 + len(serial)))
    assert page[8 : 32 + len(serial)] == b"USB     usbbridge disk  " + serial
    assert page[32 + len(serial) :][:4] == bytes((0x01, 0x03, 0, 8))
    assert page[-8] >> 4 == 3  # NAA: locally assigned


def test_it_does_not_rotate_and_likes_a_mebibyte_at_a_time(host):
    limits, characteristics = answer(host, inquiry(0xB0)), answer(host, inquiry(0xB1))
    assert (len(limits), len(characteristics)) == (64, 64)
    assert characteristics[:6] == bytes.fromhex("00b1003c0001")
    assert struct.unpack_from(">HII", limits, 6) == (8, 0, 2048)


def test_capacity(host):
    assert answer(host, bytes((0x25,)) + bytes(9)) == struct.pack(">II", BLOCKS - 1, 512)
    long = bytes((0x9E, 0x10)) + bytes(8) + (32).to_bytes(4) + bytes(2)
    assert answer(host, long) == struct.pack(">QI20x", BLOCKS - 1, 512)
    formats = bytes((0x23, 0, 0, 0, 0, 0, 0, 0, 252, 0))
    assert answer(host, formats) == bytes.fromhex("00000008") + struct.pack(">II", BLOCKS, 0x02000200)


def test_luns(host):
    one, none = bytes.fromhex("00000008") + bytes(12), bytes(8)
    for select, expected in enumerate((one, none, one)):
        assert answer(host, bytes((0xA0, 0, select, 0, 0, 0)) + (64).to_bytes(4) + bytes(2)) == expected


CACHING = b"\x08\x12\x04" + bytes(17)
RECOVERY, CONTROL = b"\x01\x0a" + bytes(10), b"\x0a\x0a" + bytes(10)
MODES = {
    "caching": (0x08, CACHING),
    "changeable": (0x48, b"\x08\x12" + bytes(18)),
    "default": (0x88, CACHING),
    "all": (0x3F, RECOVERY + CACHING + CONTROL),
}


@pytest.mark.parametrize("name", MODES)
def test_mode_sense(host, name):
    page, body = MODES[name]
    short = answer(host, bytes((MODE_SENSE_6, 0, page, 0, 192, 0)))
    assert short == bytes((len(body) + 3, 0, 0x10, 0)) + body
    long = answer(host, bytes((0x5A, 0, page, 0, 0, 0, 0, 0, 192, 0)))
    assert long == bytes((0, len(body) + 6, 0, 0x10, 0, 0, 0, 0)) + body


REFUSED = {
    "operation code": (b"\xd0" + bytes(5), INVALID_OPCODE),
    "format unit": (b"\x04" + bytes(5), INVALID_OPCODE),
    "vital product data page": (inquiry(0x99), INVALID_FIELD),
    "page without EVPD": (bytes((INQUIRY, 0, 0x80, 0, 255, 0)), INVALID_FIELD),
    "command support data": (bytes((INQUIRY, 2, 0, 0, 255, 0)), INVALID_FIELD),
    "mode page": (bytes((MODE_SENSE_6, 0, 0x2A, 0, 255, 0)), INVALID_FIELD),
    "mode subpage": (bytes((MODE_SENSE_6, 0, 0x08, 1, 255, 0)), INVALID_FIELD),
    "saved mode page": (bytes((MODE_SENSE_6, 0, 0xC8, 0, 255, 0)), (5, 0x39, 0)),
    "report luns": (b"\xa0\0\x03" + bytes(9), INVALID_FIELD),
    "capacity of a block": (b"\x25\0\0\0\0\x01" + bytes(4), INVALID_FIELD),
    "capacity beyond the end": (b"\x25\0\xff\xff\xff\xff\0\0\x01\0", OUT_OF_RANGE),
    "service action": (b"\x9e\x12" + bytes(14), INVALID_FIELD),
    "protection information": (b"\x28\x20" + bytes(8), INVALID_FIELD),
    "protection when writing": (b"\x2a\x20" + bytes(8), INVALID_FIELD),
    "kind of comparison": (b"\x2f\x06" + bytes(8), INVALID_FIELD),
    "sense in descriptor format": (b"\x03\x01\0\0\x12\0", INVALID_FIELD),
    "cut off": (read_10(0, 1)[:9], INVALID_FIELD),
    "cut off, 16": (read_16(0, 1)[:15], INVALID_FIELD),
    "one byte": (b"\x12", INVALID_FIELD),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_do_is_refused(host, name):
    command, sense = REFUSED[name]
    assert host.run(command) == FAILED
    assert host.sense() == sense
    assert host.sense() == (0, 0, 0)  # reported once


def test_sense_data_lives_until_the_next_command(host):
    host.run(b"\xd0")
    host.run(bytes(6))
    assert host.sense() == (0, 0, 0)


def test_longer_command_blocks_than_needed_are_taken(host):
    assert len(answer(host, inquiry(allocation=36) + bytes(10))) == 36


# ---- read-only, ejected, broken


def test_a_read_only_disk_says_so_and_refuses_writes(plug_in, image):
    host, before = plug_in(f"{image},ro"), image.read_bytes()
    assert answer(host, bytes((MODE_SENSE_6, 0, 0x08, 0, 192, 0)))[:7] == bytes((23, 0, 0x90, 0, 8, 18, 0))
    for name, write in WRITES.items():
        assert host.write(write, bytes(3 * 512)).status == FAILED, name
        assert host.sense() == WRITE_PROTECTED
    assert host.run(read_10(0, 0, 0x35)) == PASSED
    assert image.read_bytes() == before


def test_an_ejected_disk_is_not_there_and_can_be_loaded_again(host):
    eject, load = bytes((START_STOP, 0, 0, 0, 2, 0)), bytes((START_STOP, 0, 0, 0, 3, 0))
    assert host.run(eject) == PASSED
    assert host.device.function.unit.ejected
    for command in (bytes(6), READS["10"], WRITES["16"], b"\x25" + bytes(9), bytes((START_STOP, 0, 0, 0, 1, 0))):
        assert host.run(command) == FAILED
        assert host.sense() == NO_MEDIUM
    assert answer(host, bytes((0x23, 0, 0, 0, 0, 0, 0, 0, 252, 0)))[8] == 3
    assert host.run(load) == PASSED
    assert (host.run(bytes(6)), host.sense()) == (FAILED, (6, 0x28, 0))
    assert host.run(bytes(6)) == PASSED


def test_a_unit_attention_is_also_told_by_request_sense(host):
    for how in (2, 3):
        host.run(bytes((START_STOP, 0, 0, 0, how, 0)))
    assert len(answer(host, inquiry())) == 36  # which does not take it away
    assert host.sense() == (6, 0x28, 0)
    assert host.run(bytes(6)) == PASSED


def test_a_locked_disk_is_not_ejected(host):
    eject = bytes((START_STOP, 0, 0, 0, 2, 0))
    assert host.run(bytes((PREVENT, 0, 0, 0, 1, 0))) == PASSED
    assert (host.run(eject), host.sense()) == (FAILED, (5, 0x53, 2))
    assert host.run(bytes((START_STOP, 0, 0, 0, 0, 0))) == PASSED  # stopping it is another matter
    assert host.run(bytes((PREVENT, 0, 0, 0, 0, 0))) == PASSED
    assert host.run(eject) == PASSED


def test_a_port_reset_unlocks(host):
    host.run(bytes((PREVENT, 0, 0, 0, 1, 0)))
    host.device.reset()
    assert host.run(bytes((START_STOP, 0, 0, 0, 2, 0))) == PASSED


def test_power_conditions_are_accepted(host):
    assert host.run(bytes((START_STOP, 0, 0, 0, 0x30, 0))) == PASSED
    assert host.run(bytes(6)) == PASSED


def test_an_image_that_was_cut_short_is_a_medium_error_where_it_ends(host, image):
    with image.open("r+b") as file:
        file.truncate(10 * 512)
    outcome = host.read(read_10(8, 4), 4 * 512)
    assert (len(outcome.data), outcome.stalled, outcome.residue, outcome.status) == (1024, True, 1024, FAILED)
    sense = host.read(bytes((3, 0, 0, 0, 18, 0)), 18).data
    assert (sense[0], sense[2], sense[12], sense[13]) == (0xF0, 3, 0x11, 0)
    assert int.from_bytes(sense[3:7]) == 10
    assert host.read(read_10(8, 2), 1024).status == PASSED


def test_a_full_disk_is_reported_where_it_ran_full(host, image):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * 512, hard))
    try:
        outcome = host.write(read_10(6, 4, 0x2A), bytes(4 * 512))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (outcome.residue, outcome.status) == (1024, FAILED)
    sense = host.read(bytes((3, 0, 0, 0, 18, 0)), 18).data
    assert (sense[2], sense[12], sense[13], int.from_bytes(sense[3:7])) == (*NO_SPACE, 8)
    assert image.read_bytes()[6 * 512 : 8 * 512] == bytes(1024)


def test_a_write_error_of_another_kind_is_a_medium_error(image):
    with image.open("rb") as file:  # which can't be written through, whatever the unit believes
        unit = DiskUnit(Medium(file.fileno(), BLOCKS * 512, 512, writable=True), "00")
        task = unit.start(read_10(0, 1, 0x2A))
        assert task.write(memoryview(bytes(512))) == 0
        assert not task.finish()
    assert (unit.sense.key, unit.sense.code) == (3, 0x0C)


def test_a_medium_taken_out_by_its_owner_is_missed_in_the_data_stage(host):
    host.send(host.cbw(read_10(0, 2), 1024))
    host.receive(512)
    host.device.function.unit.ejected = True
    assert host.receive(512).data == b""
    assert host.csw() == (512, FAILED)
    assert host.sense() == NO_MEDIUM
