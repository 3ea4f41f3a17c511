"""What the engine wants done: the vocabulary between the decisions (`usbbridge.control.engine`, pure) and the sockets
and processes around them.

The life of one attachment, engine on the left, the rest of control on the right:

    OpenSession(vm)          →   links MAIN                    ← session_opened(vm, channels)
    Tell(Open(key), key)     →   makes the lease, sends both   ← opened(key): the descriptor is kept for the next line
    Start(key, …)            →   gives an encoder the device   ← encoder_started(key), progressed(key, …)
    Stop(key)                →   asks, and kills in the end    ← encoder_ended(key): the lease is closed by then
    CloseSession(vm)         →   nothing more is heard of that session

`key` numbers an attachment; the monitor's answers carry the same number. Actions are to be carried out in their order.
"""

from dataclasses import dataclass

from usbbridge.config import Vm
from usbbridge.errors import UsbBridgeError
from usbbridge.ipc.api import Choice
from usbbridge.ipc.monitoring import Request


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it crosses a process's border: `status` and `error` are for programs, the rest is for people."""

    status: int
    "Exit status that goes with it."
    error: str
    "Name of the error's class. It may come from another process and be anything."
    message: str
    hint: str = ""

    @classmethod
    def of(cls, error: UsbBridgeError) -> "Failure":
        """The same error, as words."""
        return cls(error.exit_status, type(error).__name__, error.message, error.hint)


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Open a SPICE session; answered by `session_opened` or `session_failed`, later perhaps by `session_lost`."""

    vm: str
    settings: Vm
    "Its target is `settings.targets[0]`. A VM that is named by its target only has nothing else in it."


@dataclass(frozen=True, slots=True)
class CloseSession:
    """Close the session, or give up opening it. From here on nothing may be said about it any more; another
    `OpenSession` of the same VM may follow at once."""

    vm: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to the monitor."""

    message: Request
    key: int | None = None
    """For `Open` and `Adopt`: the attachment whose lease travels along. With `Open` the lease is to be made; it is to
    be dropped again when the answer is `Refused`."""


@dataclass(frozen=True, slots=True)
class Start:
    """The device has been opened: give it to an encoder. Answered by `encoder_ended`, in whatever way it ends, even if
    none could be started; before that by `encoder_started` and `progressed`."""

    key: int
    "Also the request whose answer brought the device's descriptor."
    device: str
    "`PluggedDevice.id`."
    name: str
    "What to call it in messages."
    vm: str
    target: str
    "As `usbbridge.spice.targets` writes it."
    channel: int | None
    "Id of the USBREDIR channel; None for a raw connection."
    settings: Vm
    quirks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell the encoder to stop, and kill it if it does not; `encoder_ended` follows."""

    key: int


@dataclass(frozen=True, slots=True)
class DropOpened:
    """Nobody wants the answer to this request any more: close the descriptor that came or may still come with it, and
    the lease, which gives the device back."""

    request: int


@dataclass(frozen=True, slots=True)
class SaveChoices:
    """Keep these, and only these, over a restart."""

    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """The device is new, or `device_status` of it has changed."""

    device: str


@dataclass(frozen=True, slots=True)
class Left:
    """The device is no longer there."""

    device: str


@dataclass(frozen=True, slots=True)
class VmChanged:
    """The VM is new, or `vm_status` of it has changed."""

    vm: str


@dataclass(frozen=True, slots=True)
class VmLeft:
    """The VM is no longer in the configuration, or was known by its target only and has no device any more."""

    vm: str


@dataclass(frozen=True, slots=True)
class ChoicesChanged:
    """`choices` of the status have changed."""


Action = (
    OpenSession
    | CloseSession
    | Tell
    | Start
    | Stop
    | DropOpened
    | SaveChoices
    | Changed
    | Left
    | VmChanged
    | VmLeft
    | ChoicesChanged
)
