"""The I/O shell, against servers that play a part on loopback."""

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.spice.listener import Listener, Part, answering, closing, dribbling, greeting
from tests.unit.spice.pki import Authority
from tests.unit.spice.samples import Recorder, message, reply, result
from tests.unit.spice.test_main import INIT, channels
from usbbridge.errors import LinkError, UsageError
from usbbridge.spice.connection import Linked, open_channel, open_main, open_raw
from usbbridge.spice.errors import (
    ConnectTimeoutError,
    LinkClosedError,
    NameNotResolvedError,
    NeedPlainError,
    NeedTlsError,
    NoRouteError,
    NoSessionError,
    NoSuchChannelError,
    NotSpiceError,
    NotTlsError,
    PasswordTooLongError,
    PortClosedError,
    SilentServerError,
    SocketNotPermittedError,
    TlsError,
    UnreachableError,
    UntrustedCertificateError,
    WrongHostError,
    WrongSubjectError,
    WrongTicketError,
)
from usbbridge.spice.messages import ChannelType
from usbbridge.spice.secure import SecureSocket
from usbbridge.spice.sockets import TlsOptions
from usbbridge.spice.targets import SpiceTarget, TcpTarget, UnixTarget

SHORT = 0.3
"Seconds, where the end of a deadline is what is tested."
LINK = answering(reply(), result() + b"rest")


def plain(listener: Listener) -> SpiceTarget:
    return SpiceTarget("127.0.0.1", listener.port)


def link(target: SpiceTarget, **options: Any) -> Linked:
    """Link a USBREDIR channel."""
    return open_channel(target, ChannelType.USBREDIR, 0, connection_id=7, **options)


def fails(target: SpiceTarget, **options: Any) -> LinkError:
    with pytest.raises(LinkError) as caught:
        link(target, **options).sock.close()
    return caught.value


@pytest.fixture
def closed_port() -> int:
    """A port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


# ---- a link that works


def test_a_linked_channel() -> None:
    with Listener(LINK) as server, link(plain(server)).sock as sock:
        assert sock.gettimeout() is None
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        keepalive = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in keepalive] == [30, 15, 3]


def test_what_came_with_the_end_of_the_link_stage_is_kept() -> None:
    with Listener(LINK) as server:
        linked = link(plain(server))
        linked.sock.close()
    assert linked.rest == b"rest"
    assert not linked.secure
    assert linked.result.where == f"127.0.0.1:{server.port}"


def test_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "spice.sock"
    with Listener(LINK, unix=path):
        linked = link(SpiceTarget(socket_path=str(path)))
        linked.sock.close()
    assert linked.rest == b"rest"


def test_every_address_of_a_name_is_tried() -> None:
    """`localhost` is ::1 and 127.0.0.1, in this order; the server has the second only."""
    with Listener(LINK) as server:
        link(SpiceTarget("localhost", server.port)).sock.close()


# ---- no connection


def test_nothing_listens(closed_port: int) -> None:
    error = fails(SpiceTarget("127.0.0.1", closed_port))
    assert type(error) is PortClosedError
    assert str(closed_port) in str(error)


def test_a_name_that_is_none() -> None:
    error = fails(SpiceTarget("x" * 64 + ".example", 5900))
    assert type(error) is NameNotResolvedError


def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def resolve(*_: object, flags: int = 0, **_options: object) -> list[object]:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        answer.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    error = fails(SpiceTarget("vm.example", 5900), timeout=SHORT)
    answer.set()
    assert type(error) is NameNotResolvedError
    assert "no answer within 0.3 s" in str(error)


def test_a_host_that_drops_connections() -> None:
    """A listener whose queue is full leaves further connections unanswered."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for sock in (first, second):
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
        error = fails(SpiceTarget("127.0.0.1", server.getsockname()[1]), timeout=SHORT)
    assert type(error) is ConnectTimeoutError


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENETUNREACH, NoRouteError),
        (errno.EHOSTUNREACH, NoRouteError),
        (errno.EACCES, SocketNotPermittedError),
        (errno.EIO, UnreachableError),
    ],
)
def test_what_the_network_says(number: int, kind: type[LinkError], monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(_self: socket.socket, _address: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "connect", connect)
    assert type(fails(SpiceTarget("127.0.0.1", 5900))) is kind


def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    error = fails(SpiceTarget(socket_path=str(tmp_path / "none.sock")))
    assert type(error) is UnreachableError
    assert "no such file" in str(error)


def test_a_path_that_is_too_long_for_a_socket() -> None:
    assert "too long" in str(fails(SpiceTarget(socket_path="/" + "x" * 200)))


# ---- not SPICE


@pytest.mark.parametrize(
    "part",
    [
        answering(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        closing(b"HTTP/1.0 501 Unsupported method\r\n\r\n"),
        greeting(b"SSH-2.0-OpenSSH_9.2\r\n"),
        greeting(b"RFB 003.008\n"),
    ],
)
def test_a_port_with_another_protocol(part: Part) -> None:
    with Listener(part) as server:
        assert type(fails(plain(server))) is NotSpiceError


def test_a_silent_port() -> None:
    with Listener(answering()) as server:
        error = fails(plain(server), timeout=SHORT)
    assert type(error) is SilentServerError
    assert "link stage for 0.3 s" in str(error)


def test_a_server_that_never_says_whether_the_password_is_right() -> None:
    with Listener(answering(reply())) as server:
        error = fails(plain(server), timeout=SHORT)
    assert type(error) is SilentServerError
    assert "authentication" in str(error)


def test_one_deadline_holds_for_a_server_that_keeps_sending() -> None:
    started = time.monotonic()
    with Listener(dribbling(reply(), 0.1)) as server:
        assert type(fails(plain(server), timeout=SHORT)) is SilentServerError
    assert time.monotonic() - started < 5


def test_a_server_that_closes_at_once() -> None:
    with Listener(closing()) as server:
        assert type(fails(plain(server))) is NoSuchChannelError


def test_a_server_that_resets_the_connection() -> None:
    """Closing with unread data in the socket sends a reset, which loses what was under way."""
    with Listener(lambda connection: None) as server:
        assert type(fails(plain(server))) is NoSuchChannelError


def test_a_refusal_is_read_before_the_close() -> None:
    with Listener(closing(reply(), result(7))) as server:
        assert type(fails(plain(server), password="guess")) is WrongTicketError


def test_nothing_is_opened_for_a_password_that_is_too_long(closed_port: int) -> None:
    assert type(fails(SpiceTarget("127.0.0.1", closed_port), password="x" * 61)) is PasswordTooLongError


# ---- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("ca"))
    authority.server("127.0.0.1", "localhost")
    return authority


@pytest.fixture
def secure(authority: Authority) -> Iterator[Listener]:
    with Listener(LINK, tls=authority.folder) as server:
        yield server


def tls(authority: Authority, subject: str | None = None) -> TlsOptions:
    return TlsOptions(str(authority.file), subject)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_link_over_tls(host: str, secure: Listener, authority: Authority) -> None:
    linked = link(SpiceTarget(host, None, secure.port), tls=tls(authority))
    assert linked.secure
    assert linked.rest == b"rest"
    assert isinstance(linked.sock, SecureSocket)
    assert linked.sock.version() in ("TLSv1.2", "TLSv1.3")
    linked.sock.close()


def test_a_server_that_nobody_vouches_for(secure: Listener, tmp_path: Path) -> None:
    target = SpiceTarget("127.0.0.1", None, secure.port)
    assert type(fails(target)) is UntrustedCertificateError
    assert type(fails(target, tls=tls(Authority(tmp_path)))) is UntrustedCertificateError
    assert type(fails(target, tls=TlsOptions(host_subject=r"O=Example\, Inc.,CN=vm-host"))) is UntrustedCertificateError


@pytest.mark.parametrize("hosts", [["vm.example", "192.0.2.7"], []])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_certificate_for_another_host(hosts: list[str], host: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with Listener(LINK, tls=authority.server(*hosts)) as server:
        error = fails(SpiceTarget(host, None, server.port), tls=tls(authority))
    assert type(error) is WrongHostError
    assert "--host-subject" in error.hint


def test_a_certificate_without_alternative_names_is_for_its_common_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with Listener(LINK, tls=authority.server(common_name="localhost")) as server:
        link(SpiceTarget("localhost", None, server.port), tls=tls(authority)).sock.close()


def test_a_certificate_that_has_expired(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with Listener(LINK, tls=authority.server("127.0.0.1", days=0)) as server:
        error = fails(SpiceTarget("127.0.0.1", None, server.port), tls=tls(authority))
    assert type(error) is UntrustedCertificateError
    assert "expired" in str(error)


def test_a_subject_in_place_of_the_hosts_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with Listener(LINK, tls=authority.server("elsewhere.example")) as server:
        target = SpiceTarget("127.0.0.1", None, server.port)
        link(target, tls=tls(authority, r"O=Example\, Inc.,CN=vm-host")).sock.close()
        error = fails(target, tls=tls(authority, "O=Example,CN=vm-host"))
    assert type(error) is WrongSubjectError
    assert r"O=Example\, Inc.,CN=vm-host" in str(error)


def test_tls_to_a_plain_port() -> None:
    with Listener(closing(reply(error=2))) as server:
        error = fails(SpiceTarget("127.0.0.1", None, server.port))
    assert type(error) is NotTlsError
    assert "spice://" in error.hint


def test_plain_to_a_tls_port() -> None:
    """A TLS port answers with an alert (RFC 8446 §6), or just closes."""
    with Listener(closing(b"\x15\x03\x01\x00\x02\x02\x46")) as server:
        assert type(fails(plain(server))) is NeedTlsError
    with Listener(closing()) as server, pytest.raises(LinkClosedError) as caught:
        open_main(plain(server))
    assert "spice+tls://" in caught.value.hint


def test_a_tls_port_that_is_silent_or_closes() -> None:
    with Listener(answering()) as server:
        error = fails(SpiceTarget("127.0.0.1", None, server.port), timeout=SHORT)
    assert type(error) is SilentServerError
    assert "TLS handshake" in str(error)
    with Listener(closing()) as server:
        error = fails(SpiceTarget("127.0.0.1", None, server.port))
    assert type(error) is TlsError
    assert "closed the connection" in str(error)


def test_with_both_ports_tls_is_used(secure: Listener, authority: Authority, closed_port: int) -> None:
    linked = link(SpiceTarget("127.0.0.1", closed_port, secure.port), tls=tls(authority))
    linked.sock.close()
    assert linked.secure


def test_the_plain_port_is_used_only_when_the_server_says_so_over_tls(authority: Authority) -> None:
    refusal = closing(reply(error=6))
    with Listener(LINK) as server, Listener(refusal, tls=authority.folder) as secure:
        linked = link(SpiceTarget("127.0.0.1", server.port, secure.port), tls=tls(authority))
        linked.sock.close()
        assert not linked.secure
        assert type(fails(SpiceTarget("127.0.0.1", None, secure.port), tls=tls(authority))) is NeedPlainError
    with Listener(LINK) as server, Listener(closing(reply(error=2))) as not_secure:
        both = SpiceTarget("127.0.0.1", server.port, not_secure.port)
        assert type(fails(both, tls=tls(authority))) is NotTlsError


@pytest.mark.parametrize("text", [None, "", "-----BEGIN CERTIFICATE-----\nx\n"])
def test_a_ca_file_that_is_none(text: str | None, tmp_path: Path, closed_port: int) -> None:
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match="CA file"):
        link(SpiceTarget("127.0.0.1", None, closed_port), tls=TlsOptions(str(path)))


def test_a_subject_that_is_none(closed_port: int) -> None:
    with pytest.raises(UsageError, match="not a certificate subject"):
        link(SpiceTarget("127.0.0.1", None, closed_port), tls=TlsOptions(host_subject="vm-host"))


def test_verification_cannot_be_switched_off() -> None:
    assert set(TlsOptions.__dataclass_fields__) == {"ca_file", "host_subject"}


# ---- MAIN


def session(*answers: bytes) -> Listener:
    return Listener(answering(reply(), result() + answers[0], *answers[1:]))


def test_a_session_is_waited_for() -> None:
    handler = Recorder()
    with session(INIT + message(4, bytes(12)), channels((9, 0))) as server:
        linked, channel = open_main(plain(server), handler)
        patience = linked.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        linked.sock.close()
    assert patience == 75_000, "milliseconds: a server that is gone for good is not waited for long"
    assert channel.init is not None
    assert channel.init.session_id == 0x1234
    assert channel.usb_channels() == (0,)
    assert linked.rest == b""
    assert len(handler.events) == 2
    assert linked.sock.gettimeout() is None


def test_a_session_that_never_begins() -> None:
    """What spice-server does with a session id it does not know on MAIN: it takes the link for a migration's."""
    with session(b"") as server, pytest.raises(NoSessionError, match=r"within 0\.3 s"):
        open_main(plain(server), timeout=SHORT)


def test_a_session_without_channels() -> None:
    with session(INIT) as server, pytest.raises(NoSessionError, match="never listed"):
        open_main(plain(server), timeout=SHORT)


def test_a_session_that_is_closed_before_it_begins() -> None:
    with Listener(closing(reply(), result())) as server, pytest.raises(NoSessionError, match="closed the connection"):
        open_main(plain(server))


def test_main_is_closed_before_its_answer() -> None:
    with Listener(closing()) as server, pytest.raises(LinkClosedError):
        open_main(plain(server))


# ---- raw usbredir


def test_raw_connections(tmp_path: Path) -> None:
    with Listener(greeting(b"hello")) as server, open_raw(TcpTarget("127.0.0.1", server.port)) as sock:
        assert sock.recv(5) == b"hello"
        assert sock.gettimeout() is None
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    path = tmp_path / "usb.sock"
    with Listener(greeting(b"hello"), unix=path), open_raw(UnixTarget(str(path))) as sock:
        assert sock.recv(5) == b"hello"


def test_raw_connections_that_fail(tmp_path: Path, closed_port: int) -> None:
    with pytest.raises(PortClosedError):
        open_raw(TcpTarget("127.0.0.1", closed_port))
    with pytest.raises(UnreachableError):
        open_raw(UnixTarget(str(tmp_path / "none.sock")))
