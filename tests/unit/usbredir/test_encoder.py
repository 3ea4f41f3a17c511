"""Sending: what is refused before a byte is made. What is sent is held against libusbredirparser in tests/interop."""

import pytest

from tests.unit.usbredir.support import TO_GUEST, TO_HOST, connected
from usbbridge.errors import LocalProtocolError
from usbbridge.usbredir.errors import ConnectionClosedError, IllegalPacketError, Rule
from usbbridge.usbredir.packets import (
    AltSettingStatus,
    BufferedBulkPacket,
    BulkPacket,
    BulkReceivingStatus,
    ConfigurationStatus,
    ControlPacket,
    DeviceConnect,
    EndpointEntry,
    EpInfo,
    FilterFilter,
    InterfaceEntry,
    InterfaceInfo,
    InterruptPacket,
    InterruptReceivingStatus,
    IsoPacket,
    Packet,
    Reset,
    SetConfiguration,
    StartBulkReceiving,
    StartInterruptReceiving,
)
from usbbridge.usbredir.proto import ALL_CAPS, MAX_FILTER_BYTES, MAX_TRANSFER, Cap, Role

LONG_FILTER = "|".join(["0x08,0x1234,0x5678,0x0100,1"] * (MAX_FILTER_BYTES // 27))

REFUSED: list[tuple[Role, Packet, Rule]] = [
    (Role.HOST, Reset(), Rule.DIRECTION),
    (Role.HOST, SetConfiguration(1), Rule.DIRECTION),
    (Role.GUEST, ConfigurationStatus(0, 1), Rule.DIRECTION),
    (Role.GUEST, BufferedBulkPacket(0, 0, 0x82, 0), Rule.DIRECTION),
    (Role.HOST, ConfigurationStatus(7, 1), Rule.FIELD),
    (Role.HOST, ConfigurationStatus(0, 256), Rule.FIELD),
    (Role.HOST, AltSettingStatus(0, -1, 0), Rule.FIELD),
    (Role.HOST, DeviceConnect(4, 0, 0, 0, 1, 1), Rule.FIELD),
    (Role.HOST, DeviceConnect(3, 0, 0, 0, 65536, 1), Rule.FIELD),
    (Role.HOST, InterfaceInfo((InterfaceEntry(0, 0, 0, 0),) * 33), Rule.FIELD),
    (Role.HOST, InterfaceInfo((InterfaceEntry(0, 256, 0, 0),)), Rule.FIELD),
    (Role.HOST, EpInfo((EndpointEntry(),) * 31), Rule.FIELD),
    (Role.HOST, EpInfo((EndpointEntry(4),) * 32), Rule.FIELD),
    (Role.HOST, EpInfo((EndpointEntry(2, 0, 0, 65536),) * 32), Rule.FIELD),
    (Role.HOST, InterruptReceivingStatus(0, 0x01), Rule.FIELD),
    (Role.HOST, BulkReceivingStatus(0, 0x02, 0), Rule.FIELD),
    (Role.GUEST, StartInterruptReceiving(0x01), Rule.FIELD),
    (Role.GUEST, StartBulkReceiving(0, MAX_TRANSFER + 1, 0x81, 1), Rule.FIELD),
    (Role.HOST, FilterFilter("1,2,3"), Rule.FIELD),
    (Role.HOST, FilterFilter("ä"), Rule.FIELD),
    (Role.HOST, FilterFilter("1,1,1,1,1\0"), Rule.FIELD),
    (Role.HOST, FilterFilter(LONG_FILTER), Rule.FIELD),
    (Role.HOST, ControlPacket(0x80, 6, 0x80, 0, 0, 0, 18, b"short"), Rule.PAYLOAD),
    (Role.HOST, ControlPacket(0x00, 9, 0, 0, 0, 0, 1, b"x"), Rule.PAYLOAD),
    (Role.HOST, ControlPacket(0x80, 6, 0x80, 7, 0, 0, 0), Rule.FIELD),
    (Role.HOST, ControlPacket(0x00, 6, 0x80, 0, 65536, 0, 0), Rule.FIELD),
    (Role.HOST, ControlPacket(0x00, 6, 0x80, 0, 0, 0, 65536), Rule.FIELD),
    (Role.HOST, BulkPacket(0x81, 0, 4, 0, b"abc"), Rule.PAYLOAD),
    (Role.HOST, BulkPacket(0x02, 0, 3, 0, b"abc"), Rule.PAYLOAD),
    (Role.HOST, BulkPacket(0x02, 0, MAX_TRANSFER + 1, 0), Rule.LENGTH),
    (Role.HOST, BulkPacket(0x02, 0, -1, 0), Rule.FIELD),
    (Role.HOST, BulkPacket(0x02, 7, 0, 0), Rule.FIELD),
    (Role.HOST, BulkPacket(0x02, -1, 0, 0), Rule.FIELD),
    (Role.HOST, BulkPacket(0x102, 0, 0, 0), Rule.FIELD),
    (Role.GUEST, BulkPacket(0x81, 0, 3, 0, b"abc"), Rule.PAYLOAD),
    (Role.GUEST, BulkPacket(0x02, 0, 3, 0), Rule.PAYLOAD),
    (Role.HOST, IsoPacket(0x02, 0, 0), Rule.PAYLOAD),
    (Role.HOST, IsoPacket(0x83, 0, 1), Rule.PAYLOAD),
    (Role.HOST, IsoPacket(0x83, 9, 0), Rule.FIELD),
    (Role.HOST, IsoPacket(0x183, 0, 0), Rule.FIELD),
    (Role.GUEST, IsoPacket(0x83, 0, 0), Rule.PAYLOAD),
    (Role.HOST, InterruptPacket(0x81, 0, 1), Rule.PAYLOAD),
    (Role.HOST, InterruptPacket(0x01, 0, 65536), Rule.FIELD),
    (Role.GUEST, InterruptPacket(0x81, 0, 0), Rule.PAYLOAD),
    (Role.HOST, BufferedBulkPacket(0, 1, 0x82, 0), Rule.PAYLOAD),
    (Role.HOST, BufferedBulkPacket(0, 0, 0x02, 0), Rule.PAYLOAD),
    (Role.HOST, BufferedBulkPacket(1 << 32, 0, 0x82, 0), Rule.FIELD),
]


@pytest.mark.parametrize(("role", "packet", "rule"), REFUSED, ids=lambda value: str(value)[:40])
def test_an_illegal_packet_is_refused_and_nothing_changes(role: Role, packet: Packet, rule: Rule) -> None:
    host, guest = connected()
    codec = host.codec if role is Role.HOST else guest.codec
    before = codec.state
    with pytest.raises(IllegalPacketError) as caught:
        codec.encode(packet)
    assert isinstance(caught.value, LocalProtocolError)
    assert (caught.value.packet, caught.value.rule) == (packet.type, rule)
    assert codec.state is before


def test_what_needs_a_capability_is_refused_without_it() -> None:
    host, guest = connected(host_caps=Cap(0))
    for codec, packets, first in ((host.codec, TO_GUEST, 8), (guest.codec, TO_HOST, 11)):
        with pytest.raises(IllegalPacketError) as caught:
            codec.encode(packets[first])
        assert caught.value.rule is Rule.CAPABILITY
    with pytest.raises(IllegalPacketError):
        host.codec.buffered_bulk_header(0, 0, 0, 0x82, 0, 0)


def test_bulk_lengths_have_16_bits_without_the_capability() -> None:
    host, _ = connected(guest_caps=ALL_CAPS & ~Cap.BULK_LENGTH_32BIT)
    assert len(host.codec.bulk_header(1, 0x02, 0, 65535, 0, 0)) == 16 + 8
    with pytest.raises(IllegalPacketError) as caught:
        host.codec.bulk_header(1, 0x02, 0, 65536, 0, 0)
    assert (caught.value.rule, caught.value.value) == (Rule.LENGTH, 65536)


@pytest.mark.parametrize("packet_id", [-1, 1 << 64])
def test_an_id_must_fit(packet_id: int) -> None:
    host, _ = connected()
    for packet in (ConfigurationStatus(0, 1), *TO_GUEST[10:19]):
        with pytest.raises(IllegalPacketError):
            host.codec.encode(packet, packet_id)


def test_fields_that_do_not_exist_on_the_wire_are_left_out() -> None:
    host, guest = connected(guest_caps=Cap(0))
    for packet in TO_GUEST[:3]:
        guest.codec.feed(host.codec.encode(packet))
    _, endpoints, connect = (packet for _, packet in guest.packets)
    assert isinstance(endpoints, EpInfo)
    assert {(entry.max_packet_size, entry.max_streams) for entry in endpoints.endpoints} == {(0, 0)}
    assert connect == DeviceConnect(3, 0xEF, 2, 1, 0x46F4, 0x0001, 0)


def test_nothing_is_encoded_after_close() -> None:
    host, _ = connected()
    host.codec.close()
    with pytest.raises(ConnectionClosedError):
        host.codec.encode(ConfigurationStatus(0, 1))
    with pytest.raises(ConnectionClosedError):
        host.codec.bulk_header(1, 0x81, 0, 0, 0, 0)
    with pytest.raises(ConnectionClosedError):
        host.codec.hello()
