"""Receiving: packets whole and in pieces, where payload goes, and what ends the session."""

import struct
from typing import Any

import pytest

from tests.unit.usbredir.support import (
    ACK,
    TO_GUEST,
    TO_HOST,
    End,
    Recorder,
    bulk_of,
    connected,
    cut,
    encoded,
    receive,
)
from usbbridge.errors import LocalProtocolError, RemoteProtocolError
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.errors import ConnectionClosedError, PeerViolationError, Rule
from usbbridge.usbredir.packets import BulkPacket, ControlPacket, DeviceDisconnect, FilterFilter, Packet, Reset
from usbbridge.usbredir.proto import (
    ALL_CAPS,
    MAX_FILTER_BYTES,
    MAX_TRANSFER,
    WINDOW,
    Cap,
    PacketType,
    Role,
)
from usbbridge.usbredir.state import State

T = PacketType


def raw(kind: int, body: bytes, packet_id: int = 1, *, length: int | None = None) -> bytes:
    """A packet as a liar would write it."""
    return struct.pack("<IIQ", kind, len(body) if length is None else length, packet_id) + body


def violation(data: bytes, role: Role = Role.HOST, **options: int) -> PeerViolationError:
    """The violation that these bytes are; also shows that the codec is dead after it."""
    end = dict(zip((Role.HOST, Role.GUEST), connected(**options), strict=True))[role]
    with pytest.raises(PeerViolationError) as caught:
        end.codec.feed(data)
    assert isinstance(caught.value, RemoteProtocolError)
    assert end.codec.state is State.CLOSED
    with pytest.raises(ConnectionClosedError):
        end.codec.feed(raw(T.RESET, b""))
    with pytest.raises(ConnectionClosedError):
        end.codec.received(0)
    with pytest.raises(LocalProtocolError):
        end.codec.encode(BulkPacket(0x81, 0, 0, 0) if role is Role.HOST else Reset())
    return caught.value


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 17, 61, 1 << 20])
@pytest.mark.parametrize("role", Role)
def test_packets_arrive_however_the_stream_is_cut(role: Role, size: int) -> None:
    for give in (receive, lambda codec, piece: codec.feed(piece)):
        host, guest = connected()
        sender, receiver = (guest, host) if role is Role.HOST else (host, guest)
        packets = TO_HOST if role is Role.HOST else TO_GUEST
        stream = b"".join(encoded(sender.codec, packets))
        for piece in cut(stream, [size] * (len(stream) // size)):
            give(receiver.codec, piece)
        assert receiver.packets == [(n, packet) for n, packet in enumerate(packets, start=1)]


def test_the_acknowledgement_arrives_after_a_disconnect() -> None:
    host, guest = connected()
    guest.codec.feed(host.codec.encode(DeviceDisconnect()))
    assert host.codec.state is guest.codec.state is State.WAIT_ACK
    host.codec.feed(guest.codec.encode(ACK))
    assert host.codec.state is guest.codec.state is State.READY


def test_a_guests_status_is_never_looked_at() -> None:
    host, _ = connected()
    host.codec.feed(raw(T.CONTROL_PACKET, bytes.fromhex("80 06 80 cc 0001 0000 0800")))
    assert host.packets == [(1, ControlPacket(0x80, 6, 0x80, 0xCC, 0x0100, 0, 8))]


def test_bulk_lengths_are_joined() -> None:
    host, _ = connected()
    host.codec.feed(raw(T.BULK_PACKET, struct.pack("<BBHIH", 0x81, 0, 0x0001, 0, 0x0002)))
    assert host.packets == [(1, BulkPacket(0x81, 0, 0x20001, 0))]


# Where payload goes


def test_a_payload_that_is_all_there_needs_no_area() -> None:
    host, guest = connected(own_areas=True)
    receive(host.codec, guest.codec.encode(BulkPacket(2, 0, 4096, 0, bulk_of(4096))))
    assert host.sink.asked == []
    assert host.packets == [(0, BulkPacket(2, 0, 4096, 0, bulk_of(4096)))]


def test_the_rest_of_a_payload_is_received_into_the_sinks_area() -> None:
    host, guest = connected(own_areas=True)
    data = bulk_of(100_000)
    packet = guest.codec.encode(BulkPacket(2, 0, len(data), 0, data))
    receive(host.codec, packet[:WINDOW])
    assert host.sink.asked == [(T.BULK_PACKET, 2, len(data))]
    assert len(host.codec.buffer()) == len(packet) - WINDOW
    assert host.codec.buffer().obj is host.sink.areas[0].obj
    receive(host.codec, packet[WINDOW:] + guest.codec.encode(Reset(), 9))
    assert bytes(host.sink.areas[0][: len(data)]) == data
    assert [each for _, each in host.packets] == [BulkPacket(2, 0, len(data), 0, data), Reset()]


def test_the_call_gets_exactly_the_area_that_was_given() -> None:
    class Watcher(Recorder):
        data: memoryview

        def bulk(self, *fields: Any) -> None:
            self.data = fields[-1]

    watcher = Watcher(own_areas=True)
    host, (_, guest) = Codec(Role.HOST, ALL_CAPS, "watched", watcher), connected()
    host.feed(End(Role.GUEST).codec.hello())
    receive(host, guest.codec.encode(BulkPacket(2, 0, 20, 0, bulk_of(20)))[:-1])
    receive(host, bulk_of(20)[-1:])
    assert watcher.data.obj is watcher.areas[0].obj
    assert bytes(watcher.data) == bulk_of(20)


class WrongSink(Recorder):
    """Gives too little room, and fails."""

    def data_area(self, kind: PacketType, endpoint: int, length: int) -> memoryview | None:
        return memoryview(bytearray(3))

    def packet(self, packet_id: int, packet: Packet) -> None:
        if isinstance(packet, Reset):
            raise ZeroDivisionError


def wrong_host() -> Codec:
    host = Codec(Role.HOST, ALL_CAPS, "wrong", WrongSink())
    host.feed(End(Role.GUEST).codec.hello())
    return host


def test_an_area_that_is_too_small_is_our_own_fault() -> None:
    host, (_, guest) = wrong_host(), connected()
    with pytest.raises(ValueError, match="gave 3 bytes for 20"):
        receive(host, guest.codec.encode(BulkPacket(2, 0, 20, 0, bulk_of(20)))[:-1])
    assert host.state is State.CLOSED


def test_what_a_sink_raises_comes_out_and_closes() -> None:
    host, (_, guest) = wrong_host(), connected()
    with pytest.raises(ZeroDivisionError):
        host.feed(guest.codec.encode(Reset()))
    assert host.state is State.CLOSED


def test_a_sink_may_close_the_connection_and_gets_nothing_more() -> None:
    class Closer(Recorder):
        def packet(self, packet_id: int, packet: Packet) -> None:
            super().packet(packet_id, packet)
            if isinstance(packet, Reset):
                host.close()

    closer, (_, guest) = Closer(), connected()
    host = Codec(Role.HOST, ALL_CAPS, "closing", closer)
    host.feed(End(Role.GUEST).codec.hello() + guest.codec.encode(Reset(), 1) + guest.codec.encode(Reset(), 2))
    assert [packet_id for packet_id, _ in closer.packets] == [0, 1]


def test_a_filter_may_be_longer_than_the_window() -> None:
    host, guest = connected()
    text = "|".join(["0x08,0x1234,0x5678,0x0100,1"] * 2000)
    assert WINDOW < len(text) < MAX_FILTER_BYTES
    receive(host.codec, guest.codec.encode(FilterFilter(text), 3) + guest.codec.encode(Reset(), 4))
    assert host.packets == [(3, FilterFilter(text)), (4, Reset())]


# What ends the session

WRONG: dict[str, tuple[bytes, PacketType | int, Rule]] = {
    "unknown type": (raw(77, b""), 77, Rule.TYPE),
    "wrong direction": (raw(T.DEVICE_DISCONNECT, b""), T.DEVICE_DISCONNECT, Rule.DIRECTION),
    "unexpected ack": (raw(T.DEVICE_DISCONNECT_ACK, b""), T.DEVICE_DISCONNECT_ACK, Rule.STATE),
    "too short": (raw(T.SET_ALT_SETTING, b"\0"), T.SET_ALT_SETTING, Rule.LENGTH),
    "too long": (raw(T.SET_CONFIGURATION, b"\1\1"), T.SET_CONFIGURATION, Rule.LENGTH),
    "payload on a reset": (raw(T.RESET, b"x"), T.RESET, Rule.LENGTH),
    "4 GiB": (raw(T.RESET, b"", length=0xFFFFFFFF), T.RESET, Rule.LENGTH),
    "control without header": (raw(T.CONTROL_PACKET, b"\0" * 9), T.CONTROL_PACKET, Rule.LENGTH),
    "bulk without header": (raw(T.BULK_PACKET, b"\0" * 8), T.BULK_PACKET, Rule.LENGTH),
    "interrupt without header": (raw(T.INTERRUPT_PACKET, b"\0" * 3), T.INTERRUPT_PACKET, Rule.LENGTH),
    "iso without header": (raw(T.ISO_PACKET, b""), T.ISO_PACKET, Rule.LENGTH),
    "payload of an IN request": (
        raw(T.BULK_PACKET, struct.pack("<BBHIH", 0x81, 0, 1, 0, 0) + b"x"),
        T.BULK_PACKET,
        Rule.PAYLOAD,
    ),
    "payload shorter than it says": (
        raw(T.BULK_PACKET, struct.pack("<BBHIH", 0x02, 0, 2, 0, 0) + b"x"),
        T.BULK_PACKET,
        Rule.PAYLOAD,
    ),
    "OUT without payload": (
        raw(T.CONTROL_PACKET, struct.pack("<4B3H", 0, 9, 0, 0, 0, 0, 4)),
        T.CONTROL_PACKET,
        Rule.PAYLOAD,
    ),
    "bulk request over 128 MiB": (
        raw(T.BULK_PACKET, struct.pack("<BBHIH", 0x81, 0, 1, 0, MAX_TRANSFER >> 16)),
        T.BULK_PACKET,
        Rule.LENGTH,
    ),
    "iso IN from a guest": (raw(T.ISO_PACKET, struct.pack("<BBH", 0x83, 0, 0)), T.ISO_PACKET, Rule.PAYLOAD),
    "interrupt IN from a guest": (
        raw(T.INTERRUPT_PACKET, struct.pack("<BBH", 0x81, 0, 0)),
        T.INTERRUPT_PACKET,
        Rule.PAYLOAD,
    ),
    "interrupt receiving on OUT": (raw(T.START_INTERRUPT_RECEIVING, b"\1"), T.START_INTERRUPT_RECEIVING, Rule.FIELD),
    "stop receiving on OUT": (raw(T.STOP_BULK_RECEIVING, b"\0\0\0\0\2"), T.STOP_BULK_RECEIVING, Rule.FIELD),
    "bulk receiving over 128 MiB": (
        raw(T.START_BULK_RECEIVING, struct.pack("<IIBB", 0, MAX_TRANSFER + 1, 0x82, 1)),
        T.START_BULK_RECEIVING,
        Rule.FIELD,
    ),
    "empty filter": (raw(T.FILTER_FILTER, b""), T.FILTER_FILTER, Rule.FIELD),
    "filter without NUL": (raw(T.FILTER_FILTER, b"1,1,1,1,1"), T.FILTER_FILTER, Rule.FIELD),
    "filter over the limit": (raw(T.FILTER_FILTER, b"", length=MAX_FILTER_BYTES + 1), T.FILTER_FILTER, Rule.LENGTH),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_host_ends_the_session_at_the_first_violation(case: str) -> None:
    data, packet, rule = WRONG[case]
    error = violation(data)
    assert (error.packet, error.rule) == (packet, rule)
    assert str(error).startswith("the peer broke the protocol by usbredir ")


WRONG_FOR_A_GUEST: dict[str, tuple[bytes, PacketType, Rule]] = {
    "33 interfaces": (raw(T.INTERFACE_INFO, struct.pack("<I128x", 33)), T.INTERFACE_INFO, Rule.FIELD),
    "payload of an OUT answer": (
        raw(T.BULK_PACKET, struct.pack("<BBHIH", 0x02, 0, 1, 0, 0) + b"x"),
        T.BULK_PACKET,
        Rule.PAYLOAD,
    ),
    "buffered bulk OUT": (
        raw(T.BUFFERED_BULK_PACKET, struct.pack("<IIBB", 0, 0, 2, 0)),
        T.BUFFERED_BULK_PACKET,
        Rule.PAYLOAD,
    ),
    "iso OUT answer": (raw(T.ISO_PACKET, struct.pack("<BBH", 0x02, 0, 0)), T.ISO_PACKET, Rule.PAYLOAD),
    "a request": (raw(T.RESET, b""), T.RESET, Rule.DIRECTION),
}


@pytest.mark.parametrize("case", WRONG_FOR_A_GUEST)
def test_a_guest_ends_the_session_at_the_first_violation(case: str) -> None:
    data, packet, rule = WRONG_FOR_A_GUEST[case]
    error = violation(data, Role.GUEST)
    assert (error.packet, error.rule) == (packet, rule)


def test_a_payload_over_our_own_limit_is_a_violation_before_it_comes() -> None:
    body = struct.pack("<BBHIH", 0x02, 0, 1001, 0, 0)
    error = violation(raw(T.BULK_PACKET, body, length=len(body) + 1001), max_payload=1000)
    assert (error.rule, error.field, error.value) == (Rule.LENGTH, "payload", 1001)


def test_a_request_may_ask_for_more_than_it_may_carry() -> None:
    host, guest = connected(max_payload=1000)
    host.codec.feed(guest.codec.encode(BulkPacket(0x81, 0, MAX_TRANSFER, 0)))
    assert len(host.packets) == 1


def test_packets_before_a_violation_are_delivered() -> None:
    host, guest = connected()
    with pytest.raises(PeerViolationError):
        host.codec.feed(guest.codec.encode(Reset(), 7) + raw(77, b""))
    assert host.packets == [(7, Reset())]


@pytest.mark.parametrize("cap", [Cap.FILTER, Cap.BULK_RECEIVING, Cap.BULK_STREAMS])
def test_a_packet_without_our_capability_is_a_violation(cap: Cap) -> None:
    host, guest = connected(host_caps=ALL_CAPS & ~cap)
    kinds: dict[Cap, Packet] = {Cap.FILTER: TO_HOST[1], Cap.BULK_RECEIVING: TO_HOST[13], Cap.BULK_STREAMS: TO_HOST[11]}
    _, liar = connected()
    with pytest.raises(PeerViolationError) as caught:
        host.codec.feed(liar.codec.encode(kinds[cap]))
    assert caught.value.rule is Rule.CAPABILITY
    assert guest.codec.negotiated == ALL_CAPS & ~cap


def test_a_bad_filter_is_passed_on_as_it_is() -> None:
    host, _ = connected()
    host.codec.feed(raw(T.FILTER_FILTER, b"nonsense\xff\0more\0"))
    assert host.packets == [(1, FilterFilter("nonsense\ufffd\0more"))]


def test_max_payload_has_a_limit_itself() -> None:
    with pytest.raises(ValueError, match="max_payload"):
        End(Role.HOST, max_payload=MAX_TRANSFER + 1)
