"""What whoever starts an encoder (control, or `attach --foreground`) and the encoder say to each other.

The starter sends `Start` once, then `Stop`, `AskStats` or `Capture`; the encoder sends `Progressed`, `Stats`, and one
`Ended` as its last word. End of file on either side means that the other process is gone.
"""

from dataclasses import dataclass
from typing import ClassVar, Final


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
    quirks: tuple[str, ...] = ()
    "What the compatibility list says of the device: names from `usbbridge.redirect.quirks`."


@dataclass(frozen=True, slots=True)
class Stop:
    """Take the device away from the VM and end."""

    kind: ClassVar[str] = "stop"


@dataclass(frozen=True, slots=True)
class AskStats:
    """Answer with `Stats` now. Nothing is sent unasked: an idle encoder need not wake up for it."""

    kind: ClassVar[str] = "ask-stats"


@dataclass(frozen=True, slots=True)
class Capture:
    """Write what the device and the VM say to each other, as a pcapng file, to the connection whose descriptor comes
    with the message, until its reader ends it or the attachment ends. There is no answer."""

    kind: ClassVar[str] = "capture"
    bus: int = 0
    device: int = 0
    "The device's address, as the kernel counts; for the packets."
    descriptors: str = ""
    "Device and configuration descriptors in hexadecimal; empty: as far as the encoder knows them."
    headers_only: bool = False
    "Without the data of transfers; setup packets are there."


@dataclass(frozen=True, slots=True)
class Progressed:
    """A step of the attachment is done: `channel`, `hello`, `announced`, `attached`, with what is known by then."""

    kind: ClassVar[str] = "progressed"
    step: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the start: bytes of the usbredir stream sent, before SPICE framing and compression; bytes received
    on the connection, framing included; reports dropped; resets of the device that the guest has asked for."""

    kind: ClassVar[str] = "stats"
    to_vm: int
    from_vm: int
    dropped: int
    resets: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """The encoder ends. `status` is an exit status, 0 if it was told to stop; the message is for people."""

    kind: ClassVar[str] = "ended"
    status: int
    message: str = ""
    hint: str = ""
    error: str = ""
    "Name of the error's class, for programs."


Message = Start | Stop | AskStats | Capture | Progressed | Stats | Ended
KINDS: Final[dict[str, type[Message]]] = {
    cls.kind: cls for cls in (Start, Stop, AskStats, Capture, Progressed, Stats, Ended)
}
