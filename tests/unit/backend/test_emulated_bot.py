"""Bulk-Only Transport: the 13 cases, stalls, residues, reset recovery, and hosts that break the rules."""

import pytest

from tests.unit.backend.bulk_only_host import IN, OUT, Host, read_10
from usbbridge.backend.base import Status
from usbbridge.backend.emulated.bot import Stage

BLOCK = 512
TEST_UNIT_READY = bytes(6)
READ_2 = read_10(3, 2)
WRITE_2 = read_10(3, 2, 0x2A)
PASSED, FAILED, PHASE_ERROR = range(3)

# number: command, host's length, to host?, (bytes moved, STALL ends the data stage, residue, status)
CASES = {
    1: (TEST_UNIT_READY, 0, True, (0, False, 0, PASSED)),
    2: (READ_2, 0, True, (0, False, 0, PHASE_ERROR)),
    3: (WRITE_2, 0, False, (0, False, 0, PHASE_ERROR)),
    4: (TEST_UNIT_READY, 512, True, (0, True, 512, PASSED)),
    5: (READ_2, 2048, True, (1024, True, 1024, PASSED)),
    6: (READ_2, 1024, True, (1024, False, 0, PASSED)),
    7: (READ_2, 600, True, (600, False, 0, PHASE_ERROR)),
    8: (WRITE_2, 1024, True, (0, True, 1024, PHASE_ERROR)),
    9: (TEST_UNIT_READY, 1024, False, (0, False, 1024, PASSED)),
    10: (READ_2, 1024, False, (0, False, 1024, PHASE_ERROR)),
    11: (WRITE_2, 2048, False, (1024, False, 1024, PASSED)),
    12: (WRITE_2, 1024, False, (1024, False, 0, PASSED)),
    13: (WRITE_2, 512, False, (0, False, 512, PHASE_ERROR)),
}


@pytest.mark.parametrize("chunk", [None, 512, 100, 1])
@pytest.mark.parametrize("number", CASES)
def test_the_thirteen_cases(host: Host, image, number, chunk):
    command, length, to_host, (moved, stalled, residue, status) = CASES[number]
    before = image.read_bytes()
    if to_host:
        outcome = host.read(command, length, chunk=chunk)
        assert outcome.data == before[3 * BLOCK :][:moved]
        assert image.read_bytes() == before
    else:
        data = b"\xa5" * length
        outcome = host.write(command, data, chunk=chunk)
        assert image.read_bytes() == before[: 3 * BLOCK] + data[:moved] + before[3 * BLOCK + moved :]
    assert (outcome.stalled, outcome.residue, outcome.status) == (stalled, residue, status)
    assert host.read(READ_2, 1024).status == PASSED  # and the next command works


@pytest.mark.parametrize("to_host", [True, False])
def test_the_direction_bit_means_nothing_without_data(host, to_host):
    assert host.send(host.cbw(TEST_UNIT_READY, 0, to_host=to_host)) is Status.COMPLETED
    assert host.csw() == (0, PASSED)


def test_a_command_that_fails_ends_its_data_stage_with_a_stall_or_discards_it(host):
    outcome = host.read(read_10(1000, 2), 1024)
    assert (outcome.data, outcome.stalled, outcome.residue, outcome.status) == (b"", True, 1024, FAILED)
    outcome = host.write(read_10(1000, 2, 0x2A), bytes(1024), chunk=512)
    assert (outcome.residue, outcome.status) == (1024, FAILED)
    assert host.sense() == (5, 0x21, 0)


def test_the_tag_comes_back(host):
    host.send(host.cbw(TEST_UNIT_READY, 0, tag=0xFEDCBA98))
    done = host.receive(13)
    assert done.data[4:8] == bytes.fromhex("98badcfe")


def test_transfers_queued_behind_a_short_one_are_stalled_not_given_the_status(host):
    waiting = [host.submit_in(512) for _ in range(4)]
    host.send(host.cbw(READ_2, 2048))
    assert [pending.status for pending in waiting] == [Status.COMPLETED] * 2 + [Status.STALL] * 2
    host.device.clear_halt(IN)
    assert host.csw() == (1024, PASSED)


def test_all_transfers_of_a_command_may_be_queued_in_advance(host, image):
    parts = [host.submit_in(size) for size in (512, 512, 13)]
    assert [part.status for part in parts] == [None, None, None]
    host.send(host.cbw(READ_2, 1024))
    assert b"".join(part.done.data for part in parts[:2]) == image.read_bytes()[3 * BLOCK : 5 * BLOCK]
    assert parts[2].done.data[12] == PASSED


def test_the_next_command_waits_until_the_status_has_been_fetched(host):
    host.send(host.cbw(TEST_UNIT_READY, 0))
    following = host.submit_out(host.cbw(TEST_UNIT_READY, 0))
    assert following.status is None
    assert host.csw() == (0, PASSED)
    assert following.status is Status.COMPLETED
    assert host.csw() == (0, PASSED)


def test_a_status_that_does_not_fit_is_an_overflow_and_can_be_fetched_again(host):
    host.send(host.cbw(TEST_UNIT_READY, 0))
    assert host.receive(12).status is Status.OVERFLOW
    assert host.csw() == (0, PASSED)


GOOD = Host.cbw(TEST_UNIT_READY, 0)
INVALID = {
    "empty": b"",
    "too short": GOOD[:30],
    "too long": GOOD + b"\0",
    "signature": b"USBD" + GOOD[4:],
    "reserved flags": GOOD[:12] + b"\x01" + GOOD[13:],
    "no such unit": GOOD[:13] + b"\x01" + GOOD[14:],
    "reserved unit bits": GOOD[:13] + b"\x10" + GOOD[14:],
    "no command": GOOD[:14] + b"\x00" + GOOD[15:],
    "command of 17 bytes": GOOD[:14] + b"\x11" + GOOD[15:],
}


@pytest.mark.parametrize("name", INVALID)
def test_what_is_no_cbw_stalls_both_endpoints_until_reset_recovery(host, name):
    assert host.send(INVALID[name]) is Status.STALL
    assert host.receive(13).status is Status.STALL
    host.device.clear_halt(IN)
    host.device.clear_halt(OUT)
    assert host.receive(13).status is Status.STALL  # clearing alone does not help (§6.6.1)
    assert host.send(GOOD) is Status.STALL
    host.recover()
    assert host.run(TEST_UNIT_READY) == PASSED


def test_a_mass_storage_reset_leaves_halts_to_the_host(host):
    host.send(b"junk")
    assert host.control(0x21, 0xFF, 0, 0, 0).status is Status.COMPLETED
    assert host.send(GOOD) is Status.STALL
    host.device.clear_halt(OUT)
    assert host.run(TEST_UNIT_READY) == PASSED


def test_reset_recovery_works_in_the_middle_of_either_data_stage(host, image):
    before = image.read_bytes()
    host.send(host.cbw(READ_2, 1024))
    assert host.receive(512).status is Status.COMPLETED
    host.recover()
    host.send(host.cbw(WRITE_2, 1024, to_host=False))
    host.recover()
    assert host.device.function.stage is Stage.COMMAND
    assert host.read(READ_2, 1024).data == before[3 * BLOCK : 5 * BLOCK]


def test_more_data_than_announced_needs_reset_recovery(host, image):
    before = image.read_bytes()
    host.send(host.cbw(WRITE_2, 1024, to_host=False))
    assert host.send(bytes(1025)) is Status.STALL
    assert host.receive(13).status is Status.STALL
    assert image.read_bytes() == before
    host.recover()
    assert host.run(TEST_UNIT_READY) == PASSED


def test_empty_data_transfers_change_nothing(host, image):
    host.send(host.cbw(WRITE_2, 1024, to_host=False))
    assert host.send(b"") is Status.COMPLETED
    assert host.send(b"\x5a" * 1024) is Status.COMPLETED
    assert host.csw() == (0, PASSED)
    assert image.read_bytes()[3 * BLOCK : 5 * BLOCK] == b"\x5a" * 1024


def test_an_announced_length_allocates_nothing(host):
    host.send(host.cbw(WRITE_2, 0xFFFFFFFF, to_host=False))
    assert host.send(bytes(4096)) is Status.COMPLETED
    host.recover()
    outcome = host.read(READ_2, 0xFFFFFFFF, chunk=4096)
    assert (len(outcome.data), outcome.residue, outcome.status) == (1024, 0xFFFFFFFF - 1024, PASSED)


def test_a_port_reset_ends_the_command(host):
    host.send(host.cbw(READ_2, 1024))
    waiting = host.submit_out(GOOD)
    host.device.reset()
    assert waiting.status is Status.CANCELLED
    assert host.run(TEST_UNIT_READY) == PASSED


def test_a_cancelled_data_transfer_takes_no_data_with_it(host, image):
    waiting = host.submit_in(512)
    host.device.cancel(waiting.transfer)
    assert waiting.status is Status.CANCELLED
    assert host.read(READ_2, 1024).data == image.read_bytes()[3 * BLOCK : 5 * BLOCK]


def test_there_is_one_unit(host):
    assert host.control(0xA1, 0xFE, 0, 0, 1).data == b"\0"


@pytest.mark.parametrize(
    "request_",
    [(0xA1, 0xFE, 1, 0, 1), (0xA1, 0xFE, 0, 1, 1), (0xA1, 0xFE, 0, 0, 0), (0x21, 0xFF, 0, 1, 0), (0x21, 0x01, 0, 0, 0)],
)
def test_other_class_requests_stall(host, request_):
    assert host.control(*request_).status is Status.STALL
