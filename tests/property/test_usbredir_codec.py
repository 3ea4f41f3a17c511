"""The codec under generated packets, cuts and damage."""

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.usbredir.strategies import caps, device_connects, ids, packets
from tests.unit.usbredir.support import TO_HOST, End, Recorder, connected, cut, encoded, receive
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.errors import ConnectionClosedError, IllegalPacketError, PeerViolationError
from usbbridge.usbredir.packets import Packet
from usbbridge.usbredir.proto import ALL_CAPS, WINDOW, Cap, Direction, PacketType, Role
from usbbridge.usbredir.state import State

MAX_PAYLOAD = 64 << 10


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Cap, Cap, Direction, list[tuple[int, Packet]]]:
    """Capabilities of both ends, a direction, and packets with ids that may be sent in it."""
    host_caps, guest_caps = draw(caps), draw(caps) | Cap.DEVICE_DISCONNECT_ACK
    agreed = host_caps & guest_caps
    direction = draw(st.sampled_from(Direction))
    some: list[Packet] = draw(st.lists(packets(direction, agreed), max_size=6))
    if direction is Direction.TO_GUEST:
        some.insert(0, draw(device_connects(agreed)))
    return host_caps, guest_caps, direction, [(draw(ids(agreed)), packet) for packet in some]


def ends(host_caps: Cap, guest_caps: Cap, direction: Direction, *, own_areas: bool = False) -> tuple[End, End]:
    """Sender and receiver."""
    host, guest = connected(host_caps, guest_caps, own_areas=own_areas)
    return (host, guest) if direction is Direction.TO_GUEST else (guest, host)


@given(conversations())
def test_every_packet_makes_the_round_trip(conversation: tuple[Cap, Cap, Direction, list[tuple[int, Packet]]]) -> None:
    host_caps, guest_caps, direction, sent = conversation
    sender, receiver = ends(host_caps, guest_caps, direction)
    for packet_id, packet in sent:
        receiver.codec.feed(sender.codec.encode(packet, packet_id))
    assert receiver.packets == sent


@given(conversations(), st.lists(st.integers(1, 20_000), max_size=40), st.booleans(), st.booleans())
def test_cuts_make_no_difference(
    conversation: tuple[Cap, Cap, Direction, list[tuple[int, Packet]]],
    sizes: list[int],
    socket_like: bool,
    own_areas: bool,
) -> None:
    host_caps, guest_caps, direction, sent = conversation
    sender, receiver = ends(host_caps, guest_caps, direction, own_areas=own_areas)
    stream = b"".join(sender.codec.encode(packet, packet_id) for packet_id, packet in sent)
    for piece in cut(stream, sizes):
        if socket_like:
            receive(receiver.codec, piece)
        else:
            receiver.codec.feed(piece)
    assert receiver.packets == sent


DAMAGE = (b"", b"\0", b"\xff", b"\x80", b"\xff\xff\xff\xff", b"\0\0\0\x01")


@st.composite
def damaged_streams(draw: st.DrawFn) -> bytes:
    """A guest's stream, its hello included, with some of its bytes changed, taken out or put in."""
    _, guest = connected()
    hello = End(Role.GUEST).codec.hello()
    chosen = draw(st.lists(st.sampled_from(TO_HOST), max_size=8))
    stream = bytearray(hello + b"".join(encoded(guest.codec, chosen)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(stream) - 1))
        stream[at : at + draw(st.integers(0, 6))] = draw(st.sampled_from(DAMAGE) | st.binary(max_size=6))
        if not stream:
            break
    return bytes(stream)


class Ignore(Recorder):
    """Keeps nothing, so that what is held is the decoder's."""

    def packet(self, packet_id: int, packet: Packet) -> None: ...

    def bulk(self, packet_id: int, endpoint: int, status: int, length: int, stream_id: int, data: memoryview) -> None:
        assert len(data) <= MAX_PAYLOAD

    def control(self, *fields: object) -> None: ...

    def iso(self, *fields: object) -> None: ...

    def interrupt(self, *fields: object) -> None: ...


def take(codec: Codec, pieces: list[bytes]) -> PeerViolationError | None:
    """Feed until the first violation; any other exception is a bug."""
    for piece in pieces:
        try:
            receive(codec, piece)
        except PeerViolationError as error:
            assert codec.state is State.CLOSED
            return error
    return None


@given(damaged_streams() | st.binary(max_size=400), st.lists(st.integers(1, 300), max_size=20))
@settings(max_examples=300)
def test_bad_bytes_raise_only_documented_errors(stream: bytes, sizes: list[int]) -> None:
    whole, split = Recorder(), Recorder()
    one, other = (Codec(Role.HOST, ALL_CAPS, "test", sink, max_payload=MAX_PAYLOAD) for sink in (whole, split))
    error, again = take(one, [stream]), take(other, cut(stream, sizes))
    assert whole.packets == split.packets
    assert (error is None) == (again is None)
    if error is not None and again is not None:
        assert (error.packet, error.rule, error.field, error.value) == (
            again.packet,
            again.rule,
            again.field,
            again.value,
        )


@given(damaged_streams(), st.integers(1, 64))
@settings(max_examples=50, deadline=None)
def test_bad_bytes_never_hold_more_than_the_window_and_one_payload(stream: bytes, size: int) -> None:
    pieces = cut(stream, [size] * (len(stream) // size))
    take(Codec(Role.HOST, ALL_CAPS, "warm caches", Ignore(), max_payload=MAX_PAYLOAD), pieces)
    tracemalloc.start()
    try:
        take(Codec(Role.HOST, ALL_CAPS, "test", Ignore(), max_payload=MAX_PAYLOAD), pieces)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    small_change = 32 << 10  # the codec's own objects, the exception and its traceback
    assert peak <= WINDOW + MAX_PAYLOAD + small_change


any_int = st.integers(-2, 2**33) | st.sampled_from([0, 1, 0x80, 0x81, 0xFF, 0xFFFF])


@given(st.sampled_from(Role), any_int, any_int, any_int, any_int, any_int, any_int)
def test_headers_are_legal_or_refused(role: Role, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
    host, guest = connected(max_payload=128 << 20)
    sender, receiver = (host, guest) if role is Role.HOST else (guest, host)
    makers = {
        PacketType.BULK_PACKET: lambda: sender.codec.bulk_header(a, b, c, d, e, f),
        PacketType.INTERRUPT_PACKET: lambda: sender.codec.interrupt_header(a, b, c, d, f),
        PacketType.ISO_PACKET: lambda: sender.codec.iso_header(a, b, c, d, f),
        PacketType.BUFFERED_BULK_PACKET: lambda: sender.codec.buffered_bulk_header(a, e, d, b, c, f),
        PacketType.CONTROL_PACKET: lambda: sender.codec.control_header(a, b, 0, 0, c, d, e, f, f),
    }
    for make in makers.values():
        try:
            header = make()
        except IllegalPacketError:
            continue
        receiver.codec.feed(header)
        if len(receiver.codec.buffer()) != WINDOW:
            return  # it waits for payload now


def test_a_closed_codec_stays_closed() -> None:
    host, _ = connected()
    host.codec.close()
    for use in (lambda: host.codec.feed(b"x"), lambda: host.codec.received(1), host.codec.hello):
        try:
            use()
        except ConnectionClosedError:
            continue
        raise AssertionError
