"""What a failure means for the next try, by the name of its class.

Failures come from the monitor and from encoders as words, so that classes are named here, not imported. What is not
in the table is judged by its exit status: 2 (usage), 3 (not permitted) and 5 (refused) say that something has to be
changed before a try can succeed, everything else may pass.
"""

from enum import Enum
from typing import Final

from usbbridge.control.actions import Failure
from usbbridge.spice.errors import NoSuchChannelError


class Fate(Enum):
    """What follows from a failure."""

    RETRY = "retry"
    "It may pass: again after a while."
    GIVE_UP = "give up"
    "It won't pass by itself."
    OTHER_CHANNEL = "other channel"
    "The channel is not to be had; the VM's others may be."
    NEW_SESSION = "new session"
    "The server has forgotten the session, although MAIN has not been closed yet."


FATES: Final[dict[str, Fate]] = {
    # Reaching the VM. Its host boots, its network comes back, its service is started again.
    "UnreachableError": Fate.RETRY,
    "NameNotResolvedError": Fate.RETRY,  # there is no DNS while there is no network
    "PortClosedError": Fate.RETRY,  # the VM is off
    "NoRouteError": Fate.RETRY,
    "ConnectTimeoutError": Fate.RETRY,
    "SocketNotPermittedError": Fate.GIVE_UP,
    "SilentServerError": Fate.RETRY,
    "LinkClosedError": Fate.RETRY,  # a server that is shutting down does that too
    # What answers there is not what the configuration says; only an administrator changes either.
    "NotSpiceError": Fate.GIVE_UP,
    "VersionMismatchError": Fate.GIVE_UP,
    "NeedTlsError": Fate.GIVE_UP,
    "NeedPlainError": Fate.GIVE_UP,
    "NotTlsError": Fate.GIVE_UP,
    "NeedSaslError": Fate.GIVE_UP,
    "MalformedLinkError": Fate.RETRY,
    "TlsError": Fate.RETRY,  # a handshake that was cut short, among others
    # Whom to trust: never tried again behind the user's back.
    "UntrustedCertificateError": Fate.GIVE_UP,
    "WrongHostError": Fate.GIVE_UP,
    "WrongSubjectError": Fate.GIVE_UP,
    # Repeating a wrong password looks like an attack, and locks accounts where the ticket comes from a portal.
    "PasswordTooLongError": Fate.GIVE_UP,
    "WrongTicketError": Fate.GIVE_UP,
    # Channels and sessions come and go with other clients.
    "NoSuchChannelError": Fate.OTHER_CHANNEL,
    "ChannelBusyError": Fate.OTHER_CHANNEL,
    "BadSessionError": Fate.NEW_SESSION,
    "NoSessionError": Fate.RETRY,
    "LinkRefusedError": Fate.RETRY,
    "LinkError": Fate.RETRY,
    # Something that was there is gone.
    "ConnectionLostError": Fate.RETRY,
    "ServerDisconnectingError": Fate.RETRY,
    "MigrationError": Fate.RETRY,
    "EncoderError": Fate.RETRY,  # killed, by the kernel for instance as memory was short
    # The peer, or we, broke a protocol. A new connection begins in a known state; the backoff keeps it from storming.
    "ProtocolError": Fate.RETRY,
    "LocalProtocolError": Fate.RETRY,
    "RemoteProtocolError": Fate.RETRY,
    "IllegalPacketError": Fate.RETRY,
    "PeerViolationError": Fate.RETRY,
    "ConnectionClosedError": Fate.RETRY,
    "MessageTooLargeError": Fate.RETRY,
    "MalformedMessageError": Fate.RETRY,
    "CompressedDataError": Fate.RETRY,
    # The device. Unplugged: the monitor says so in a moment; if it does not, the device fell off the bus and came back.
    "DeviceLostError": Fate.RETRY,
    "DeviceError": Fate.RETRY,
    "DescriptorError": Fate.GIVE_UP,  # what it says of itself stays as broken as it is
    "NotFoundError": Fate.RETRY,  # unplugged while it was asked for
    "RefusedError": Fate.GIVE_UP,  # a rule, a mounted file system, the VM's own filter
    "NotPermittedError": Fate.GIVE_UP,
    "UsageError": Fate.GIVE_UP,
    "FilterError": Fate.GIVE_UP,
}

_PERMANENT_STATUSES: Final = frozenset({2, 3, 5})

OF_THE_DEVICE: Final = frozenset(
    {"DeviceError", "DescriptorError", "RefusedError", "NotPermittedError", "EncoderError"}
    | {"PeerViolationError", "IllegalPacketError", "LocalProtocolError"}
)


def fate(failure: Failure) -> Fate:
    """What follows from `failure`."""
    known = FATES.get(failure.error)
    if known is not None:
        return known
    return Fate.GIVE_UP if failure.status in _PERMANENT_STATUSES else Fate.RETRY


def concerns_model(failure: Failure) -> bool:
    """Whether it may say something about the device's model, rather than about the way to the VM, the VM, or a plug
    that was pulled."""
    return failure.error in OF_THE_DEVICE


def no_channels(where: str) -> Failure:
    """A session has begun, and the VM has not a single USBREDIR channel."""
    words = NoSuchChannelError(where, "for USB redirection")
    return Failure(words.exit_status, "NotFoundError", words.message, words.hint)
