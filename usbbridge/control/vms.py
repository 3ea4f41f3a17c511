"""What the engine keeps of a VM: the state of its session, and which of its channels are taken.

A VM with a SPICE target has one session, and as many channels as the server says. One with raw targets has no session:
each target is a channel, numbered from 0.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from usbbridge.config import Vm
from usbbridge.control.actions import Failure
from usbbridge.control.backoff import Backoff, Pace
from usbbridge.ipc.api import SessionState
from usbbridge.spice.targets import SpiceTarget, parse_target

TAKEOVER_SECONDS = 300.0
TAKEOVERS = 2
"""A session that is lost so often within so many seconds, by a server that goes on serving, has been taken over by
another SPICE client, which takes it back each time: spice-server keeps one client only."""

LINGER_SECONDS = 10.0
"How long a session that was opened to check the VM, and the check's result, are kept."


@dataclass(frozen=True, slots=True)
class VmView:
    """What a VmStatus shows, without what changes by the mere passing of time."""

    state: SessionState
    target: str
    default: bool
    channels: int | None
    used: int
    queued: int
    until: float | None
    failure: Failure | None


@dataclass(slots=True, eq=False)
class VmTrack:
    """A VM, and our session to it. Made anew when its targets change."""

    settings: Vm
    configured: bool = True
    "False: somebody has named it by its target."
    state: SessionState = SessionState.IDLE
    ids: tuple[int, ...] = ()
    "Channels, while connected."
    known: int | None = None
    "How many channels it had when last seen."
    backoff: Backoff = field(default_factory=Backoff)
    failure: Failure | None = None
    losses: list[float] = field(default_factory=list)
    "When it was lost to (probably) another client."
    channels: dict[int, Backoff] = field(default_factory=dict)
    "Of those that could not be had."
    kept_until: float | None = None
    "Somebody checks it: it is needed until then, although no device goes there."
    view: VmView | None = None

    def __post_init__(self) -> None:
        if self.raw:
            self.ids = tuple(range(len(self.settings.targets)))
            self.known = len(self.ids)

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def raw(self) -> bool:
        """Whether its channels are plain usbredir connections."""
        return not isinstance(parse_target(self.settings.targets[0]), SpiceTarget)

    @property
    def target(self) -> str:
        """What it is at, for people."""
        return ", ".join(self.settings.targets)

    @property
    def usable(self) -> bool:
        """Whether channels can be linked."""
        return self.raw or self.state is SessionState.CONNECTED

    def target_of(self, channel: int) -> str:
        """Where to connect for a channel."""
        return self.settings.targets[channel if self.raw else 0]

    # ---- channels

    def free(self, used: Collection[int], now: float) -> int | None:
        """The channel to take next: of those that are free, one that has not failed, or failed least lately."""
        free = [c for c in self.ids if c not in used and not self._refused(c).waits(now)]
        return min(free, key=lambda c: (self._refused(c).until, c), default=None)

    def next_chance(self, used: Collection[int], now: float) -> float:
        """When a channel that could not be had is to be tried again; infinite if there is none."""
        waiting = (b.until for c, b in self.channels.items() if c in self.ids and c not in used and b.waits(now))
        return min(waiting, default=math.inf)

    def channel_failed(self, channel: int, now: float, pace: Pace) -> None:
        """It could not be had. One of a raw VM need not be waited for: its device waits already."""
        if self.raw:
            self.channels[channel] = Backoff(until=now)
        else:
            self.channels.setdefault(channel, Backoff()).failed(now, pace)

    def channel_works(self, channel: int) -> None:
        """A device is attached on it."""
        self.channels.pop(channel, None)

    def _refused(self, channel: int) -> Backoff:
        return self.channels.get(channel, _NEVER_FAILED)

    # ---- the session

    def opened(self, ids: tuple[int, ...], now: float) -> None:
        """The session has begun."""
        self.state, self.ids, self.known, self.failure = SessionState.CONNECTED, ids, len(ids), None
        self.channels.clear()
        self.backoff.works(now)

    def retry(self, failure: Failure, now: float, pace: Pace) -> None:
        """It can't be had now."""
        self._down(SessionState.WAITING, failure)
        self.backoff.failed(now, pace)

    def give_up(self, failure: Failure, now: float) -> None:
        """It can't be had as things are."""
        self._down(SessionState.FAILED, failure)
        self.backoff.ended(now)

    def lost_to_another(self, now: float) -> bool:
        """The session has ended while the server goes on. Whether that looks like another client by now."""
        self.losses = [at for at in self.losses if now - at < TAKEOVER_SECONDS] + [now]
        return len(self.losses) >= TAKEOVERS

    def yield_to_another(self, failure: Failure, now: float) -> None:
        """Leave it to the other client."""
        self._down(SessionState.YIELDED, failure)
        self.backoff.ended(now)

    def close(self, now: float) -> None:
        """Nobody needs the session any more."""
        self._down(SessionState.IDLE, None)
        self.backoff.ended(now)

    def ask_again(self) -> None:
        """Somebody wants it now, whatever has happened before."""
        self.losses.clear()
        self.backoff.hurry()
        if self.state not in (SessionState.CONNECTING, SessionState.CONNECTED):
            self.state, self.failure = SessionState.IDLE, None

    def _down(self, state: SessionState, failure: Failure | None) -> None:
        self.state, self.failure = state, failure
        if not self.raw:
            self.ids = ()
            self.channels.clear()


_NEVER_FAILED = Backoff()
