"""A service that answers as a test has told it to, on a real socket: the other end of `ipc.client` and of the verbs."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import Any

from usbbridge.compat.rule import Verdict
from usbbridge.errors import UsbBridgeError
from usbbridge.ipc.api import Choice, DeviceStatus, State, Status, VmStatus
from usbbridge.ipc.codec import to_json
from usbbridge.ipc.monitoring import PluggedDevice
from usbbridge.usb.ch9 import Speed
from usbbridge.usb.entry import DeviceEntry, InterfaceEntry, Obstacle

GREETING = {"usbbridge": 1, "version": "0.1.0", "may": ["view", "attach", "admin"]}

Answer = Callable[[dict[str, Any], "Peer"], Any]


class Peer:
    """A client that has connected."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.over = threading.Event()
        "The client says nothing more."

    def say(self, message: object) -> None:
        """A line; whoever has gone does not hear it."""
        self.say_bytes(json.dumps(message).encode() + b"\n")

    def say_bytes(self, data: bytes) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._connection.sendall(data)

    def tell(self, event: str, data: object) -> None:
        self.say({"event": event, "data": to_json(data)})

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


class FakeService:
    """Listens on `path`. Each method answers with what `answers` holds: a result, an error, or a function of the
    parameters and the peer that returns one of these. `asked` holds every (method, params), `subscribers` the peers."""

    def __init__(self, path: Path, greeting: object = GREETING) -> None:
        self.path, self.greeting = path, greeting
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.subscribers: Queue[Peer] = Queue()
        self.captures: Queue[Peer] = Queue()
        "Those whose connection is for a capture now."
        self._peers: list[tuple[Peer, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._start(self._accept)

    def serve(self, status: Status) -> None:
        """Answer `status` and `subscribe` with this."""
        self.answers["status"] = self.answers["subscribe"] = status

    def stop(self) -> None:
        """As if killed, but the socket's file goes too."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)
        for peer, _ in list(self._peers):
            peer.hang_up()
        for thread in self._threads:
            thread.join()
        for _, connection in self._peers:
            connection.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                peer = Peer(connection)
                self._peers.append((peer, connection))
                self._start(self._serve, peer, connection)

    def _serve(self, peer: Peer, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection.makefile("rb") as lines:
            if isinstance(self.greeting, bytes):
                peer.say_bytes(self.greeting)
            else:
                peer.say(self.greeting)
            for line in lines:
                self._request(json.loads(line), peer)
        peer.over.set()

    def _request(self, request: dict[str, Any], peer: Peer) -> None:
        method, params = request["method"], request["params"]
        self.asked.append((method, params))
        answer = self.answers[method]
        if callable(answer):
            answer = answer(params, peer)
        if isinstance(answer, UsbBridgeError):
            error = {"status": answer.exit_status, "error": type(answer).__name__}
            peer.say({"id": request["id"], "error": error | {"message": answer.message, "hint": answer.hint}})
        elif answer is not None:
            peer.say({"id": request["id"], "result": to_json(answer)})
        if method == "subscribe":
            self.subscribers.put(peer)
        elif method == "capture" and not isinstance(answer, UsbBridgeError):
            self.captures.put(peer)


def stick(
    bus_port: str = "1-2",
    *,
    devnum: int = 2,
    name: str = "SanDisk Cruzer Blade",
    serial: str = "4C530001",
    obstacle: Obstacle | None = None,
    verdict: Verdict = Verdict.ALLOW,
    because: str = "storage",
) -> PluggedDevice:
    """A flash drive as the monitor tells it."""
    interface = InterfaceEntry(0, 0, 8, 6, 80, "usb-storage")
    place = (bus_port, 1, devnum, Path(f"/dev/bus/usb/001/{devnum:03}"))
    codes = (0x0781, 0x5567, 0x0100, 0, 0, 0, Speed.HIGH)
    entry = DeviceEntry(*place, *codes, "SanDisk", "Cruzer Blade", serial, 1, (interface,), name, obstacle)
    return PluggedDevice(f"{bus_port}#{devnum}", entry, "", verdict, because, "20-storage.toml:3" if because else "")


def device(state: State = State.LOCAL, plugged: PluggedDevice | None = None, **fields: Any) -> DeviceStatus:
    """A device in some state; at the VM `desk` unless it is local."""
    vm = None if state == State.LOCAL else "desk"
    return DeviceStatus(plugged or stick(), state, **({"vm": vm} | fields))


DESK = VmStatus("desk", "spice://vmhost:5900", default=True)
REMEMBERED = Choice(0x0781, 0x5567, "4C530001", "", "desk", "SanDisk Cruzer Blade")


def status(*devices: DeviceStatus, vms: tuple[VmStatus, ...] = (DESK,), **fields: Any) -> Status:
    """Everything, with these devices."""
    fixed = {"version": "0.1.0", "pid": 4711, "monitor": True, "choices": ()}
    return Status(**(fixed | fields), devices=devices, vms=vms)
