"""The session's state machine."""

import pytest

from usbbridge.usbredir.errors import ConnectionClosedError, IllegalPacketError, Rule
from usbbridge.usbredir.proto import ALL_CAPS, DATA_TYPES, DIRECTIONS, Cap, Direction, PacketType, Role
from usbbridge.usbredir.state import TABLE, Session, State

OPEN = (State.READY, State.CONNECTED, State.WAIT_ACK)
T = PacketType


def session(role: Role = Role.HOST, caps: Cap = ALL_CAPS, peer_caps: Cap = ALL_CAPS) -> Session:
    started = Session(role, caps)
    started.our_hello()
    started.hello_received(peer_caps)
    return started


def send(at: Session, packet: PacketType) -> None:
    at.check_send(packet)
    at.passed(at.sends, packet)


def test_the_table_has_a_row_for_every_state_and_only_legal_directions() -> None:
    assert set(TABLE) == set(State)
    for row in TABLE.values():
        for direction, packet in row:
            assert direction in DIRECTIONS[packet]


def test_every_packet_has_a_place_in_every_direction_it_may_go() -> None:
    placed = {key for row in TABLE.values() for key in row}
    assert placed == {(way, packet) for packet, ways in DIRECTIONS.items() for way in ways}


@pytest.mark.parametrize("state", OPEN)
def test_data_may_pass_while_a_connection_is_open_and_changes_no_state(state: State) -> None:
    for packet in DATA_TYPES:
        for direction in DIRECTIONS[packet]:
            assert TABLE[state][direction, packet] is state


def test_nothing_but_hello_before_hello() -> None:
    fresh = Session(Role.HOST, ALL_CAPS)
    assert fresh.receivable == {T.HELLO}
    assert fresh.sendable == frozenset()
    fresh.our_hello()
    assert fresh.sendable == frozenset()


def test_nothing_is_sent_before_our_own_hello() -> None:
    early = Session(Role.HOST, ALL_CAPS)
    early.hello_received(ALL_CAPS)
    assert early.state is State.READY
    with pytest.raises(IllegalPacketError, match="our hello not sent"):
        early.check_send(T.EP_INFO)
    early.our_hello()
    early.check_send(T.EP_INFO)


def test_hello_is_sent_once() -> None:
    with pytest.raises(IllegalPacketError) as caught:
        session().our_hello()
    assert caught.value.rule is Rule.STATE


def test_a_device_comes_and_goes() -> None:
    host = session()
    for packet in (T.INTERFACE_INFO, T.EP_INFO, T.DEVICE_CONNECT):
        send(host, packet)
    assert host.state is State.CONNECTED
    send(host, T.EP_INFO)
    send(host, T.DEVICE_DISCONNECT)
    assert host.state is State.WAIT_ACK
    host.passed(host.receives, T.DEVICE_DISCONNECT_ACK)
    assert host.state is State.READY


def test_no_ack_is_awaited_from_a_guest_without_the_capability() -> None:
    host = session(peer_caps=ALL_CAPS & ~Cap.DEVICE_DISCONNECT_ACK)
    send(host, T.DEVICE_CONNECT)
    send(host, T.DEVICE_DISCONNECT)
    assert host.state is State.READY


def test_a_disconnect_without_a_device_is_acknowledged_too() -> None:
    host = session()
    send(host, T.DEVICE_DISCONNECT)
    assert host.state is State.WAIT_ACK


@pytest.mark.parametrize("packet", [T.INTERFACE_INFO, T.EP_INFO, T.DEVICE_CONNECT, T.DEVICE_DISCONNECT])
def test_the_next_device_waits_for_the_acknowledgement(packet: PacketType) -> None:
    host = session()
    send(host, T.DEVICE_CONNECT)
    send(host, T.DEVICE_DISCONNECT)
    with pytest.raises(IllegalPacketError) as caught:
        send(host, packet)
    assert caught.value.rule is Rule.STATE
    assert host.state is State.WAIT_ACK


def test_packets_for_the_old_device_are_legal_until_the_acknowledgement_and_after() -> None:
    host = session()
    send(host, T.DEVICE_CONNECT)
    send(host, T.DEVICE_DISCONNECT)
    used = {T.BULK_PACKET, T.SET_CONFIGURATION, T.CANCEL_DATA_PACKET, T.RESET, T.FILTER_REJECT}
    assert used <= host.receivable
    host.passed(host.receives, T.DEVICE_DISCONNECT_ACK)
    assert used <= host.receivable


def test_an_acknowledgement_that_nothing_asked_for_is_a_violation() -> None:
    host = session()
    assert T.DEVICE_DISCONNECT_ACK not in host.receivable
    assert host.violation(T.DEVICE_DISCONNECT_ACK).rule is Rule.STATE


def test_one_device_at_a_time() -> None:
    host = session()
    send(host, T.DEVICE_CONNECT)
    with pytest.raises(IllegalPacketError):
        send(host, T.DEVICE_CONNECT)


def test_a_closed_session_takes_and_gives_nothing() -> None:
    host = session()
    host.close()
    assert host.receivable == host.sendable == frozenset()
    with pytest.raises(ConnectionClosedError):
        host.check_send(T.BULK_PACKET)
    with pytest.raises(ConnectionClosedError):
        host.our_hello()


@pytest.mark.parametrize(
    ("packet", "rule"),
    [
        (28, Rule.TYPE),
        (99, Rule.TYPE),
        (105, Rule.TYPE),
        (0xFFFFFFFF, Rule.TYPE),
        (T.DEVICE_CONNECT, Rule.DIRECTION),
        (T.BUFFERED_BULK_PACKET, Rule.DIRECTION),
        (T.DEVICE_DISCONNECT_ACK, Rule.STATE),
    ],
)
def test_a_violation_names_the_rule(packet: int, rule: Rule) -> None:
    error = session().violation(packet)
    assert (error.packet, error.rule) == (packet, rule)


@pytest.mark.parametrize("packet", [T.FILTER_FILTER, T.FILTER_REJECT, T.START_BULK_RECEIVING, T.ALLOC_BULK_STREAMS])
def test_receiving_needs_our_own_capability_only(packet: PacketType) -> None:
    assert session(caps=Cap(0)).violation(packet).rule is Rule.CAPABILITY
    assert packet not in session(caps=Cap(0)).receivable
    assert packet in session(peer_caps=Cap(0)).receivable


def test_sending_needs_the_capability_on_both_ends() -> None:
    for host in (session(caps=Cap(0)), session(peer_caps=Cap(0))):
        with pytest.raises(IllegalPacketError) as caught:
            host.check_send(T.FILTER_FILTER)
        assert caught.value.rule is Rule.CAPABILITY


def test_a_guest_always_acknowledges() -> None:
    assert Session(Role.GUEST, Cap(0)).caps == Cap.DEVICE_DISCONNECT_ACK
    assert Session(Role.HOST, Cap(0)).caps == Cap(0)


def test_capabilities_without_their_prerequisite_do_not_count() -> None:
    host = session(caps=Cap.BULK_STREAMS, peer_caps=ALL_CAPS)
    assert host.negotiated == Cap(0)
    assert session(peer_caps=Cap.BULK_STREAMS).peer_caps == Cap(0)


def test_both_roles_share_the_directions() -> None:
    host, guest = session(Role.HOST), session(Role.GUEST)
    assert (host.sends, host.receives) == (Direction.TO_GUEST, Direction.TO_HOST)
    assert (guest.sends, guest.receives) == (host.receives, host.sends)
    assert host.receivable - {T.HELLO} == guest.sendable
