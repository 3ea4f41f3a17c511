"""The loopback VM over real sockets: its server against the SPICE client, all of it against `usbbridge attach`."""

import datetime
import hashlib
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from usbbridge.errors import ConnectionLostError
from usbbridge.loopback.vm import LoopbackVm
from usbbridge.spice.connection import Linked, open_channel, open_main, open_raw
from usbbridge.spice.errors import BadSessionError, NoSuchChannelError, WrongTicketError
from usbbridge.spice.framing import MessageWriter
from usbbridge.spice.main import MainChannel
from usbbridge.spice.messages import ChannelType
from usbbridge.spice.targets import SpiceTarget, TcpTarget, parse_target

SECONDS = 20
PASSWORD = "a ticket"
MIB = 1 << 20


@pytest.fixture
def vm() -> Iterator[LoopbackVm]:
    with LoopbackVm(password=PASSWORD, channels=2) as running:
        yield running


def spice(vm: LoopbackVm) -> SpiceTarget:
    target = parse_target(vm.target)
    assert isinstance(target, SpiceTarget)
    return target


@contextmanager
def main_of(vm: LoopbackVm) -> Iterator[tuple[Linked, MainChannel, int]]:
    """A session: its connection, channel and id."""
    linked, channel = open_main(spice(vm), password=PASSWORD)
    with linked.sock:
        linked.sock.settimeout(SECONDS)
        assert channel.init is not None
        yield linked, channel, channel.init.session_id


def usbredir(vm: LoopbackVm, session: int, channel: int = 0) -> socket.socket:
    linked = open_channel(spice(vm), ChannelType.USBREDIR, channel, connection_id=session, password=PASSWORD)
    linked.sock.settimeout(SECONDS)
    return linked.sock


def rest_of(sock: socket.socket) -> bytes:
    """Everything until the end of file."""
    data = b""
    while piece := sock.recv(1 << 16):
        data += piece
    return data


@contextmanager
def attached(vm: LoopbackVm, device: str, folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`usbbridge attach` as a child process; killed if it is still there at the end."""
    (folder / "password").write_text(PASSWORD)
    command = [sys.executable, "-m", "usbbridge", "attach", "--foreground", device, "--vm", vm.target, *options]
    command += ["--password-file", str(folder / "password")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def make_image(folder: Path, size: int, name: str = "drive.img") -> tuple[Path, str]:
    data = os.urandom(size)
    (folder / name).write_bytes(data)
    return folder / name, hashlib.sha256(data).hexdigest()


# The server


def test_main_lists_every_usb_channel(vm: LoopbackVm) -> None:
    with main_of(vm) as (_, channel, _):
        assert channel.usb_channels() == (0, 1)


def test_a_wrong_ticket_is_refused(vm: LoopbackVm) -> None:
    with pytest.raises(WrongTicketError):
        open_main(spice(vm), password="another")
    assert "refused: link stage" in vm.events


def test_a_channel_needs_a_live_session(vm: LoopbackVm) -> None:
    with pytest.raises(BadSessionError):
        usbredir(vm, 4711)


def test_a_channel_the_vm_does_not_have_is_not_found(vm: LoopbackVm) -> None:
    with main_of(vm) as (_, _, session), pytest.raises(NoSuchChannelError):
        usbredir(vm, session, channel=5)


def test_a_busy_channel_is_linked_and_closed_without_a_message(vm: LoopbackVm) -> None:
    with main_of(vm) as (_, _, session), usbredir(vm, session) as first, usbredir(vm, session) as second:
        assert rest_of(second) == b""
        assert first.recv(1)


def test_a_channel_is_free_again_after_its_client_has_gone(vm: LoopbackVm) -> None:
    with main_of(vm) as (_, _, session):
        with usbredir(vm, session) as first:
            assert first.recv(1)
            first.shutdown(socket.SHUT_WR)
            rest_of(first)
        with usbredir(vm, session) as second:
            assert second.recv(1)


def test_a_new_main_ends_the_session_before_it(vm: LoopbackVm) -> None:
    with main_of(vm) as (old, _, session), usbredir(vm, session) as channel, main_of(vm) as (_, _, new):
        rest_of(old.sock)
        rest_of(channel)
        assert new != session


def test_a_session_ends_with_its_main(vm: LoopbackVm) -> None:
    with main_of(vm) as (linked, _, session), usbredir(vm, session) as channel:
        linked.sock.close()
        rest_of(channel)


def test_broken_protocol_on_main_ends_the_session(vm: LoopbackVm) -> None:
    with main_of(vm) as (linked, _, session), usbredir(vm, session) as channel:
        linked.sock.sendall(MessageWriter(linked.result.mini_header).message(101, bytes(8)))
        rest_of(channel)
    assert len(vm.violations) == 1


def test_a_raw_port_takes_one_client_at_a_time() -> None:
    with LoopbackVm(transport="raw") as vm:
        target = TcpTarget("127.0.0.1", vm.port)
        with open_raw(target) as first, open_raw(target) as second:
            assert rest_of(second) == b""
            assert first.recv(1)


# The whole of it


@pytest.mark.parametrize("transport", ["spice", "raw"])
def test_a_disk_is_attached_read_and_detached(transport: str, tmp_path: Path) -> None:
    image, sha256 = make_image(tmp_path, 4 * MIB)
    with LoopbackVm(password=PASSWORD, transport=transport) as vm, attached(vm, f"disk:{image}", tmp_path) as process:
        assert vm.mount().size == 4 * MIB
        assert vm.read_all().sha256 == sha256
        process.send_signal(signal.SIGINT)
        vm.wait_for_detach()
        process.wait(SECONDS)
        assert vm.violations == []


def test_a_second_client_takes_the_vm_from_the_first(vm: LoopbackVm, tmp_path: Path) -> None:
    (first, _), (second, sha256) = (make_image(tmp_path, MIB, name) for name in ("first.img", "second.img"))
    with attached(vm, f"disk:{first}", tmp_path) as process:
        vm.mount()
        with attached(vm, f"disk:{second}", tmp_path):
            assert process.wait(SECONDS) == 1
            with suppress(ConnectionLostError):  # raised if the first one's end is still news
                vm.wait_for_device()
            vm.mount()
            assert vm.read_all().sha256 == sha256


def test_a_killed_vm_ends_the_command(vm: LoopbackVm, tmp_path: Path) -> None:
    image, _ = make_image(tmp_path, MIB)
    with attached(vm, f"disk:{image}", tmp_path) as process:
        vm.mount()
        vm.kill()
        assert process.wait(SECONDS) == 1
        with pytest.raises(ConnectionLostError):
            vm.wait_for_detach()


def test_a_killed_command_ends_what_the_vm_is_doing(vm: LoopbackVm, tmp_path: Path) -> None:
    image, _ = make_image(tmp_path, 16 * MIB)
    with attached(vm, f"disk:{image}", tmp_path) as process:
        vm.mount()

        def kill_at(done: int, _total: int) -> None:
            if done > 2 * MIB:
                process.kill()

        with pytest.raises(ConnectionLostError):
            vm.read_all(kill_at)


def test_a_read_goes_on_after_the_vm_was_paused(vm: LoopbackVm, tmp_path: Path) -> None:
    image, sha256 = make_image(tmp_path, 4 * MIB)
    with attached(vm, f"disk:{image}", tmp_path):
        vm.mount()
        vm.pause()
        resume = threading.Timer(0.2, vm.pause, [False])
        resume.start()
        assert vm.read_all().sha256 == sha256
        resume.join()


def test_a_device_that_the_vms_filter_denies_ends_the_command(tmp_path: Path) -> None:
    image, _ = make_image(tmp_path, MIB)
    rules = "0x08,-1,-1,-1,0|-1,-1,-1,-1,1"
    with LoopbackVm(password=PASSWORD, rules=rules) as vm, attached(vm, f"disk:{image}", tmp_path) as process:
        assert process.wait(SECONDS) == 5


def test_tls_with_a_ca_of_ones_own(tmp_path: Path) -> None:
    image, sha256 = make_image(tmp_path, MIB)
    context = server_context(tmp_path)
    with (
        LoopbackVm(password=PASSWORD, tls=context) as vm,
        attached(vm, f"disk:{image}", tmp_path, "--ca-file", str(tmp_path / "cert.pem")),
    ):
        vm.mount()
        assert vm.read_all().sha256 == sha256


def server_context(folder: Path) -> ssl.SSLContext:
    """A server's TLS with a self-signed certificate for 127.0.0.1, which is left as `cert.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback VM")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
