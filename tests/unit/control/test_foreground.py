"""One attachment in the foreground: signals, a child process that fails, a server that does not answer."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from usbbridge.control import foreground
from usbbridge.control.foreground import EncoderError, Request, attach
from usbbridge.errors import NotFoundError, RefusedError
from usbbridge.ipc.channel import MessageChannel, pair
from usbbridge.ipc.messages import Ended, Message, Progressed, Stats
from usbbridge.loopback.vm import LoopbackVm
from usbbridge.spice.errors import WrongTicketError

PASSWORD = "a ticket"
LINKED = '{"kind":"progressed","step":"linked"}'


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "image"
    path.write_bytes(os.urandom(1 << 20))
    return f"disk:{path}"


@pytest.fixture
def vm() -> Iterator[LoopbackVm]:
    with LoopbackVm(password=PASSWORD) as running:
        yield running


class Attachment:
    """A request, what was reported of it, and what is done when a step is reported."""

    def __init__(self, target: str, **fields: object) -> None:
        self.given_back = 0
        self.request = Request("test", target, password=PASSWORD, give_back=self._give_back, **fields)
        self.reported: list[Message] = []
        self.on: dict[str, Callable[[], None]] = {}

    def _give_back(self) -> None:
        self.given_back += 1

    def report(self, message: Message) -> None:
        self.reported.append(message)
        if isinstance(message, Progressed) and message.step in self.on:
            self.on[message.step]()

    def run(self) -> Ended:
        return attach(self.request, self.report)


def interrupt(signum: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), signum)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The child processes that were started."""
    started: list[subprocess.Popen[bytes]] = []
    spawn = foreground._spawn

    def spawn_and_tell() -> tuple[subprocess.Popen[bytes], MessageChannel]:
        process, channel = spawn()
        started.append(process)
        return process, channel

    monkeypatch.setattr(foreground, "_spawn", spawn_and_tell)
    return started


def child_is(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let another program be the encoder; `channel` is its end of the connection."""
    code = f"import socket, sys, signal; channel = socket.socket(fileno=int(sys.argv[1])); {script}"

    def spawn() -> tuple[subprocess.Popen[bytes], MessageChannel]:
        ours, theirs = pair()
        with theirs:
            number = str(theirs.fileno())
            return subprocess.Popen([sys.executable, "-c", code, number], pass_fds=[theirs.fileno()]), ours

    monkeypatch.setattr(foreground, "_spawn", spawn)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_detaches_in_order(vm: LoopbackVm, image: str, signum: int) -> None:
    attachment = Attachment(vm.target, disk=image)
    attachment.on["attached"] = lambda: interrupt(signum)
    assert attachment.run() == Ended(0)
    vm.wait_for_detach()
    assert attachment.given_back == 0, "the child has done that"
    assert isinstance(attachment.reported[-1], Stats)
    assert vm.violations == []


def test_nothing_is_imported_from_the_folder_one_is_in(
    vm: LoopbackVm, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "usbbridge").mkdir()
    (tmp_path / "usbbridge/__init__.py").write_text("raise SystemExit('a stranger has been run')")
    monkeypatch.chdir(tmp_path)
    attachment = Attachment(vm.target, disk=image)
    attachment.on["attached"] = interrupt
    assert attachment.run() == Ended(0)


def test_the_steps_are_reported(vm: LoopbackVm, image: str) -> None:
    attachment = Attachment(vm.target, disk=image)
    attachment.on["attached"] = interrupt
    attachment.run()
    steps = [message.step for message in attachment.reported if isinstance(message, Progressed)]
    assert steps == ["linked", "hello", "announced", "attached"]


def test_numbers_are_asked_for_while_somebody_watches(
    vm: LoopbackVm, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreground, "STATS_SECONDS", 0.001)
    attachment = Attachment(vm.target, disk=image, watch=True)
    plain = attachment.report

    def report(message: Message) -> None:
        plain(message)
        if isinstance(message, Stats) and sum(isinstance(m, Stats) for m in attachment.reported) == 3:
            interrupt()

    assert attach(attachment.request, report) == Ended(0)


def test_an_encoder_that_is_killed_is_told_and_the_device_given_back(
    vm: LoopbackVm, image: str, children: list[subprocess.Popen[bytes]]
) -> None:
    attachment = Attachment(vm.target, disk=image)
    attachment.on["attached"] = lambda: children[0].kill()
    with pytest.raises(EncoderError, match=r"ended unexpectedly \(signal SIGKILL\); the device was given back"):
        attachment.run()
    assert attachment.given_back == 1


def test_what_speaks_against_the_device_by_then_ends_it_before_it_is_taken(
    vm: LoopbackVm, image: str, children: list[subprocess.Popen[bytes]]
) -> None:
    def mounted() -> None:
        raise RefusedError("mounted since")

    attachment = Attachment(vm.target, disk=image, check=mounted)
    with pytest.raises(RefusedError, match="mounted since"):
        attachment.run()
    assert (attachment.reported, attachment.given_back) == ([], 0)
    assert children[0].returncode is not None


def test_an_encoder_that_fails_to_start_is_told_and_is_no_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    child_is(monkeypatch, "sys.exit(7)")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        attachment = Attachment(f"spice://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(EncoderError, match=r"ended unexpectedly \(status 7\)"):
            attachment.run()
    assert attachment.given_back == 0, "it was never told of the device"


def test_an_encoder_that_talks_nonsense_is_ended(vm: LoopbackVm, monkeypatch: pytest.MonkeyPatch) -> None:
    child_is(monkeypatch, "channel.recv(65536); channel.send(b'x'); signal.pause()")
    attachment = Attachment(vm.target)
    with pytest.raises(EncoderError, match="SIGKILL"):
        attachment.run()
    assert attachment.given_back == 1


HUNG = f"channel.recv(65536); channel.send(b'{LINKED}'); signal.pause()"


def test_an_encoder_that_hangs_is_ended_after_a_while(vm: LoopbackVm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "STOP_SECONDS", 0.01)
    child_is(monkeypatch, HUNG)
    attachment = Attachment(vm.target)
    attachment.on["linked"] = interrupt
    with pytest.raises(EncoderError, match=r"did not end in time \(signal SIGKILL\)"):
        attachment.run()
    assert attachment.given_back == 1


def test_two_signals_at_once_are_one_wish_to_stop(vm: LoopbackVm, image: str) -> None:
    attachment = Attachment(vm.target, disk=image)
    attachment.on["announced"] = lambda: (interrupt(), interrupt(signal.SIGTERM))
    assert attachment.run() == Ended(0)


def test_an_encoder_that_hangs_is_ended_by_a_second_signal(vm: LoopbackVm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "SECOND_SIGNAL_SECONDS", 0.0)
    child_is(monkeypatch, HUNG)
    attachment = Attachment(vm.target)
    plain = foreground._Foreground._end_child

    def again(self: foreground._Foreground) -> None:
        plain(self)
        interrupt()

    monkeypatch.setattr(foreground._Foreground, "_end_child", again)
    attachment.on["linked"] = interrupt
    with pytest.raises(EncoderError, match="SIGKILL"):
        attachment.run()


def test_an_encoder_that_hangs_when_the_session_is_lost_is_ended_too(
    vm: LoopbackVm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreground, "STOP_SECONDS", 0.01)
    child_is(monkeypatch, HUNG)
    attachment = Attachment(vm.target)
    attachment.on["linked"] = vm.kill
    ended = attachment.run()
    assert (ended.status, ended.error) == (1, "ConnectionLostError")
    assert attachment.given_back == 1


def test_the_end_of_the_session_is_the_reason(vm: LoopbackVm, image: str) -> None:
    attachment = Attachment(vm.target, disk=image)
    attachment.on["attached"] = vm.kill
    ended = attachment.run()
    assert (ended.status, ended.error) == (1, "ConnectionLostError")
    assert attachment.given_back == 0


def test_an_interrupt_while_the_server_says_nothing_ends_the_wait(children: list[subprocess.Popen[bytes]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:

        connections: list[socket.socket] = []

        def accept() -> None:
            connections.append(silent.accept()[0])
            interrupt()

        thread = threading.Thread(target=accept)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            Attachment(f"spice://127.0.0.1:{silent.getsockname()[1]}").run()
        thread.join()
        connections[0].close()
    assert children[0].returncode == -signal.SIGKILL


def test_an_interrupt_while_the_encoder_waits_for_the_vm_ends_it(
    tmp_path: Path, image: str, monkeypatch: pytest.MonkeyPatch, children: list[subprocess.Popen[bytes]]
) -> None:
    path = tmp_path / "vm"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(str(path))
        listener.listen(0)
        other.connect(str(path))  # the queue is full: who comes next has to wait
        plain = foreground._Foreground._wait

        async def wait(self: foreground._Foreground) -> None:
            interrupt()
            await plain(self)

        monkeypatch.setattr(foreground._Foreground, "_wait", wait)
        with pytest.raises(KeyboardInterrupt):
            Attachment(f"unix:{path}", disk=image).run()
    assert children[0].returncode == -signal.SIGKILL


def test_a_wrong_ticket_leaves_the_device_open_for_another_try(vm: LoopbackVm) -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    request = Request("test", vm.target, usbfs_fd=fd, password="wrong", give_back=lambda: os.close(fd))
    with pytest.raises(WrongTicketError):
        attach(request, lambda message: None)
    os.close(fd)


def test_a_vm_without_usb_channels_is_told_what_it_needs() -> None:
    with LoopbackVm(password=PASSWORD, channels=0) as vm, pytest.raises(NotFoundError) as caught:
        Attachment(vm.target).run()
    assert caught.value.message == f"the VM at {vm.target} has no USB redirection channel"
    assert "-device usb-redir" in caught.value.hint


def test_when_nobody_reads_the_reports_the_device_is_taken_back(vm: LoopbackVm, image: str) -> None:
    attachment = Attachment(vm.target, disk=image)

    def gone() -> None:
        raise BrokenPipeError

    attachment.on["attached"] = gone
    with pytest.raises(BrokenPipeError):
        attachment.run()
    vm.wait_for_detach()
    assert attachment.given_back == 0


def test_no_descriptor_is_left(vm: LoopbackVm, image: str) -> None:
    def run() -> set[str]:
        attachment = Attachment(vm.target, disk=image)
        attachment.on["attached"] = interrupt
        attachment.run()
        return open_files()

    assert run() == run()


def open_files() -> set[str]:
    """Sockets aside: the VM in this process has some, too."""
    names = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own
            names.add(str(link.readlink()))
    return {name for name in names if not name.startswith(("socket:", "/proc/"))}
