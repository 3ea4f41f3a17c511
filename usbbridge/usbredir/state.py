"""The session's state machine, as data.

Theory of operation
===================

A usbredir connection carries one device at a time. Both ends say hello first; then the host announces a device
(interface_info and ep_info in either order, then device_connect), the guest uses it, the host takes it away again:

    WAIT_HELLO   the peer's hello has not come; nothing else may be received, and nothing but our hello sent
    READY        no device is announced
    CONNECTED    device_connect has passed
    WAIT_ACK     device_disconnect has passed, and the guest owes the device_disconnect_ack that both ends agreed on
    CLOSED       a rule was broken, or the connection ended; for good

`TABLE` says for every state which packet may pass in which direction, and which state follows. What is not in it is a
violation. Directions are those of the wire, so that host and guest run the same table and agree on the state but for
packets under way. That is why requests stay legal while no device is there: a guest that has not yet seen
device_disconnect goes on using the old device, and even after its acknowledgement answers may cross. What is sent then
is about a device that is gone: the host answers it with errors, or ignores it.

Rule 1: whether a packet may pass now is decided here and nowhere else. `Session` adds to the table what does not depend
on the state: directions, capabilities, and that nothing is sent before both hellos were exchanged (until then the width
of ids is not known).

Rule 2: this file knows no bytes, lengths or fields.

A second hello of the peer is ignored, as libusbredirparser does; that is why hello stays in the table after WAIT_HELLO.
Capabilities: a packet type that needs one may be sent only if both ends have it; it is accepted if *we* have it,
because libusbredirparser sends on the strength of its peer's word alone.
"""

from enum import Enum

from usbbridge.usbredir.errors import ConnectionClosedError, IllegalPacketError, PeerViolationError, Rule
from usbbridge.usbredir.proto import DIRECTIONS, REQUIRED_CAP, Cap, Direction, PacketType, Role, consistent


class State(Enum):
    """See the theory of operation."""

    WAIT_HELLO = "waiting for the peer's hello"
    READY = "no device announced"
    CONNECTED = "device announced"
    WAIT_ACK = "waiting for the guest to acknowledge the disconnect"
    CLOSED = "closed"


_T = PacketType
_GUEST, _HOST = Direction.TO_GUEST, Direction.TO_HOST
Key = tuple[Direction, PacketType]
Row = dict[Key, State]

_HELLO: tuple[Key, ...] = ((_GUEST, _T.HELLO), (_HOST, _T.HELLO))
_ANNOUNCEMENTS: tuple[Key, ...] = ((_GUEST, _T.INTERFACE_INFO), (_GUEST, _T.EP_INFO))
_REQUESTS: tuple[Key, ...] = (
    (_HOST, _T.RESET),
    (_HOST, _T.SET_CONFIGURATION),
    (_HOST, _T.GET_CONFIGURATION),
    (_HOST, _T.SET_ALT_SETTING),
    (_HOST, _T.GET_ALT_SETTING),
    (_HOST, _T.START_ISO_STREAM),
    (_HOST, _T.STOP_ISO_STREAM),
    (_HOST, _T.START_INTERRUPT_RECEIVING),
    (_HOST, _T.STOP_INTERRUPT_RECEIVING),
    (_HOST, _T.ALLOC_BULK_STREAMS),
    (_HOST, _T.FREE_BULK_STREAMS),
    (_HOST, _T.CANCEL_DATA_PACKET),
    (_HOST, _T.FILTER_REJECT),
    (_HOST, _T.FILTER_FILTER),
    (_HOST, _T.START_BULK_RECEIVING),
    (_HOST, _T.STOP_BULK_RECEIVING),
    (_HOST, _T.CONTROL_PACKET),
    (_HOST, _T.BULK_PACKET),
    (_HOST, _T.ISO_PACKET),
    (_HOST, _T.INTERRUPT_PACKET),
)
_ANSWERS: tuple[Key, ...] = (
    (_GUEST, _T.CONFIGURATION_STATUS),
    (_GUEST, _T.ALT_SETTING_STATUS),
    (_GUEST, _T.ISO_STREAM_STATUS),
    (_GUEST, _T.INTERRUPT_RECEIVING_STATUS),
    (_GUEST, _T.BULK_STREAMS_STATUS),
    (_GUEST, _T.FILTER_FILTER),
    (_GUEST, _T.BULK_RECEIVING_STATUS),
    (_GUEST, _T.CONTROL_PACKET),
    (_GUEST, _T.BULK_PACKET),
    (_GUEST, _T.ISO_PACKET),
    (_GUEST, _T.INTERRUPT_PACKET),
    (_GUEST, _T.BUFFERED_BULK_PACKET),
)
_ALWAYS = (*_HELLO, *_REQUESTS, *_ANSWERS)

TABLE: dict[State, Row] = {
    State.WAIT_HELLO: dict.fromkeys(_HELLO, State.READY),
    State.READY: {
        **dict.fromkeys((*_ALWAYS, *_ANNOUNCEMENTS), State.READY),
        (_GUEST, _T.DEVICE_CONNECT): State.CONNECTED,
        # With no device it changes nothing for the guest, but the guest acknowledges it all the same.
        (_GUEST, _T.DEVICE_DISCONNECT): State.WAIT_ACK,
    },
    State.CONNECTED: {
        # New interface_info and ep_info come before the status of a set_configuration or set_alt_setting.
        **dict.fromkeys((*_ALWAYS, *_ANNOUNCEMENTS), State.CONNECTED),
        (_GUEST, _T.DEVICE_DISCONNECT): State.WAIT_ACK,
    },
    State.WAIT_ACK: {
        # Nothing about the next device before the guest is done with the old one.
        **dict.fromkeys(_ALWAYS, State.WAIT_ACK),
        (_HOST, _T.DEVICE_DISCONNECT_ACK): State.READY,
    },
    State.CLOSED: {},
}
"state -> {(direction, packet type): next state}. WAIT_HELLO's row is about the peer's hello; ours changes no state."

WITHOUT_ACK = (State.WAIT_ACK, State.READY)
"The one change if DEVICE_DISCONNECT_ACK was not agreed on: for the first of these, go to the second."


class Session:
    """Where one connection stands: its state, and the capabilities of both ends. Knows which packets may pass now."""

    __slots__ = (
        "caps",
        "hello_sent",
        "negotiated",
        "peer_caps",
        "receivable",
        "receives",
        "sendable",
        "sends",
        "state",
    )

    def __init__(self, role: Role, caps: Cap) -> None:
        if role is Role.GUEST:
            # libusbredirparser does the same: a guest always acknowledges, and every host may rely on it.
            caps |= Cap.DEVICE_DISCONNECT_ACK
        self.caps = consistent(caps)
        self.peer_caps: Cap | None = None
        self.negotiated = Cap(0)
        self.hello_sent = False
        self.receives = _HOST if role is Role.HOST else _GUEST
        self.sends = _GUEST if role is Role.HOST else _HOST
        self.receivable: frozenset[int] = frozenset()
        "Packet types that the peer may send now, as plain ints for the decoder's sake."
        self.sendable: frozenset[int] = frozenset()
        "Packet types that we may send now."
        self._enter(State.WAIT_HELLO)

    def hello_received(self, peer_caps: Cap) -> None:
        """The peer's first hello has come. Agree on capabilities."""
        self.peer_caps = consistent(peer_caps)
        self.negotiated = self.caps & self.peer_caps
        self.passed(self.receives, _T.HELLO)

    def our_hello(self) -> None:
        """Our hello is about to be sent. Raises `IllegalPacketError` the second time."""
        if self.state is State.CLOSED:
            raise ConnectionClosedError
        if self.hello_sent:
            raise IllegalPacketError(_T.HELLO, Rule.STATE)
        self.hello_sent = True
        self._enter(self.state)

    def passed(self, direction: Direction, packet: PacketType) -> None:
        """A legal packet other than our hello was received or sent: take the step that the table has for it."""
        target = TABLE[self.state][direction, packet]
        if target is WITHOUT_ACK[0] and Cap.DEVICE_DISCONNECT_ACK not in self.negotiated:
            target = WITHOUT_ACK[1]
        if target is not self.state:
            self._enter(target)

    def close(self) -> None:
        """End the session for good."""
        self._enter(State.CLOSED)

    def check_send(self, packet: PacketType) -> None:
        """Raise `IllegalPacketError` or `ConnectionClosedError` unless this packet type may be sent now."""
        if packet not in self.sendable:
            raise self._refusal(packet)

    def _refusal(self, packet: PacketType) -> Exception:
        if self.state is State.CLOSED:
            return ConnectionClosedError()
        rule = self._broken_rule(packet, self.sends, self.negotiated)
        where = self.state.value if self.hello_sent else "our hello not sent"
        return IllegalPacketError(packet, rule, "state", where)

    def violation(self, packet: int) -> PeerViolationError:
        """What is wrong with having received a packet type that is not in `receivable`."""
        rule = self._broken_rule(packet, self.receives, self.caps)
        return PeerViolationError(packet, rule, "state", self.state.value)

    def _broken_rule(self, packet: int, direction: Direction, caps: Cap) -> Rule:
        if packet not in PacketType.__members__.values():
            return Rule.TYPE
        if direction not in DIRECTIONS[PacketType(packet)]:
            return Rule.DIRECTION
        if self.state is State.WAIT_HELLO or _has_cap(PacketType(packet), caps):
            return Rule.STATE
        return Rule.CAPABILITY

    def _enter(self, state: State) -> None:
        self.state = state
        self.receivable = self._legal(self.receives, self.caps)
        open_to_us = self.hello_sent and state is not State.WAIT_HELLO
        self.sendable = self._legal(self.sends, self.negotiated) - {_T.HELLO} if open_to_us else frozenset()

    def _legal(self, direction: Direction, caps: Cap) -> frozenset[int]:
        row = TABLE[self.state]
        return frozenset(int(packet) for way, packet in row if way is direction and _has_cap(packet, caps))


def _has_cap(packet: PacketType, caps: Cap) -> bool:
    return REQUIRED_CAP.get(packet, Cap(0)) in caps
