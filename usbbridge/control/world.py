"""Everything the engine knows, and the questions about it that more than one decision needs."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from usbbridge.config import Config
from usbbridge.control.actions import Action, ChoicesChanged, DropOpened, SaveChoices, Stop, Tell
from usbbridge.control.backoff import Pace
from usbbridge.control.choices import Choices
from usbbridge.control.devices import ENDING, Attempt, Departed, DeviceTrack, Phase, Wish, faces, identity
from usbbridge.control.vmbook import VmBook
from usbbridge.control.vms import VmTrack
from usbbridge.control.wishes import obstacle, refusal
from usbbridge.ipc.api import Choice
from usbbridge.ipc.monitoring import Outcome
from usbbridge.usb.entry import DeviceEntry, Obstacle

GIVE_BACK_SECONDS = 5.0
"""How long the monitor's word that a device is back is waited for: to bind a driver again takes milliseconds, and a
disk that does not answer is probed for longer than anybody wants to wait."""

RESUME_SECONDS = 30.0
"After waking up, how long a device that disappears and comes back counts as the one that was there before."

_Place = tuple[tuple[int, int, str], str]


@dataclass(slots=True, eq=False)
class World:
    """Devices, VMs, attachments, choices; and the actions that have been decided on."""

    config: Config
    pace: Pace
    vms: VmBook = field(default_factory=VmBook)
    devices: dict[str, DeviceTrack] = field(default_factory=dict)
    attempts: dict[int, Attempt] = field(default_factory=dict)
    choices: Choices = field(default_factory=Choices)
    monitor: bool = False
    synced: bool = False
    "The monitor has told all devices: there are these, and no others."
    suspended: bool = False
    ending: bool = False
    "It is suspended because the service ends, and will not be resumed."
    resumed_at: float = -math.inf
    asleep: dict[_Place, tuple[Wish | None, bool]] = field(default_factory=dict)
    "Wishes, and whether it was held, of devices that went away while this machine slept or woke up."
    departed: dict[str, Departed] = field(default_factory=dict)
    "By BUS-PORT: what was there before, and may be about to come back as another."
    actions: deque[Action] = field(default_factory=deque)
    numbers: Callable[[], int] = field(default_factory=lambda: count(1).__next__)
    "Of attachments and of wishes, ever growing."

    def do(self, action: Action) -> None:
        """It is decided."""
        self.actions.append(action)

    # ---- devices

    def entries(self) -> list[DeviceEntry]:
        """All devices that are there."""
        return [device.entry for device in self.devices.values()]

    def choice_of(self, device: DeviceTrack) -> Choice | None:
        """The choice that is about a device, whichever of its faces it was made for; the one it has now comes first."""
        present = self.entries()
        found = (self.choices.find(face, present) for face in faces(device.plugged))
        return next((choice for choice in found if choice), None)

    def vm_of(self, device: DeviceTrack) -> VmTrack | None:
        """The VM at which the device is wanted and may be; None if nowhere."""
        if self.suspended or device.wish is None or refusal(device, device.wish):
            return None
        return self.vms.find(device.wish.vm)

    def obstacle(self, device: DeviceTrack) -> Obstacle | None:
        """What is in the way of taking the device, given how it was asked for."""
        wish = device.wish
        return obstacle(device.entry, unmount=bool(wish and wish.unmount), force=bool(wish and wish.force))

    def heading_for(self, device: DeviceTrack) -> VmTrack | None:
        """The VM that the device is not at, but is to be: nothing is in its way but perhaps an attachment that ends."""
        ends = device.attempt is None or device.attempt.phase in ENDING
        return self.vm_of(device) if ends and not device.given_up and not self.obstacle(device) else None

    def candidate_for(self, device: DeviceTrack) -> VmTrack | None:
        """The VM that the device could go to at once."""
        return None if device.attempt else self.heading_for(device)

    def queue(self, vm: VmTrack, now: float) -> list[DeviceTrack]:
        """Devices that want a channel of the VM now, in their order."""
        if not (self.synced and vm.usable):
            return []
        waiting = [d for d in self.devices.values() if not d.backoff.waits(now) and self.candidate_for(d) is vm]
        return sorted(waiting, key=lambda device: device.wish.order if device.wish else 0)

    def sleeps_or_wakes(self, now: float) -> bool:
        """Whether devices may come and go without anybody having touched them."""
        return self.suspended or now - self.resumed_at < RESUME_SECONDS

    def place(self, device: DeviceTrack) -> _Place:
        """What a device is known by while this machine sleeps: itself, and its port."""
        return identity(device.entry), device.entry.bus_port

    # ---- VMs

    def attempts_at(self, vm: VmTrack) -> list[Attempt]:
        """Attachments that hold a channel of the VM."""
        return [attempt for attempt in self.attempts.values() if attempt.vm is vm]

    def used(self, vm: VmTrack) -> set[int]:
        """Channels of the VM that we hold."""
        return {attempt.channel for attempt in self.attempts_at(vm)}

    def awaited(self, vm: VmTrack) -> bool:
        """Whether somebody waits for a session."""
        return vm.kept_until is not None or any(self.heading_for(device) is vm for device in self.devices.values())

    def wanted(self, vm: VmTrack) -> bool:
        """Whether a session would be of use at once: without the monitor, there are no devices to be had."""
        return self.awaited(vm) and (self.synced or vm.kept_until is not None)

    def needed(self, vm: VmTrack) -> bool:
        """Whether the session there is may not be closed: a device waits for it, or is there."""
        return bool(self.attempts_at(vm)) or self.awaited(vm)

    # ---- attachments

    def end(self, attempt: Attempt) -> None:
        """Take the device back. Does nothing if that is already under way."""
        if attempt.phase is Phase.OPENING:
            attempt.phase = Phase.UNWANTED
        elif attempt.phase in (Phase.ATTACHING, Phase.ATTACHED):
            attempt.phase = Phase.STOPPING
            self.do(Stop(attempt.key))

    def forget_attempt(self, attempt: Attempt) -> DeviceTrack | None:
        """It is over. The device, if it is still there."""
        self.attempts.pop(attempt.key, None)
        device = self.devices.get(attempt.device)
        if device is None or device.attempt is not attempt:
            return None
        device.attempt = None
        return device

    def drop_opened(self, attempt: Attempt) -> DeviceTrack | None:
        """The monitor's answer is of no use any more. The device, if it is still there."""
        self.do(DropOpened(attempt.key))
        return self.forget_attempt(attempt)

    def given_back(self, device: DeviceTrack | None, now: float) -> None:
        """The monitor will put the device back, and say so."""
        if device is not None and self.monitor:
            device.returning = now + GIVE_BACK_SECONDS

    def tell_outcome(
        self, attempt: Attempt, result: str, *, error: str = "", words: str = "", now: float
    ) -> None:
        """Have the monitor remember how it went with this model."""
        if self.synced and attempt.device in self.devices:
            seconds = 0.0 if attempt.attached_at is None else now - attempt.attached_at
            self.do(Tell(Outcome(attempt.device, result, error, words, attempt.resets, seconds)))

    def choices_changed(self) -> None:
        """Keep them, and say so."""
        self.do(SaveChoices(self.choices.all))
        self.do(ChoicesChanged())
