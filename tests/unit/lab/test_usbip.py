"""The usbip exporter, driven as vhci-hcd drives it, over a socket pair."""

import errno
import select
import socket
from collections.abc import Iterator

import pytest

from tools.lab.devices.isosource import SINK, SOURCE, IsoSource, packet
from tools.lab.devices.misbehaving import IN, OTHER_PRODUCT, OUT, REPORTS, Misbehaving
from tools.lab.usbip import (
    BASIC,
    CMD_SUBMIT,
    CMD_UNLINK,
    PACKET,
    REPLY,
    RET_SUBMIT,
    RET_UNLINK,
    SHORT_NOT_OK,
    SUBMIT,
    UNLINK,
    Exporter,
)
from usbbridge.backend.emulated.device import EmulatedDevice
from usbbridge.backend.emulated.function import Function
from usbbridge.usb.ch9 import DIR_IN, DescriptorType, Feature, Request, SetupPacket, Speed

PATIENCE = 10.0
SIZE = 64
GET_DEVICE = SetupPacket(0x80, Request.GET_DESCRIPTOR, DescriptorType.DEVICE << 8, 0, 18)


class Kernel:
    """vhci-hcd's end."""

    def __init__(self, function: Function) -> None:
        ours, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.device = EmulatedDevice(function, "device")
        self.exporter = Exporter(self.device, ours)
        self.seqnum = 0
        self.going = True

    def serve(self) -> None:
        """Let the exporter do what there is to do."""
        while self.going:
            ready, _, _ = select.select(self.exporter.fds(), [], [], 0)
            if not ready:
                return
            self.going = all(self.exporter.ready(fd) for fd in ready)

    def submit(
        self, endpoint: int, length: int, data: bytes = b"", setup: bytes = bytes(8), packets: int = 0, flags: int = 0
    ) -> int:
        """Send a command; its seqnum."""
        self.seqnum += 1
        direction = bool(endpoint & DIR_IN)
        head = BASIC.pack(CMD_SUBMIT, self.seqnum, 0, direction, endpoint & 0x0F)
        self.sock.sendall(head + SUBMIT.pack(flags, length, 0, packets, 0, setup) + data)
        return self.seqnum

    def unlink(self, victim: int) -> tuple[int, int]:
        """Command and status of the reply."""
        self.seqnum += 1
        self.sock.sendall(BASIC.pack(CMD_UNLINK, self.seqnum, 0, 0, 0) + UNLINK.pack(victim).ljust(28, b"\0"))
        command, seqnum, status, _, _ = self.reply()
        assert seqnum == self.seqnum
        return command, status

    def reply(self) -> tuple[int, int, int, int, int]:
        """Command, seqnum, status, actual length, and number of packets."""
        self.serve()
        fields = REPLY.unpack(self.read(REPLY.size))
        return fields[0], fields[1], fields[5], fields[6], fields[8]

    def read(self, size: int) -> bytes:
        return self.sock.recv(size, socket.MSG_WAITALL) if size else b""

    def ask(self, setup: SetupPacket, data: bytes = b"") -> tuple[int, bytes]:
        """A control request: status and data."""
        self.submit(setup.request_type & DIR_IN, setup.length, data, setup.pack())
        _, seqnum, status, actual, _ = self.reply()
        assert seqnum == self.seqnum
        return status, self.read(actual if setup.is_in else 0)

    def configure(self) -> None:
        assert self.ask(SetupPacket(0, Request.SET_CONFIGURATION, 1, 0, 0)) == (0, b"")


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel(Misbehaving("none", Speed.HIGH))
    yield made
    made.sock.close()
    made.exporter.close()


@pytest.fixture
def iso() -> Iterator[Kernel]:
    """An isochronous source and sink, in its first setting with endpoints."""
    made = Kernel(IsoSource(Speed.HIGH, {"size": str(SIZE), "errors": "3", "short": "2"}))
    made.configure()
    assert made.ask(SetupPacket(1, Request.SET_INTERFACE, 1, 0, 0)) == (0, b"")
    yield made
    made.sock.close()
    made.exporter.close()


def test_a_descriptor_is_read(kernel: Kernel) -> None:
    status, data = kernel.ask(GET_DEVICE)
    assert (status, len(data), data[8:12].hex()) == (0, 18, "f4466606")


def test_bulk_and_interrupt_transfers_in_both_directions(kernel: Kernel) -> None:
    kernel.configure()
    kernel.submit(IN, 100)
    assert kernel.reply() == (RET_SUBMIT, 2, 0, 100, 0)
    assert kernel.read(100) == bytes(100)
    kernel.submit(OUT, 5, b"bytes")
    assert kernel.reply() == (RET_SUBMIT, 3, 0, 5, 0)
    kernel.submit(REPORTS, 8)
    assert kernel.reply() == (RET_SUBMIT, 4, 0, 8, 0)
    assert kernel.read(8) == bytes(8)


def test_a_short_transfer_is_an_error_to_who_asked_for_that(kernel: Kernel) -> None:
    kernel.configure()
    kernel.submit(REPORTS, 64, flags=SHORT_NOT_OK)
    assert kernel.reply() == (RET_SUBMIT, 2, -errno.EREMOTEIO, 8, 0)
    assert kernel.read(8) == bytes(8)


@pytest.mark.parametrize(
    ("kind", "status"), [("stalls", -errno.EPIPE), ("babbles", -errno.EOVERFLOW)], ids=["stall", "babble"]
)
def test_a_transfer_that_fails_has_the_kernels_number_for_it(kind: str, status: int) -> None:
    kernel = Kernel(Misbehaving(kind, Speed.HIGH))
    kernel.configure()
    kernel.submit(IN, 64)
    assert kernel.reply() == (RET_SUBMIT, 2, status, 0, 0)
    kernel.sock.close()
    kernel.exporter.close()


def test_what_does_not_exist_is_refused(kernel: Kernel) -> None:
    assert kernel.ask(SetupPacket(0, Request.SET_CONFIGURATION, 7, 0, 0))[0] == -errno.EPIPE
    assert kernel.ask(SetupPacket(1, Request.SET_INTERFACE, 9, 0, 0))[0] == -errno.EPIPE
    assert kernel.ask(SetupPacket(2, Request.CLEAR_FEATURE, Feature.ENDPOINT_HALT, 0x8F, 0))[0] == -errno.EPIPE
    kernel.submit(0x8F, 64)
    assert kernel.reply()[2] == -errno.EPROTO


def test_a_halt_is_cleared() -> None:
    kernel = Kernel(Misbehaving("stalls", Speed.HIGH))
    kernel.configure()
    kernel.submit(IN, 64)
    kernel.reply()
    assert kernel.device._chapter9.halted == {IN}
    assert kernel.ask(SetupPacket(2, Request.CLEAR_FEATURE, Feature.ENDPOINT_HALT, IN, 0)) == (0, b"")
    assert kernel.device._chapter9.halted == set()
    kernel.sock.close()
    kernel.exporter.close()


def test_an_unlinked_transfer_is_answered_once() -> None:
    kernel = Kernel(Misbehaving("hangs", Speed.HIGH))
    kernel.configure()
    waiting = kernel.submit(IN, 64)
    request = kernel.submit(DIR_IN, 18, setup=GET_DEVICE.pack())
    assert kernel.unlink(waiting) == (RET_UNLINK, -errno.ECONNRESET)
    assert kernel.unlink(request) == (RET_UNLINK, -errno.ECONNRESET)
    assert kernel.unlink(waiting) == (RET_UNLINK, 0)
    assert kernel.device.in_flight() == 0
    kernel.sock.close()
    kernel.exporter.close()


def test_the_first_read_of_an_enumeration_is_taken_for_a_port_reset() -> None:
    kernel = Kernel(Misbehaving("other-ids", Speed.HIGH))
    first = SetupPacket(*(GET_DEVICE.request_type, GET_DEVICE.request, GET_DEVICE.value, 0, 64))
    before = kernel.ask(first)
    kernel.configure()
    assert kernel.ask(GET_DEVICE) == before
    _, after = kernel.ask(first)
    assert int.from_bytes(after[10:12], "little") == OTHER_PRODUCT
    kernel.sock.close()
    kernel.exporter.close()


def test_isochronous_data_is_packed_by_what_has_moved(iso: Kernel) -> None:
    wanted = b"".join(PACKET.pack(i * 100, SIZE, 0, 0) for i in range(4))
    iso.submit(SOURCE, 400, wanted, packets=4)
    iso.serve()
    while iso.device.in_flight():
        select.select(iso.exporter.fds(), [], [], PATIENCE)
        iso.serve()
    assert iso.reply() == (RET_SUBMIT, 3, 0, 2 * 4 + SIZE, 4)
    assert iso.read(2 * 4 + SIZE) == packet(0, SIZE) + packet(1, 4) + packet(3, 4)
    table = [*PACKET.iter_unpack(iso.read(4 * PACKET.size))]
    assert table == [
        (0, SIZE, SIZE, 0),
        (100, SIZE, 4, 0),
        (200, SIZE, 0, -errno.EPROTO),
        (300, SIZE, 4, 0),
    ]


def test_isochronous_data_is_taken_from_where_it_lies(iso: Kernel) -> None:
    packets = [packet(i, SIZE).ljust(100, b"\xff") for i in range(3)]
    table = b"".join(PACKET.pack(i * 100, SIZE, 0, 0) for i in range(3))
    iso.submit(SINK, 300, b"".join(packets) + table, packets=3)
    iso.serve()
    while iso.device.in_flight():
        select.select(iso.exporter.fds(), [], [], PATIENCE)
        iso.serve()
    assert iso.reply() == (RET_SUBMIT, 3, 0, 3 * SIZE, 3)
    assert [*PACKET.iter_unpack(iso.read(3 * PACKET.size))] == [(i * 100, SIZE, SIZE, 0) for i in range(3)]
    assert iso.ask(SetupPacket(0xC0, 1, 0, 0, 12)) == (0, bytes.fromhex("000000000300000000000000"))


def test_isochronous_transfers_are_refused_where_there_is_no_such_endpoint(iso: Kernel) -> None:
    iso.submit(0x8F, 64, PACKET.pack(0, 64, 0, 0), packets=1)
    assert iso.reply() == (RET_SUBMIT, 3, -errno.EPROTO, 0, 1)
    assert PACKET.unpack(iso.read(PACKET.size)) == (0, 64, 0, -errno.EPROTO)


def test_the_device_is_closed_when_the_kernel_lets_it_go(kernel: Kernel) -> None:
    kernel.sock.close()
    kernel.serve()
    assert not kernel.going
    assert kernel.device.pollfds() == ()


def test_the_kernel_loses_a_device_that_leaves_the_bus() -> None:
    kernel = Kernel(Misbehaving("vanishes", Speed.HIGH))
    kernel.configure()
    for _ in range(20):
        kernel.submit(OUT, 1, b"x")
    kernel.serve()
    assert not kernel.going
    replies = [REPLY.unpack(kernel.read(REPLY.size)) for _ in range(20)]
    assert [fields[5] for fields in replies] == [0] * 19 + [-errno.ESHUTDOWN]
    assert kernel.sock.recv(1) == b""
    kernel.sock.close()
