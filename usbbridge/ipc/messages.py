"""What the processes of the bridge say to each other: one JSON object a message, one class a kind, nothing else
accepted.

Now: the connection between whoever starts an encoder (control, or `attach --foreground`) and the encoder. The starter
sends `Start` once, then `Stop` or `AskStats`; the encoder sends `Progressed`, `Stats`, and one `Ended` as its last
word. End of file on either side means that the other process is gone.
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from usbbridge.errors import RemoteProtocolError

MAX_MESSAGE: Final = 64 << 10
"""Bytes in a message: a password, some paths and a device's names fit many times over; it is also below what a
socket's buffer takes."""


@dataclass(frozen=True, slots=True)
class Start:
    """Take this device to that VM. Exactly one of the device fields is set; a file descriptor travels beside the
    message."""

    kind: ClassVar[str] = "start"
    name: str
    "What to call the device in messages."
    usbfs: bool = False
    "The device is the usbfs node whose descriptor comes with the message."
    selector: str = ""
    "BUS-PORT or VID:PID, to be found in libusb's own list."
    disk: str = ""
    "An image file: `disk:PATH[,ro]`."
    target: str = ""
    "The VM, as `usbbridge.spice.targets` writes it."
    session_id: int = 0
    "SPICE session id of the MAIN channel that the starter keeps open."
    channels: tuple[int, ...] = ()
    "USBREDIR channel ids to try, in this order."
    password: str = ""
    ca_file: str = ""
    host_subject: str = ""
    compression: str = "auto"


@dataclass(frozen=True, slots=True)
class Stop:
    """Take the device away from the VM and end."""

    kind: ClassVar[str] = "stop"


@dataclass(frozen=True, slots=True)
class AskStats:
    """Answer with `Stats` now. Nothing is sent unasked: an idle encoder need not wake up for it."""

    kind: ClassVar[str] = "ask-stats"


@dataclass(frozen=True, slots=True)
class Progressed:
    """A step of the attachment is done: `channel`, `hello`, `announced`, `attached`, with what is known by then."""

    kind: ClassVar[str] = "progressed"
    step: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the start: bytes of the usbredir stream sent, before SPICE framing and compression; bytes received
    on the connection, framing included; reports dropped."""

    kind: ClassVar[str] = "stats"
    to_vm: int
    from_vm: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The encoder ends. `status` is an exit status, 0 if it was told to stop; the message is for people."""

    kind: ClassVar[str] = "ended"
    status: int
    message: str = ""
    hint: str = ""
    error: str = ""
    "Name of the error's class, for programs."


Message = Start | Stop | AskStats | Progressed | Stats | Ended
KINDS: Final[dict[str, type[Message]]] = {cls.kind: cls for cls in (Start, Stop, AskStats, Progressed, Stats, Ended)}


def encode(message: Message) -> bytes:
    """The message's bytes, at most MAX_MESSAGE of them. Raises ValueError over that."""
    fields = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
    data = json.dumps({"kind": message.kind, **fields}, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE:
        raise ValueError(f"a {message.kind} message of {len(data)} bytes; the limit is {MAX_MESSAGE}")
    return data


def decode(data: bytes) -> Message:
    """The message in `data`. Raises RemoteProtocolError for anything that `encode` would not have made."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"not a message: {error}") from error
    kind = found.pop("kind", None) if isinstance(found, dict) else None
    cls = KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise RemoteProtocolError(f"unknown kind of message {kind!r:.40}")
    return cls(**_fields(cls, found))


def _fields(cls: type[Message], found: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    missing = [n for n, f in fields.items() if n not in found and f.default is dataclasses.MISSING]
    if missing or not found.keys() <= fields.keys():
        raise RemoteProtocolError(f"a {cls.kind} message with the wrong fields: {sorted(found)!r:.200}")
    return {name: _value(cls.kind, name, hints[name], value) for name, value in found.items()}


def _value(kind: str, name: str, wanted: Any, value: object) -> object:
    """JSON has no tuples, and its true and false would pass for ints: types are held exactly."""
    if isinstance(wanted, types.GenericAlias):  # tuple[int, ...]
        if isinstance(value, list) and all(type(item) is int for item in value):
            return tuple(value)
    elif type(value) is wanted:
        return value
    raise RemoteProtocolError(f"{name} of a {kind} message is {value!r:.40}, not {wanted}")
