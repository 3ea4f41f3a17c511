"""Control, whole, in the test's own loop, between a fake monitor, fake encoders, and VMs of the loopback kind."""

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.monitor import FakeMonitor
from usbbridge.config import Access, Config, Paths, Retry, Vm
from usbbridge.control.dispatch import Control
from usbbridge.ipc.listener import listen
from usbbridge.ipc.monitoring import PluggedDevice

SECONDS = 20.0
ENCODER = (sys.executable, "-P", str(Path(__file__).parent / "encoder_process.py"))
Json = dict[str, Any]


def paths_in(folder: Path) -> Paths:
    """Everything in one folder."""
    return Paths(
        config=folder / "usbbridge.toml",
        conf_d=folder / "conf.d",
        monitor_socket=folder / "monitor.sock",
        control_socket=folder / "control.sock",
        database=folder / "compat.db",
        choices=folder / "choices.json",
        handed_out=folder / "handed-out.json",
    )


def config_in(folder: Path, *vms: Vm, **fields: Any) -> Config:
    """A configuration with quick retries; the first VM is the default."""
    name = vms[0].name if vms else ""
    return Config(vms, name, retry=Retry(0.05, 0.1), access=Access(), paths=paths_in(folder), **fields)


class ApiClient:
    """A client of the API."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.events: list[tuple[str, Any]] = []
        self._id = 0

    @classmethod
    async def connect(cls, path: Path) -> "ApiClient":
        """Connected, and not greeted yet."""
        return cls(*await asyncio.open_unix_connection(str(path), limit=1 << 22))

    async def line(self) -> Json | None:
        """The next line; None at the end."""
        async with asyncio.timeout(SECONDS):
            line = await self.reader.readline()
        return json.loads(line) if line else None

    async def call(self, method: str, **params: Any) -> Json:
        """The answer, error or result; events before it are kept."""
        self._id += 1
        self.writer.write(json.dumps({"id": self._id, "method": method, "params": params}).encode() + b"\n")
        while (message := await self.line()) is not None:
            if "event" in message:
                self.events.append((message["event"], message["data"]))
            elif message["id"] == self._id:
                return message
        raise AssertionError("the connection ended")

    async def rest(self) -> bytes:
        """Everything until the end, which is no lines any more."""
        async with asyncio.timeout(SECONDS):
            return await self.reader.read()

    async def result(self, method: str, **params: Any) -> Any:
        """The result; an error fails the test."""
        answer = await self.call(method, **params)
        assert "result" in answer, answer
        return answer["result"]

    async def event(self, condition: Callable[[str, Any], object]) -> Any:
        """The data of the first event that fits, kept or to come."""
        while True:
            for name, data in self.events:
                if condition(name, data):
                    return data
            message = await self.line()
            assert message is not None, "the connection ended"
            self.events.append((message["event"], message["data"]))

    async def state(self, state: str, id_: str = "1-2#7") -> Any:
        """The event that a device is in a state; the ones before it are forgotten."""
        found = await self.event(lambda name, data: name == "device" and _is(data, id_, state))
        self.events.clear()
        return found


def _is(status: Json, id_: str, state: str) -> bool:
    return (status["device"]["id"], status["state"]) == (id_, state)


def exists(pid: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{pid}").exists()


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop go round until it holds: for what happens in its next rounds, and tells nobody."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0)


@dataclass
class Bench:
    """Everything that a test of control holds."""

    folder: Path
    config: Config
    control: Control
    monitor: FakeMonitor
    clients: list[ApiClient] = field(default_factory=list)

    async def client(self) -> ApiClient:
        """Another client, greeted."""
        client = await ApiClient.connect(self.config.paths.control_socket)
        self.clients.append(client)
        await client.line()
        return client


@contextlib.asynccontextmanager
async def bench(folder: Path, *devices: PluggedDevice, vms: tuple[Vm, ...] = (), **fields: Any) -> AsyncIterator[Bench]:
    """A running control; at the end nothing of it is left, neither process nor descriptor."""
    settings = config_in(folder, *vms, **fields)
    before = descriptors()
    monitor = FakeMonitor(settings.paths.monitor_socket, *devices)
    listener = listen(settings.paths.control_socket, socket.SOCK_STREAM)
    control = Control(settings, ENCODER)
    running = Bench(folder, settings, control, monitor)
    try:
        await control.begin(listener)
        yield running
    finally:
        for client in running.clients:
            client.writer.close()
        pids = control.encoders.pids
        async with asyncio.timeout(SECONDS):
            await control.close()
        listener.close()
        monitor.stop()
        await asyncio.sleep(0)
    assert not [pid for pid in pids if exists(pid)], "an encoder is left"
    await until(lambda: descriptors() <= before)
