"""The SPICE client against a real spice-server: QEMU's, with a virtual machine that has nothing to boot.

One of the VM's two USBREDIR channels leads to a usb-redir device, the other, as a second byte stream, to QEMU's own
monitor (QMP): spicevmc does not care what is behind it, and a monitor says things that are long and compress well.
"""

import contextlib
import json
import shlex
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lz4.block
import pytest

from tests.unit.spice.listener import Listener, answering
from tests.unit.spice.pki import Authority
from tests.unit.spice.samples import Recorder, Stream
from usbbridge.errors import ConnectionLostError, LinkError
from usbbridge.spice.connection import Linked, open_channel, open_main
from usbbridge.spice.errors import (
    BadSessionError,
    ChannelBusyError,
    LinkClosedError,
    NeedPlainError,
    NeedSaslError,
    NeedTlsError,
    NoSuchChannelError,
    NotSpiceError,
    NotTlsError,
    SilentServerError,
    UntrustedCertificateError,
    WrongHostError,
    WrongSubjectError,
    WrongTicketError,
)
from usbbridge.spice.main import MainChannel
from usbbridge.spice.messages import ChannelType, CommonCap, Init, Name, Uuid
from usbbridge.spice.reader import WINDOW
from usbbridge.spice.sockets import TlsOptions
from usbbridge.spice.targets import SpiceTarget
from usbbridge.spice.usbredir import UsbredirChannel

QEMU = "qemu-system-x86_64"
MACHINE = shlex.split("-M q35 -accel tcg -m 32 -nodefaults -no-user-config -display none -name slim -qmp stdio")
CHANNELS = shlex.split(
    "-device qemu-xhci,id=usb -chardev spicevmc,name=usbredir,id=u0 -device usb-redir,chardev=u0,bus=usb.0 "
    "-chardev spicevmc,name=usbredir,id=u1 -mon chardev=u1,mode=control"
)
MONITOR, USB = 0, 1
"Channels are numbered as they are taken into use, and QEMU starts monitors before devices."
PATIENCE = 20.0
"Seconds: the machine may be busy."


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@contextlib.contextmanager
def vm(spice: str) -> Iterator[None]:
    """A running VM whose SPICE server is configured by `spice`; it listens when QMP has greeted."""
    assert shutil.which(QEMU), "install qemu-system-x86 (and qemu-system-modules-spice, if there is such a package)"
    command = [QEMU, *MACHINE, "-spice", spice, *CHANNELS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as qemu:
        assert qemu.stdout is not None
        assert b"QMP" in qemu.stdout.readline()
        try:
            yield
        finally:
            qemu.terminate()
            qemu.wait(PATIENCE)


@pytest.fixture(scope="module")
def server() -> Iterator[SpiceTarget]:
    """A server that wants no password."""
    target = SpiceTarget("127.0.0.1", free_port())
    with vm(f"port={target.port},addr=127.0.0.1,disable-ticketing=on"):
        yield target


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("x509"))
    authority.server("127.0.0.1")
    return authority


@pytest.fixture(scope="module")
def strict(authority: Authority) -> Iterator[SpiceTarget]:
    """A server with a ticket and both ports: MAIN on either, USBREDIR on the TLS port only, INPUTS on the plain."""
    target = SpiceTarget("127.0.0.1", free_port(), free_port())
    ports = f"port={target.port},tls-port={target.tls_port},addr=127.0.0.1,x509-dir={authority.folder}"
    with vm(f"{ports},password=secret,tls-channel=usbredir,plaintext-channel=inputs"):
        yield target


@contextlib.contextmanager
def session(target: SpiceTarget, **options: Any) -> Iterator[tuple[Linked, MainChannel]]:
    linked, main = open_main(target, timeout=PATIENCE, **options)
    with linked.sock:
        yield linked, main


def link(target: SpiceTarget, main: MainChannel, id_: int, type_: int = 9, **options: Any) -> Linked:
    assert main.init is not None
    session_id = main.init.session_id
    return open_channel(target, type_, id_, connection_id=session_id, timeout=PATIENCE, **options)


class Pipe:
    """The byte stream behind a USBREDIR channel."""

    def __init__(self, linked: Linked, **options: Any) -> None:
        self.sock, self.stream = linked.sock, Stream(64 * 1024)
        self.sock.settimeout(PATIENCE)
        self.channel = UsbredirChannel(linked.result, self.stream, **options)
        self.channel.feed(linked.rest)

    def send(self, data: bytes) -> bool:
        """True if it went compressed."""
        packed = self.channel.compress([data], len(data))
        self.sock.sendall(packed if packed is not None else self.channel.frame(len(data)) + data)
        return packed is not None

    def read(self, size: int) -> bytes:
        """Wait until the stream has so many bytes, and answer pings meanwhile."""
        while len(self.stream.data) < size:
            self._step()
        return bytes(self.stream.data)

    def line(self) -> bytes:
        """Wait for a line, and take it out of the stream."""
        while b"\n" not in self.stream.data:
            self._step()
        line, _, rest = bytes(self.stream.data).partition(b"\n")
        self.stream.data[:] = rest
        return line

    def _step(self) -> None:
        self.sock.sendall(self.channel.take_output())
        n = self.sock.recv_into(self.channel.buffer())
        if not n:
            self.channel.eof()
        self.channel.received(n)


def test_a_session(server: SpiceTarget) -> None:
    handler = Recorder()
    with session(server, handler=handler) as (linked, main):
        assert not linked.secure
        assert main.usb_channels() == (0, 1)
        assert [type(event) for event in handler.events[:3]] == [Init, Name, Uuid]
        assert handler.events[1] == Name("slim")


@pytest.mark.parametrize("mini", [True, False])
def test_the_vms_usbredir_hello(server: SpiceTarget, mini: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU says hello (usbredir type 0, 64 bytes of version, capabilities) as soon as the channel is linked."""
    if not mini:
        monkeypatch.setattr("usbbridge.spice.link.OUR_COMMON_CAPS", frozenset({CommonCap.PROTOCOL_AUTH_SELECTION}))
    with session(server) as (_, main):
        linked = link(server, main, USB)
        with linked.sock:
            hello = Pipe(linked).read(80)
    assert linked.result.mini_header is mini
    assert struct.unpack_from("<III", hello) == (0, 68, 0)
    assert hello[12:].startswith(b"qemu usb-redir guest ")


def test_compression_both_ways(server: SpiceTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of ours that spice-server unpacks, and a long answer that it packed."""
    with session(server) as (_, main):
        linked = link(server, main, MONITOR)
        with linked.sock:
            pipe = Pipe(linked, compression="always")
            assert json.loads(pipe.line())["QMP"]["version"]["qemu"]["major"] >= 7
            assert pipe.send(b'{"execute": "qmp_capabilities"}' + b" " * 5000)
            assert json.loads(pipe.line()) == {"return": {}}
            compressed = spy(monkeypatch)
            assert pipe.send(b" " * 70_000 + b'{"execute": "qom-list-types"}')
            types = pipe.line()
    assert len(json.loads(types)["return"]) > 100
    assert compressed, "the server sent nothing compressed"
    assert sum(compressed) < len(types)


def spy(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the LZ4 blocks that are unpacked from now on."""
    sizes: list[int] = []
    decompress = lz4.block.decompress

    def note(block: memoryview, uncompressed_size: int) -> bytes:
        sizes.append(len(block))
        return decompress(block, uncompressed_size=uncompressed_size)

    monkeypatch.setattr(lz4.block, "decompress", note)
    return sizes


def test_without_compression_it_is_the_same_stream(server: SpiceTarget) -> None:
    with session(server) as (_, main):
        linked = link(server, main, MONITOR, channel_caps=())
        with linked.sock:
            pipe = Pipe(linked, compression="never")
            pipe.line()
            assert not pipe.send(b'{"execute": "qmp_capabilities"}' + b" " * 5000)
            assert json.loads(pipe.line()) == {"return": {}}
            pipe.send(b'{"execute": "qom-list-types"}')
            assert len(json.loads(pipe.line())["return"]) > 100
    assert pipe.stream.direct > WINDOW, "it was copied"


def fails(target: SpiceTarget, type_: int, id_: int = 0, **options: Any) -> LinkError:
    with pytest.raises(LinkError) as caught:
        open_channel(target, type_, id_, timeout=PATIENCE, **options).sock.close()
    return caught.value


def test_a_channel_that_does_not_exist(server: SpiceTarget) -> None:
    with session(server) as (_, main), pytest.raises(NoSuchChannelError, match="has no channel usbredir 7"):
        link(server, main, 7)


def test_a_channel_that_is_busy(server: SpiceTarget) -> None:
    with session(server) as (_, main), link(server, main, USB).sock:
        second = link(server, main, USB)
        with second.sock, pytest.raises(ChannelBusyError, match=r"usbredir 1 of .* is busy"):
            Pipe(second).read(1)


def test_a_channel_may_be_linked_again(server: SpiceTarget) -> None:
    with session(server) as (_, main):
        for _ in range(3):
            linked = link(server, main, USB)
            with linked.sock:
                assert len(Pipe(linked).read(80)) == 80


def test_a_session_that_does_not_exist(server: SpiceTarget) -> None:
    error = fails(server, ChannelType.USBREDIR, connection_id=0x5E551017)
    assert type(error) is BadSessionError
    assert "0x5e551017" in str(error)


def test_a_second_client_ends_the_first_ones_session(server: SpiceTarget) -> None:
    with session(server) as (first, main):
        first.sock.settimeout(PATIENCE)
        usb = link(server, main, USB)
        with usb.sock, session(server) as (_, second):
            assert second.init is not None
            assert main.init is not None
            assert second.init.session_id != main.init.session_id
            with pytest.raises(ConnectionLostError, match="ended the session"):
                until_the_end(first.sock, main)
            with pytest.raises(ConnectionLostError):
                Pipe(usb).read(1_000_000)


def until_the_end(sock: socket.socket, main: MainChannel) -> None:
    while n := sock.recv_into(main.buffer()):
        main.received(n)
        sock.sendall(main.take_output())
    main.eof()


def test_a_password(strict: SpiceTarget) -> None:
    plain = SpiceTarget(strict.host, strict.port)
    with session(plain, password="secret") as (linked, main):
        assert not linked.secure
        assert main.usb_channels() == (0, 1)
    wrong = fails(plain, ChannelType.MAIN, password="guess")
    missing = fails(plain, ChannelType.MAIN)
    assert (type(wrong), type(missing)) == (WrongTicketError, WrongTicketError)
    assert str(wrong) != str(missing)


def test_tls(strict: SpiceTarget, authority: Authority) -> None:
    options = TlsOptions(str(authority.file))
    with session(strict, password="secret", tls=options) as (linked, main):
        assert linked.secure
        usb = link(strict, main, USB, password="secret", tls=options)
        with usb.sock:
            assert usb.secure
            assert b"qemu usb-redir guest" in Pipe(usb).read(80)
        inputs = link(strict, main, 0, ChannelType.INPUTS, password="secret", tls=options)
        inputs.sock.close()
        assert not inputs.secure, "the server takes INPUTS on the plain port only, and said so over TLS"


def test_ports_that_are_not_for_the_channel(strict: SpiceTarget, authority: Authority) -> None:
    plain = SpiceTarget(strict.host, strict.port)
    secure = SpiceTarget(strict.host, None, strict.tls_port)
    options = TlsOptions(str(authority.file))
    with session(plain, password="secret") as (_, main):
        with pytest.raises(NeedTlsError, match="usbredir 1 over TLS only"):
            link(plain, main, USB, password="secret")
        with pytest.raises(NeedPlainError, match="inputs 0 over its plain port only"):
            link(secure, main, 0, ChannelType.INPUTS, password="secret", tls=options)


def test_ports_that_were_mixed_up(strict: SpiceTarget, authority: Authority) -> None:
    options = TlsOptions(str(authority.file))
    swapped = SpiceTarget(strict.host, None, strict.port)
    assert type(fails(swapped, ChannelType.MAIN, password="secret", tls=options)) is NotTlsError
    error = fails(SpiceTarget(strict.host, strict.tls_port), ChannelType.MAIN, password="secret")
    assert type(error) in (NeedTlsError, LinkClosedError)
    assert "spice+tls://" in error.hint


def test_certificates(strict: SpiceTarget, authority: Authority, tmp_path: Path) -> None:
    secure = SpiceTarget(strict.host, None, strict.tls_port)
    stranger = Authority(tmp_path)
    other_name = SpiceTarget("localhost", None, strict.tls_port)
    ca, right, wrong = str(authority.file), r"O=Example\, Inc.,CN=vm-host", "O=Example,CN=vm-host"

    def refused(target: SpiceTarget, tls: TlsOptions | None) -> type[LinkError]:
        return type(fails(target, ChannelType.MAIN, password="secret", tls=tls))

    assert refused(secure, None) is UntrustedCertificateError
    assert refused(secure, TlsOptions(str(stranger.file))) is UntrustedCertificateError
    assert refused(secure, TlsOptions(str(stranger.file), right)) is UntrustedCertificateError
    assert refused(other_name, TlsOptions(ca)) is WrongHostError
    assert refused(secure, TlsOptions(ca, wrong)) is WrongSubjectError
    with session(other_name, password="secret", tls=TlsOptions(ca, right)) as (linked, _):
        assert linked.secure


def test_a_server_with_sasl_only() -> None:
    target = SpiceTarget("127.0.0.1", free_port())
    with vm(f"port={target.port},addr=127.0.0.1,sasl=on"):
        assert type(fails(target, ChannelType.MAIN, password="secret")) is NeedSaslError


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "spice.sock"
    target = SpiceTarget(socket_path=str(path))
    with vm(f"unix=on,addr={path},disable-ticketing=on"), session(target) as (_, main):
        linked = link(target, main, USB)
        with linked.sock:
            assert b"qemu usb-redir guest" in Pipe(linked, unix_socket=True).read(80)


def test_ports_that_are_not_spice() -> None:
    with Listener(answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as web, Listener(answering()) as silent:
        assert type(fails(SpiceTarget("127.0.0.1", web.port), ChannelType.MAIN)) is NotSpiceError
        with pytest.raises(SilentServerError):
            open_main(SpiceTarget("127.0.0.1", silent.port), timeout=0.3)
