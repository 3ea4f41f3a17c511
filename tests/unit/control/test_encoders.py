"""Encoder processes, real ones that only pretend to have a device: how they are started, told, heard and reaped."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.fakes.control import descriptors, until
from usbbridge.control import encoders as module
from usbbridge.control.actions import Failure
from usbbridge.control.encoders import Encoders
from usbbridge.ipc.messages import Capture, Progressed, Start, Stats

SECONDS = 20.0
FAKE = (sys.executable, "-P", str(Path(__file__).parents[2] / "fakes/encoder_process.py"))


class Rig:
    """Encoders, and what they have reported."""

    def __init__(self, command: tuple[str, ...] = FAKE) -> None:
        self.progress: list[tuple[int, str]] = []
        self.ends: dict[int, Failure | None] = {}
        self._happened = asyncio.Event()
        self.encoders = Encoders(self._progressed, self._ended, command)

    def _progressed(self, key: int, progressed: Progressed) -> None:
        self.progress.append((key, progressed.step))
        self._happened.set()

    def _ended(self, key: int, failure: Failure | None, resets: int) -> None:
        assert key not in self.ends, "reported twice"
        self.ends[key] = failure
        self._happened.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                self._happened.clear()
                await self._happened.wait()

    async def end_of(self, key: int) -> Failure | None:
        await self.until(lambda: key in self.ends)
        return self.ends[key]

    def begin(self, key: int, orders: str = "") -> None:
        self.encoders.take(key)
        self.encoders.give(key, os.open(os.devnull, os.O_RDWR))
        self.encoders.start(key, Start(orders, usbfs=True, channels=(key,)))

    async def attached(self, key: int, orders: str = "") -> None:
        self.begin(key, orders)
        await self.until(lambda: (key, "attached") in self.progress)


def with_rig(scenario: Callable[[Rig], Awaitable[None]], command: tuple[str, ...] = FAKE) -> None:
    """Run a scenario, end everything, and count what is left."""

    async def run() -> None:
        before = descriptors()
        rig = Rig(command)
        rig.encoders.begin()
        try:
            await scenario(rig)
        finally:
            pids = rig.encoders.pids
            await rig.encoders.close()
        assert descriptors() == before, "descriptors leaked"
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    asyncio.run(run())


def sockets_of(pid: int) -> int:
    return sum(str(fd.readlink()).startswith("socket:") for fd in Path(f"/proc/{pid}/fd").iterdir())


def environment_of(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


async def ends_of(pids: tuple[int, ...], rig: Rig) -> None:
    """Until none of these is a child any more."""
    async with asyncio.timeout(SECONDS):
        while set(pids) & set(rig.encoders.pids):
            rig.encoders._over.clear()
            await rig.encoders._over.wait()


def test_an_encoder_is_ready_before_it_is_needed_and_another_replaces_it_when_it_has_settled() -> None:
    async def scenario(rig: Rig) -> None:
        (spare,) = rig.encoders.pids
        rig.begin(1)
        assert rig.encoders.pid(1) == spare
        assert rig.encoders.pids == (spare,), "a new one would compete for the CPU"
        await rig.until(lambda: (1, "attached") in rig.progress)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(rig.encoders.pids) == 2

    with_rig(scenario)


def test_several_at_once_are_started_at_once() -> None:
    async def scenario(rig: Rig) -> None:
        for key in (1, 2, 3):
            rig.begin(key)
        assert len(set(rig.encoders.pids)) == 3
        await rig.until(lambda: {(key, "attached") for key in (1, 2, 3)} <= set(rig.progress))

    with_rig(scenario)


def test_a_capture_is_for_an_encoder_that_runs() -> None:
    async def scenario(rig: Rig) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            rig.encoders.take(1)
            rig.encoders.capture(1, Capture(), theirs.fileno())
            rig.encoders.capture(2, Capture(), theirs.fileno())
            await rig.attached(3)
            rig.encoders.capture(3, Capture(bus=3), theirs.fileno())
            theirs.close()
            ours.setblocking(False)
            loop, data = asyncio.get_running_loop(), b""
            while piece := await loop.sock_recv(ours, 1 << 16):
                data += piece
        assert data.count(b"Capture(") == data.count(b"bus=3") == 1

    with_rig(scenario)


def test_an_encoder_that_is_busy_is_not_killed_for_captures_that_it_has_no_room_for() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.attached(1)
        child = rig.encoders._by_key[1]
        os.kill(child.process.pid, signal.SIGSTOP)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for _ in range(100):
                rig.encoders.capture(1, Capture(descriptors="00" * 8192), theirs.fileno())
        assert not child.broken

    with_rig(scenario)


def test_the_lease_lives_exactly_as_long_as_the_encoder() -> None:
    async def scenario(rig: Rig) -> None:
        lease = socket.socket(fileno=os.dup(rig.encoders.take(1)))
        lease.setblocking(False)
        rig.encoders.start(1, Start(""))
        await rig.until(lambda: (1, "attached") in rig.progress)
        with pytest.raises(BlockingIOError):
            lease.recv(1)
        rig.encoders.stop(1)
        assert await rig.end_of(1) is None
        assert lease.recv(1) == b""
        lease.close()

    with_rig(scenario)


def test_one_that_is_told_to_stop_ends_without_a_failure() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.attached(1)
        rig.encoders.stop(1)
        rig.encoders.stop(1)
        assert await rig.end_of(1) is None
        assert rig.encoders.lease(1) is None

    with_rig(scenario)


def test_what_it_says_of_its_end_is_reported() -> None:
    async def scenario(rig: Rig) -> None:
        rig.begin(1, "fails")
        assert await rig.end_of(1) == Failure(5, "RefusedError", "the VM rejected it", "ask its owner")

    with_rig(scenario)


def test_one_that_dies_is_reported_with_the_signal() -> None:
    async def scenario(rig: Rig) -> None:
        rig.begin(1, "dies")
        failure = await rig.end_of(1)
        assert failure == Failure(1, "EncoderError", "the encoder process ended unexpectedly (signal SIGKILL)")

    with_rig(scenario)


def test_one_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.05)

    async def scenario(rig: Rig) -> None:
        await rig.attached(1, "stuck")
        rig.encoders.stop(1)
        failure = await rig.end_of(1)
        assert failure is not None
        assert failure.message == "the encoder process did not end in time (signal SIGKILL)"

    with_rig(scenario)


def test_one_that_closes_its_connection_and_goes_on_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXIT_SECONDS", 0.05)

    async def scenario(rig: Rig) -> None:
        rig.begin(1, "mute")
        assert await rig.end_of(1) is not None

    with_rig(scenario)


def test_one_that_says_what_no_encoder_says_is_killed() -> None:
    async def scenario(rig: Rig) -> None:
        rig.begin(1, "babbles")
        failure = await rig.end_of(1)
        assert failure is not None
        assert failure.error == "EncoderError"

    with_rig(scenario)


def test_a_refused_device_makes_its_encoder_a_spare_again() -> None:
    async def scenario(rig: Rig) -> None:
        (spare,) = rig.encoders.pids
        rig.encoders.take(1)
        rig.encoders.release(1)
        assert rig.encoders.lease(1) is None
        rig.encoders.take(2)
        assert rig.encoders.pid(2) == spare

    with_rig(scenario)


def test_what_is_dropped_ends_and_nothing_is_reported() -> None:
    async def scenario(rig: Rig) -> None:
        lease = socket.socket(fileno=os.dup(rig.encoders.take(1)))
        pids = rig.encoders.pids
        rig.encoders.give(1, os.open(os.devnull, os.O_RDWR))
        rig.encoders.drop(1)
        rig.encoders.start(1, Start(""))
        await ends_of(pids, rig)
        assert lease.recv(1) == b""
        lease.close()
        assert rig.ends.keys() <= {1}

    with_rig(scenario)


def test_a_descriptor_for_an_encoder_that_is_gone_is_closed() -> None:
    async def scenario(rig: Rig) -> None:
        rig.encoders.give(99, os.open(os.devnull, os.O_RDWR))

    with_rig(scenario)


def test_one_that_dies_before_it_was_started_is_reported_when_it_is() -> None:
    async def scenario(rig: Rig) -> None:
        rig.encoders.take(1)
        pids = rig.encoders.pids
        os.kill(pids[0], 9)
        await ends_of(pids, rig)
        assert rig.ends == {}
        rig.encoders.start(1, Start(""))
        failure = await rig.end_of(1)
        assert failure is not None
        assert "SIGKILL" in failure.message

    with_rig(scenario)


def test_a_spare_that_dies_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE_RETRY", (0.05, 0.1))

    async def scenario(rig: Rig) -> None:
        rig.encoders._spare_delay = 0.05
        pids = rig.encoders.pids
        os.kill(pids[0], 9)
        await ends_of(pids, rig)
        await until(lambda: bool(rig.encoders.pids))
        assert rig.encoders.pids != pids

    with_rig(scenario)


def test_that_none_can_be_started_is_told_to_who_wants_one() -> None:
    async def scenario(rig: Rig) -> None:
        with pytest.raises(FileNotFoundError):
            rig.encoders.take(1)

    with_rig(scenario, ("/nonexistent",))


def test_counters_are_asked_for_and_one_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STATS_SECONDS", 0.3)
    monkeypatch.setattr(module, "STOP_SECONDS", 0.05)

    async def scenario(rig: Rig) -> None:
        await rig.attached(1)
        assert await rig.encoders.ask_stats() == {1: Stats(1234, 5678, 0)}
        await rig.attached(2, "stuck")
        assert await rig.encoders.ask_stats() == {1: Stats(1234, 5678, 0)}

    with_rig(scenario)


def test_it_inherits_its_connection_and_its_lease_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/nobody")

    async def scenario(rig: Rig) -> None:
        await rig.attached(1)
        pid = rig.encoders.pid(1)
        assert pid is not None
        assert os.getpgid(pid) == pid
        assert sockets_of(pid) == 2
        assert "NOTIFY_SOCKET" not in environment_of(pid)

    with_rig(scenario)


def test_everything_can_be_killed_at_once() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.attached(1, "stuck")
        rig.encoders.kill()
        assert await rig.end_of(1) is not None

    with_rig(scenario)


def test_none_is_started_any_more_when_all_are_to_end() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.encoders.close()
        with pytest.raises(OSError, match="ending"):
            rig.encoders.take(1)
        rig.encoders.begin()
        assert rig.encoders.pids == ()

    with_rig(scenario)
