"""A client of control's API (`usbbridge.ipc.api`) that waits for its answers: what every verb of the command line uses.

A verb must answer before a finger is off the key: this needs a socket and JSON, and nothing that takes long to import.
"""

import dataclasses
import functools
import json
import os
import re
import socket
import typing
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from usbbridge import errors
from usbbridge.errors import (
    ConnectionLostError,
    NotFoundError,
    NotPermittedError,
    RefusedError,
    RemoteProtocolError,
    UsageError,
    UsbBridgeError,
)
from usbbridge.ipc.api import MAX_LINE, MAX_REQUEST, VERSION, Status
from usbbridge.ipc.codec import from_json

if TYPE_CHECKING:
    from usbbridge.config import Paths

GREETING_SECONDS: Final = 5.0
"Within which a service says who it is; it does so at once, unless it was stopped or hangs."
ANSWER_SECONDS: Final = 30.0
"Within which it answers what needs no device and no VM."

START_HINT: Final = (
    "start it: `systemctl start usbbridge-monitor usbbridge-control` where it is installed, else `usbbridge service`; "
    "or do without it: `usbbridge attach --foreground`"
)
HANGS_HINT: Final = "is it stopped, or this machine overloaded? If not, restarting it helps, and its log tells why"
LOST_HINT: Final = "what was attached goes on if it is only being restarted; `usbbridge status` tells"

_ERROR_NAME: Final = re.compile(r"[A-Z][A-Za-z]{1,60}Error")
_BY_STATUS: Final[dict[int, type[UsbBridgeError]]] = {
    error.exit_status: error for error in (UsageError, NotPermittedError, NotFoundError, RefusedError)
}

Found = TypeVar("Found")


class ServiceClient:
    """A connection to the service. Use it in a `with` statement, or close it."""

    def __init__(self, connection: socket.socket, *, greeting_seconds: float = GREETING_SECONDS) -> None:
        """Takes the connection over and waits for the greeting. Raises ConnectionLostError, RemoteProtocolError for
        something that is no usbbridge, and UsbBridgeError for one whose API has another version."""
        self._connection = connection
        self._received = bytearray()
        self._events: deque[tuple[str, Any]] = deque()
        self._last_id = 0
        self.on_event: Callable[[str, Any], None] | None = None
        "Is told events while an answer is waited for; without it, they are kept for `events`."
        self.before_waiting: Callable[[], None] | None = None
        "Called before each wait for the service; whoever has more to watch for than its connection waits there."
        self.patience: float | None = greeting_seconds
        "Seconds to wait for the next thing the service says; None: for ever."
        try:
            self._greeted(self._next())
        except BaseException:
            connection.close()
            raise
        self.patience = ANSWER_SECONDS

    @classmethod
    def connect(cls, paths: "Paths | None" = None, *, greeting_seconds: float = GREETING_SECONDS) -> Self:
        """A connection to the first service that runs: the user's own, or the system's.

        Raises NotFoundError if none does, NotPermittedError, and what the constructor raises.
        """
        return cls(connected(client_sockets(paths)), greeting_seconds=greeting_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """The connection's descriptor, for a poll."""
        return self._connection.fileno()

    def close(self) -> None:
        """End the connection; what was asked for goes on. May be called again."""
        self._connection.close()

    def call(self, method: str, **params: Any) -> Any:
        """The result of a method, as JSON has it. Raises the error that the service answers with, ConnectionLostError
        if it ends meanwhile or does not answer, and RemoteProtocolError."""
        self._last_id += 1
        line = json.dumps({"id": self._last_id, "method": method, "params": params}, separators=(",", ":")).encode()
        if len(line) >= MAX_REQUEST:
            raise UsageError(f"a request of {len(line)} bytes is too long; the limit is {MAX_REQUEST}")
        try:
            self._connection.sendall(line + b"\n")
        except OSError as error:
            raise _lost() from error
        return self._answer(self._last_id)

    def status(self, *, stats: bool = False) -> Status:
        """Everything."""
        return read(Status, self.call("status", stats=stats))

    def take_over(self) -> tuple[socket.socket, bytes]:
        """After a method that hands the connection over: the connection, which belongs to the caller, and what came on
        it behind the answer. This client is at its end."""
        connection = self._connection.dup()
        self._connection.close()
        connection.settimeout(None)
        return connection, bytes(self._received)

    def events(self) -> Iterator[tuple[str, Any]]:
        """The events after `subscribe`, each with its data, as they happen. Raises ConnectionLostError at the end."""
        self.patience = None
        while True:
            while self._events:
                yield self._events.popleft()
            message = self._next()
            if "event" in message:
                yield _event(message)

    def _answer(self, wanted: int) -> Any:
        while True:
            message = self._next()
            if "event" in message:
                name, data = _event(message)
                if self.on_event is None:
                    self._events.append((name, data))
                else:
                    self.on_event(name, data)
            elif "error" in message and message.get("id") in (wanted, None):  # None: it gives this connection up
                raise as_error(message["error"])
            elif message.get("id") == wanted:
                return message.get("result")

    def _greeted(self, greeting: dict[str, Any]) -> None:
        if "error" in greeting:  # too many clients, for one
            raise as_error(greeting["error"])
        version, self.version, may = greeting.get("usbbridge"), greeting.get("version"), greeting.get("may")
        if type(version) is not int or not isinstance(self.version, str) or not isinstance(may, list):
            raise RemoteProtocolError(f"what listens there is no usbbridge service: it says {greeting!r:.80}")
        if version != VERSION:
            raise UsbBridgeError(
                f"the service's API has version {version}, and this command knows version {VERSION}",
                hint="they belong to different versions of usbbridge: restart the service after an upgrade",
            )
        self.may = frozenset(right for right in may if isinstance(right, str))
        "Names of `api.Right`s: what the service permits this user to do."

    def _next(self) -> dict[str, Any]:
        """The next line, which has to be an object."""
        line = self._line()
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RemoteProtocolError(f"the service said {line[:80]!r}, which is not JSON") from error
        if not isinstance(message, dict):
            raise RemoteProtocolError(f"the service said {line[:80]!r}, which is not an object")
        return message

    def _line(self) -> bytes:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > MAX_LINE:
                raise RemoteProtocolError(f"the service sent a line of more than {MAX_LINE} bytes")
            self._received += self._receive()
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _receive(self) -> bytes:
        if self.before_waiting is not None:
            self.before_waiting()
        try:
            self._connection.settimeout(self.patience)
            data = self._connection.recv(1 << 16)
        except TimeoutError as error:
            raise ConnectionLostError(
                f"the service has not answered for {self.patience:g} s", hint=HANGS_HINT
            ) from error
        except OSError as error:
            raise _lost() from error
        if not data:
            raise _lost()
        return data


def client_sockets(paths: "Paths | None" = None) -> list[Path]:
    """Where a service may listen, in the order in which to try. The configuration is read only if it was moved: it may
    be long, or not readable, and has no say in this elsewhere."""
    from usbbridge import config

    if paths is None and os.environ.get("USBBRIDGE_CONFIG"):
        paths = config.load().paths
    return (paths or config.Paths.default()).client_sockets()


def connected(sockets: list[Path]) -> socket.socket:
    """A connection to the first of these that somebody listens on. Raises NotFoundError, NotPermittedError."""
    denied: Path | None = None
    for path in sockets:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(GREETING_SECONDS)
            connection.connect(str(path))
        except BlockingIOError as error:  # nobody accepts the connections that wait already (connect(2), EAGAIN)
            connection.close()
            raise ConnectionLostError(f"the service at {path} takes no connections", hint=HANGS_HINT) from error
        except OSError as error:
            connection.close()
            denied = denied or (path if isinstance(error, PermissionError) else None)
        else:
            return connection
    if denied:
        raise NotPermittedError(f"no permission to use the service at {denied}")
    raise NotFoundError("the usbbridge service is not running", hint=START_HINT)


def _lost() -> ConnectionLostError:
    return ConnectionLostError("the service has ended", hint=LOST_HINT)


def _event(message: dict[str, Any]) -> tuple[str, Any]:
    name = message["event"]
    if not isinstance(name, str):
        raise RemoteProtocolError(f"the service told an event called {name!r:.40}")
    return name, message.get("data")


def as_error(answer: object) -> UsbBridgeError:
    """The error that an answer tells: of the class it names, or, if the name is only known elsewhere, of one by that
    name below the class that has its exit status."""
    if not isinstance(answer, dict):
        return RemoteProtocolError(f"the service answered with an error {answer!r:.80}")
    name, status = str(answer.get("error")), answer.get("status")
    status = status if type(status) is int and 0 < status < 126 else UsbBridgeError.exit_status
    cls = getattr(errors, name, None) if _ERROR_NAME.fullmatch(name) else UsbBridgeError
    if cls is None:
        cls = type(name, (_BY_STATUS.get(status, UsbBridgeError),), {"__doc__": "Told by the service."})
    error = cls(_printable(answer.get("message")), hint=_printable(answer.get("hint") or ""))
    assert isinstance(error, UsbBridgeError)
    error.exit_status = status
    return error


def _printable(text: object) -> str:
    """A message made fit for a terminal; what a VM has said may be in it."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in str(text))


def read(cls: type[Found], found: object) -> Found:
    """The API's object in a result or an event. Fields that a newer service has added are left out; raises
    RemoteProtocolError for anything else that `ipc.api` does not say."""
    message: Found = from_json(cls, _known(cls, found), f"a {cls.__name__}")
    return message


def _known(wanted: Any, found: Any) -> Any:
    options = typing.get_args(wanted) or (wanted,)
    if isinstance(found, list):
        return [_known(options[0], item) for item in found]
    if type(found) is int and float in options:  # JSON has one kind of number
        return float(found)
    hints = next((_hints(cls) for cls in options if isinstance(cls, type) and dataclasses.is_dataclass(cls)), None)
    if hints is None or not isinstance(found, dict):
        return found
    return {name: _known(hints[name], value) for name, value in found.items() if name in hints}


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)
