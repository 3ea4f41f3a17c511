"""Every way a SPICE connection fails, each as a class of its own, with what happened, why, and what to do next.

    LinkError                          (usbbridge.errors) the channel could not be linked
    ├── UnreachableError               no connection at all (also NotFoundError)
    │   ├── NameNotResolvedError       the host name means nothing here
    │   ├── PortClosedError            the host is there, the port is not
    │   ├── NoRouteError               the network does not lead there
    │   └── ConnectTimeoutError        nobody answered in time
    ├── SocketNotPermittedError        a UNIX socket this user may not use (also NotPermittedError)
    ├── SilentServerError              connected, and then not a word until the deadline
    ├── LinkClosedError                closed in the middle of the link stage
    ├── NotSpiceError                  it answered in another protocol
    ├── MalformedLinkError             it answered in SPICE, but wrongly (also RemoteProtocolError)
    ├── VersionMismatchError           another major version of SPICE
    ├── NeedTlsError                   this port or channel wants TLS
    ├── NeedPlainError                 the server takes this channel without TLS only
    ├── TlsError                       the TLS handshake failed
    │   ├── NotTlsError                the port does not speak TLS
    │   ├── UntrustedCertificateError  no CA we trust vouches for it, or it has expired
    │   ├── WrongHostError             the certificate is for another host
    │   └── WrongSubjectError          the certificate's subject is not the one asked for
    ├── PasswordTooLongError           more than SPICE carries (also UsageError)
    ├── WrongTicketError               password missing, wrong or expired (also NotPermittedError)
    ├── NeedSaslError                  the server offers no mechanism but SASL
    ├── NoSuchChannelError             the VM has no such channel (also NotFoundError)
    ├── ChannelBusyError               someone else holds the channel (also RefusedError)
    ├── BadSessionError                the session id is unknown to the server
    ├── NoSessionError                 MAIN was linked, but no session began on it
    └── LinkRefusedError               any other error code of the server

    RemoteProtocolError                (usbbridge.errors) after the link stage
    ├── MessageTooLargeError           larger than its type may be
    ├── MalformedMessageError          contents that contradict its type's layout
    └── CompressedDataError            compressed data that does not become what it claims to

    ConnectionLostError                (usbbridge.errors)
    ├── ServerDisconnectingError       the server announced the end of the channel
    └── MigrationError                 the VM moves to another host, which is not followed
"""

from usbbridge.errors import (
    ConnectionLostError,
    LinkError,
    NotFoundError,
    NotPermittedError,
    RefusedError,
    RemoteProtocolError,
    UsageError,
)

CHECK_TARGET = "Check the VM's host and SPICE port (on a libvirt host: virsh domdisplay NAME)."


class UnreachableError(LinkError, NotFoundError):
    """No connection to the VM's host could be made."""

    def __init__(self, where: str, reason: str, *, hint: str = CHECK_TARGET) -> None:
        super().__init__(f"Cannot connect to {where}: {reason}", hint=hint)
        self.where = where
        self.reason = reason


class NameNotResolvedError(UnreachableError):
    """The host name has no address."""

    def __init__(self, where: str, host: str, reason: str) -> None:
        super().__init__(
            where,
            f"the host name {host!r} could not be resolved ({reason})",
            hint="Check the spelling of the host name and this machine's DNS, or give the address itself.",
        )
        self.host = host


class PortClosedError(UnreachableError):
    """The host answered that nothing listens there."""

    def __init__(self, where: str) -> None:
        super().__init__(
            where,
            "connection refused; nothing listens on that port",
            hint="Is the VM running, and is this its SPICE port? " + CHECK_TARGET,
        )


class NoRouteError(UnreachableError):
    """The network does not lead to the host."""

    def __init__(self, where: str, reason: str) -> None:
        hint = "Check this machine's network, VPN and firewall."
        super().__init__(where, f"no route to the host ({reason})", hint=hint)


class ConnectTimeoutError(UnreachableError):
    """The host did not answer the connection attempt in time."""

    def __init__(self, where: str, seconds: float) -> None:
        super().__init__(
            where,
            f"no answer within {seconds:g} s",
            hint="The host is down, or a firewall drops the connection. " + CHECK_TARGET,
        )
        self.seconds = seconds


class SocketNotPermittedError(LinkError, NotPermittedError):
    """The UNIX socket is there, but this user may not connect to it."""

    def __init__(self, where: str) -> None:
        super().__init__(f"No permission to connect to {where}", hint="Ask for membership in the socket's group.")


class SilentServerError(LinkError):
    """The connection was made, and nothing (more) was said on it until the deadline."""

    def __init__(self, where: str, seconds: float, stage: str) -> None:
        super().__init__(
            f"{where} accepted the connection but said nothing during the {stage} for {seconds:g} s",
            hint="It is not a SPICE port, or the VM host hangs. " + CHECK_TARGET,
        )
        self.seconds = seconds
        self.stage = stage


class LinkClosedError(LinkError):
    """The server closed the connection in the middle of the link stage."""

    def __init__(self, where: str, stage: str) -> None:
        super().__init__(
            f"{where} closed the connection {stage}",
            hint="If this is the VM's TLS port, use spice+tls://; otherwise see the VM host's log (QEMU's, for SPICE). "
            "Is it a SPICE port at all?",
        )
        self.stage = stage


class NotSpiceError(LinkError):
    """The other side speaks another protocol."""

    def __init__(self, where: str, found: str) -> None:
        super().__init__(f"{where} is not a SPICE port: it answered with {found}", hint=CHECK_TARGET)
        self.found = found


class MalformedLinkError(LinkError, RemoteProtocolError):
    """The server's part of the link stage contradicts the SPICE protocol."""

    def __init__(self, where: str, what: str) -> None:
        hint = "The server is faulty; tell its maintainer."
        super().__init__(f"{where} broke the SPICE link protocol: {what}", hint=hint)


class VersionMismatchError(LinkError):
    """The server speaks another major version of the SPICE protocol."""

    def __init__(self, where: str, major: int | None = None, minor: int | None = None) -> None:
        version = "another major version" if major is None else f"version {major}.{minor}"
        super().__init__(
            f"{where} speaks {version} of the SPICE protocol; usbbridge speaks 2.2",
            hint="Update the VM host's spice-server.",
        )
        self.major = major
        self.minor = minor


class NeedTlsError(LinkError):
    """The port is a TLS port, or the server wants TLS for this channel."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where} wants TLS: {why}", hint="Use spice+tls://HOST:PORT with the VM's TLS port.")


class NeedPlainError(LinkError):
    """The server, reached over TLS, takes the channel without TLS only."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where} wants no TLS: {why}", hint="Give the VM's plain port too: spice://HOST:PORT?tls-port=PORT.")


class TlsError(LinkError):
    """TLS could not be established."""

    def __init__(self, where: str, reason: str, *, hint: str = "See the VM host's log for its side of it.") -> None:
        super().__init__(f"No secure connection to {where}: {reason}", hint=hint)
        self.reason = reason


class NotTlsError(TlsError):
    """The port answered the TLS handshake with something else."""

    def __init__(self, where: str) -> None:
        super().__init__(
            where,
            "the port does not speak TLS",
            hint="If this is the VM's plain SPICE port, use spice://; otherwise give its TLS port.",
        )


class UntrustedCertificateError(TlsError):
    """The server's certificate does not verify."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(
            where,
            f"its certificate is not trusted ({reason})",
            hint="Give the CA that signed it with --ca-file, or have the certificate renewed.",
        )


class WrongHostError(TlsError):
    """The certificate is trusted, but names another host."""

    def __init__(self, where: str, host: str, reason: str) -> None:
        super().__init__(
            where,
            f"its certificate is not for {host!r} ({reason})",
            hint="Use the name the certificate was made for, or give its subject with --host-subject.",
        )
        self.host = host


class WrongSubjectError(TlsError):
    """The certificate is trusted, but its subject is not the one asked for."""

    def __init__(self, where: str, expected: str, found: str) -> None:
        super().__init__(
            where,
            f"its certificate's subject is {found}, not {expected}",
            hint="If that is the right server, give its subject with --host-subject exactly as it is.",
        )
        self.expected = expected
        self.found = found


class PasswordTooLongError(LinkError, UsageError):
    """The password does not fit a SPICE ticket; nothing was sent."""

    def __init__(self, length: int, limit: int) -> None:
        super().__init__(
            f"The password has {length} bytes; SPICE carries {limit} at most",
            hint="Check the password, or have a shorter one set for the VM.",
        )
        self.length = length
        self.limit = limit


class WrongTicketError(LinkError, NotPermittedError):
    """The server did not accept the password."""

    def __init__(self, where: str, *, given: bool) -> None:
        if given:
            what = "refused the password: it is wrong or has expired"
            hint = "Check the password; one from a portal or a .vv file is good for a short time only."
        else:
            what = "wants a password, and none was given"
            hint = "Give it with --password-file, in USBBRIDGE_PASSWORD, or at the prompt."
        super().__init__(f"{where} {what}", hint=hint)
        self.given = given


class NeedSaslError(LinkError):
    """The server authenticates by SASL only, which usbbridge does not speak."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"{where} authenticates by SASL only, which usbbridge cannot do",
            hint="Have the VM use a ticket (password) instead: switch spice_sasl off on its host.",
        )


class NoSuchChannelError(LinkError, NotFoundError):
    """The VM does not have the channel."""

    def __init__(self, where: str, channel: str) -> None:
        super().__init__(
            f"{where} has no channel {channel}",
            hint="The VM needs one usb-redir device (libvirt: <redirdev bus='usb' type='spicevmc'/>) for each USB "
            "device that is to be attached at the same time.",
        )
        self.channel = channel


class ChannelBusyError(LinkError, RefusedError):
    """The channel exists, but is in use."""

    def __init__(self, where: str, channel: str) -> None:
        super().__init__(
            f"Channel {channel} of {where} is busy: the server closed it as soon as it was linked",
            hint="Another device is attached there. Take another USB channel, or detach that device first.",
        )
        self.channel = channel


class BadSessionError(LinkError):
    """The server does not know the session the channel was to belong to."""

    def __init__(self, where: str, connection_id: int) -> None:
        super().__init__(
            f"{where} does not know session {connection_id:#010x}",
            hint="The session has ended, most likely because another SPICE client connected. Start again.",
        )
        self.connection_id = connection_id


class NoSessionError(LinkError):
    """MAIN was linked, but the server never started a session on it."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(
            f"{where} accepted the connection but started no session: {what}",
            hint="The VM may be migrating or its host overloaded; try again in a moment.",
        )


class LinkRefusedError(LinkError):
    """The server refused the link with a code that has no class of its own."""

    def __init__(self, where: str, code: int, meaning: str) -> None:
        super().__init__(f"{where} refused the link: {meaning} (SPICE error {code})", hint="See the VM host's log.")
        self.code = code


class MessageTooLargeError(RemoteProtocolError):
    """A message is larger than its type may be."""

    def __init__(self, message_type: int, size: int, limit: int) -> None:
        super().__init__(f"The SPICE server sent message {message_type} of {size} bytes; the limit is {limit}")
        self.message_type = message_type
        self.size = size
        self.limit = limit


class MalformedMessageError(RemoteProtocolError):
    """A message's contents contradict its layout."""

    def __init__(self, message_type: int, what: str) -> None:
        super().__init__(f"The SPICE server sent a broken message {message_type}: {what}")
        self.message_type = message_type


class CompressedDataError(RemoteProtocolError):
    """Compressed data is not what it claims to be."""

    def __init__(self, what: str) -> None:
        super().__init__(f"The SPICE server sent compressed data that cannot be right: {what}")


class ServerDisconnectingError(ConnectionLostError):
    """The server said that it ends the channel."""

    def __init__(self, where: str, channel: str, reason: int) -> None:
        super().__init__(f"{where} ended channel {channel} (SPICE reason {reason})", hint="Is the VM shutting down?")
        self.reason = reason


class MigrationError(ConnectionLostError):
    """The VM is being migrated."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"The VM behind {where} moves to another host, and usbbridge does not follow it there",
            hint="Attach the device again, to the VM's new host.",
        )
