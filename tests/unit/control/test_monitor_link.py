"""The connection to the monitor, over real sockets."""

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.control import descriptors
from tests.fakes.monitor import FakeMonitor, plugged
from usbbridge.control import monitor_link as module
from usbbridge.control.monitor_link import MonitorLink
from usbbridge.ipc.listener import Peer
from usbbridge.ipc.monitoring import VERSION, Hello, Listed, Open, Opened, Plugged, Returned, Synced, Welcome

SECONDS = 20.0


class Rig:
    """A link, and what it has told."""

    def __init__(self, folder: Path) -> None:
        self.told: list[Any] = []
        self.lost = 0
        self._happened = asyncio.Event()
        self.path = folder / "monitor.sock"
        self.link = MonitorLink(self.path, self._said, self._lost)

    def _said(self, message: Any, fds: tuple[int, ...]) -> None:
        self.told.append(message)
        for fd in fds:
            os.close(fd)
        self._happened.set()

    def _lost(self) -> None:
        self.lost += 1
        self._happened.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                self._happened.clear()
                await self._happened.wait()


def run(folder: Path, scenario: Callable[[Rig], Awaitable[None]]) -> None:
    async def whole() -> None:
        before = descriptors()
        rig = Rig(folder)
        try:
            await scenario(rig)
        finally:
            rig.link.close()
        assert descriptors() == before, "descriptors leaked"

    asyncio.run(whole())


def test_it_is_told_what_there_is(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        monitor = FakeMonitor(rig.path, plugged())
        rig.link.begin()
        await rig.until(lambda: Listed() in rig.told)
        assert rig.told == [Welcome(VERSION), Plugged(plugged()), Listed()]
        assert rig.link.connected
        assert monitor.heard == [Hello(VERSION)]
        monitor.stop()

    run(tmp_path, scenario)


def test_a_monitor_that_comes_later_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(rig: Rig) -> None:
        rig.link.begin()
        assert not rig.link.connected
        rig.link.send(Synced())
        monitor = FakeMonitor(rig.path)
        await rig.until(lambda: Listed() in rig.told)
        assert monitor.of(Synced) == [], "what was said to nobody is not said to somebody later"
        monitor.stop()

    run(tmp_path, scenario)
    assert caplog.text.count("can't be reached") == 1


def test_one_that_dies_is_lost_once_and_found_again(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        monitor = FakeMonitor(rig.path)
        rig.link.begin()
        await rig.until(lambda: Listed() in rig.told)
        monitor.stop()
        await rig.until(lambda: rig.lost == 1)
        assert not rig.link.connected
        rig.told.clear()
        monitor.restart()
        await rig.until(lambda: Listed() in rig.told)
        assert rig.lost == 1
        monitor.stop()

    run(tmp_path, scenario)


def test_one_of_another_version_is_not_talked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fakes.monitor.VERSION", VERSION + 1)

    async def scenario(rig: Rig) -> None:
        monitor = FakeMonitor(rig.path)
        rig.link.begin()
        await monitor.until(lambda: monitor.connections == 2)
        assert (rig.told, rig.lost) == ([], 0)
        monitor.stop()

    monkeypatch.setattr(module, "RETRY", (0.01, 0.02))
    run(tmp_path, scenario)


def test_a_socket_of_a_stranger_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "peer_of", lambda sock: Peer(1, 12345, 12345))

    async def scenario(rig: Rig) -> None:
        monitor = FakeMonitor(rig.path)
        rig.link.begin()
        await monitor.until(lambda: monitor.connections == 1)
        assert monitor.heard == []
        monitor.stop()

    run(tmp_path, scenario)


def test_descriptors_travel_as_copies_and_those_that_come_belong_to_the_listener(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        monitor = FakeMonitor(rig.path, plugged())
        rig.link.begin()
        await rig.until(lambda: Listed() in rig.told)
        held, lease = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        rig.link.send(Open(5, plugged().id), lease.fileno())
        lease.close()
        await rig.until(lambda: Opened(5) in rig.told)
        held.close()
        await rig.until(lambda: Returned(plugged().id) in rig.told)
        monitor.stop()

    run(tmp_path, scenario)


def test_one_that_does_not_read_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUE", 4)

    async def scenario(rig: Rig) -> None:
        monitor = FakeMonitor(rig.path)
        rig.link.begin()
        await rig.until(lambda: Listed() in rig.told)
        monitor.deaf()
        while rig.link.connected and not rig.lost:
            for _ in range(100):
                rig.link.send(Open(1, "x" * 1000))
            await asyncio.sleep(0)
        assert rig.lost == 1
        monitor.stop()

    run(tmp_path, scenario)


def test_what_can_not_be_sent_for_want_of_descriptors_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has sent it waits for an answer that would never come."""

    def none_left(fd: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    async def scenario(rig: Rig) -> None:
        monitor = FakeMonitor(rig.path)
        rig.link.begin()
        await rig.until(lambda: Listed() in rig.told)
        with monkeypatch.context() as short:
            short.setattr(os, "dup", none_left)
            rig.link.send(Open(1, "1-2#5"), 0)
            assert rig.lost == 0, "not while somebody sends"
        await rig.until(lambda: rig.lost == 1)
        monitor.stop()

    run(tmp_path, scenario)
