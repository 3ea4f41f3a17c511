"""What the usbredir tests share: a sink that records, two connected codecs, and one packet of every type."""

from collections.abc import Iterable, Sequence

from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.packets import (
    AllocBulkStreams,
    AltSettingStatus,
    BufferedBulkPacket,
    BulkPacket,
    BulkReceivingStatus,
    BulkStreamsStatus,
    CancelDataPacket,
    ConfigurationStatus,
    ControlPacket,
    DeviceConnect,
    DeviceDisconnect,
    DeviceDisconnectAck,
    EndpointEntry,
    EpInfo,
    FilterFilter,
    FilterReject,
    FreeBulkStreams,
    GetAltSetting,
    GetConfiguration,
    InterfaceEntry,
    InterfaceInfo,
    InterruptPacket,
    InterruptReceivingStatus,
    IsoPacket,
    IsoStreamStatus,
    Packet,
    Reset,
    SetAltSetting,
    SetConfiguration,
    StartBulkReceiving,
    StartInterruptReceiving,
    StartIsoStream,
    StopBulkReceiving,
    StopInterruptReceiving,
    StopIsoStream,
)
from usbbridge.usbredir.proto import ALL_CAPS, Cap, EndpointType, PacketType, Role

Received = tuple[int, Packet]


class Recorder:
    """A sink that keeps what it gets, data packets included, as (id, packet)."""

    def __init__(self, *, own_areas: bool = False) -> None:
        self.packets: list[Received] = []
        self.asked: list[tuple[PacketType, int, int]] = []
        "(type, endpoint, length) of each call of data_area."
        self.areas: list[memoryview] = []
        self._own_areas = own_areas

    def packet(self, packet_id: int, packet: Packet) -> None:
        self.packets.append((packet_id, packet))

    def control(
        self,
        packet_id: int,
        endpoint: int,
        request: int,
        requesttype: int,
        status: int,
        value: int,
        index: int,
        length: int,
        data: memoryview,
    ) -> None:
        packet = ControlPacket(endpoint, request, requesttype, status, value, index, length, bytes(data))
        self.packets.append((packet_id, packet))

    def bulk(self, packet_id: int, endpoint: int, status: int, length: int, stream_id: int, data: memoryview) -> None:
        self.packets.append((packet_id, BulkPacket(endpoint, status, length, stream_id, bytes(data))))

    def interrupt(self, packet_id: int, endpoint: int, status: int, length: int, data: memoryview) -> None:
        self.packets.append((packet_id, InterruptPacket(endpoint, status, length, bytes(data))))

    def iso(self, packet_id: int, endpoint: int, status: int, length: int, data: memoryview) -> None:
        self.packets.append((packet_id, IsoPacket(endpoint, status, length, bytes(data))))

    def buffered_bulk(
        self, packet_id: int, stream_id: int, length: int, endpoint: int, status: int, data: memoryview
    ) -> None:
        self.packets.append((packet_id, BufferedBulkPacket(stream_id, length, endpoint, status, bytes(data))))

    def data_area(self, kind: PacketType, endpoint: int, length: int) -> memoryview | None:
        self.asked.append((kind, endpoint, length))
        if not self._own_areas:
            return None
        self.areas.append(memoryview(bytearray(length + 7)))
        return self.areas[-1]


class End:
    """One end of a connection: its codec and what that received."""

    def __init__(
        self, role: Role, caps: Cap = ALL_CAPS, *, max_payload: int | None = None, own_areas: bool = False
    ) -> None:
        self.sink = Recorder(own_areas=own_areas)
        limit = {} if max_payload is None else {"max_payload": max_payload}
        self.codec = Codec(role, caps, f"test {role.value}", self.sink, **limit)

    @property
    def packets(self) -> list[Received]:
        return self.sink.packets


def connected(
    host_caps: Cap = ALL_CAPS,
    guest_caps: Cap = ALL_CAPS,
    *,
    max_payload: int | None = None,
    own_areas: bool = False,
) -> tuple[End, End]:
    """A host and a guest that have exchanged hellos; what they recorded of that is forgotten."""
    host = End(Role.HOST, host_caps, max_payload=max_payload, own_areas=own_areas)
    guest = End(Role.GUEST, guest_caps, max_payload=max_payload, own_areas=own_areas)
    hello = host.codec.hello()
    host.codec.feed(guest.codec.hello())
    guest.codec.feed(hello)
    host.packets.clear()
    guest.packets.clear()
    return host, guest


def receive(codec: Codec, data: bytes) -> None:
    """Give bytes to a codec the way a socket does: into its own buffer, as many as fit."""
    while data:
        target = codec.buffer()
        n = min(len(target), len(data))
        target[:n] = data[:n]
        codec.received(n)
        data = data[n:]


def cut(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """`data` in pieces of these sizes, and the rest."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in (*pieces, data[at:]) if piece]


def bulk_of(size: int) -> bytes:
    """`size` bytes that differ."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


_ENDPOINTS = (
    EndpointEntry(EndpointType.CONTROL, 0, 0, 64, 0),
    EndpointEntry(EndpointType.ISO, 1, 1, 1023, 0),
    EndpointEntry(EndpointType.BULK, 0, 2, 1024, 65536),
    EndpointEntry(EndpointType.INTERRUPT, 4, 3, 8, 0),
    *(EndpointEntry(),) * 28,
)

TO_GUEST: tuple[Packet, ...] = (
    InterfaceInfo((InterfaceEntry(0, 8, 6, 80), InterfaceEntry(1, 3, 1, 2))),
    EpInfo(_ENDPOINTS),
    DeviceConnect(3, 0xEF, 2, 1, 0x46F4, 0x0001, 0x0102),
    FilterFilter("0x03,-1,-1,-1,0|-1,0x1234,0x5678,0x0100,1"),
    ConfigurationStatus(3, 1),
    AltSettingStatus(2, 1, 255),
    IsoStreamStatus(4, 0x83),
    InterruptReceivingStatus(0, 0x81),
    BulkStreamsStatus(0x00040004, 16, 0),
    BulkReceivingStatus(0, 0x82, 4),
    ControlPacket(0x80, 6, 0x80, 0, 0x0100, 0x0409, 18, bulk_of(18)),
    ControlPacket(0x00, 9, 0x00, 4, 1, 0, 0),
    BulkPacket(0x81, 0, 512, 0, bulk_of(512)),
    BulkPacket(0x81, 1, 0, 7),
    BulkPacket(0x02, 0, 31, 0),
    IsoPacket(0x83, 0, 192, bulk_of(192)),
    IsoPacket(0x83, 3, 0),
    InterruptPacket(0x81, 0, 8, bulk_of(8)),
    InterruptPacket(0x01, 2, 4),
    BufferedBulkPacket(0, 64, 0x82, 0, bulk_of(64)),
    DeviceDisconnect(),
)
"Packets to the guest, every type and both forms of each, in an order that the state machine allows."

TO_HOST: tuple[Packet, ...] = (
    FilterFilter("-1,-1,-1,-1,1"),
    FilterReject(),
    Reset(),
    SetConfiguration(1),
    GetConfiguration(),
    SetAltSetting(1, 2),
    GetAltSetting(1),
    StartIsoStream(0x83, 32, 15),
    StopIsoStream(0x83),
    StartInterruptReceiving(0x81),
    StopInterruptReceiving(0x81),
    AllocBulkStreams(0x00040004, 16),
    FreeBulkStreams(0x00040004),
    StartBulkReceiving(0, 512, 0x82, 5),
    StopBulkReceiving(0, 0x82),
    CancelDataPacket(),
    ControlPacket(0x80, 6, 0x80, 0, 0x0100, 0, 18),
    ControlPacket(0x00, 9, 0x21, 0, 0x0200, 0, 1, b"\x07"),
    BulkPacket(0x81, 0, 4096, 3),
    BulkPacket(0x02, 0, 31, 0, bulk_of(31)),
    IsoPacket(0x02, 0, 192, bulk_of(192)),
    InterruptPacket(0x02, 0, 3, b"abc"),
)
"Packets to the host, every type but device_disconnect_ack, which only follows a disconnect."


def encoded(codec: Codec, packets: Sequence[Packet], *, first_id: int = 1) -> list[bytes]:
    """Each packet's bytes, ids counting up."""
    return [codec.encode(packet, first_id + n) for n, packet in enumerate(packets)]


ACK = DeviceDisconnectAck()
