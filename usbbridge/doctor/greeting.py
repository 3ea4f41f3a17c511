"""How far one can go with a VM's server without disturbing its session; see `vms`."""

import contextlib
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from usbbridge.errors import UsbBridgeError
from usbbridge.spice.connection import open_channel, open_raw
from usbbridge.spice.errors import (
    BadSessionError,
    NeedPlainError,
    NoSuchChannelError,
    SilentServerError,
)
from usbbridge.spice.link import LinkClient
from usbbridge.spice.messages import ChannelType
from usbbridge.spice.sockets import Deadline, TlsOptions
from usbbridge.spice.targets import SpiceTarget, TcpTarget, UnixTarget, join

RawTarget = TcpTarget | UnixTarget

NO_SESSION: Final = 0xFFFFFFFF
"A session id that is never given: spice-server's come from rand(3), which stays below 2^31."
RECEIVE: Final = 4096
"A link reply has 202 bytes."


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is said of a server's certificate."""

    subject: str
    issuer: str
    until: datetime

    @property
    def days_left(self) -> float:
        return (self.until - datetime.now(UTC)).total_seconds() / 86400

    def __str__(self) -> str:
        word = "expired on" if self.days_left < 0 else "until"
        return f"{self.subject}, from {self.issuer}, {word} {self.until:%Y-%m-%d}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A SPICE server that answered."""

    where: str
    secure: bool
    certificate: Certificate | None
    "None without TLS, and if it can't be read."


def touch(target: RawTarget, deadline: Deadline) -> None:
    """Connect, and leave without a word. Raises UnreachableError subclasses, SocketNotPermittedError."""
    open_raw(target, deadline.left()).close()


def greet(target: SpiceTarget, tls: TlsOptions, deadline: Deadline) -> Answer:
    """Ask for MAIN, and leave when the server has agreed and shown its key: before a ticket, nothing begins or ends.

    Raises LinkError subclasses, and UsageError for unusable TLS options.
    """
    if target.tls_port is not None:
        try:
            return _ask(target, ChannelType.MAIN, 0, tls, deadline)
        except NeedPlainError:
            if target.port is None:
                raise
    return _ask(target, ChannelType.MAIN, 0, None, deadline)


def try_ticket(target: SpiceTarget, tls: TlsOptions, password: str, deadline: Deadline) -> bool:
    """Whether there is a USBREDIR channel; the password is right if there is. Raises WrongTicketError if it is not,
    and other LinkError subclasses."""
    try:
        linked = open_channel(
            target,
            ChannelType.USBREDIR,
            0,
            connection_id=NO_SESSION,
            password=password,
            tls=tls,
            timeout=deadline.left(),
        )
    except BadSessionError:
        return True
    except NoSuchChannelError:
        return False
    linked.sock.close()  # a server that does not look at the session
    return True


def count_channels(target: SpiceTarget, tls: TlsOptions, deadline: Deadline, most: int) -> tuple[int, bool]:
    """How many USBREDIR channels were found, `most` at the most, and whether these are all. Raises LinkError subclasses
    for anything but the end of the time."""
    for number in range(most):
        try:
            _ask_either(target, number, tls, deadline)
        except NoSuchChannelError:
            return number, True
        except UsbBridgeError:
            if not deadline.passed():
                raise
            return number, False
    return most, False


def _ask_either(target: SpiceTarget, number: int, tls: TlsOptions, deadline: Deadline) -> None:
    if target.tls_port is not None:
        try:
            _ask(target, ChannelType.USBREDIR, number, tls, deadline)
        except NeedPlainError:
            if target.port is None:
                raise
        else:
            return
    _ask(target, ChannelType.USBREDIR, number, None, deadline)


def _ask(target: SpiceTarget, kind: int, number: int, tls: TlsOptions | None, deadline: Deadline) -> Answer:
    where = _where(target, secure=tls is not None)
    sock = _connect(target, deadline, secure=tls is not None)
    try:
        certificate = None
        if tls is not None:
            from usbbridge.spice.tls import Verifier

            secure = Verifier(tls, where, target.host).secure(sock, deadline)
            sock, certificate = secure, parse_certificate(secure.certificate())
        link = LinkClient(kind, number, 0 if kind == ChannelType.MAIN else NO_SESSION, where=where)
        _until_key(sock, link, deadline)
    finally:
        sock.close()
    return Answer(where, tls is not None, certificate)


def _until_key(sock: socket.socket, link: LinkClient, deadline: Deadline) -> None:
    first = link.stage
    output = link.bytes_to_send()
    while link.stage == first:
        if deadline.passed():
            raise SilentServerError(link.where, deadline.seconds, link.stage)
        sock.settimeout(deadline.left())
        try:
            with contextlib.suppress(ConnectionError):
                sock.sendall(output)
            output = b""
            data = sock.recv(RECEIVE)
        except TimeoutError as error:
            raise SilentServerError(link.where, deadline.seconds, link.stage) from error
        except ConnectionError:
            data = b""
        if not data:
            link.eof()
        link.receive(data)


def _connect(target: SpiceTarget, deadline: Deadline, *, secure: bool) -> socket.socket:
    if target.socket_path is not None:
        return open_raw(UnixTarget(target.socket_path), deadline.left())
    port = target.tls_port if secure else target.port
    assert port is not None
    return open_raw(TcpTarget(target.host, port), deadline.left())


def _where(target: SpiceTarget, *, secure: bool) -> str:
    if target.socket_path is not None:
        return target.socket_path
    return join(target.host, target.tls_port if secure else target.port)


# ---- certificates


def show_certificate(target: SpiceTarget, deadline: Deadline) -> Certificate | None:
    """The certificate that a server shows, whatever it is worth; nothing is sent to it. None if it shows none."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with _connect(target, deadline, secure=True) as sock:
            sock.settimeout(deadline.left())
            with context.wrap_socket(sock, server_hostname=target.host.partition("%")[0]) as secure:
                return parse_certificate(secure.getpeercert(binary_form=True))
    except (OSError, UsbBridgeError):
        return None


def parse_certificate(der: bytes | None) -> Certificate | None:
    """What is in it; None if it can't be read."""
    from cryptography.x509 import load_der_x509_certificate

    from usbbridge.spice.subject import certificate_subject, format_subject

    try:
        parsed = load_der_x509_certificate(der or b"")
        until = getattr(parsed, "not_valid_after_utc", None)  # since cryptography 42
        if until is None:
            until = parsed.not_valid_after.replace(tzinfo=UTC)
        return Certificate(format_subject(certificate_subject(der or b"")), parsed.issuer.rfc4514_string(), until)
    except ValueError:
        return None
