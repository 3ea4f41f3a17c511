"""The server of control's API (`usbbridge.ipc.api`): connections, lines, rights. What the methods do is `Service`'s."""

import asyncio
import contextlib
import json
import logging
import socket
from collections import Counter
from typing import Any, Final, Protocol

from usbbridge import __version__
from usbbridge.control.actions import Failure
from usbbridge.errors import NotPermittedError, RefusedError, RemoteProtocolError, UsageError, UsbBridgeError
from usbbridge.ipc.api import MAX_BACKLOG, MAX_REQUEST, METHODS, VERSION, Right
from usbbridge.ipc.codec import from_json
from usbbridge.ipc.listener import Peer, peer_of

log = logging.getLogger(__name__)

MAX_CLIENTS: Final = 64
"Connections at a time: a command line each, and a web page, MQTT and a panel that stay."
MAX_PER_USER: Final = 24
"Of these, of one user who is not root: a loop in a script must not shut the others out."
MAX_PENDING: Final = 16
"Requests of one client that wait for their answers; further ones are read when one of them has it."
MAX_ID: Final = 64
"Characters of a request's id."

HANDS_OVER: Final = ("capture",)
"Methods after whose answer the connection is no longer ours."

Json = dict[str, Any]


class FailureError(UsbBridgeError):
    """What went wrong elsewhere, in another process or some time ago, as an error of the request that asked for it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, hint=failure.hint)
        self.failure = failure


class Service(Protocol):
    """What is served."""

    def rights(self, peer: Peer) -> frozenset[Right]:
        """What the peer may do now."""

    def lacking(self, peer: Peer, right: Right) -> NotPermittedError:
        """The error for a peer that lacks a right."""

    async def call(self, method: str, parameters: Any) -> Any:
        """The result of a method, as JSON has it. Raises UsbBridgeError. It must not wait once it has looked at what it
        returns: the events that follow an answer to `subscribe` begin where that ends."""

    def hand_over(self, method: str, parameters: Any, connection: int, peer: Peer) -> None:
        """The answer to a method in HANDS_OVER is written: the connection is for what was begun. The descriptor stays
        the caller's."""


class ApiServer:
    """Listens, and tells subscribers what happens."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._server: asyncio.Server | None = None
        self._clients: set[_Client] = set()

    @property
    def clients(self) -> int:
        """Connections there are."""
        return len(self._clients)

    @property
    def has_subscribers(self) -> bool:
        """Whether anybody wants to know."""
        return any(client.subscribed for client in self._clients)

    async def begin(self, listener: socket.socket) -> None:
        """Serve connections to `listener`, which is ours from now on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Client(self), sock=listener)

    def publish(self, event: str, data: Any) -> None:
        """Tell all subscribers."""
        if self.has_subscribers:
            line = _line({"event": event, "data": data})
            for client in list(self._clients):
                if client.subscribed:
                    client.write(line)

    async def close(self) -> None:
        """Listen no more, and end every connection after what has been written to it."""
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            client.close()
        await asyncio.sleep(0)  # connections are told of their end by the loop

    def admit(self, client: "_Client") -> RefusedError | None:
        """Count a new connection; the reason if it can't stay."""
        users = Counter(other.peer.uid for other in self._clients)
        if len(self._clients) >= MAX_CLIENTS or (client.peer.uid and users[client.peer.uid] >= MAX_PER_USER):
            return RefusedError("too many programs use the service at the same time", hint="close some, and try again")
        self._clients.add(client)
        return None

    def look_up_rights(self) -> None:
        """Who may do what has changed."""
        for client in self._clients:
            client.look_up_rights()

    def dismiss(self, client: "_Client") -> None:
        """The connection is gone."""
        self._clients.discard(client)


class _Client(asyncio.Protocol):
    """A connection."""

    def __init__(self, server: ApiServer) -> None:
        self._server, self._service = server, server.service
        self._buffer = bytearray()
        self._tasks: set[asyncio.Task[None]] = set()
        self.subscribed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.peer = peer_of(transport.get_extra_info("socket"))
        refusal = self._server.admit(self)
        if refusal is not None:
            self._give_up(refusal)
            return
        self.look_up_rights()
        may = [right for right in Right if right in self._may]
        self.write(_line({"usbbridge": VERSION, "version": __version__, "may": may}))

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.dismiss(self)
        self.subscribed = False
        for task in self._tasks:
            task.cancel()  # only the wait for an answer: what was asked for goes on

    def look_up_rights(self) -> None:
        """Once a connection, and once a reload: names of users and groups may come from a slow directory."""
        self._may = self._service.rights(self.peer)
        self.subscribed &= Right.VIEW in self._may

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._read()

    def _read(self) -> None:
        while len(self._tasks) < MAX_PENDING and not self._transport.is_closing():
            line, newline, rest = self._buffer.partition(b"\n")
            if not newline:
                break
            self._buffer = rest
            self._request(bytes(line))
        if len(self._buffer) > MAX_REQUEST and b"\n" not in self._buffer[:MAX_REQUEST]:
            self._give_up(UsageError(f"a request of more than {MAX_REQUEST} bytes"))
        elif len(self._tasks) >= MAX_PENDING:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _request(self, line: bytes) -> None:
        try:
            if len(line) > MAX_REQUEST:
                raise UsageError(f"a request of more than {MAX_REQUEST} bytes")
            number, method, parameters = _parse(line)
        except UsageError as error:
            self._give_up(error)
            return
        task = asyncio.get_running_loop().create_task(self._answer(number, method, parameters))
        self._tasks.add(task)
        task.add_done_callback(self._answered)

    def _answered(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not self._transport.is_closing():
            self._read()

    async def _answer(self, number: int | str, method: str, found: Json) -> None:
        try:
            parameters = self._parameters(method, found)
            result = await self._service.call(method, parameters)
        except UsbBridgeError as error:
            self.write(_line({"id": number, "error": _error(error)}))
        except Exception:
            log.exception("%s failed", method)
            failure = Failure(1, "InternalError", f"{method} failed in the service", "its log says more")
            self.write(_line({"id": number, "error": _error(FailureError(failure))}))
        else:
            self.write(_line({"id": number, "result": result}))
            self.subscribed |= method == "subscribe"
            if method in HANDS_OVER:
                self._hand_over(method, parameters)

    def _parameters(self, method: str, found: Json) -> Any:
        """Raises UsbBridgeError if the client may not ask for that, or asks for it in a wrong way."""
        if method not in METHODS:
            raise UsageError(f"this service has no method {method!r:.40}", hint="is it older than its client?")
        cls, right = METHODS[method]
        if right not in self._may:
            raise self._service.lacking(self.peer, right)
        try:
            parameters = from_json(cls, found, f"parameters of {method}")
        except RemoteProtocolError as error:
            raise UsageError(error.message) from error
        if method in HANDS_OVER and (self.subscribed or len(self._tasks) > 1):
            raise UsageError(f"{method} needs a connection of its own", hint="ask for nothing else on it")
        return parameters

    def _hand_over(self, method: str, parameters: Any) -> None:
        """Let go of the connection without ending it: somebody else has it from now on."""
        sock = self._transport.get_extra_info("socket")
        if not self._transport.is_closing() and not self._transport.get_write_buffer_size():
            self._service.hand_over(method, parameters, sock.fileno(), self.peer)
        self._transport.abort()  # which closes our descriptor of it, and writes nothing more

    def write(self, line: bytes) -> None:
        """Send it. Whoever does not read what he asked for is disconnected before he fills our memory."""
        if self._transport.is_closing():
            return
        self._transport.write(line)
        if self._transport.get_write_buffer_size() > MAX_BACKLOG:
            log.warning("a client (pid %d, user %d) does not read: disconnected", self.peer.pid, self.peer.uid)
            self._transport.abort()

    def _give_up(self, error: UsbBridgeError) -> None:
        self._buffer.clear()
        self.write(_line({"id": None, "error": _error(error)}))
        self._transport.close()

    def close(self) -> None:
        """End the connection when what was written has left, or at once if nobody reads it."""
        self.subscribed = False
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()


def _parse(line: bytes) -> tuple[int | str, str, Json]:
    """Id, method and parameters. Raises UsageError for what is no request; then it can't be known what follows."""
    found: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(line)
    if not isinstance(found, dict) or not found.keys() <= {"id", "method", "params"}:
        raise UsageError(f"not a request: {line[:80].decode(errors='replace')!r}")
    number, method, parameters = found.get("id"), found.get("method"), found.get("params", {})
    if not isinstance(number, int | str) or isinstance(number, bool) or len(str(number)) > MAX_ID:
        raise UsageError("a request has an id, which is a number or a short string")
    if not isinstance(method, str) or not isinstance(parameters, dict):
        raise UsageError("a request has a method, and perhaps params, an object")
    return number, method, parameters


def _error(error: UsbBridgeError) -> Json:
    failure = error.failure if isinstance(error, FailureError) else Failure.of(error)
    return {"status": failure.status, "error": failure.error, "message": failure.message, "hint": failure.hint}


def _line(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
