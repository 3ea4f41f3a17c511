"""What can be wrong with a usbredir packet, as facts.

    LocalProtocolError
    ├── IllegalPacketError      we were asked to send a packet that breaks a rule; nothing was sent
    └── ConnectionClosedError   the connection is over, and we were asked to use it
    RemoteProtocolError
    └── PeerViolationError      the peer sent a packet that breaks a rule; the connection is over
    UsageError
    └── FilterError             a filter string or rule that cannot be read

The first and the third carry the same facts: `packet`, `rule`, `field`, `value` and `limit`.
"""

from enum import Enum

from usbbridge.errors import LocalProtocolError, RemoteProtocolError, UsageError
from usbbridge.usbredir.proto import PacketType


class Rule(Enum):
    """Which kind of rule a packet broke."""

    TYPE = "unknown packet type"
    DIRECTION = "packet type goes only the other way"
    CAPABILITY = "packet type needs a capability that was not agreed on"
    STATE = "packet type has no place in this state of the session"
    LENGTH = "length does not fit the packet type"
    PAYLOAD = "payload does not fit endpoint direction and length"
    FIELD = "field out of range"


def packet_name(packet: int) -> str:
    """The protocol's name of a packet type, or its number."""
    try:
        return PacketType(packet).name.lower()
    except ValueError:
        return f"packet type {packet}"


def _sentence(packet: int, rule: Rule, field: str, value: object, limit: object) -> str:
    found = f": {field} is {value}" if field else ""
    wanted = f", not {limit}" if limit is not None else ""
    return f"usbredir {packet_name(packet)}: {rule.value}{found}{wanted}"


class IllegalPacketError(LocalProtocolError):
    """We were asked to send a packet that the protocol forbids here."""

    def __init__(self, packet: int, rule: Rule, field: str = "", value: object = None, limit: object = None) -> None:
        super().__init__("refused to send " + _sentence(packet, rule, field, value, limit))
        self.packet = packet
        self.rule = rule
        self.field = field
        self.value = value
        self.limit = limit


class PeerViolationError(RemoteProtocolError):
    """The peer sent a packet that the protocol forbids here."""

    def __init__(self, packet: int, rule: Rule, field: str = "", value: object = None, limit: object = None) -> None:
        super().__init__("the peer broke the protocol by " + _sentence(packet, rule, field, value, limit))
        self.packet = packet
        self.rule = rule
        self.field = field
        self.value = value
        self.limit = limit


class ConnectionClosedError(LocalProtocolError):
    """The usbredir connection ended earlier; nothing can be received or sent on it any more."""

    def __init__(self) -> None:
        super().__init__("this usbredir connection is closed")


class FilterError(UsageError):
    """A filter cannot be read. `text` is the part at fault, `reason` says why."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"bad USB filter {text[:80]!r}: {reason}")
        self.text = text
        self.reason = reason
