"""What the engine keeps of a device, of the wish to have it at a VM, and of an attachment."""

from dataclasses import dataclass, field, replace
from enum import Enum

from usbbridge.control.actions import Failure
from usbbridge.control.backoff import Backoff
from usbbridge.control.vms import VmTrack
from usbbridge.ipc.api import State
from usbbridge.ipc.monitoring import PluggedDevice
from usbbridge.usb.entry import DeviceEntry
from usbbridge.usb.identity import parse_ids


class Origin(Enum):
    """Where a wish comes from."""

    PERSON = "person"
    "Somebody has attached this very device."
    CHOICE = "choice"
    "Somebody did, earlier, and it was remembered."
    RULE = "rule"
    "The compatibility list says that it connects by itself."


@dataclass(frozen=True, slots=True)
class Wish:
    """That a device be at a VM. It lasts until somebody detaches the device, or it is unplugged."""

    vm: str
    origin: Origin
    order: int
    "Wishes are served in this order."
    unmount: bool = False
    force: bool = False

    @property
    def asked(self) -> bool:
        """Whether somebody has asked for this device by name, now or earlier."""
        return self.origin is not Origin.RULE


class Phase(Enum):
    """How far an attachment is."""

    OPENING = "opening"
    "The monitor has been asked."
    UNWANTED = "unwanted"
    "The monitor has been asked, and meanwhile nobody wants it any more: its answer decides what is to be done."
    ATTACHING = "attaching"
    ATTACHED = "attached"
    STOPPING = "stopping"


LIVE = (Phase.ATTACHING, Phase.ATTACHED, Phase.STOPPING)
"An encoder has the device."
ENDING = (Phase.UNWANTED, Phase.STOPPING)


@dataclass(slots=True, eq=False)
class Attempt:
    """One attachment, from the request to the monitor until its encoder has ended."""

    key: int
    device: str
    name: str
    vm: VmTrack
    channel: int
    "Of a raw VM: index of its target."
    wish: Wish
    "As it was when the monitor was asked."
    phase: Phase = Phase.OPENING
    pid: int | None = None
    step: str = ""
    attached_at: float | None = None
    resets: int = 0
    "That the guest has asked for; known at the end."


@dataclass(frozen=True, slots=True)
class View:
    """What a DeviceStatus shows, without what changes by the mere passing of time."""

    plugged: PluggedDevice
    state: State
    vm: str | None = None
    channel: int | None = None
    until: float | None = None
    attempts: int = 0
    message: str = ""
    hint: str = ""
    error: str = ""
    status: int = 0
    remembered: bool = False
    encoder: int | None = None


@dataclass(slots=True, eq=False)
class DeviceTrack:
    """A device that is plugged in."""

    plugged: PluggedDevice
    wish: Wish | None = None
    held: bool = False
    "Somebody has detached it: nothing but an explicit attach takes it before it is plugged in anew."
    attempt: Attempt | None = None
    backoff: Backoff = field(default_factory=Backoff)
    failure: Failure | None = None
    "Of the last try; None if there was none, or it succeeded."
    given_up: bool = False
    "`failure` does not pass by itself."
    by_monitor: bool = False
    "`failure` is the monitor's."
    returning: float | None = None
    "Until when to wait for the monitor's word that the device is back with the kernel."
    fresh: bool = True
    "Nothing has been decided about it yet."
    told: bool = True
    "False between a monitor's start and its word that the device is (still) there."
    view: View | None = None
    "What was last shown."
    since: float = 0.0
    "When its state began."

    @property
    def id(self) -> str:
        return self.plugged.id

    @property
    def entry(self) -> DeviceEntry:
        return self.plugged.entry

    def fail(self, failure: Failure, *, given_up: bool, by_monitor: bool = False) -> None:
        """A try has failed."""
        self.failure, self.given_up, self.by_monitor = failure, given_up, by_monitor

    def forgive(self) -> None:
        """Try it again as if nothing had happened."""
        self.failure, self.given_up, self.by_monitor = None, False, False
        self.backoff.reset()


@dataclass(frozen=True, slots=True)
class Departed:
    """A device that is no longer there, as it was."""

    plugged: PluggedDevice
    wish: Wish | None
    held: bool
    in_use: bool
    "A VM had it, until it disappeared."
    at: float


def faces(plugged: PluggedDevice) -> list[DeviceEntry]:
    """The device as it is now, and as it is with each of the ids it goes by at other times."""
    others = (parse_ids(ids) for ids in plugged.faces)
    entry = plugged.entry
    return [entry, *(replace(entry, vendor=ids[0], product=ids[1]) for ids in others if ids)]


def short_name(entry: DeviceEntry) -> str:
    """`1-2 (Stick)`: the port, and what the device calls itself."""
    name = entry.product_name or entry.name or entry.ids
    return f"{entry.bus_port} ({name})"


def identity(entry: DeviceEntry) -> tuple[int, int, str]:
    """What a device says it is; not necessarily unique."""
    return entry.vendor, entry.product, entry.serial
