"""A whole monitor in this process, above a made-up sysfs: its events come from the test, its clients are real."""

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.unit.monitor.fake_sysfs import FakeSysfs
from usbbridge.compat.store import Store
from usbbridge.config import Config, Paths
from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.listener import listen
from usbbridge.ipc.monitoring import ANSWERS, VERSION, Gone, Hello, Listed, Open, Opened, Plugged, Refused
from usbbridge.monitor.hotplug import Event, EventsLost
from usbbridge.monitor.loop import Loop
from usbbridge.monitor.main import Monitor

PATIENCE = 10.0
"Seconds until a test that waits for something has failed."

RULES = """
[[rule]]
verdict = "deny"
class = "03/01/01"
note = "a keyboard"
source = "the test"
[[rule]]
verdict = "allow"
class = "08"
note = "storage"
source = "the test"
"""


class FakeSource:
    """Events that a test makes."""

    name = "the test"

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._events: deque[Event | None] = deque()

    def happen(self, *events: Event | None) -> None:
        """None: some were lost."""
        self._events.extend(events)
        os.write(self._writer, bytes(len(events)))

    def fileno(self) -> int:
        return self._reader

    def events(self) -> Iterator[Event]:
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 1 << 16)
        while self._events:
            event = self._events.popleft()
            if event is None:
                raise EventsLost("some")
            yield event

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


class Client:
    """Control's end of a connection."""

    def __init__(self, rig: "Rig") -> None:
        self.rig = rig
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.connect(str(rig.paths.monitor_socket))
        self.sock.setblocking(False)
        self.channel = MessageChannel(self.sock, ANSWERS)
        self.heard: list[Any] = []
        self.fds: list[int] = []
        self.ended = False
        self.devices: dict[str, Any] = {}

    def greet(self) -> "Client":
        self.channel.send(Hello(VERSION))
        self.until(lambda: Listed() in self.heard)
        return self

    def hear(self) -> None:
        """Everything that is there."""
        while not self.ended:
            try:
                received = self.channel.receive()
            except BlockingIOError:
                return
            except ConnectionResetError:
                received = None
            if received is None:
                self.ended = True
                return
            message, fds = received
            self.heard.append(message)
            self.fds += fds
            if isinstance(message, Plugged):
                self.devices[message.device.id] = message.device
            elif isinstance(message, Gone):
                del self.devices[message.device]

    def until(self, what: Callable[[], object]) -> None:
        def heard() -> object:
            self.hear()
            return what()

        self.rig.until(heard)

    def at(self, bus_port: str) -> Any:
        """The device there, as it was told; None if there is none."""
        return next((d for d in self.devices.values() if d.entry.bus_port == bus_port), None)

    def all(self, kind: type) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    def ask(self, device: str, **options: bool) -> socket.socket:
        """Send an Open; the holder's end of the lease."""
        lease, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.send(Open(1, device, **({"asked": True} | options)), theirs.fileno())
        theirs.close()
        return lease

    def open(self, device: str, **options: bool) -> tuple[Any, socket.socket]:
        """And the answer. A descriptor that came is in `fds`."""
        before = len(self.all(Opened) + self.all(Refused))
        lease = self.ask(device, **options)
        self.until(lambda: self.ended or len(self.all(Opened) + self.all(Refused)) > before)
        return [m for m in self.heard if isinstance(m, Opened | Refused)][-1], lease

    def close(self) -> None:
        self.sock.close()
        while self.fds:
            os.close(self.fds.pop())


class Rig:
    """The monitor of a made-up machine."""

    def __init__(self, sysfs: FakeSysfs, folder: Path, *, rules: str = RULES) -> None:
        self.sysfs, self.folder = sysfs, folder
        folder.mkdir(exist_ok=True)
        self.rules = folder / "rules"
        self.rules.mkdir(exist_ok=True)
        (self.rules / "10-test.toml").write_text(rules)
        self.paths = replace(
            Paths.of_user({"HOME": str(folder)}),
            monitor_socket=folder / "run/m.sock",
            handed_out=folder / "run/handed-out.json",
            database=folder / "compat.db",
        )
        self.clients: list[Client] = []
        self.begin()

    def begin(self) -> None:
        self.loop, self.source = Loop(), FakeSource()
        self.store = Store.open(self.paths.database, [self.rules])
        self.listener = listen(self.paths.monitor_socket, socket.SOCK_SEQPACKET)
        config = Config(paths=self.paths)
        self.monitor = Monitor(config, self.loop, self.listener, self.store, self.source, self.sysfs.root)
        self.monitor.begin()

    def end(self) -> None:
        self.monitor.close()
        self.listener.close()
        self.store.close()
        self.loop.close()

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.end()

    def client(self) -> Client:
        """A client that has been greeted."""
        client = self.stranger()
        return client.greet()

    def stranger(self) -> Client:
        """One that has said nothing yet."""
        client = Client(self)
        self.clients.append(client)
        return client

    def happen(self, action: str, name: str, subsystem: str = "usb") -> None:
        self.source.happen(Event(action, subsystem, name))

    def until(self, what: Callable[[], object]) -> None:
        """Turn the monitor's loop until it is so."""
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < deadline, "it did not happen"
            timer = self.loop.after(0.02, lambda: None)  # what is waited for may not be the loop's to notice
            self.loop.turn()
            timer.cancel()
