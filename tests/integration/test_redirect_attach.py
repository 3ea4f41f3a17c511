"""`usbbridge attach --foreground` as a person or a program runs it, against the loopback VM."""

import fcntl
import hashlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from usbbridge.loopback.vm import LoopbackVm
from usbbridge.spice.connection import open_main
from usbbridge.spice.targets import SpiceTarget, parse_target

SECONDS = 20
PASSWORD = "a ticket"


@pytest.fixture
def vm() -> Iterator[LoopbackVm]:
    with LoopbackVm(password=PASSWORD) as running:
        yield running


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(os.urandom(1 << 20))
    return path


def command(image: Path, target: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "usbbridge", "attach", "--foreground", f"disk:{image}", "--vm", target, *options]


@contextmanager
def started(image: Path, target: str, *options: str, password: str = PASSWORD) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"USBBRIDGE_PASSWORD": password}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command(image, target, *options), env=environment, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


def refusal(image: Path, target: str, *, password: str = PASSWORD) -> tuple[int, str]:
    """Exit status and message of an attachment that does not come about."""
    with started(image, target, password=password) as process:
        status, _, err = ended(process)
        return status, err.splitlines()[0]


@contextmanager
def busy(vm: LoopbackVm) -> Iterator[None]:
    """Somebody takes the only USB channel right after the command's session has begun."""
    from usbbridge.loopback.port import Port

    taken = Port.taken
    Port.taken = property(lambda self: True)  # type: ignore[method-assign,assignment]
    yield
    Port.taken = taken  # type: ignore[method-assign]


class Parrot:
    """A server that is no SPICE server."""

    def __enter__(self) -> str:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        return f"spice://127.0.0.1:{self.listener.getsockname()[1]}"

    def _serve(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    def __exit__(self, *error: object) -> None:
        self.thread.join()
        self.listener.close()


def test_every_way_to_fail_has_a_status_and_words_of_its_own(vm: LoopbackVm, image: Path) -> None:
    said = {"wrong ticket": refusal(image, vm.target, password="wrong")}
    with LoopbackVm(password=PASSWORD, channels=0) as without:
        said["no channel"] = refusal(image, without.target)
    with busy(vm):
        said["busy"] = refusal(image, vm.target)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"spice://127.0.0.1:{listener.getsockname()[1]}"
    said["unreachable"] = refusal(image, nobody)
    with Parrot() as target:
        said["not SPICE"] = refusal(image, target)
    assert {what: status for what, (status, _) in said.items()} == {
        "wrong ticket": 3,
        "no channel": 4,
        "busy": 5,
        "unreachable": 4,
        "not SPICE": 1,
    }
    assert len({message for _, message in said.values()}) == 5
    words = {
        "wrong ticket": "password",
        "no channel": "no USB redirection channel",
        "busy": "is busy",
        "unreachable": "connection refused",
        "not SPICE": "SPICE",
    }
    for what, word in words.items():
        assert word in said[what][1], said[what]


def test_json_lines_tell_every_step_and_the_end(vm: LoopbackVm, image: Path) -> None:
    with started(image, vm.target, "--json") as process:
        vm.mount()
        assert vm.read_all().sha256 == hashlib.sha256(image.read_bytes()).hexdigest()
        process.send_signal(signal.SIGINT)
        status, out, err = ended(process)
    vm.wait_for_detach()
    assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["event"] for line in lines if line["event"] != "stats"] == [
        "linked",
        "hello",
        "announced",
        "attached",
        "ended",
    ]
    assert lines[0]["detail"] == "0"
    assert lines[-2]["to_vm"] > 1 << 20
    assert lines[-1] == {"event": "ended", "status": 0, "error": None, "message": None, "hint": None}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_detaches(vm: LoopbackVm, image: Path, signum: int) -> None:
    with started(image, vm.target) as process:
        vm.wait_for_device()
        process.send_signal(signum)
        status, out, err = ended(process)
    vm.wait_for_detach()
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].startswith("detached (")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_ctrl_c_while_connecting_ends_it_at_once(image: Path, options: list[str]) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        started(image, f"spice://127.0.0.1:{silent.getsockname()[1]}", *options) as process,
    ):
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            status, out, err = ended(process)
    assert (status, err.strip()) == (130, "")
    assert [json.loads(line)["status"] for line in out.splitlines()] == ([130] if options else [])


def test_a_reader_that_goes_away_takes_the_device_back(vm: LoopbackVm, image: Path) -> None:
    with started(image, vm.target, "--json") as process:
        vm.wait_for_device()
        process.stdout.close()
        vm.wait_for_detach()
        process.stderr.close()
        assert process.wait(SECONDS) == 1


def test_a_second_client_ends_the_session_and_the_command_says_so(vm: LoopbackVm, image: Path) -> None:
    with started(image, vm.target) as process:
        vm.wait_for_device()
        target = parse_target(vm.target)
        assert isinstance(target, SpiceTarget)
        linked, _ = open_main(target, password=PASSWORD)
        status, _, err = ended(process)
        linked.sock.close()
    assert status == 1
    assert "session" in err or "closed" in err


def test_a_channel_taken_by_another_process_is_left_to_it(image: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.write_bytes(image.read_bytes())
    with LoopbackVm(transport="raw") as vm, started(image, vm.target) as first:
        vm.wait_for_device()
        status, message = refusal(second, vm.target)
        assert (status, message.endswith("before it said anything")) == (1, True), message
        assert first.poll() is None


# ---- on a terminal

AS_SESSION_LEADER = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A command on a terminal of its own, on which the test types and reads."""

    def __init__(self, arguments: list[str]) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x28\0\xc8\0\0\0\0\0")  # 40 rows, 200 columns
        ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        environment = {k: v for k, v in os.environ.items() if k != "USBBRIDGE_PASSWORD"} | {"TERM": "xterm"}
        wrapped = [sys.executable, "-c", AS_SESSION_LEADER, *arguments]
        self.process = subprocess.Popen(wrapped, start_new_session=True, env=environment, **ends)
        os.close(theirs)
        self.text = ""

    def read_until(self, words: str) -> None:
        while words not in self.text:
            piece = self._read()
            assert piece, f"it ended without {words!r}: {self.text}"

    def read_rest(self) -> int:
        while self._read():
            pass
        return self.process.wait(SECONDS)

    def _read(self) -> str:
        try:
            piece = os.read(self.ours, 1 << 16).decode()
        except OSError:  # EIO: nobody has the other end any more
            piece = ""
        self.text += piece
        return piece

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.ours)


@pytest.fixture
def terminal(request: pytest.FixtureRequest, vm: LoopbackVm, image: Path) -> Iterator[Terminal]:
    device, target = getattr(request, "param", (None, None))
    arguments = command(image, target or vm.target)
    if device:
        arguments[arguments.index(f"disk:{image}")] = device
    running = Terminal(arguments)
    yield running
    running.close()


def test_a_person_is_asked_for_the_password_and_shown_the_rates(terminal: Terminal, vm: LoopbackVm) -> None:
    terminal.read_until(f"Password for {vm.target}: ")
    terminal.type(f"{PASSWORD}\n")
    vm.wait_for_device()
    terminal.read_until("Ctrl-C takes it back.")
    terminal.type("\x03")
    assert terminal.read_rest() == 0
    vm.wait_for_detach()
    assert PASSWORD not in terminal.text
    assert "detached (" in terminal.text
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l"), "the cursor is back"


def test_a_wrong_answer_is_not_asked_again(terminal: Terminal) -> None:
    terminal.read_until("Password for ")
    terminal.type("wrong\n")
    assert terminal.read_rest() == 3
    assert terminal.text.count("Password for ") == 1


def test_ctrl_c_at_the_question_ends_it(terminal: Terminal) -> None:
    terminal.read_until("Password for ")
    terminal.type("\x03")
    assert terminal.read_rest() == 130


@pytest.mark.parametrize("terminal", [("disk:/nowhere/image", None), ("99-9", None)], indirect=True)
def test_a_terminal_is_left_as_it_was_by_a_mistake(terminal: Terminal) -> None:
    assert terminal.read_rest() == 4
    assert terminal.text.count("\x1b[?25l") == terminal.text.count("\x1b[?25h")
