"""What the monitor and control say to each other, over the monitor's socket.

The monitor is the server. Control says `Hello` first; the monitor answers `Welcome`, a `Plugged` for every device that
is there, and `Listed`. Control then says `Adopt` for every device that one of its encoders still has, and `Synced`.
From then on the monitor sends `Plugged` and `Gone` as things change, and control asks for devices with `Open`.

A device is handed out with a *lease*: control gives the monitor one end of a socket pair whose other end is open only
in the encoder. Its end of file says that the encoder has ended, in whatever way, and that the device is to be given
back to its kernel driver.

A request that is not in this table, or that the peer is not permitted (`usbbridge.ipc.permissions`), ends the
connection.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

from usbbridge.compat.rule import Verdict
from usbbridge.usb.entry import DeviceEntry

VERSION: Final = 2
"Raised with every change of this module that the other side would not understand."

MAX_DESCRIPTORS: Final = 8 << 10
"""Bytes of descriptors that are passed on; a device with 32 interfaces has about 4 KiB. Of one that has more, none are:
rules need only what is in the entry."""


@dataclass(frozen=True, slots=True)
class PluggedDevice:
    """A device as the monitor tells it: what it is, and what the compatibility list says of it."""

    id: str
    "BUS-PORT#DEVNUM: this device for as long as it stays plugged in. The next one in the same port has another."
    entry: DeviceEntry
    "With `obstacle` as the monitor sees it: a device that it has handed out itself has none."
    descriptors: str = ""
    "Device and configuration descriptors as sysfs has them (USB 2.0 §9.6), in hexadecimal; empty if too many."
    verdict: Verdict = Verdict.ASK
    because: str = ""
    "Which rule and which interface decided, in words."
    rule: str = ""
    "Where that rule stands: FILE:LINE, `local:ID`, or empty if none matched."
    quirks: tuple[str, ...] = ()
    faces: tuple[str, ...] = ()
    "VID:PID that the same device goes by at other times, by the list's identities: its boot loader's, for one."


# ---- control to monitor


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of a client."""

    kind: ClassVar[str] = "hello"
    version: int


@dataclass(frozen=True, slots=True)
class Open:
    """Hand out a device; the lease's end travels beside the message. Answered by `Opened` or `Refused`."""

    kind: ClassVar[str] = "open"
    request: int
    "Any number; the answer carries it."
    device: str
    "`PluggedDevice.id`."
    asked: bool = False
    "Somebody has asked for this device by name: that is what the verdict `ask` wants."
    unmount: bool = False
    "Unmount its file systems first."
    force: bool = False
    """Take it although its disks are in use, which may lose data. Never overrides a rule, nor gives away a disk that
    this machine runs from."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """An encoder that was started under an earlier monitor has this device; the lease's end travels beside it."""

    kind: ClassVar[str] = "adopt"
    device: str


@dataclass(frozen=True, slots=True)
class Synced:
    """Everything that is in use has been adopted: what else was handed out and nobody holds is to be given back."""

    kind: ClassVar[str] = "synced"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attachment went, to be remembered for the device's model."""

    kind: ClassVar[str] = "outcome"
    device: str
    result: str
    "`attached`, `failed` or `ended`."
    error: str = ""
    "Name of the error's class, if it failed or ended by one."
    message: str = ""
    resets: int = 0
    "Resets that the guest has asked for."
    seconds: float = 0.0
    "How long it was attached."


@dataclass(frozen=True, slots=True)
class Reload:
    """The rules have changed (root only): judge every device anew."""

    kind: ClassVar[str] = "reload"


# ---- monitor to control


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answer to `Hello`: the list of devices follows."""

    kind: ClassVar[str] = "welcome"
    version: int


@dataclass(frozen=True, slots=True)
class Plugged:
    """A device is there, or something about it has changed."""

    kind: ClassVar[str] = "plugged"
    device: PluggedDevice


@dataclass(frozen=True, slots=True)
class Gone:
    """A device is no longer there."""

    kind: ClassVar[str] = "gone"
    device: str


@dataclass(frozen=True, slots=True)
class Listed:
    """End of the list of what was there: what has not been told does not exist."""

    kind: ClassVar[str] = "listed"


@dataclass(frozen=True, slots=True)
class Opened:
    """The device that was asked for; its descriptor travels beside the message."""

    kind: ClassVar[str] = "opened"
    request: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The device is not handed out; `status` is the exit status of the error (`usbbridge.errors`)."""

    kind: ClassVar[str] = "refused"
    request: int
    status: int
    error: str
    "Name of the error's class."
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Returned:
    """The device was given back to its kernel driver after its lease had ended."""

    kind: ClassVar[str] = "returned"
    device: str


Request = Hello | Open | Adopt | Synced | Outcome | Reload
REQUESTS: Final[dict[str, type[Request]]] = {cls.kind: cls for cls in (Hello, Open, Adopt, Synced, Outcome, Reload)}
"What the monitor accepts."
Answer = Welcome | Plugged | Gone | Listed | Opened | Refused | Returned
ANSWERS: Final[dict[str, type[Answer]]] = {
    cls.kind: cls for cls in (Welcome, Plugged, Gone, Listed, Opened, Refused, Returned)
}
"What control accepts."
