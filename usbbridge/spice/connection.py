"""From a target to a linked channel: the only part of this package that touches the network.

Everything blocks, and name resolution, connection, TLS and link stage share one deadline. What a socket, a TLS library
or the link stage has to say about a failure becomes one of the classes of `usbbridge.spice.errors`.
"""

import contextlib
import errno
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from usbbridge.errors import LinkError, UsageError
from usbbridge.spice.channel import Handler
from usbbridge.spice.errors import (
    ConnectTimeoutError,
    NameNotResolvedError,
    NeedPlainError,
    NoRouteError,
    NoSessionError,
    PortClosedError,
    SilentServerError,
    SocketNotPermittedError,
    TlsError,
    UnreachableError,
)
from usbbridge.spice.link import LinkClient, LinkResult
from usbbridge.spice.main import MAIN_CAPS, MainChannel
from usbbridge.spice.messages import ChannelType
from usbbridge.spice.sockets import Deadline, TlsOptions, as_secure
from usbbridge.spice.targets import SpiceTarget, TcpTarget, UnixTarget, join
from usbbridge.spice.usbredir import usbredir_caps

TIMEOUT = 10.0
"Seconds for everything until a channel is linked, as spice-gtk's for the connection alone."
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 30, 15, 3
"Seconds, seconds, probes: a host that vanished is noticed after 75 s (spice-gtk's values)."
MAIN_UNACKNOWLEDGED = KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_COUNT
"""Seconds after which MAIN is lost if what was sent is not acknowledged: keepalive looks only at idle connections, and
TCP itself would try for a quarter of an hour. Not for other channels: a paused VM may leave those full for long."""
RECEIVE = 8192
"A link reply has 202 bytes, so this is read once; what follows it is `Linked.rest`."

_OUR_CAPS: dict[int, Iterable[int]] = {
    ChannelType.MAIN: MAIN_CAPS,
    ChannelType.USBREDIR: usbredir_caps("auto"),
}
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL})


@dataclass(frozen=True, slots=True)
class Linked:
    """A linked channel's connection."""

    sock: socket.socket
    "Blocking, without a timeout; a `SecureSocket` if `secure`."
    result: LinkResult
    rest: bytes
    "What arrived after the link stage; `Channel.feed()` it before anything is received."
    secure: bool


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
    deadline = Deadline(timeout)
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
    deadline = Deadline(timeout)
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
    if linked.sock.family != socket.AF_UNIX:
        linked.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, MAIN_UNACKNOWLEDGED * 1000)
    return Linked(linked.sock, linked.result, b"", linked.secure), channel


def open_raw(target: TcpTarget | UnixTarget, timeout: float = TIMEOUT) -> socket.socket:
    """A blocking connection to a raw usbredir peer. Raises `UnreachableError` subclasses, `SocketNotPermittedError`."""
    deadline = Deadline(timeout)
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


def _open(target: SpiceTarget, link: LinkClient, tls: TlsOptions | None, deadline: Deadline) -> Linked:
    verifier = None
    if tls is not None:
        from usbbridge.spice.tls import Verifier  # OpenSSL is not for those who do without

        verifier = Verifier(tls, _where(target, True), target.host)
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


def _connect_tcp(host: str, port: int, deadline: Deadline) -> socket.socket:
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


def _resolve(host: str, port: int, deadline: Deadline) -> list[tuple[int, _Address]]:
    """The host's addresses. The system's resolver has no time limit, so it runs in a thread that may be left behind;
    for an address that is one already, it is not asked."""
    with contextlib.suppress(OSError, UnicodeError):
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [(entry[0], entry[4]) for entry in info]
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


def _connect_unix(path: str, deadline: Deadline) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(deadline.left())
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise _unreachable(path, error, deadline) from error
    return sock


def _unreachable(where: str, error: OSError, deadline: Deadline) -> UnreachableError | SocketNotPermittedError:
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


# ---- the link stage and the start of the session


def _link(sock: socket.socket, link: LinkClient, deadline: Deadline) -> LinkResult:
    while link.done is None:
        if deadline.passed():
            raise SilentServerError(link.where, deadline.seconds, link.stage)
        sock.settimeout(deadline.left())
        try:
            data = _send_and_receive(sock, link.bytes_to_send())
        except TimeoutError as error:
            raise SilentServerError(link.where, deadline.seconds, link.stage) from error
        except OSError as error:
            raise _broken(sock, link.where, error) from error
        if not data:
            link.eof()
        link.receive(data)
    return link.done


def _send_and_receive(sock: socket.socket, output: bytes) -> bytes:
    """Send, then receive; a connection that breaks has ended, after what it had still to give."""
    with contextlib.suppress(ConnectionError):
        sock.sendall(output)
    try:
        return sock.recv(RECEIVE)
    except ConnectionError:
        return b""


def _broken(sock: socket.socket, where: str, error: OSError) -> LinkError:
    """What any other error of the connection means."""
    if as_secure(sock) is not None:
        import ssl

        from usbbridge.spice.tls import tls_reason

        if isinstance(error, ssl.SSLError):
            return TlsError(where, tls_reason(error))
    return UnreachableError(where, (error.strerror or str(error)).lower())


def _exchange(sock: socket.socket, channel: MainChannel, deadline: Deadline) -> None:
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
