"""From a target to a linked channel: the only part of this package that touches the network.

Everything blocks, and name resolution, connection, TLS and link stage share one deadline. What a socket, a TLS library
or the link stage has to say about a failure becomes one of the classes of `usbbridge.spice.errors`.
"""

import contextlib
import errno
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from usbbridge.errors import UsageError
from usbbridge.spice.channel import Handler
from usbbridge.spice.errors import (
    ConnectTimeoutError,
    NameNotResolvedError,
    NeedPlainError,
    NoRouteError,
    NoSessionError,
    NotTlsError,
    PortClosedError,
    SilentServerError,
    SocketNotPermittedError,
    TlsError,
    UnreachableError,
    UntrustedCertificateError,
    WrongHostError,
    WrongSubjectError,
)
from usbbridge.spice.link import LinkClient, LinkResult
from usbbridge.spice.main import MAIN_CAPS, MainChannel
from usbbridge.spice.messages import ChannelType
from usbbridge.spice.subject import Subject, certificate_subject, format_subject, parse_subject
from usbbridge.spice.targets import SpiceTarget, TcpTarget, UnixTarget, join
from usbbridge.spice.usbredir import usbredir_caps

TIMEOUT = 10.0
"Seconds for everything until a channel is linked, as spice-gtk's for the connection alone."
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 30, 15, 3
"Seconds, seconds, probes: a host that vanished is noticed after 75 s (spice-gtk's values)."
RECEIVE = 8192
"A link reply has 202 bytes, so this is read once; what follows it is `Linked.rest`."

_OUR_CAPS: dict[int, Iterable[int]] = {
    ChannelType.MAIN: MAIN_CAPS,
    ChannelType.USBREDIR: usbredir_caps("auto"),
}
_HOST_MISMATCH = frozenset({62, 64})
"X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH (x509_vfy.h)."
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})
"What OpenSSL calls bytes that are no TLS record."
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL})


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How the server's certificate is verified. It always is."""

    ca_file: str | None = None
    "PEM file with the CA certificates to trust, instead of the system's."
    host_subject: str | None = None
    "Subject the certificate must have, in place of the host's name; see `usbbridge.spice.subject`."


@dataclass(frozen=True, slots=True)
class Linked:
    """A linked channel's connection."""

    sock: socket.socket
    "Blocking, without a timeout; an `ssl.SSLSocket` if `secure`."
    result: LinkResult
    rest: bytes
    "What arrived after the link stage; `Channel.feed()` it before anything is received."
    secure: bool


class _Deadline:
    """One time limit for a chain of operations."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, more than zero: zero would mean "do not block" to a socket."""
        return max(self._end - time.monotonic(), 0.001)

    def passed(self) -> bool:
        return time.monotonic() >= self._end


def open_channel(
    target: SpiceTarget,
    channel_type: int,
    channel_id: int,
    *,
    connection_id: int = 0,
    password: str = "",
    channel_caps: Iterable[int] | None = None,
    tls: TlsOptions | None = None,
    timeout: float = TIMEOUT,
) -> Linked:
    """Connect to `target` and link one channel within `timeout` seconds.

    `connection_id` is 0 for MAIN and the session's id for all others. `channel_caps` are by default what usbbridge can
    do on that type of channel. With a TLS port in the target TLS is used, and the plain port, if there is one too, only
    when the server says over TLS that it takes this channel without. Raises `LinkError` subclasses, and `UsageError`
    for unusable TLS options.
    """
    deadline = _Deadline(timeout)
    caps = tuple(_OUR_CAPS.get(channel_type, ()) if channel_caps is None else channel_caps)

    def attempt(secure: bool) -> Linked:
        link = LinkClient(
            channel_type, channel_id, connection_id, password=password, channel_caps=caps, where=_where(target, secure)
        )
        options = (tls or TlsOptions()) if secure else None
        return _open(target, link, options, deadline)

    if target.tls_port is None:
        return attempt(secure=False)
    try:
        return attempt(secure=True)
    except NeedPlainError:
        if target.port is None:
            raise
        return attempt(secure=False)


def open_main(
    target: SpiceTarget,
    handler: Handler | None = None,
    *,
    password: str = "",
    tls: TlsOptions | None = None,
    timeout: float = TIMEOUT,
) -> tuple[Linked, MainChannel]:
    """Link MAIN and wait, within the same deadline, until the session has begun and the channels are listed.

    A session that another client has is ended by this. Raises as `open_channel`, and `NoSessionError`.
    """
    deadline = _Deadline(timeout)
    linked = open_channel(target, ChannelType.MAIN, 0, password=password, tls=tls, timeout=timeout)
    channel = MainChannel(linked.result, handler)
    try:
        channel.feed(linked.rest)
        while not channel.listed:
            _exchange(linked.sock, channel, deadline)
        linked.sock.settimeout(deadline.left())
        linked.sock.sendall(channel.take_output())
    except BaseException:
        linked.sock.close()
        raise
    linked.sock.settimeout(None)
    return Linked(linked.sock, linked.result, b"", linked.secure), channel


def open_raw(target: TcpTarget | UnixTarget, timeout: float = TIMEOUT) -> socket.socket:
    """A blocking connection to a raw usbredir peer. Raises `UnreachableError` subclasses, `SocketNotPermittedError`."""
    deadline = _Deadline(timeout)
    sock = (
        _connect_unix(target.path, deadline)
        if isinstance(target, UnixTarget)
        else _connect_tcp(target.host, target.port, deadline)
    )
    sock.settimeout(None)
    return sock


def _where(target: SpiceTarget, secure: bool) -> str:
    if target.socket_path is not None:
        return target.socket_path
    return join(target.host, target.tls_port if secure else target.port)


def _open(target: SpiceTarget, link: LinkClient, tls: TlsOptions | None, deadline: _Deadline) -> Linked:
    verifier = None if tls is None else _Verifier(tls, _where(target, True), target.host)
    if target.socket_path is not None:
        sock = _connect_unix(target.socket_path, deadline)
    else:
        port = target.port if tls is None else target.tls_port
        if port is None:
            raise UsageError(f"{target} has no port for a connection without TLS")
        sock = _connect_tcp(target.host, port, deadline)
    try:
        if verifier is not None:
            sock = verifier.secure(sock, deadline)
        result = _link(sock, link, deadline)
    except BaseException:
        sock.close()
        raise
    sock.settimeout(None)
    return Linked(sock, result, link.rest, verifier is not None)


# ---- the connection


def _connect_tcp(host: str, port: int, deadline: _Deadline) -> socket.socket:
    """Try each address of the host, each with its share of the time that is left; the last failure counts."""
    where = join(host, port)
    addresses = _resolve(host, port, deadline)
    failure = OSError("it has no address")
    for index, (family, address) in enumerate(addresses):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(deadline.left() / (len(addresses) - index))
            sock.connect(address)
            _tune(sock)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise _unreachable(where, failure, deadline) from failure


_Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


def _resolve(host: str, port: int, deadline: _Deadline) -> list[tuple[int, _Address]]:
    """The host's addresses. The system's resolver has no time limit, so it runs in a thread that may be left behind."""
    found: list[tuple[int, _Address]] = []
    failure: list[OSError | UnicodeError] = []

    def look_up() -> None:
        try:
            found.extend((info[0], info[4]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failure.append(error)

    thread = threading.Thread(target=look_up, name="resolver", daemon=True)
    thread.start()
    thread.join(deadline.left())
    if failure:
        reason = getattr(failure[0], "strerror", None) or str(failure[0])
        raise NameNotResolvedError(join(host, port), host, reason) from failure[0]
    if not found:
        raise NameNotResolvedError(join(host, port), host, f"no answer within {deadline.seconds:g} s")
    return found


def _connect_unix(path: str, deadline: _Deadline) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(deadline.left())
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise _unreachable(path, error, deadline) from error
    return sock


def _unreachable(where: str, error: OSError, deadline: _Deadline) -> UnreachableError | SocketNotPermittedError:
    if isinstance(error, ConnectionRefusedError):
        return PortClosedError(where)
    if isinstance(error, TimeoutError):
        return ConnectTimeoutError(where, deadline.seconds)
    if isinstance(error, PermissionError):
        return SocketNotPermittedError(where)
    if error.errno in _NO_ROUTE:
        return NoRouteError(where, error.strerror or str(error))
    return UnreachableError(where, (error.strerror or str(error)).lower())


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)


# ---- TLS


class _Verifier:
    """Makes a connection secure, by TLS 1.2 or later, and proves whose it is."""

    def __init__(self, options: TlsOptions, where: str, host: str) -> None:
        """Raises `UsageError` for a CA file or a subject that cannot be used."""
        self._where = where
        self._host = host.partition("%")[0]  # no IPv6 zone in a certificate (RFC 6874 §1)
        self._subject_text = options.host_subject
        self._subject: Subject | None = None if options.host_subject is None else parse_subject(options.host_subject)
        # PROTOCOL_TLS_CLIENT verifies the chain and the host's name unless told otherwise.
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.check_hostname = self._subject is None
        self._trust(options.ca_file)

    def _trust(self, ca_file: str | None) -> None:
        if ca_file is None:
            self._context.load_default_certs(ssl.Purpose.SERVER_AUTH)
            return
        try:
            self._context.load_verify_locations(ca_file)
        except (OSError, ValueError) as error:
            reason = "it has no PEM certificate in it" if isinstance(error, ssl.SSLError) else str(error)
            raise UsageError(f"The CA file {ca_file!r} cannot be used: {reason}") from error

    def secure(self, sock: socket.socket, deadline: _Deadline) -> ssl.SSLSocket:
        """The TLS connection over `sock`. Raises `TlsError` subclasses, `SilentServerError`."""
        sock.settimeout(deadline.left())
        try:
            secure = self._context.wrap_socket(sock, server_hostname=self._host)
        except TimeoutError as error:
            raise SilentServerError(self._where, deadline.seconds, "TLS handshake") from error
        except ssl.SSLCertVerificationError as error:
            raise self._unverified(error) from error
        except ssl.SSLError as error:
            if error.reason in _NOT_TLS:
                raise NotTlsError(self._where) from error
            raise TlsError(self._where, _tls_reason(error)) from error
        except OSError as error:
            raise TlsError(self._where, "it closed the connection during the TLS handshake") from error
        self._check_subject(secure)
        return secure

    def _unverified(self, error: ssl.SSLCertVerificationError) -> TlsError:
        if error.verify_code in _HOST_MISMATCH:
            return WrongHostError(self._where, self._host, error.verify_message)
        return UntrustedCertificateError(self._where, error.verify_message)

    def _check_subject(self, secure: ssl.SSLSocket) -> None:
        if self._subject is None:
            return
        try:
            der = secure.getpeercert(binary_form=True)
            found = certificate_subject(der or b"")
        except ValueError as error:
            secure.close()
            raise UntrustedCertificateError(self._where, "its subject cannot be read") from error
        if found != self._subject:
            secure.close()
            raise WrongSubjectError(self._where, self._subject_text or "", format_subject(found))


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):  # which of them, depends on Python's version
        return "it closed the connection during the TLS handshake"
    return (error.reason or str(error)).lower().replace("_", " ")


# ---- the link stage and the start of the session


def _link(sock: socket.socket, link: LinkClient, deadline: _Deadline) -> LinkResult:
    while link.done is None:
        if deadline.passed():
            raise SilentServerError(link.where, deadline.seconds, link.stage)
        sock.settimeout(deadline.left())
        try:
            data = _send_and_receive(sock, link.bytes_to_send())
        except TimeoutError as error:
            raise SilentServerError(link.where, deadline.seconds, link.stage) from error
        except ssl.SSLError as error:
            raise TlsError(link.where, _tls_reason(error)) from error
        if not data:
            link.eof()
        link.receive(data)
    return link.done


def _send_and_receive(sock: socket.socket, output: bytes) -> bytes:
    """Send, then receive; a connection that breaks has ended, after what it had still to give."""
    with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
        sock.sendall(output)
    try:
        return sock.recv(RECEIVE)
    except (ConnectionError, ssl.SSLEOFError):
        return b""


def _exchange(sock: socket.socket, channel: MainChannel, deadline: _Deadline) -> None:
    """One step of a channel that is waited for."""
    missing = "nothing that says so came" if channel.init is None else "it never listed the VM's channels"
    late = NoSessionError(channel.link.where, f"{missing} within {deadline.seconds:g} s")
    if deadline.passed():
        raise late
    sock.settimeout(deadline.left())
    try:
        sock.sendall(channel.take_output())
        n = sock.recv_into(channel.buffer())
    except TimeoutError as error:
        raise late from error
    except OSError:
        n = 0
    if not n:
        channel.eof()
    channel.received(n)
