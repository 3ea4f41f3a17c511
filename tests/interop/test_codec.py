"""Our codec against libusbredirparser, byte for byte.

    1. we encode, C encodes, the bytes are equal       every packet type, every set of capabilities, both roles
    2. C decodes our bytes, we decode C's              whole, byte by byte, at random places
    3. C refuses to decode                             then so do we, at the same packet or an earlier one
"""

import random
import struct
from collections.abc import Iterator

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.interop.cusbredir import WITHOUT_ID, CParser
from tests.unit.usbredir.strategies import caps, device_connects, ids, packets
from tests.unit.usbredir.support import TO_GUEST, TO_HOST, End, bulk_of, cut
from usbbridge.usbredir.errors import IllegalPacketError, PeerViolationError, Rule
from usbbridge.usbredir.packets import BulkPacket, FilterFilter, Packet
from usbbridge.usbredir.proto import ALL_CAPS, REQUIRED_CAP, Cap, Direction, PacketType, Role, consistent

EVERY_SET = [Cap(bits) for bits in range(256)]
LAYOUTS = [
    Cap(0),
    Cap.IDS_64BIT,
    Cap.BULK_LENGTH_32BIT,
    Cap.CONNECT_DEVICE_VERSION,
    Cap.EP_INFO_MAX_PACKET_SIZE,
    Cap.EP_INFO_MAX_PACKET_SIZE | Cap.BULK_STREAMS,
    ALL_CAPS & ~Cap.IDS_64BIT,
    ALL_CAPS,
]
"Capability sets that differ in the layout of some packet, and the two that matter in practice."
ID = 0x7FC0_1234


def sent_by(role: Role) -> tuple[Packet, ...]:
    return TO_GUEST if role is Role.HOST else TO_HOST


def other(role: Role) -> Role:
    return Role.GUEST if role is Role.HOST else Role.HOST


def same_end(role: Role, ours: Cap, peers: Cap) -> tuple[End, CParser]:
    """The same end twice, ours and C's, after hello with the same peer."""
    end, twin = End(role, ours), CParser(role, ours, f"test {role.value}")
    assert twin.output() == end.codec.hello()
    peer_hello = End(other(role), peers).codec.hello()
    end.codec.feed(peer_hello)
    twin.read(peer_hello)
    assert twin.peer_caps == end.codec.peer_caps
    end.packets.clear()
    return end, twin


def opposite_ends(our_role: Role, ours: Cap, peers: Cap) -> tuple[End, CParser]:
    """Our codec connected with a C parser in the other role."""
    end, peer = End(our_role, ours), CParser(other(our_role), peers)
    peer.read(end.codec.hello())
    end.codec.feed(peer.output())
    assert peer.peer_caps == consistent(ours | (Cap.DEVICE_DISCONNECT_ACK if our_role is Role.GUEST else Cap(0)))
    assert peer.hello == f"test {our_role.value}"
    end.packets.clear()
    return end, peer


def packet_id(packet: Packet) -> int:
    return 0 if packet.type in WITHOUT_ID else ID


def legal(packets: tuple[Packet, ...], agreed: Cap) -> list[Packet]:
    """Those that may be sent under these capabilities."""
    return [packet for packet in packets if REQUIRED_CAP.get(packet.type, Cap(0)) in agreed]


def as_received(packet: Packet, end: End) -> Packet:
    """A packet as it looks after a trip under the capabilities of a connection: without what has no place there."""
    if packet.type in (PacketType.EP_INFO, PacketType.DEVICE_CONNECT):
        host, guest = End(Role.HOST, end.codec.negotiated), End(Role.GUEST, end.codec.negotiated)
        host.codec.feed(guest.codec.hello())
        guest.codec.feed(host.codec.hello())
        guest.codec.feed(host.codec.encode(packet))
        return guest.packets[-1][1]
    return packet


# 1. The same bytes


@pytest.mark.parametrize("role", Role)
def test_every_packet_is_encoded_alike_under_every_set_of_capabilities(role: Role) -> None:
    for agreed in EVERY_SET:
        end, twin = same_end(role, agreed, agreed)
        with twin:
            for packet in legal(sent_by(role), end.codec.negotiated):
                number = packet_id(packet)
                assert twin.send(packet, number) == end.codec.encode(packet, number), (agreed, packet)


@pytest.mark.parametrize("role", Role)
def test_where_c_refuses_for_lack_of_a_capability_so_do_we(role: Role) -> None:
    for agreed in EVERY_SET:
        end, twin = same_end(role, agreed, agreed)
        with twin:
            for packet in set(sent_by(role)) - set(legal(sent_by(role), end.codec.negotiated)):
                with pytest.raises(IllegalPacketError) as caught:
                    end.codec.encode(packet, packet_id(packet))
                assert caught.value.rule is Rule.CAPABILITY
                # C does not look at the capability for the three packets of bulk streams. We do.
                assert twin.send(packet, ID) == b"" or REQUIRED_CAP[packet.type] is Cap.BULK_STREAMS


@st.composite
def cases(draw: st.DrawFn) -> tuple[Role, Cap, Cap, list[tuple[int, Packet]]]:
    """A role, both ends' capabilities, and packets with ids for the role to send."""
    role, ours, peers = draw(st.sampled_from(Role)), draw(caps), draw(caps)
    host_caps, guest_caps = (ours, peers) if role is Role.HOST else (peers, ours)
    agreed = host_caps & (guest_caps | Cap.DEVICE_DISCONNECT_ACK)
    direction = Direction.TO_GUEST if role is Role.HOST else Direction.TO_HOST
    some: list[Packet] = draw(st.lists(packets(direction, agreed), max_size=6))
    if role is Role.HOST:
        some.insert(0, draw(device_connects(agreed)))
    numbered = [(0 if packet.type in WITHOUT_ID else draw(ids(agreed)), packet) for packet in some]
    return role, ours, peers, numbered


@given(cases())
def test_generated_packets_are_encoded_alike(case: tuple[Role, Cap, Cap, list[tuple[int, Packet]]]) -> None:
    role, ours, peers, numbered = case
    end, twin = same_end(role, ours, peers)
    with twin:
        for number, packet in numbered:
            assert twin.send(packet, number) == end.codec.encode(packet, number)


# 2. Each decodes the other's


def splits(stream: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and at random places (always the same ones)."""
    yield [stream]
    yield cut(stream, [1] * len(stream))
    chance = random.Random(len(stream))
    for most in (5, 40, 600):
        yield cut(stream, [chance.randint(1, most) for _ in range(2 * len(stream) // most)])


@pytest.mark.parametrize("agreed", LAYOUTS)
@pytest.mark.parametrize("role", Role)
def test_each_decodes_the_others_packets_however_cut(role: Role, agreed: Cap) -> None:
    for n in range(5):
        end, peer = opposite_ends(role, agreed, agreed)
        with peer:
            ours = legal(sent_by(role), end.codec.negotiated)
            stream = b"".join(end.codec.encode(packet, packet_id(packet)) for packet in ours)
            peer.read(*list(splits(stream))[n])
            assert peer.errors == 0, peer.log
            assert peer.packets == [(packet_id(packet), as_received(packet, end)) for packet in ours]
            end.codec.feed(peer.output())  # C acknowledges a device_disconnect by itself
            end.packets.clear()

            theirs = legal(sent_by(other(role)), end.codec.negotiated)
            stream = b"".join(peer.send(packet, packet_id(packet)) for packet in theirs)
            for piece in list(splits(stream))[n]:
                end.codec.feed(piece)
            assert end.packets == [(packet_id(packet), as_received(packet, end)) for packet in theirs]


@given(cases(), st.lists(st.integers(1, 5000), max_size=30))
def test_c_decodes_what_we_encode(case: tuple[Role, Cap, Cap, list[tuple[int, Packet]]], sizes: list[int]) -> None:
    role, ours, peers, numbered = case
    end, peer = opposite_ends(role, ours, peers)
    with peer:
        stream = b"".join(end.codec.encode(packet, number) for number, packet in numbered)
        peer.read(*cut(stream, sizes))
        assert peer.errors == 0, peer.log
        assert peer.packets == numbered


@given(cases(), st.lists(st.integers(1, 5000), max_size=30))
def test_we_decode_what_c_encodes(case: tuple[Role, Cap, Cap, list[tuple[int, Packet]]], sizes: list[int]) -> None:
    peers_role, peers, ours, numbered = case
    end, peer = opposite_ends(other(peers_role), ours, peers)
    with peer:
        stream = b"".join(peer.send(packet, number) for number, packet in numbered)
        for piece in cut(stream, sizes):
            end.codec.feed(piece)
        assert end.packets == numbered


@pytest.mark.parametrize("role", Role)
def test_a_large_payload_crosses_both_ways(role: Role) -> None:
    end, peer = opposite_ends(role, ALL_CAPS, ALL_CAPS)
    data = bulk_of(3_000_001)
    with peer:
        ours = BulkPacket(0x81 if role is Role.HOST else 0x02, 0, len(data), 0, data)
        peer.read(end.codec.encode(ours, ID))
        assert peer.packets == [(ID, ours)]
        theirs = BulkPacket(0x02 if role is Role.HOST else 0x81, 0, len(data), 0, data)
        end.codec.feed(peer.send(theirs, ID))
        assert end.packets == [(ID, theirs)]


def test_both_acknowledge_a_disconnect() -> None:
    end, peer = opposite_ends(Role.HOST, ALL_CAPS, ALL_CAPS)
    with peer:
        peer.read(end.codec.encode(TO_GUEST[-1]))
        end.codec.feed(peer.output())
    assert [packet.type for _, packet in end.packets] == [PacketType.DEVICE_DISCONNECT_ACK]


# 3. We are never the more lenient


def comparable(received: list[tuple[int, Packet]]) -> list[tuple[int, Packet]]:
    """Without filters, which C passes on only if it can read them, and without the ids that C does not tell."""
    known = [(number, packet) for number, packet in received if not isinstance(packet, FilterFilter)]
    return [(0 if packet.type in WITHOUT_ID else number, packet) for number, packet in known]


@st.composite
def damaged(draw: st.DrawFn) -> tuple[Role, Cap, bytes]:
    """A receiving role, capabilities, and a stream for it with a few bytes overwritten."""
    role, agreed = draw(st.sampled_from(Role)), draw(caps)
    sender = same_end(other(role), agreed, agreed)[0].codec
    choice = legal(sent_by(other(role)), sender.negotiated)
    choice = [packet for packet in choice if packet.type not in AT_MOST_ONCE]
    some = draw(st.lists(st.sampled_from(choice), min_size=1, max_size=6))
    some += draw(st.sampled_from([[], [*TO_GUEST[2:3], *TO_GUEST[-1:]]])) if role is Role.GUEST else []
    stream = bytearray(b"".join(sender.encode(packet, packet_id(packet)) for packet in some))
    for _ in range(draw(st.integers(1, 3))):
        # Half of the time near the start, where the first packet's headers are.
        stream[draw(st.integers(0, min(30, len(stream) - 1)) | st.integers(0, len(stream) - 1))] = draw(bytes_to_write)
    return role, agreed, bytes(stream)


AT_MOST_ONCE = {PacketType.DEVICE_CONNECT, PacketType.DEVICE_DISCONNECT}
bytes_to_write = st.sampled_from([0, 1, 2, 0x7F, 0x80, 0x81, 0xFF]) | st.integers(0, 255)


@given(damaged())
@settings(max_examples=400)
def test_what_c_refuses_we_refuse(case: tuple[Role, Cap, bytes]) -> None:
    role, agreed, stream = case
    end, twin = same_end(role, agreed, agreed)
    with twin:
        read_until_error(twin, stream)
        refused = None
        try:
            end.codec.feed(stream)
        except PeerViolationError as error:
            refused = error
        event(f"C refuses: {bool(twin.errors)}, we refuse: {refused and refused.rule.name}")
        assert refused or not twin.errors, twin.log
        ours, theirs = comparable(end.packets), comparable(twin.packets)
        assert ours == theirs[: len(ours)]
        assert refused or ours == theirs


def read_until_error(parser: CParser, stream: bytes) -> None:
    """Byte by byte and no further: behind its first error C takes the liar's word for where the next packet starts."""
    for byte in stream:
        parser.read(bytes([byte]))
        if parser.errors:
            return


def test_a_filter_that_c_ignores_is_passed_on_as_text() -> None:
    end, twin = same_end(Role.HOST, ALL_CAPS, ALL_CAPS)
    with twin:
        bad = struct.pack("<IIQ", PacketType.FILTER_FILTER, 6, 0) + b"1,2,3\0"
        twin.read(bad)
        end.codec.feed(bad)
        assert (twin.packets, twin.errors) == ([], 0)
        assert end.packets == [(0, FilterFilter("1,2,3"))]
