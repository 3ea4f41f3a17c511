"""A host under siege: what a hostile VM sends at it, byte for byte, and what must hold after each blow."""

import functools
import random
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

from tests.fakes.device import BULK_IN, INTERRUPT_IN, INTERRUPT_OUT, ISO_IN, ISO_OUT, FakeDevice, FakeTransfer
from tests.fakes.guest import Ear, Rig
from usbbridge.backend.base import Status
from usbbridge.errors import DeviceError, RefusedError, RemoteProtocolError
from usbbridge.redirect.limits import MAX_PENDING, MAX_PENDING_BYTES, MAX_REPORT_TRANSFERS, MAX_STREAM_TRANSFERS
from usbbridge.usbredir import packets as p
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.proto import ALL_CAPS, DIRECTIONS, Direction, PacketType, Role

MIB = 1 << 20
LONGEST = 128 * MIB
"What a bulk packet may ask for by the protocol."
ENDINGS = [status for status in Status if status is not Status.NO_DEVICE]

EVERY: tuple[p.Packet, ...] = (
    p.Hello("again", ALL_CAPS),
    p.DeviceConnect(2, 0, 0, 0, 0x1234, 0x5678, 0x0100),
    p.DeviceDisconnect(),
    p.Reset(),
    p.InterfaceInfo((p.InterfaceEntry(0, 8, 6, 80),)),
    p.EpInfo(),
    p.SetConfiguration(2),
    p.GetConfiguration(),
    p.ConfigurationStatus(0, 1),
    p.SetAltSetting(1, 1),
    p.GetAltSetting(1),
    p.AltSettingStatus(0, 1, 1),
    p.StartIsoStream(ISO_OUT, 1, 1),
    p.StopIsoStream(ISO_OUT),
    p.IsoStreamStatus(0, ISO_IN),
    p.StartInterruptReceiving(INTERRUPT_IN),
    p.StopInterruptReceiving(INTERRUPT_IN),
    p.InterruptReceivingStatus(0, INTERRUPT_IN),
    p.AllocBulkStreams(1 << 2 | 1 << 17, 4),
    p.FreeBulkStreams(1 << 2 | 1 << 17),
    p.BulkStreamsStatus(0, 0, 0),
    p.CancelDataPacket(),
    p.FilterReject(),
    p.FilterFilter("-1,-1,-1,-1,1"),
    p.DeviceDisconnectAck(),
    p.StartBulkReceiving(0, 512, BULK_IN, 4),
    p.StopBulkReceiving(0, BULK_IN),
    p.BulkReceivingStatus(0, BULK_IN, 0),
    p.ControlPacket(0x80, 6, 0x80, 0, 0x100, 0, 18),
    p.BulkPacket(BULK_IN, 0, 512, 0),
    p.IsoPacket(ISO_OUT, 0, 4, b"tone"),
    p.InterruptPacket(INTERRUPT_OUT, 0, 4, b"keys"),
    p.BufferedBulkPacket(0, 4, BULK_IN, 0, b"data"),
)
"One of each type."
ENDING = (PacketType.FILTER_REJECT, PacketType.DEVICE_DISCONNECT_ACK)
"What ends a session, if not always."


EMPTY = struct.Struct("<IIQ")
"A packet without a body: type, length and 64 bits of id."


@functools.lru_cache(maxsize=1024)
def forged(packet: p.Packet, number: int = 1) -> bytes:
    """The packet as it is on the wire after both hellos, with all capabilities, whoever may send it and when."""
    if packet.type in (PacketType.DEVICE_DISCONNECT, PacketType.DEVICE_DISCONNECT_ACK):
        return EMPTY.pack(packet.type, 0, number)  # no codec lets them pass just now
    guest, host = Codec(Role.GUEST, ALL_CAPS, "forger", Ear()), Codec(Role.HOST, ALL_CAPS, "forger", Ear())
    hello = guest.hello()
    guest.feed(host.hello())
    host.feed(hello)
    if packet.type is PacketType.HELLO:
        return EMPTY.pack(PacketType.HELLO, len(hello) - 12, number) + hello[12:]
    codec = guest if Direction.TO_HOST in DIRECTIONS[packet.type] else host
    match packet:
        case p.ControlPacket():
            fields = packet.endpoint, packet.request, packet.requesttype, 0, packet.value, packet.index
            return codec.control_header(number, *fields, packet.length, len(packet.data)) + packet.data
        case p.BulkPacket(endpoint, _, length, stream, data):
            return codec.bulk_header(number, endpoint, 0, length, stream, len(data)) + data
        case p.IsoPacket(endpoint, _, length, data):
            return codec.iso_header(number, endpoint, 0, length, len(data)) + data
        case p.InterruptPacket(endpoint, _, length, data):
            return codec.interrupt_header(number, endpoint, 0, length, len(data)) + data
        case p.BufferedBulkPacket(stream, length, endpoint, _, data):
            return codec.buffered_bulk_header(number, stream, length, endpoint, 0, len(data)) + data
    return codec.encode(packet, number)


class Siege:
    """A host, its device, and what the VM sends at it: after each blow everything is held against the limits."""

    def __init__(self, device: FakeDevice) -> None:
        self.device, self.rig = device, Rig(device)
        self.host, self.guest = self.rig.host, self.rig.guest
        self.error: Exception | None = None

    def attached(self) -> "Siege":
        self.rig.attach()
        return self

    def strike(self, data: bytes) -> None:
        """These bytes arrive, and the device has its turn."""
        if self.error is not None:
            return
        try:
            self.rig.receive(data)
            self.rig.work()
        except (RemoteProtocolError, RefusedError, DeviceError) as error:
            self.error = error
        self.check()

    def check(self) -> None:
        device, host = self.device, self.host
        assert host.pending_bytes <= MAX_PENDING_BYTES
        assert len(host.pending) <= MAX_PENDING
        assert device.outstanding <= MAX_PENDING + MAX_REPORT_TRANSFERS + MAX_STREAM_TRANSFERS + len(host.outbox.held)
        assert host.outbox.size == sum(map(len, host.outbox.parts))

    def over(self) -> None:
        """The VM has gone, in peace or for having broken a rule: nothing is left of it."""
        if not isinstance(self.error, RemoteProtocolError):
            self.host.disconnect()
            self.device.keeps_cancelled = False
            for transfer in [t for t in self.device.flying if t in self.device.cancelled]:
                self.device.finish(transfer, Status.CANCELLED)
            self.device.reap()
        self.host.sent(self.rig.take_outbox()[1])
        self.host.close()
        assert self.device.flying == []
        assert self.device.outstanding == 0
        assert self.host.pending_bytes == 0


@contextmanager
def within(limit: int) -> Iterator[None]:
    """So many bytes of memory, at the most, are taken meanwhile."""
    tracemalloc.start()
    try:
        yield
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most <= limit


def is_in(transfer: FakeTransfer) -> bool:
    return bool((transfer.setup[0] if transfer.kind == "control" else transfer.endpoint) & 0x80)


def produce(device: FakeDevice, endpoint: int) -> None:
    """Let everything that waits for data on an endpoint have as much as it can take."""
    for transfer in [t for t in device.flying if t.endpoint == endpoint and t not in device.cancelled]:
        device.finish(transfer, data=bytes(transfer.length))


def let_work(device: FakeDevice, chance: random.Random) -> None:
    """Some of what is in flight ends, in some way."""
    for transfer in [t for t in device.flying if chance.random() < 0.5]:
        status = chance.choice([Status.COMPLETED, *ENDINGS])
        good = status is Status.COMPLETED and is_in(transfer)
        device.finish(transfer, status, bytes(chance.randrange(transfer.length + 1)) if good else b"")
