"""What one guest can make a host hold, and that all of it comes back."""

import pytest

from tests.fakes.device import BULK_IN, BULK_OUT, INTERRUPT_OUT, FakeDevice
from tests.fakes.guest import Rig
from usbbridge.errors import RemoteProtocolError
from usbbridge.redirect.limits import MAX_PENDING, MAX_PENDING_BYTES, MAX_TRANSFER, OUTBOX_HIGH
from usbbridge.usbredir.packets import BulkPacket, CancelDataPacket, GetConfiguration
from usbbridge.usbredir.proto import Status

SUCCESS, IOERROR, INVAL = Status.SUCCESS, Status.IOERROR, Status.INVAL


@pytest.fixture
def rig(device: FakeDevice) -> Rig:
    return Rig(device).attach()


def statuses(rig: Rig) -> list[tuple[int, int]]:
    return [(packet_id, packet.status) for packet_id, packet in rig.answers()]


def test_a_transfer_may_be_as_long_as_the_limit_and_no_longer(rig: Rig, device: FakeDevice) -> None:
    rig.guest.bulk(1, BULK_IN, MAX_TRANSFER)
    rig.guest.bulk(2, BULK_IN, MAX_TRANSFER + 1)
    assert statuses(rig) == [(2, INVAL)]
    assert [t.length for t in device.flying] == [MAX_TRANSFER]


def test_data_longer_than_the_limit_ends_the_session_before_it_is_received(rig: Rig) -> None:
    header = rig.guest.codec.bulk_header(1, BULK_OUT, 0, MAX_TRANSFER + 1, 0, MAX_TRANSFER + 1)
    with pytest.raises(RemoteProtocolError, match=f"not at most {MAX_TRANSFER} bytes"):
        rig.receive(header)


@pytest.mark.parametrize("kind", ["bulk in", "bulk out", "large bulk out", "control", "interrupt"])
def test_more_transfers_than_the_limit_are_refused_until_one_has_ended(
    rig: Rig, device: FakeDevice, kind: str
) -> None:
    def one(packet_id: int) -> None:
        match kind:
            case "bulk in":
                rig.guest.bulk(packet_id, BULK_IN, 512)
            case "bulk out":
                rig.guest.bulk(packet_id, BULK_OUT, data=b"x")
            case "large bulk out":
                rig.guest.bulk(packet_id, BULK_OUT, data=bytes(20_000))
            case "control":
                rig.guest.control(packet_id, 0x80, 6, 0x0100, 0, 18)
            case _:
                rig.guest.interrupt(packet_id, INTERRUPT_OUT, b"x")

    for packet_id in range(MAX_PENDING + 2):
        one(packet_id)
    assert statuses(rig) == [(MAX_PENDING, IOERROR), (MAX_PENDING + 1, IOERROR)]
    device.finish(device.flying[0])
    assert statuses(rig) == [(0, SUCCESS)]
    one(9999)
    assert statuses(rig) == []
    rig.host.disconnect()
    rig.settle()
    assert rig.host.pending_bytes == device.outstanding == 0


def test_a_cancelled_transfer_counts_until_the_device_lets_go_of_it(rig: Rig, device: FakeDevice) -> None:
    device.keeps_cancelled = True
    for packet_id in range(MAX_PENDING):
        rig.guest.bulk(packet_id, BULK_IN, 512)
        rig.guest.say(CancelDataPacket(), packet_id)
    rig.answers()
    rig.guest.bulk(9999, BULK_IN, 512)
    assert statuses(rig) == [(9999, IOERROR)]
    device.finish(device.flying[0])
    device.reap()
    rig.guest.bulk(9999, BULK_IN, 512)
    assert statuses(rig) == []


@pytest.mark.parametrize("direction", [BULK_IN, BULK_OUT])
def test_more_bytes_than_the_limit_are_refused_until_some_are_free(
    rig: Rig, device: FakeDevice, direction: int
) -> None:
    def one(packet_id: int) -> None:
        data = b"" if direction & 0x80 else bytes(MAX_TRANSFER)
        rig.guest.bulk(packet_id, direction, MAX_TRANSFER, data)
        rig.to_host()

    most = MAX_PENDING_BYTES // MAX_TRANSFER
    for packet_id in range(most + 1):
        one(packet_id)
    assert statuses(rig) == [(most, IOERROR)]
    assert rig.host.pending_bytes == MAX_PENDING_BYTES
    device.finish(device.flying[0])
    assert statuses(rig) == [(0, SUCCESS)]
    one(100)
    assert statuses(rig) == []


def test_data_that_waits_to_be_written_counts(rig: Rig, device: FakeDevice) -> None:
    most = MAX_PENDING_BYTES // MAX_TRANSFER
    for packet_id in range(most):
        rig.guest.bulk(packet_id, BULK_IN, MAX_TRANSFER)
    rig.settle()
    for transfer in list(device.flying):
        device.finish(transfer, data=b"x" * 65536)
    device.reap()
    rig.guest.bulk(99, BULK_IN, 512)
    rig.to_host()
    assert rig.host.outbox.parts[-1][17] == IOERROR
    _, held = rig.take_outbox()
    rig.host.sent(held)
    assert rig.host.pending_bytes == 0


def test_small_replies_do_not_hold_a_large_buffer(rig: Rig, device: FakeDevice) -> None:
    rig.guest.bulk(1, BULK_IN, MAX_TRANSFER)
    rig.settle()
    device.finish(device.flying[0], data=b"short")
    device.reap()
    assert rig.host.pending_bytes == 0


def test_refused_packets_leave_the_packets_behind_them_alone(rig: Rig, device: FakeDevice) -> None:
    for packet_id in range(MAX_PENDING):
        rig.guest.bulk(packet_id, BULK_IN, 512)
    rig.settle()
    rig.step = 1000
    rig.guest.bulk(5000, BULK_OUT, data=b"\xff" * 20_000)
    rig.guest.say(GetConfiguration(), 5001)
    assert statuses(rig) == [(5000, IOERROR), (5001, SUCCESS)]


def test_a_guest_that_asks_and_never_reads_makes_the_host_congested(rig: Rig) -> None:
    one = rig.guest.codec.encode(GetConfiguration(), 1)
    assert not rig.host.congested
    answers = OUTBOX_HIGH // (16 + 2)
    rig.receive(one * answers)
    assert not rig.host.congested
    rig.receive(one)
    assert rig.host.congested
    rig.take_outbox()
    assert not rig.host.congested


def test_many_replies_with_data_are_all_given_back(rig: Rig, device: FakeDevice) -> None:
    for packet_id in range(100):
        rig.guest.bulk(packet_id, BULK_IN, 5000)
    rig.settle()
    for transfer in list(device.flying):
        device.finish(transfer, data=bytes(transfer.id * 50))
    assert [(packet_id, packet.length) for packet_id, packet in rig.answers()] == [(n, n * 50) for n in range(100)]
    assert rig.host.pending_bytes == device.outstanding == 0


def test_nothing_is_left_of_a_refused_bulk_packet_of_every_length(rig: Rig, device: FakeDevice) -> None:
    for size in (0, 1, 16_000, 17_000, 100_000):
        rig.guest.bulk(1, 0x07, data=bytes(size))
        rig.guest.bulk(2, BULK_OUT, data=bytes(size), stream_id=1)
    assert [packet for _, packet in rig.answers()] == [
        BulkPacket(endpoint, INVAL, 0, stream) for _ in range(5) for endpoint, stream in ((0x07, 0), (BULK_OUT, 1))
    ]
    assert rig.host.pending_bytes == device.outstanding == 0
