"""Control's API, as the command line, the web page and MQTT use it: objects and names of version 1.

It is served on an AF_UNIX stream socket, one JSON object a line in either direction, UTF-8, at most MAX_LINE bytes. The
server speaks first:

    {"usbbridge": 1, "version": "0.1.0", "may": ["view", "attach", "admin"]}

`usbbridge` is the version of this API, `may` what the peer is permitted, by its credentials. Then, for each request, in
any order, one answer with its id:

    {"id": 1, "method": "attach", "params": {"device": "1-2", "vm": "desk"}}
    {"id": 1, "result": {...}}
    {"id": 1, "error": {"status": 5, "error": "RefusedError", "message": "...", "hint": "..."}}

After `subscribe` has answered with the whole `Status`, events follow as they happen, none missing in between:

    {"event": "device", "data": {a DeviceStatus}}        there, or changed
    {"event": "device-gone", "data": {"id": "1-2#7"}}
    {"event": "vm", "data": {a VmStatus}}
    {"event": "vm-gone", "data": {"name": "desk"}}       no longer configured, nor named by its target
    {"event": "choices", "data": [a Choice, ...]}
    {"event": "monitor", "data": {"connected": false}}

After `capture` has answered with the DeviceStatus, the connection is no longer for lines: what follows on it is the
capture, a pcapng file, until the device is detached or the client ends it by shutting down its half; then the rest of
the file, and the end. What a slow reader misses is left out, and counted in the file.

A subscriber that does not read is disconnected when MAX_BACKLOG bytes wait for it. Fields and methods may be added
within a version; none is changed or taken away.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from usbbridge.ipc.monitoring import PluggedDevice

VERSION: Final = 1
MAX_LINE: Final = 4 << 20
"Bytes of one line: a status with 127 devices of 8 KiB of descriptors each, in hexadecimal, has 2.5 MiB."
MAX_REQUEST: Final = 64 << 10
"Bytes of a request's line."
MAX_BACKLOG: Final = 8 << 20


class Right(StrEnum):
    """What a peer may do."""

    VIEW = "view"
    ATTACH = "attach"
    ADMIN = "admin"
    "suspend, resume, reload: root, and the user that control runs as."


class State(StrEnum):
    """Where a device is on its way to a VM and back."""

    LOCAL = "local"
    "With this machine's kernel; nothing is planned."
    WAITING = "waiting"
    "For the VM, or for the next try: `message` says why, `retry_in` when."
    QUEUED = "queued"
    "For a free channel of the VM."
    OPENING = "opening"
    "The monitor has been asked for it."
    ATTACHING = "attaching"
    "An encoder has it; the VM does not use it yet."
    ATTACHED = "attached"
    DETACHING = "detaching"
    FAILED = "failed"
    "Not tried again until it is replugged, asked for, or the configuration changes; `message` says why."
    SUSPENDED = "suspended"
    "Taken back for as long as this machine sleeps."


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A device and its way to a VM."""

    device: PluggedDevice
    state: State = State.LOCAL
    vm: str | None = None
    "Name of the VM it is at or on its way to; a target if it was attached to one that the configuration does not name."
    channel: int | None = None
    "Id of the USBREDIR channel; None for raw connections."
    since: float | None = None
    "Seconds since the epoch at which the state began."
    retry_in: float | None = None
    "Seconds until the next try, when this was written."
    attempts: int = 0
    "Tries that have failed since it last was attached."
    message: str = ""
    hint: str = ""
    error: str = ""
    "Name of the error's class (`usbbridge.errors`)."
    status: int = 0
    "Exit status that goes with it."
    remembered: bool = False
    "Whether a `Choice` brings it to its VM again after a replug."
    encoder: int | None = None
    "Process id."
    to_vm: int = 0
    "Bytes sent; counted anew for each attachment, and read when a status is asked for with `stats`."
    from_vm: int = 0


class SessionState(StrEnum):
    """Of the session to a VM."""

    IDLE = "idle"
    "Not connected: nothing needs it."
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    "It could not be reached, or was lost: tried again in `retry_in`."
    YIELDED = "yielded"
    "Another SPICE client has taken the VM's session over; it is left to it until somebody attaches a device."
    FAILED = "failed"
    "Not tried again until the configuration changes or a device is asked for: `message` says why."


@dataclass(frozen=True, slots=True)
class VmStatus:
    """A VM of the configuration, or one that was named by its target."""

    name: str
    target: str
    default: bool = False
    state: SessionState = SessionState.IDLE
    channels: int | None = None
    "USBREDIR channels it has; None while not known."
    used: int = 0
    "Of these, in use by us."
    queued: int = 0
    "Devices that wait for one."
    retry_in: float | None = None
    message: str = ""
    hint: str = ""
    error: str = ""
    status: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What somebody chose and is remembered: this device goes to that VM."""

    vendor: int
    product: int
    serial: str
    "Empty: it is known by its port."
    port: str
    "BUS-PORT; empty: it is known by its serial number, wherever it is plugged in."
    vm: str
    name: str = ""
    "What the device called itself, for people."


@dataclass(frozen=True, slots=True)
class Status:
    """Everything."""

    version: str
    pid: int
    monitor: bool
    "Whether the monitor is connected."
    devices: tuple[DeviceStatus, ...]
    vms: tuple[VmStatus, ...]
    choices: tuple[Choice, ...]
    suspended: bool = False


class Remember(StrEnum):
    """How a device that is attached is known again."""

    AUTO = "auto"
    "By its serial number if it has one of its own, else by its port."
    SERIAL = "serial"
    PORT = "port"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Attach:
    """Parameters of `attach`, which answers with a DeviceStatus once the device is attached, queued, or waiting for the
    VM; an error means that it is none of these."""

    device: str = ""
    "BUS-PORT, VID:PID, a part of its name, or an id."
    serial: str = ""
    vm: str = ""
    "A name, or a target; empty: where it was remembered to go, else the default VM."
    remember: Remember = Remember.AUTO
    unmount: bool = False
    force: bool = False
    wait: bool = True
    "False: answer as soon as it is on its way."


@dataclass(frozen=True, slots=True)
class Detach:
    """Parameters of `detach`, which answers with a DeviceStatus once the device is back."""

    device: str = ""
    serial: str = ""
    keep: bool = False
    "Go on remembering the choice: it is attached again when it is replugged."


@dataclass(frozen=True, slots=True)
class Capture:
    """Parameters of `capture`, the last request of its connection: what the device and its VM say to each other."""

    device: str = ""
    serial: str = ""
    headers_only: bool = False
    "Without the data of transfers; setup packets are there."


@dataclass(frozen=True, slots=True)
class Forget:
    """Parameters of `forget`: the choices about these are dropped; answers with those that are left."""

    device: str = ""
    "BUS-PORT, VID:PID, part of the remembered name; empty with `all`."
    serial: str = ""
    all: bool = False


@dataclass(frozen=True, slots=True)
class AskStatus:
    """Parameters of `status` and `subscribe`."""

    stats: bool = False
    "Ask the encoders for their counters first."


@dataclass(frozen=True, slots=True)
class VmName:
    """Parameters of `vm-check`, which opens a session, or uses the one there is, and answers with a VmStatus."""

    vm: str = ""
    "A name or a target; empty: the default."


@dataclass(frozen=True, slots=True)
class Nothing:
    """Parameters of `suspend`, `resume` and `reload`, which answer with `{}` when done."""


METHODS: Final[dict[str, tuple[type, Right]]] = {
    "status": (AskStatus, Right.VIEW),
    "subscribe": (AskStatus, Right.VIEW),
    "attach": (Attach, Right.ATTACH),
    "detach": (Detach, Right.ATTACH),
    "capture": (Capture, Right.ATTACH),
    "forget": (Forget, Right.ATTACH),
    "vm-check": (VmName, Right.ATTACH),
    "suspend": (Nothing, Right.ADMIN),
    "resume": (Nothing, Right.ADMIN),
    "reload": (Nothing, Right.ADMIN),
}
"Method → its parameters, and the right it needs."
