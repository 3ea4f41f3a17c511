"""`usbbridge capture`: what it writes, when it ends, and what it says."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.control import bench
from tests.fakes.monitor import plugged
from tests.fakes.service import FakeService, Peer, device
from tests.unit.cli.conftest import Run
from usbbridge.capture import pcapng
from usbbridge.capture.pcapng import ENHANCED_PACKET, INTERFACE_STATISTICS, Block, Splitter
from usbbridge.cli import capture as verb
from usbbridge.cli import capture_file
from usbbridge.cli.capture_file import CaptureFile, Recording
from usbbridge.config import Vm
from usbbridge.errors import RefusedError, RemoteProtocolError
from usbbridge.ipc.api import State
from usbbridge.ipc.monitoring import Synced

SECONDS = 20.0
NAME = "1-2 0781:5567 SanDisk Cruzer Blade"
HEAD = pcapng.section_header("test") + pcapng.interface("1-2", NAME)
PACKET = pcapng.packet(1, [bytes(30000)], 30000)
END = pcapng.statistics(2, 3, 0)
WHOLE = HEAD + 3 * PACKET + END
MAIN = (
    "import sys; from usbbridge.config import Paths; from usbbridge.cli.main import main;"
    "Paths.client_sockets = lambda self: [self.control_socket]; sys.exit(main())"
)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "x.pcapng"


@pytest.fixture
def captured(service: FakeService) -> FakeService:
    """A service whose device can be captured."""
    service.answers["capture"] = device(State.ATTACHED)
    return service


@contextlib.contextmanager
def saying(service: FakeService, *steps: bytes | Callable[[Peer], object]) -> Iterator[None]:
    """Meanwhile, these follow on the connection of the capture: bytes, and what is to be done."""

    def follow() -> None:
        peer = service.captures.get(timeout=SECONDS)
        for step in steps:
            if isinstance(step, bytes):
                peer.say_bytes(step)
            else:
                step(peer)

    thread = threading.Thread(target=follow)
    thread.start()
    yield
    thread.join(SECONDS)
    assert not thread.is_alive()


def blocks(data: bytes) -> list[Block]:
    splitter = Splitter()
    found = list(splitter.feed(data))
    assert splitter.rest == 0
    return found


def packets(data: bytes) -> int:
    return [block.kind for block in blocks(data)].count(ENHANCED_PACKET)


def test_what_comes_is_written_until_the_device_is_detached(run: Run, captured: FakeService, target: Path) -> None:
    with saying(captured, WHOLE[:100], WHOLE[100:], Peer.hang_up):
        code, out, err = run(["capture", "1-2", "-o", str(target)])
    assert (code, target.read_bytes()) == (0, WHOLE)
    assert err == f"{NAME} is captured to {target}; Ctrl-C ends it\n"
    assert out == f"{NAME}: 3 packets, 90.3 kB in {target} (ended: the device is no longer at its VM)\n"
    assert captured.asked == [("capture", {"device": "1-2", "serial": "", "headers_only": False})]


def test_a_capture_is_for_its_owner_alone(run: Run, captured: FakeService, target: Path) -> None:
    with saying(captured, WHOLE, Peer.hang_up):
        assert run(["capture", "--serial", "4C530001", "-o", str(target), "--headers-only"])[0] == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert captured.asked == [("capture", {"device": "", "serial": "4C530001", "headers_only": True})]


def test_it_ends_after_so_many_packets(run: Run, captured: FakeService, target: Path) -> None:
    with saying(captured, WHOLE):
        code, out, _ = run(["capture", "1-2", "-o", str(target), "--count", "2"])
    assert code == 0
    assert out.endswith("(ended: it has as many packets as --count wants)\n")
    found = blocks(target.read_bytes())
    assert [block.kind for block in found][2:] == [ENHANCED_PACKET, ENHANCED_PACKET, INTERFACE_STATISTICS]


def test_it_ends_before_the_file_is_larger_than_it_may_be(run: Run, captured: FakeService, target: Path) -> None:
    with saying(captured, HEAD + 10 * PACKET):
        code, out, _ = run(["capture", "1-2", "-o", str(target), "--limit", "64k", "--json"])
    result = json.loads(out)
    assert (code, result["ended"], result["packets"]) == (0, "limit", 2)
    assert result["bytes"] == target.stat().st_size <= 65536
    assert blocks(target.read_bytes())[-1].kind == INTERFACE_STATISTICS


@pytest.mark.parametrize("size", ["x", "-1", "63k", "1.5G", "1X"])
def test_a_limit_that_is_none_is_wrong_usage(run: Run, size: str) -> None:
    assert run(["capture", "1-2", "-o", "x", "--limit", size])[0] == 2


def test_what_is_missing_is_said(run: Run, captured: FakeService, target: Path) -> None:
    with saying(captured, HEAD + PACKET + pcapng.statistics(2, 5, 4), Peer.hang_up):
        out = run(["capture", "1-2", "-o", str(target)])[1]
    assert "1 packet, 4 missing, as they could not be written fast enough, " in out


def test_a_file_that_is_there_stays_as_it_is(run: Run, captured: FakeService, target: Path) -> None:
    target.write_bytes(b"dear")
    code, _, err = run(["capture", "1-2", "-o", str(target)])
    assert (code, target.read_bytes(), captured.asked) == (5, b"dear", [])
    assert "is there already" in err
    assert "--force" in err


def test_by_force_a_file_is_overwritten_and_made_private(run: Run, captured: FakeService, target: Path) -> None:
    target.write_bytes(bytes(1 << 20))
    target.chmod(0o644)
    with saying(captured, WHOLE, Peer.hang_up):
        assert run(["capture", "1-2", "-o", str(target), "--force"])[0] == 0
    assert target.read_bytes() == WHOLE
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_folder_is_no_file(run: Run, captured: FakeService, tmp_path: Path) -> None:
    assert run(["capture", "1-2", "-o", str(tmp_path), "--force"])[0] == 2
    assert captured.asked == []


def test_a_file_that_can_not_be_made_says_why(run: Run, captured: FakeService, tmp_path: Path) -> None:
    code, _, err = run(["capture", "1-2", "-o", str(tmp_path / "nowhere/x")])
    assert code == 1
    assert "nowhere/x" in err
    assert "No such file or directory" in err


def interrupted_at(packets: int, monkeypatch: pytest.MonkeyPatch, *, times: int = 1) -> None:
    """Ctrl-C when so many packets are in the file."""
    show = verb.Display.show
    left = [times]

    def shown(display: verb.Display, file: CaptureFile) -> None:
        show(display, file)
        while file.packets >= packets and left[0]:
            left[0] -= 1
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(verb.Display, "show", shown)


def test_ctrl_c_ends_it_with_a_whole_file(
    run: Run, captured: FakeService, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_at(1, monkeypatch)
    with saying(captured, HEAD + PACKET, lambda peer: peer.over.wait(SECONDS), PACKET + END, Peer.hang_up):
        code, out, _ = run(["capture", "1-2", "-o", str(target)])
    assert (code, target.read_bytes()) == (0, HEAD + 2 * PACKET + END)
    assert out == f"{NAME}: 2 packets, 60.2 kB in {target}\n"


def test_ctrl_c_does_not_wait_for_an_encoder_that_hangs(
    run: Run, captured: FakeService, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "END_SECONDS", 0.0)
    interrupted_at(1, monkeypatch)
    with saying(captured, HEAD + PACKET + PACKET[:5000]):
        assert run(["capture", "1-2", "-o", str(target)])[0] == 0
    assert [block.kind for block in blocks(target.read_bytes())][2:] == [ENHANCED_PACKET, INTERFACE_STATISTICS]


def test_a_second_ctrl_c_ends_it_at_once_and_the_file_is_whole_all_the_same(
    run: Run, captured: FakeService, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_at(1, monkeypatch, times=2)
    with saying(captured, HEAD + PACKET):
        assert run(["capture", "1-2", "-o", str(target)])[0] == 130
    assert [block.kind for block in blocks(target.read_bytes())][2:] == [ENHANCED_PACKET, INTERFACE_STATISTICS]


def test_signals_are_as_before_when_it_has_ended(run: Run, captured: FakeService, target: Path) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with saying(captured, WHOLE, Peer.hang_up):
        run(["capture", "1-2", "-o", str(target)])
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_an_encoder_that_dies_leaves_what_there_was(run: Run, captured: FakeService, target: Path) -> None:
    with saying(captured, HEAD + PACKET + PACKET[:5000], Peer.hang_up):
        code, out, err = run(["capture", "1-2", "-o", str(target)])
    assert (code, out) == (1, "")
    assert f"broke off; what came before is in {target}" in err
    assert packets(target.read_bytes()) == 1


def test_a_capture_that_never_began_leaves_no_file(run: Run, captured: FakeService, target: Path) -> None:
    with saying(captured, Peer.hang_up):
        code, _, err = run(["capture", "1-2", "-o", str(target)])
    assert code == 1
    assert "broke off" in err
    assert not target.exists()
    assert "is captured" not in err, "it was not, yet"


def test_a_capture_that_never_began_leaves_what_is_no_file_of_its_own(
    run: Run, captured: FakeService, target: Path
) -> None:
    os.mkfifo(target)
    reader = threading.Thread(target=target.read_bytes)
    reader.start()
    with saying(captured, Peer.hang_up):
        assert run(["capture", "1-2", "-o", str(target)])[0] == 1
    reader.join(SECONDS)
    assert target.is_fifo()


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo], ids=["file", "named pipe"])
def test_what_somebody_else_could_read_is_not_written_to(
    target: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object]
) -> None:
    make(target)
    if os.geteuid():
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    else:
        os.chown(target, 65534, 65534)
    reader = os.open(target, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(RefusedError, match="belongs to somebody else"):
        capture_file.open_output(str(target), force=True)
    os.close(reader)


def test_a_file_that_comes_at_the_last_moment_stays_as_it_is(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.write_bytes(b"dear")
    monkeypatch.setattr(capture_file, "check", lambda name, force: None)
    with pytest.raises(RefusedError, match="is there already"):
        capture_file.open_output(str(target), force=False)
    assert target.read_bytes() == b"dear"


def test_what_is_no_capture_is_said(run: Run, captured: FakeService, target: Path) -> None:
    with saying(captured, HEAD + bytes(100)):
        assert run(["capture", "1-2", "-o", str(target)])[0] == RemoteProtocolError.exit_status


def test_what_the_service_refuses_is_said(run: Run, captured: FakeService, target: Path) -> None:
    captured.answers["capture"] = RefusedError("it is not attached", hint="attach it first")
    code, _, err = run(["capture", "1-2", "-o", str(target)])
    assert (code, err) == (5, "usbbridge: it is not attached\n  attach it first\n")
    assert not target.exists()


def test_a_device_has_to_be_named(run: Run) -> None:
    assert run(["capture", "-o", "x"])[0] == 2


def test_json_and_the_capture_do_not_fit_into_one_output(run: Run) -> None:
    assert run(["capture", "1-2", "-o", "-", "--json"])[0] == 2


def test_a_terminal_gets_no_capture(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, _, err = run(["capture", "1-2", "-o", "-"])
    assert code == 2
    assert "wireshark" in err


def test_a_terminal_shows_how_far_it_is(
    run: Run, captured: FakeService, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with saying(captured, WHOLE, Peer.hang_up):
        err = run(["capture", "1-2", "-o", str(target)])[2]
    assert re.search(r"\r\d packets, .*B\x1b\[K", err)
    assert err.endswith("\r\x1b[K")


def as_program(*arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", MAIN, "capture", "1-2", "-o", "-", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_it_goes_through_a_pipe(captured: FakeService) -> None:
    with saying(captured, WHOLE, Peer.hang_up), as_program() as process:
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (0, WHOLE)
    assert err.decode().splitlines()[-1].startswith(f"{NAME}: 3 packets, 90.3 kB (ended:")


def test_it_ends_when_the_pipe_has_no_reader_any_more(captured: FakeService) -> None:
    with as_program() as process, saying(captured, HEAD):
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(len(HEAD)) == HEAD
        process.stdout.close()
        assert process.wait(SECONDS) == 0
        assert process.stderr.read().decode().endswith("(ended: nobody reads it any more)\n")


def test_sigterm_ends_it_like_ctrl_c(captured: FakeService) -> None:
    with as_program() as process, saying(captured, HEAD, lambda peer: peer.over.wait(SECONDS), END, Peer.hang_up):
        assert process.stdout is not None
        assert process.stdout.read(len(HEAD)) == HEAD
        process.terminate()
        assert process.communicate(timeout=SECONDS)[0] == END
    assert process.returncode == 0


def test_a_named_pipe_is_written_to_as_it_is(run: Run, captured: FakeService, target: Path) -> None:
    os.mkfifo(target, 0o640)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(target.read_bytes()))
    reader.start()
    with saying(captured, WHOLE, Peer.hang_up):
        assert run(["capture", "1-2", "-o", str(target)])[0] == 0
    reader.join(SECONDS)
    assert read == [WHOLE]
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_full_disk_is_said() -> None:
    file = CaptureFile(os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(OSError, match="No space left"):
        file.take(HEAD)
    assert (file.size, file.begun) == (0, False)
    file.close()


def test_a_disk_that_fills_up_keeps_whole_blocks(tmp_path: Path) -> None:
    import resource

    target = tmp_path / "x"
    file = CaptureFile(capture_file.open_output(str(target), force=False))
    file.take(HEAD + PACKET)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(HEAD + PACKET) + 5000, hard))
        with pytest.raises(OSError, match="too large"):
            file.take(PACKET)
        assert target.read_bytes() == HEAD + PACKET
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    file.close()
    file.close()
    assert [block.kind for block in blocks(target.read_bytes())][2:] == [ENHANCED_PACKET, INTERFACE_STATISTICS]


def test_on_a_full_disk_what_was_in_the_file_before_the_capture_stays(tmp_path: Path) -> None:
    import resource

    target = tmp_path / "x"
    target.write_bytes(b"dear")
    file = CaptureFile(os.open(target, os.O_WRONLY | os.O_APPEND))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10000, hard))
        with pytest.raises(OSError, match="too large"):
            file.take(HEAD + PACKET)
        assert target.read_bytes() == b"dear"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    file.close()


# ---- a capture that is written while something else goes on


def say(recording: Recording, data: bytes) -> None:
    with socket.socket(fileno=os.dup(recording.fileno())) as connection:
        connection.sendall(data)


def test_a_recording_is_whole_at_its_end(target: Path) -> None:
    with Recording(str(target)) as recording:
        say(recording, WHOLE)
    assert target.read_bytes() == WHOLE


def test_a_recording_without_anything_leaves_no_file(target: Path) -> None:
    with Recording(str(target)):
        pass
    assert not target.exists()


def test_what_goes_wrong_in_a_recording_is_raised_at_its_end(target: Path) -> None:
    with pytest.raises(RemoteProtocolError), Recording(str(target)) as recording:
        say(recording, HEAD + bytes(100))
    assert blocks(target.read_bytes())[-1].kind == INTERFACE_STATISTICS


def test_what_else_went_wrong_is_more_important(target: Path) -> None:
    def refused(recording: Recording) -> None:
        say(recording, bytes(100))
        raise RefusedError("no")

    with pytest.raises(RefusedError), Recording(str(target)) as recording:
        refused(recording)


# ---- against control itself


def test_control_and_its_encoder_answer_it(tmp_path: Path, target: Path) -> None:
    config = tmp_path / "client.toml"
    config.write_text(f'[paths]\ncontrol-socket = "{tmp_path}/control.sock"\n')
    command = [sys.executable, "-c", MAIN, "capture", "kingston", "-o", str(target), "--json"]

    async def captured() -> tuple[int | None, bytes, bytes]:
        pipe, environment = asyncio.subprocess.PIPE, os.environ | {"USBBRIDGE_CONFIG": str(config)}
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment)
        out, err = await process.communicate()
        return process.returncode, out, err

    async def whole() -> None:
        raw = Vm("raw", ("tcp://127.0.0.1:1",))
        async with asyncio.timeout(SECONDS), bench(tmp_path, plugged(), vms=(raw,)) as running:
            await running.monitor.hears(Synced)
            code, _, err = await captured()
            assert (code, b"is not attached to a VM" in err) == (5, True)
            await (await running.client()).result("attach", device="1-2")
            code, out, err = await captured()
            result = json.loads(out)
            assert (code, err, result["packets"], result["ended"]) == (0, b"", 1, "detached")

    asyncio.run(whole())
    assert b"Capture(bus=1, device=7" in target.read_bytes()
