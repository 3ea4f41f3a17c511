"""A hostile guest at an emulated disk: nothing it sends raises, hangs the device, or makes it grow.

"Hangs" means: after reset recovery, whatever came before, the device must work as if new; and a transfer may wait only
where Bulk-Only Transport lets it wait.
"""

import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.backend.bulk_only_host import IN, OUT, Host, Pending, read_10, read_16
from usbbridge.backend.base import Status
from usbbridge.backend.emulated.bot import Stage
from usbbridge.backend.emulated.disk import open_disk
from usbbridge.usb.ch9 import SetupPacket, Speed

BLOCKS, BLOCK = 96, 512
CONTENT = random.Random(3).randbytes(BLOCKS * BLOCK)
MAX_TRANSFER = 1 << 16
GROWTH = 1 << 20
"Bytes that the device may hold more after a hostile sequence than before: its pool of the sizes used, and little else."

CODES = [
    *(0x00, 0x03, 0x08, 0x0A, 0x12, 0x1A, 0x1B, 0x1E, 0x23, 0x25, 0x28, 0x2A, 0x2F, 0x35, 0x43, 0x46, 0x4A, 0x51, 0x52),
    *(0x5A, 0x88, 0x8A, 0x8F, 0x91, 0x9E, 0xA0, 0xA8, 0xAA, 0xBD),
]
numbers = st.integers(0, 255) | st.sampled_from([0, 1, BLOCKS - 1, BLOCKS])
commands = st.builds(
    lambda code, rest: bytes((code, *rest)),
    st.sampled_from(CODES) | st.integers(0, 255),
    st.lists(numbers, max_size=15),
)
lengths = st.sampled_from([0, 1, 8, 36, 512, 513, 4096]) | st.integers(0, 0xFFFFFFFF)
wrappers = st.builds(
    lambda command, length, to_host, size: Host.cbw(command, length, to_host=to_host, size=size),
    commands,
    lengths,
    st.booleans(),
    st.none() | st.integers(0, 255),
) | st.binary(min_size=31, max_size=31)
sizes = st.sampled_from([0, 1, 12, 13, 31, 512, 4096]) | st.integers(0, MAX_TRANSFER)


@pytest.fixture(scope="module", params=["disk.img", "disk.img,ro", "disc.iso"])
def spec(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / request.param.removesuffix(",ro")).write_bytes(CONTENT)
    return f"disk:{folder / request.param}"


def recovered(host: Host) -> None:
    """Reset recovery, then a command that must work; a unit attention, or an open tray, may come first."""
    host.device.reset()
    host.recover()
    for load in (bytes(6), bytes((0x1B, 0, 0, 0, 3, 0)), bytes(6)):
        host.run(load)
    assert host.run(bytes(6)) == 0


@given(st.lists(st.tuples(wrappers, st.lists(st.tuples(st.booleans(), sizes), max_size=4)), max_size=6))
def test_no_sequence_of_transfers_raises_or_wedges_the_device(spec, sequence):
    host = Host(open_disk(spec))
    try:
        for wrapper, transfers in sequence:
            host.submit_out(wrapper)
            for is_in, size in transfers:
                host.submit_in(size) if is_in else host.submit_out(bytes(size))
            host.device.reap()
        recovered(host)
        assert host.device.in_flight() == 0
    finally:
        host.device.close()


@given(commands, lengths, st.booleans(), st.integers(1, 5000))
def test_every_command_ends_with_a_status(spec, command, length, to_host, chunk):
    host = Host(open_disk(spec))
    try:
        assert host.send(host.cbw(command or b"\0", length, to_host=to_host)) is Status.COMPLETED
        left = min(length, 64 * chunk)
        while left and host.device.function.stage in (Stage.DATA_IN, Stage.DATA_OUT, Stage.END_IN):
            size = min(chunk, left)
            done = host.receive(size) if to_host else host.submit_out(bytes(size)).done
            assert done is not None, "a data transfer waits in the data stage"
            left -= len(done.data) if to_host else size  # after less than was asked for the STALL is yet to come
            if done.status is Status.STALL:
                host.device.clear_halt(IN)
                break
        if host.device.function.stage is Stage.STATUS:
            residue, status = host.csw()
            assert residue <= length
            assert status in (0, 1, 2)
        else:  # a longer data stage than this test wants to see the end of
            assert left == 0
            assert length > 64 * chunk
    finally:
        host.device.close()


@given(
    st.binary(min_size=8, max_size=8)
    | st.builds(
        lambda kind, request, value, index, length: SetupPacket(kind, request, value, index, length).pack(),
        st.sampled_from([0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x21, 0xA1]),
        st.sampled_from([*range(13), 48, 49, 0xFE, 0xFF]),
        st.sampled_from([0, 1, 2, 0x0100, 0x0200, 0x0300, 0x0303, 0x0600, 0x0700, 0x0F00]),
        st.sampled_from([0, 1, 2, 0x81, 0x82, 0x0409]),
        st.integers(0, 300),
    ),
    st.sampled_from([Speed.HIGH, Speed.SUPER]),
)
def test_every_setup_packet_is_answered(spec, setup, speed):
    host = Host(open_disk(spec, speed=speed))
    try:
        transfer = host.device.take(0xFFFF)
        transfer.setup[:] = setup
        pending = Pending(host.device, transfer)
        assert host.device.submit_control(transfer, 0xFFFF) is Status.COMPLETED
        assert pending.done is not None
        assert pending.done.status in (Status.COMPLETED, Status.STALL)
        assert transfer.actual <= SetupPacket.parse(setup).length
        host.device.set_configuration(1)
        recovered(host)
    finally:
        host.device.close()


@given(
    first=st.integers(0, BLOCKS - 1),
    count=st.integers(1, BLOCKS),
    chunk=st.integers(1, 3000),
    long=st.booleans(),
)
def test_reads_equal_the_image(spec, first, count, chunk, long):
    host = Host(open_disk(spec))
    try:
        block = host.device.function.unit.medium.block_size
        count = min(count, len(CONTENT) // block - first % (len(CONTENT) // block))
        first %= len(CONTENT) // block
        is_disc = block != BLOCK
        command = read_16(first, count) if long and not is_disc else read_10(first, count)
        outcome = host.read(command, count * block, chunk=chunk)
        assert outcome.data == CONTENT[first * block : (first + count) * block]
        assert (outcome.residue, outcome.status) == (0, 0)
    finally:
        host.device.close()


class DiskAgainstModel(RuleBasedStateMachine):
    """Writes, reads, cancels and resets in any order: the disk holds what was written, and nothing else."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.path = self.folder / "model.img"
        self.path.write_bytes(CONTENT)
        self.model = bytearray(CONTENT)
        self.host = Host(open_disk(f"disk:{self.path}"))
        self.waiting: list[Pending] = []

    @rule(
        first=st.integers(0, BLOCKS - 1), count=st.integers(1, 8), byte=st.integers(0, 255), chunk=st.integers(1, 3000)
    )
    @precondition(lambda self: not self.waiting)
    def write(self, first, count, byte, chunk):
        data = bytes((byte,)) * (count * BLOCK)
        outcome = self.host.write(read_10(first, count, 0x2A), data, chunk=chunk)
        fits = first + count <= BLOCKS
        assert (outcome.status, outcome.residue) == ((0, 0) if fits else (1, len(data)))
        if fits:
            self.model[first * BLOCK : (first + count) * BLOCK] = data

    @rule(first=st.integers(0, BLOCKS - 8), count=st.integers(1, 8), extra=st.integers(0, 1000))
    @precondition(lambda self: not self.waiting)
    def read(self, first, count, extra):
        outcome = self.host.read(read_10(first, count), count * BLOCK + extra)
        assert outcome.data == self.model[first * BLOCK : (first + count) * BLOCK]
        assert (outcome.residue, outcome.status) == (extra, 0)

    @rule(size=st.integers(1, 1000))
    @precondition(lambda self: len(self.waiting) < 4)
    def wait(self, size):
        self.waiting.append(self.host.submit_in(size))

    @rule()
    def cancel(self):
        for pending in self.waiting:
            self.host.device.cancel(pending.transfer)
            assert pending.status is Status.CANCELLED
        self.waiting.clear()

    @rule(data=st.binary(max_size=40).filter(lambda data: len(data) != 31))
    @precondition(lambda self: not self.waiting)
    def junk(self, data):
        assert self.host.send(data) is Status.STALL
        self.host.recover()

    @rule()
    def port_reset(self):
        self.host.device.reset()
        assert [pending.status for pending in self.waiting] == [Status.CANCELLED] * len(self.waiting)
        self.waiting.clear()

    @invariant()
    def the_image_is_what_was_written(self):
        assert self.path.read_bytes() == self.model

    def teardown(self):
        self.host.device.close()


def test_the_disk_holds_what_was_written_and_nothing_else(tmp_path):
    DiskAgainstModel.folder = tmp_path
    case = DiskAgainstModel.TestCase
    case.settings = settings(max_examples=40, stateful_step_count=30)
    case().runTest()


def test_announced_lengths_make_nothing_grow(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    host = Host(open_disk(f"disk:{path}"))
    largest = [struct.pack(">BBQIBB", code, 0, 0, 0xFFFFFFFF, 0, 0) for code in (0x88, 0x8A, 0x8F, 0x91)]
    largest += [bytes((code,)) + b"\xff" * 15 for code in CODES]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            for command in largest:
                for to_host in (True, False):
                    host.submit_out(host.cbw(command, 0xFFFFFFFF, to_host=to_host))
                    host.submit_in(4096) if to_host else host.submit_out(bytes(4096))
                    recovered(host)
        assert tracemalloc.get_traced_memory()[1] - before < GROWTH
    finally:
        tracemalloc.stop()
        host.device.close()


def test_endpoints_are_what_the_host_of_these_tests_expects(spec):
    device = open_disk(spec)
    configuration = device.configuration()
    assert configuration is not None
    assert [endpoint.address for endpoint in configuration.interfaces[0].endpoints] == [IN, OUT]
    device.close()
