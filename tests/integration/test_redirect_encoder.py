"""The encoder with an emulated disk and the loopback VM: a whole attachment, in this process and in one of its own."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.encoder import RunningEncoder
from usbbridge.errors import ConnectionLostError
from usbbridge.ipc.channel import pair
from usbbridge.ipc.messages import Ended, Message, Progressed, Start, Stop
from usbbridge.loopback.vm import LoopbackVm
from usbbridge.spice.connection import Linked, open_channel, open_main
from usbbridge.spice.main import MainChannel
from usbbridge.spice.messages import ChannelType
from usbbridge.spice.targets import SpiceTarget, parse_target

PASSWORD = "a ticket"
ROOT = Path(__file__).parents[2]
IMAGE_BYTES = 4 << 20


@pytest.fixture
def encoder() -> Iterator[RunningEncoder]:
    running = RunningEncoder()
    yield running
    running.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(os.urandom(IMAGE_BYTES))
    return path


@contextmanager
def session_of(vm: LoopbackVm) -> Iterator[tuple[Linked, MainChannel]]:
    """What control keeps while encoders run: the MAIN channel."""
    target = parse_target(vm.target)
    assert isinstance(target, SpiceTarget)
    linked, channel = open_main(target, password=PASSWORD)
    with linked.sock:
        yield linked, channel


def start_on(vm: LoopbackVm, channel: MainChannel, disk: Path, *channels: int) -> Start:
    assert channel.init is not None
    return Start(
        "test",
        disk=f"disk:{disk}",
        target=vm.target,
        session_id=channel.init.session_id,
        channels=channels or channel.usb_channels(),
        password=PASSWORD,
    )


def take(vm: LoopbackVm, channel: MainChannel, number: int) -> socket.socket:
    """Be the client that has this channel."""
    assert channel.init is not None
    target = parse_target(vm.target)
    assert isinstance(target, SpiceTarget)
    session = channel.init.session_id
    return open_channel(target, ChannelType.USBREDIR, number, connection_id=session, password=PASSWORD).sock


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_byte_arrives_over_a_raw_connection(encoder: RunningEncoder, image: Path) -> None:
    with LoopbackVm(transport="raw") as vm:
        encoder.start(vm.target, disk=f"disk:{image}")
        vm.mount()
        assert vm.read_all().sha256 == digest(image)
        encoder.tell(Stop())
        vm.wait_for_detach()
        assert encoder.join() == Ended(0)
        stats = encoder.last_stats()
        assert stats.to_vm > IMAGE_BYTES > stats.from_vm > 0
        assert vm.violations == []


def test_every_byte_arrives_over_spice_both_ways(encoder: RunningEncoder, image: Path) -> None:
    written = os.urandom(1 << 20)
    with LoopbackVm(password=PASSWORD) as vm, session_of(vm) as (_, channel):
        encoder.tell(start_on(vm, channel, image))
        vm.mount()
        assert vm.read_all().sha256 == digest(image)
        vm.write(100, written)
        encoder.tell(Stop())
        vm.wait_for_detach()
        assert encoder.join() == Ended(0)
        assert vm.violations == []
    assert image.read_bytes()[51200 : 51200 + len(written)] == written


def test_a_busy_channel_is_passed_over(encoder: RunningEncoder, image: Path) -> None:
    with LoopbackVm(password=PASSWORD, channels=2) as vm, session_of(vm) as (_, channel), take(vm, channel, 0):
        encoder.tell(start_on(vm, channel, image))
        vm.wait_for_device(1)
        encoder.hear_step("attached")
        steps = [message for message in encoder.said if isinstance(message, Progressed)]
        assert steps[:2] == [Progressed("linked", "0"), Progressed("linked", "1")]
        assert encoder.stop() == Ended(0)


def test_when_all_channels_are_busy_that_is_the_reason(encoder: RunningEncoder, image: Path) -> None:
    with (
        LoopbackVm(password=PASSWORD, channels=2) as vm,
        session_of(vm) as (_, channel),
        take(vm, channel, 0),
        take(vm, channel, 1),
    ):
        encoder.tell(start_on(vm, channel, image))
        ended = encoder.join()
    assert (ended.status, ended.error) == (5, "ChannelBusyError")


def test_a_vm_that_is_killed_in_the_middle_of_a_read_ends_the_encoder(encoder: RunningEncoder, image: Path) -> None:
    with LoopbackVm(transport="raw") as vm:
        encoder.start(vm.target, disk=f"disk:{image}")
        vm.mount()
        with pytest.raises(ConnectionLostError):
            vm.read_all(lambda done, size: vm.kill() if done > size // 2 else None)
        ended = encoder.join()
    assert (ended.status, ended.error) == (1, "ConnectionLostError")


def test_an_image_that_is_not_there_is_told(encoder: RunningEncoder, tmp_path: Path) -> None:
    encoder.start("tcp://127.0.0.1:1", disk=f"disk:{tmp_path}/nothing")
    assert encoder.join().status == 4


def test_a_vm_that_is_not_there_is_told(encoder: RunningEncoder, image: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    encoder.start(f"tcp://127.0.0.1:{port}", disk=f"disk:{image}")
    ended = encoder.join()
    assert (ended.status, ended.error) == (4, "PortClosedError")


# ---- a process of its own


class Child:
    """`python -P -m usbbridge.encoder`, started as `attach` starts it."""

    def __init__(self) -> None:
        self.channel, theirs = pair()
        with theirs:
            command = [sys.executable, "-P", "-m", "usbbridge.encoder", str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT, stderr=subprocess.PIPE)

    def attach(self, vm: LoopbackVm, image: Path) -> "Child":
        self.channel.send(Start("test", disk=f"disk:{image}", target=vm.target))
        vm.wait_for_device()
        return self

    def messages(self) -> list[Message]:
        said = []
        while (received := self.channel.receive()) is not None:
            said.append(received[0])
        return said

    def end(self) -> tuple[int, str]:
        """Exit status and what it wrote on standard error."""
        _, written = self.process.communicate(timeout=20)
        return self.process.returncode, written.decode()


@pytest.fixture
def child() -> Iterator[Child]:
    running = Child()
    yield running
    running.channel.close()
    if running.process.poll() is None:
        running.process.kill()
        running.process.communicate()


@pytest.fixture
def vm() -> Iterator[LoopbackVm]:
    with LoopbackVm(transport="raw") as running:
        yield running


def test_sigterm_ends_a_process_in_order_and_sigint_is_not_for_it(child: Child, vm: LoopbackVm, image: Path) -> None:
    child.attach(vm, image)
    child.process.send_signal(signal.SIGINT)
    vm.mount()
    child.process.send_signal(signal.SIGTERM)
    vm.wait_for_detach()
    assert child.end() == (0, "")
    said = child.messages()
    assert [m.step for m in said if isinstance(m, Progressed)] == ["linked", "hello", "announced", "attached"]
    assert said[-1] == Ended(0)


def test_the_death_of_its_starter_ends_a_process_in_order(child: Child, vm: LoopbackVm, image: Path) -> None:
    child.attach(vm, image)
    child.channel.close()
    vm.wait_for_detach()
    assert child.end() == (0, "")


def test_a_process_ends_with_the_status_of_its_error(child: Child, vm: LoopbackVm, image: Path) -> None:
    child.attach(vm, image)
    vm.kill()
    assert child.end() == (1, "")
    assert child.messages()[-1].error == "ConnectionLostError"


def test_a_process_is_not_upset_by_a_message_it_does_not_know(child: Child) -> None:
    sock = socket.socket(fileno=os.dup(child.channel.fileno()))
    with sock:
        sock.send(b"nonsense")
    assert child.end() == (1, "")
    assert child.messages()[-1].error == "RemoteProtocolError"
