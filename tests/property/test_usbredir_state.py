"""The state machine under every sequence of packets, seen from both ends."""

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.usbredir.strategies import caps
from usbbridge.usbredir.errors import ConnectionClosedError, IllegalPacketError
from usbbridge.usbredir.proto import ALL_CAPS, Cap, Direction, PacketType, Role
from usbbridge.usbredir.state import TABLE, Session, State

steps = st.lists(st.tuples(st.sampled_from(Direction), st.sampled_from(PacketType)), max_size=30)


def pair(host_caps: Cap, guest_caps: Cap) -> tuple[Session, Session]:
    host, guest = Session(Role.HOST, host_caps), Session(Role.GUEST, guest_caps)
    host.our_hello()
    guest.our_hello()
    host.hello_received(guest.caps)
    guest.hello_received(host.caps)
    return host, guest


@given(caps, caps, steps)
def test_both_ends_agree_on_the_state_if_nothing_crosses(
    host_caps: Cap, guest_caps: Cap, sequence: list[tuple[Direction, PacketType]]
) -> None:
    host, guest = pair(host_caps, guest_caps)
    for direction, packet in sequence:
        sender, receiver = (host, guest) if direction is Direction.TO_GUEST else (guest, host)
        try:
            sender.check_send(packet)
        except IllegalPacketError:
            continue
        assert packet in receiver.receivable
        sender.passed(direction, packet)
        receiver.passed(direction, packet)
        assert host.state is guest.state
        assert host.state in (State.READY, State.CONNECTED, State.WAIT_ACK)


@given(st.sampled_from(State), st.sampled_from(Direction), st.sampled_from(PacketType), st.sampled_from(Role), caps)
def test_a_packet_is_in_the_table_or_a_violation(
    state: State, direction: Direction, packet: PacketType, role: Role, agreed: Cap
) -> None:
    host, guest = pair(ALL_CAPS, ALL_CAPS)
    session = host if role is Role.HOST else guest
    session.negotiated = agreed
    session._enter(state)
    legal = (direction, packet) in TABLE[state]
    if direction is session.receives:
        assert (packet in session.receivable) == legal
        if not legal:
            assert session.violation(packet).packet == packet
        return
    try:
        session.check_send(packet)
    except (IllegalPacketError, ConnectionClosedError):
        return
    assert legal
    session.passed(direction, packet)
    assert session.state is not State.CLOSED
