"""A VM that wants to do harm, packet by packet: each is well-formed, but comes when it has no business to, or too
often, or asks for too much. What the host then holds is bounded, each request gets its one answer, and in the end the
device is as good as before.

Bytes that are no packets at all: `test_redirect_bad_bytes.py`.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.fakes.device import BULK_IN, BULK_OUT, INTERRUPT_IN, ISO_BYTES, ISO_IN, ISO_OUT, UAS, FakeDevice
from tests.property.siege import ENDING, EVERY, LONGEST, MIB, Siege, forged, let_work, produce, within
from usbbridge.backend.base import Status
from usbbridge.errors import RemoteProtocolError
from usbbridge.redirect.limits import (
    BULK_BACKLOG,
    ISO_BACKLOG,
    MAX_PENDING,
    MAX_PENDING_BYTES,
    MAX_REPORT_TRANSFERS,
    MAX_STREAM_TRANSFERS,
    MAX_TRANSFER,
    OUTBOX_HIGH,
    STREAM_DROP,
)
from usbbridge.usb.ch9 import Speed
from usbbridge.usbredir import packets as p
from usbbridge.usbredir.proto import DIRECTIONS, Direction
from usbbridge.usbredir.proto import Status as RedirStatus

SIZES = [0, 511, 512, LONGEST]


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def siege(device: FakeDevice) -> Iterator[Siege]:
    siege = Siege(device).attached()
    yield siege
    siege.over()


# ---- every packet, in every state


def greeted(siege: Siege) -> None:
    """Both hellos, no device yet: the host announces it when its owner next lets it."""
    siege.host.start()
    siege.rig.receive(siege.guest.take_out())
    siege.guest.codec.feed(b"".join(siege.rig.take_outbox()[0]))


def attached(siege: Siege) -> None:
    siege.attached()


def streaming(siege: Siege) -> None:
    attached(siege)
    for packet in (p.StartIsoStream(ISO_IN, 8, 4), p.StartIsoStream(ISO_OUT, 8, 4)):
        siege.strike(forged(packet))
    siege.strike(forged(p.StartBulkReceiving(0, 512, BULK_IN, 4)))
    siege.strike(forged(p.StartInterruptReceiving(INTERRUPT_IN)))
    siege.strike(forged(p.BulkPacket(BULK_OUT, 0, 4, 0, b"wait"), 1))


def taken_away(siege: Siege) -> None:
    streaming(siege)
    siege.host.disconnect()


def acknowledged(siege: Siege) -> None:
    taken_away(siege)
    siege.strike(forged(p.DeviceDisconnectAck()))


STATES = [greeted, attached, streaming, taken_away, acknowledged]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("packet", EVERY, ids=lambda packet: packet.type.name.lower())
def test_every_packet_in_every_state(device: FakeDevice, state: Callable[[Siege], None], packet: p.Packet) -> None:
    siege = Siege(device)
    state(siege)
    for number in (1, 1, 2):
        siege.strike(forged(packet, number))
    for transfer in list(device.flying):
        device.finish(transfer, Status.ERROR)
    siege.strike(b"")
    allowed = Direction.TO_HOST in DIRECTIONS[packet.type]
    assert allowed or isinstance(siege.error, RemoteProtocolError), "what only a host may say is no guest's to say"
    siege.over()


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_all_packets_that_a_guest_may_send_in_every_state(device: FakeDevice, state: Callable[[Siege], None]) -> None:
    """In many orders, with the device at work in between."""
    sayings = [each for each in EVERY if Direction.TO_HOST in DIRECTIONS[each.type] and each.type not in ENDING]
    siege, chance = Siege(device), random.Random(19)
    state(siege)
    for _ in range(40):
        chance.shuffle(sayings)
        siege.strike(b"".join(forged(each, chance.randrange(4)) for each in sayings))
        let_work(device, chance)
        siege.host.sent(siege.rig.take_outbox()[1])
        with suppress(RemoteProtocolError):
            siege.strike(b"")
    siege.over()


# ---- isochronous OUT streams of few and odd sizes


SHAPES = [(packets, urbs) for packets in (1, 2, 3, 32) for urbs in (1, 2, 3, 16)]


@pytest.mark.parametrize(("packets", "urbs"), SHAPES)
def test_no_shape_of_a_stream_out_is_too_small(siege: Siege, device: FakeDevice, packets: int, urbs: int) -> None:
    """Half of one transfer of one packet is none: a host that waits for half must not take that for a division, an
    index, or a start with nothing (CVE-2026-92382)."""
    siege.strike(forged(p.StartIsoStream(ISO_OUT, packets, urbs)))
    chance, sent = random.Random(packets * 100 + urbs), []
    for number in range(3 * packets * urbs + 20):
        siege.strike(forged(p.IsoPacket(ISO_OUT, 0, 4, number.to_bytes(4, "big")), number))
        assert device.outstanding <= urbs
        while device.flying and chance.random() < 0.6:
            sent += device.flying[0].sent
            device.finish_iso(device.flying[0])
            siege.strike(b"")
    for transfer in device.flying:
        sent += transfer.sent
    numbers = [int.from_bytes(data, "big") for data in sent]
    assert numbers, "nothing was ever sent"
    assert numbers == sorted(set(numbers)), "in order, and none twice"
    assert siege.error is None


@pytest.mark.parametrize("data", [b"", bytes(ISO_BYTES), bytes(ISO_BYTES + 1), bytes(0xFFFF)], ids=len)
def test_packets_of_any_size_for_a_stream_out(siege: Siege, data: bytes) -> None:
    siege.strike(forged(p.StartIsoStream(ISO_OUT, 1, 1)))
    for number in range(20):
        siege.strike(forged(p.IsoPacket(ISO_OUT, 0, len(data), data), number))
        siege.host.sent(siege.rig.take_outbox()[1])
    assert siege.error is None


# ---- cancels and ids


def test_to_cancel_what_does_not_exist_costs_nothing(siege: Siege, device: FakeDevice) -> None:
    siege.strike(b"".join(forged(p.BulkPacket(BULK_IN, 0, 64, 0), number) for number in range(8)))
    cancels = b"".join(forged(p.CancelDataPacket(), 1000 + number) for number in range(1000))
    siege.host.sent(siege.rig.take_outbox()[1])
    with within(MIB):
        for _ in range(5):
            siege.strike(cancels)
    assert siege.host.outbox.size == 0
    assert len(device.flying) == 8
    assert device.cancelled == []


def test_each_of_many_requests_with_one_id_is_answered_once(siege: Siege, device: FakeDevice) -> None:
    ask, cancel = forged(p.BulkPacket(BULK_IN, 0, 64, 0), 7), forged(p.CancelDataPacket(), 7)
    siege.guest.ear.take()
    siege.strike(ask * 300 + cancel * 100)
    for transfer in device.flying[:100]:
        device.finish(transfer, data=b"x")
    siege.strike(cancel * 500)
    siege.rig.to_guest()
    answers = [packet for number, packet in siege.guest.ear.take() if number == 7]
    assert len(answers) == 300
    statuses = [packet.status for packet in answers if isinstance(packet, p.BulkPacket)]
    assert statuses.count(RedirStatus.SUCCESS) + statuses.count(RedirStatus.CANCELLED) == 300


def test_cancelled_transfers_that_the_device_keeps_still_count(siege: Siege, device: FakeDevice) -> None:
    """To ask and to cancel again and again must not fill the memory with what has not come back."""
    device.keeps_cancelled = True
    both = forged(p.BulkPacket(BULK_IN, 0, 4096, 0), 7) + forged(p.CancelDataPacket(), 7)
    for _ in range(40):
        siege.strike(both * 100)
        siege.host.sent(siege.rig.take_outbox()[1])
    assert len(device.flying) <= MAX_PENDING


# ---- too much, too often


@pytest.mark.parametrize("length", [LONGEST, MAX_TRANSFER + 1, MAX_TRANSFER, MIB, 65536], ids=lambda n: f"{n}")
def test_to_ask_for_the_most_a_hundred_thousand_times(siege: Siege, device: FakeDevice, length: int) -> None:
    """Every request is answered at once or is in flight. The VM reads its answers; that it need not is tested below."""
    many = 1000
    ask = forged(p.BulkPacket(BULK_IN, 0, length, 0), 7) * many
    answered = 0
    for _ in range(100):
        siege.strike(ask)
        parts, held = siege.rig.take_outbox()
        answered += len(parts)
        siege.host.sent(held)
    assert answered + len(device.flying) == 100 * many
    assert sum(transfer.capacity for transfer in device.flying) <= MAX_PENDING_BYTES


def test_a_vm_that_asks_and_never_reads_is_not_read_from_any_more(siege: Siege) -> None:
    many = 1000
    ask = forged(p.BulkPacket(0x8F, 0, 64, 0), 7) * many
    while not siege.host.congested:
        siege.strike(ask)
    longest = 26
    assert siege.host.outbox.size <= OUTBOX_HIGH + many * longest


def test_streams_whose_vm_never_reads_fill_no_memory(siege: Siege, device: FakeDevice) -> None:
    for packet in (p.StartIsoStream(ISO_IN, 32, 16), p.StartBulkReceiving(0, 65536 - 65536 % 512, BULK_IN, 16)):
        siege.strike(forged(packet))
    siege.strike(forged(p.StartInterruptReceiving(INTERRUPT_IN)))
    for _ in range(150):
        for endpoint in (ISO_IN, INTERRUPT_IN, BULK_IN):
            produce(device, endpoint)
        siege.strike(b"")
    held = 16 * 65536  # what receiving bulk transfers keep in themselves
    urb = 32 * (ISO_BYTES + 16)
    assert siege.host.outbox.size <= ISO_BACKLOG + urb + STREAM_DROP + BULK_BACKLOG + 65536 + 4096 + held
    assert not siege.host.congested, "what flows must not keep the VM's requests from being read"
    assert siege.host.dropped > 0


def test_streams_started_and_stopped_in_a_loop(siege: Siege, device: FakeDevice) -> None:
    """With a device that is slow to give back what was cancelled: what it holds is bounded, and then they run again."""
    device.keeps_cancelled = True
    iso, bulk = p.StartIsoStream(ISO_IN, 32, 16), p.StartBulkReceiving(0, 512, BULK_IN, 16)
    starts = iso, bulk, p.StartInterruptReceiving(INTERRUPT_IN)
    stops = p.StopIsoStream(ISO_IN), p.StopBulkReceiving(0, BULK_IN), p.StopInterruptReceiving(INTERRUPT_IN)
    loop = b"".join(forged(each) for each in (*starts, *stops))
    for _ in range(300):
        siege.strike(loop)
        siege.host.sent(siege.rig.take_outbox()[1])
    assert device.outstanding <= MAX_REPORT_TRANSFERS + MAX_STREAM_TRANSFERS
    for transfer in list(device.flying):
        device.finish(transfer, Status.CANCELLED)
    siege.strike(b"")
    assert device.outstanding == 0
    siege.guest.ear.take()
    siege.strike(b"".join(forged(each) for each in starts))
    siege.rig.to_guest()
    statuses = [packet.status for _, packet in siege.guest.ear.take() if hasattr(packet, "status")]
    assert statuses == [RedirStatus.SUCCESS] * 3


@pytest.mark.parametrize("status", [Status.STALL, Status.ERROR, Status.OVERFLOW, Status.TIMED_OUT])
def test_a_stream_that_only_fails_ends(siege: Siege, device: FakeDevice, status: Status) -> None:
    """A VM and a device in league: streams that are started anew each time must not keep the host busy for good."""
    siege.strike(forged(p.StartInterruptReceiving(INTERRUPT_IN)))
    siege.strike(forged(p.StartIsoStream(ISO_IN, 8, 4)))
    siege.strike(forged(p.StartBulkReceiving(0, 512, BULK_IN, 4)))
    for rounds in range(200):  # noqa: B007 - how many were needed is what is tested
        if not device.flying:
            break
        for transfer in list(device.flying):
            if transfer in device.flying:
                device.finish(transfer, status)
        siege.strike(b"")
        siege.host.sent(siege.rig.take_outbox()[1])
    assert rounds < 150
    assert siege.error is None


def test_bulk_streams_made_and_freed_in_a_loop() -> None:
    device = FakeDevice(UAS, speed=Speed.SUPER)
    siege, chance = Siege(device).attached(), random.Random(4)
    siege.strike(forged(p.SetAltSetting(0, 1)))
    masks = [0, 1 << 17, 1 << 19, 1 << 2, 1 << 17 | 1 << 19 | 1 << 2, 0xFFFF_FFFF]
    for _ in range(400):
        blows = [
            p.AllocBulkStreams(chance.choice(masks), chance.choice([0, 1, 4, 32, 33, 0xFFFF_FFFF])),
            p.FreeBulkStreams(chance.choice(masks)),
            p.BulkPacket(0x81, 0, 512, chance.choice([0, 1, 4, 33, 0xFFFF_FFFF])),
            p.BulkPacket(0x02, 0, 4, chance.choice([0, 1, 33]), b"data"),
            p.CancelDataPacket(),
            p.StartBulkReceiving(chance.randrange(2), 1024, 0x81, 4),
            p.StopBulkReceiving(0, 0x81),
            p.SetAltSetting(0, chance.randrange(2)),
            p.Reset(),
        ]
        siege.strike(b"".join(forged(chance.choice(blows), chance.randrange(5)) for _ in range(6)))
        let_work(device, chance)
        siege.strike(b"")
        siege.host.sent(siege.rig.take_outbox()[1])
    assert siege.error is None
    siege.over()


# ---- all of it at once


@pytest.mark.parametrize("seed", range(12))
def test_a_storm_leaves_a_device_that_works(device: FakeDevice, seed: int) -> None:
    siege, chance = Siege(device).attached(), random.Random(seed)
    blows = [each for each in EVERY if Direction.TO_HOST in DIRECTIONS[each.type]]
    blows = [each for each in blows if each.type not in ENDING]
    endpoints = [BULK_IN, INTERRUPT_IN, ISO_IN, 0x8F]
    for _ in range(250):
        endpoint = chance.choice(endpoints)
        more = [
            p.StartIsoStream(chance.choice([ISO_IN, ISO_OUT, BULK_OUT]), chance.randrange(40), chance.randrange(20)),
            p.StartBulkReceiving(chance.randrange(2), chance.choice(SIZES), endpoint, chance.randrange(20)),
            p.BulkPacket(endpoint, 0, chance.choice([0, 1, 5000, LONGEST]), chance.choice([0, 0, 1])),
            p.SetConfiguration(chance.randrange(4)),
            p.SetAltSetting(chance.randrange(4), chance.randrange(3)),
        ]
        siege.strike(b"".join(forged(chance.choice([*blows, *more]), chance.randrange(6)) for _ in range(5)))
        device.keeps_cancelled = False
        let_work(device, chance)
        siege.strike(b"")
        if chance.random() < 0.8:
            siege.host.sent(siege.rig.take_outbox()[1])
    assert siege.error is None
    siege.host.sent(siege.rig.take_outbox()[1])
    siege.strike(forged(p.SetConfiguration(2)) + forged(p.SetConfiguration(1)))
    assert works(siege)
    siege.over()


def works(siege: Siege) -> bool:
    """Whether a transfer still comes through."""
    siege.host.sent(siege.rig.take_outbox()[1])
    siege.strike(forged(p.BulkPacket(BULK_IN, 0, 6, 0), 99))
    mine = siege.device.flying[-1]
    siege.device.finish(mine, data=b"answer")
    siege.strike(b"")
    return b"".join(siege.rig.take_outbox()[0]).endswith(b"answer")
