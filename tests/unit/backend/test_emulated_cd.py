"""The CD-ROM drive's commands."""

import random
import struct

import pytest

from tests.unit.backend.bulk_only_host import Host, read_10

PASSED, FAILED = 0, 1
INVALID_FIELD, TRAY_OPEN = (5, 0x24, 0), (2, 0x3A, 2)
BLOCKS = 20
READ_TOC, GET_CONFIGURATION, GET_EVENT_STATUS = 0x43, 0x46, 0x4A
EJECT, LOAD = bytes((0x1B, 0, 0, 0, 2, 0)), bytes((0x1B, 0, 0, 0, 3, 0))


@pytest.fixture
def disc(tmp_path):
    path = tmp_path / "Disc.ISO"
    path.write_bytes(random.Random(2).randbytes(BLOCKS * 2048))
    return path


@pytest.fixture
def host(disc, plug_in) -> Host:
    return plug_in(disc)


def command(code: int, *fields: int, allocation: int = 255, size: int = 10) -> bytes:
    """A command whose allocation length is in bytes 7 and 8."""
    return (bytes((code, *fields)).ljust(7, b"\0") + allocation.to_bytes(2)).ljust(size, b"\0")


def answer(host: Host, what: bytes) -> bytes:
    outcome = host.read(what, 255)
    assert outcome.status == PASSED
    return outcome.data


def test_an_iso_is_a_cd_rom_drive(host):
    assert answer(host, bytes((0x12, 0, 0, 0, 36, 0))) == b"\x05\x80\x05\x02\x1f\0\0\0USB     usbbridge CD-ROM1.0 "
    assert answer(host, bytes((0x25,)) + bytes(9)) == struct.pack(">II", BLOCKS - 1, 2048)
    assert answer(host, bytes((0x12, 1, 0, 0, 36, 0))) == b"\x05\0\0\x03\x00\x80\x83"


READS = {
    "6": bytes((0x08, 0, 0, 3, 2, 0)),
    "10": read_10(3, 2),
    "12": struct.pack(">BBIIBB", 0xA8, 0, 3, 2, 0, 0),
}


@pytest.mark.parametrize("size", READS)
def test_read(host, disc, size):
    assert host.read(READS[size], 4096).data == disc.read_bytes()[3 * 2048 : 5 * 2048]


def test_blocks_that_do_not_exist_are_refused(host):
    assert (host.run(read_10(BLOCKS, 1)), host.sense()) == (FAILED, (5, 0x21, 0))


def test_it_has_no_write_commands(host):
    assert (host.run(read_10(0, 1, 0x2A)), host.sense()) == (FAILED, (5, 0x20, 0))


TABLES = {
    "tracks": ((0, 0), "0012 0101 0014 0100 00000000 0014 aa00 00000014"),
    "tracks in minutes": ((2, 0), "0012 0101 0014 0100 00000200 0014 aa00 00000214"),
    "from the lead-out": ((0, 0, 0, 0, 0, 0xAA), "000a 0101 0014 aa00 00000014"),
    "sessions": ((0, 1), "000a 0101 0014 0100 00000000"),
    "lead-in": (
        (0, 2),
        "002e 0101 0114 00a0 00000000 010000 0114 00a1 00000000 010000"
        "0114 00a2 00000000 000214 0114 0001 00000000 000200",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_table_of_contents(host, name):
    fields, expected = TABLES[name]
    assert answer(host, command(READ_TOC, *fields)) == bytes.fromhex(expected)


def test_the_old_place_of_the_table_format_is_understood(host):
    assert answer(host, command(READ_TOC)[:9] + b"\x40")[:4] == bytes.fromhex("000a0101")


def test_disc_and_track_information(host):
    disc = answer(host, command(0x51))
    assert (len(disc), disc[:8]) == (34, bytes.fromhex("00200e0101010120"))
    track = answer(host, command(0x52, 1, 0, 0, 0, 1))
    assert (len(track), track[:7]) == (36, bytes.fromhex("00220101000401"))
    assert struct.unpack_from(">I", track, 24) == (BLOCKS,)


def features(data: bytes) -> dict[int, bool]:
    """Numbers of the features in a GET CONFIGURATION answer, and whether each is current."""
    assert int.from_bytes(data[:4]) == len(data) - 4
    found, rest = {}, data[8:]
    while rest:
        found[int.from_bytes(rest[:2])] = bool(rest[2] & 1)
        rest = rest[4 + rest[3] :]
    return found


def test_configuration(host):
    everything = answer(host, command(GET_CONFIGURATION))
    assert everything[6:8] == b"\x00\x08"
    assert features(everything) == {0: True, 1: True, 2: True, 3: True, 0x10: True, 0x1E: True, 0x1F: False}
    assert 0x1F not in features(answer(host, command(GET_CONFIGURATION, 1)))
    assert features(answer(host, command(GET_CONFIGURATION, 2, 0, 3))) == {3: True}
    assert features(answer(host, command(GET_CONFIGURATION, 0, 0, 0x10))) == {0x10: True, 0x1E: True, 0x1F: False}
    assert features(answer(host, command(GET_CONFIGURATION, 0, 0xFF, 0xFF))) == {}


def test_a_large_disc_is_a_dvd(plug_in, tmp_path):
    path = tmp_path / "dvd.iso"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(4 << 30)
    host = plug_in(path)
    everything = answer(host, command(GET_CONFIGURATION))
    assert (everything[6:8], features(everything)[0x1F], features(everything)[0x1E]) == (b"\x00\x10", True, False)
    assert answer(host, command(READ_TOC, 2, 0, 0, 0, 0, 0xAA))[-3:] == bytes((0xFF, 59, 74))


def test_events_are_told_once(host):
    poll = command(GET_EVENT_STATUS, 1, 0, 0, 0x10)
    assert answer(host, poll) == bytes.fromhex("0006041000020000")
    host.run(EJECT)
    assert answer(host, poll) == bytes.fromhex("0006041003010000")
    assert answer(host, poll) == bytes.fromhex("0006041000010000")
    host.run(LOAD)
    assert answer(host, poll) == bytes.fromhex("0006041002020000")  # before, and without, the unit attention
    assert answer(host, command(GET_EVENT_STATUS, 1, 0, 0, 0x40)) == bytes.fromhex("00028010")
    assert host.run(bytes(6)) == FAILED
    assert host.sense() == (6, 0x28, 0)


def test_with_the_tray_open_there_is_no_disc(host):
    assert host.run(EJECT) == PASSED
    for what in (bytes(6), READS["10"], command(READ_TOC), command(0x51), command(0x52), bytes((0x25,)) + bytes(9)):
        assert host.run(what) == FAILED
        assert host.sense() == TRAY_OPEN
    assert answer(host, command(GET_CONFIGURATION))[6:8] == b"\0\0"
    assert answer(host, command(0xBD, 0, 0, 0, 0, 0, 0, 0, allocation=0, size=12)[:8] + b"\0\x08\0\0")[1] == 0x10


def test_locks_are_in_the_capabilities(host):
    sense = bytes((0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 128, 0))
    page = answer(host, sense)
    assert page[:10] == bytes((0, 28, 0, 0, 0, 0, 0, 0, 0x2A, 20))
    assert (page[10], page[14]) == (0x0B, 0x29)
    host.run(bytes((0x1E, 0, 0, 0, 1, 0)))
    assert answer(host, sense)[14] == 0x2B
    assert (host.run(EJECT), host.sense()) == (FAILED, (5, 0x53, 2))
    assert answer(host, bytes((0x1A, 0, 0x2A, 0, 128, 0)))[4:6] == bytes((0x2A, 20))


REFUSED = {
    "events that are not polled": command(GET_EVENT_STATUS, 0, 0, 0, 0x10),
    "table from a track": command(READ_TOC, 0, 0, 0, 0, 0, 2),
    "kind of table": command(READ_TOC, 0, 5),
    "kind of disc information": command(0x51, 1),
    "track": command(0x52, 1, 0, 0, 0, 2),
    "block of no track": command(0x52, 0, 0, 0, 0, BLOCKS),
    "kind of address": command(0x52, 3),
    "kind of configuration": command(GET_CONFIGURATION, 3),
    "caching page": bytes((0x1A, 0, 0x08, 0, 255, 0)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_do_is_refused(host, name):
    assert host.run(REFUSED[name]) == FAILED
    assert host.sense() == INVALID_FIELD
