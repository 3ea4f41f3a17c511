"""What control decides: which device goes to which VM, when, and what follows if that fails.

Pure: it is told what has happened and what time it is (seconds of any clock that never goes back), and says what to do
(`usbbridge.control.actions`). Each method changes what is known, and then `settle` decides from what is known alone.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

from usbbridge import __version__
from usbbridge.config import Config, Vm
from usbbridge.control import endings, following, reporting, requests
from usbbridge.control.actions import (
    Action,
    CloseSession,
    DropOpened,
    Failure,
    Left,
    Start,
    Tell,
    VmLeft,
)
from usbbridge.control.backoff import Pace
from usbbridge.control.choices import Choices
from usbbridge.control.devices import LIVE, DeviceTrack, Phase, identity
from usbbridge.control.settle import deadline, settle
from usbbridge.control.vms import VmTrack
from usbbridge.control.wishes import retarget
from usbbridge.control.world import World
from usbbridge.ipc.api import Attach, Choice, Detach, DeviceStatus, Forget, SessionState, Status, VmStatus
from usbbridge.ipc.monitoring import Adopt, PluggedDevice, Synced

_Answer = TypeVar("_Answer")


class Engine:
    """The decisions of one control process. After each call, carry out `take_actions()` and call `tick` at `deadline`.

    Methods that carry out somebody's request raise UsbBridgeError subclasses; no other method raises anything.
    """

    def __init__(self, *, jitter: Callable[[], float]) -> None:
        """`jitter()` in 0.5..1.0 shortens each wait, so that the clients of one host do not all come back at once."""
        self._jitter = jitter
        self._world: World | None = None
        self._deadline = float("inf")

    @property
    def world(self) -> World:
        """What is known. For reading."""
        assert self._world is not None, "configure comes first"
        return self._world

    @property
    def deadline(self) -> float:
        """When `tick` is to be called; infinite if nothing waits for a time."""
        return self._deadline

    @property
    def busy(self) -> bool:
        """Whether a device is still with, or on its way to or from, a VM. False is what a machine that is to sleep, or
        a process that is to end, waits for after `suspend`."""
        world = self.world
        return bool(world.attempts) or any(device.returning is not None for device in world.devices.values())

    @property
    def suspended(self) -> bool:
        """Between `suspend` and `resume`."""
        return self.world.suspended

    @property
    def monitor(self) -> bool:
        """Whether the monitor is connected."""
        return self.world.monitor

    # ---- configuration

    def configure(self, config: Config, now: float) -> None:
        """Before anything else; and again when it has changed: then what had been given up is tried again."""
        pace = Pace(self._jitter, config.retry.first, config.retry.longest)
        if self._world is None:
            self._world = World(config, pace)
        world = self.world
        world.config, world.pace = config, pace
        for vm in world.vms.configure(config):
            self._retire(vm)
        for vm in world.vms:
            if vm.state in (SessionState.FAILED, SessionState.WAITING):
                vm.ask_again()
        for device in world.devices.values():
            device.forgive()
            if device.wish is not None:
                device.wish = retarget(device.wish, device.entry, config, world.vms.default)
        self._settle(now)

    def load_choices(self, choices: tuple[Choice, ...], now: float) -> None:
        """What an earlier process was told to save."""
        self.world.choices = Choices(choices)
        self._settle(now)

    def _retire(self, vm: VmTrack) -> None:
        if vm.state in (SessionState.CONNECTING, SessionState.CONNECTED):
            self.world.do(CloseSession(vm.name))
        if self.world.vms.get(vm.name) is None:
            self.world.do(VmLeft(vm.name))

    # ---- the monitor

    def monitor_connected(self, now: float) -> None:
        """It will tell the devices that are there, and then `listed`."""
        self.world.monitor, self.world.synced = True, False
        for device in self.world.devices.values():
            device.told = False
        self._settle(now)

    def device(self, plugged: PluggedDevice, now: float) -> None:
        """A device is there, or has changed."""
        world = self.world
        known = world.devices.get(plugged.id)
        if known is not None and identity(known.entry) == identity(plugged.entry):
            endings.told_again(known, plugged)
        else:
            for other in [d for d in world.devices.values() if d.entry.bus_port == plugged.entry.bus_port]:
                self._remove(other, now)  # a port holds one device
            track = world.devices[plugged.id] = DeviceTrack(plugged, since=now)
            if world.sleeps_or_wakes(now):
                requests.carry_over(track, world.asleep.pop(world.place(track), None))
            following.arrived(world, track, now)
        self._settle(now)

    def gone(self, device: str, now: float) -> None:
        """A device is no longer there."""
        known = self.world.devices.get(device)
        if known is not None:
            self._remove(known, now)
        self._settle(now)

    def _remove(self, device: DeviceTrack, now: float) -> None:
        world = self.world
        del world.devices[device.id]
        following.left(world, device, now)
        if world.sleeps_or_wakes(now):
            world.asleep[world.place(device)] = (device.wish, device.held)
        elif world.asleep:
            world.asleep.clear()
        world.do(Left(device.id))

    def listed(self, now: float) -> None:
        """What has not been told since `monitor_connected` is not there. What encoders have is to be left to them."""
        world = self.world
        for device in [device for device in world.devices.values() if not device.told]:
            self._remove(device, now)
        for attempt in world.attempts.values():
            if attempt.phase in LIVE and attempt.device in world.devices:
                world.do(Tell(Adopt(attempt.device), attempt.key))
        world.do(Tell(Synced()))
        world.synced = True
        self._settle(now)

    def returned(self, device: str, now: float) -> None:
        """The device is with its kernel driver again."""
        known = self.world.devices.get(device)
        if known is not None:
            known.returning = None
        self._settle(now)

    def monitor_lost(self, now: float) -> None:
        """What it was asked for, it will not answer. What encoders have stays with them."""
        world = self.world
        world.monitor = world.synced = False
        for attempt in list(world.attempts.values()):
            if attempt.phase not in LIVE:
                world.drop_opened(attempt)
        for device in world.devices.values():
            device.returning = None
        self._settle(now)

    def opened(self, request: int, now: float) -> None:
        """The monitor has opened the device that was asked for."""
        world = self.world
        attempt = world.attempts.get(request)
        device = world.devices.get(attempt.device) if attempt else None
        if attempt is None or attempt.phase in LIVE:
            world.do(DropOpened(request))
        elif attempt.phase is Phase.UNWANTED or device is None:
            world.given_back(world.drop_opened(attempt), now)
        else:
            attempt.phase, vm = Phase.ATTACHING, attempt.vm
            channel = None if vm.raw else attempt.channel
            target, quirks = vm.target_of(attempt.channel), device.plugged.quirks
            world.do(Start(request, device.id, attempt.name, vm.name, target, channel, vm.settings, quirks))
        self._settle(now)

    def refused(self, request: int, failure: Failure, now: float) -> None:
        """The monitor does not hand out the device that was asked for."""
        attempt = self.world.attempts.get(request)
        if attempt is not None and attempt.phase not in LIVE:
            endings.refused(self.world, attempt, failure, now)
        self._settle(now)

    # ---- encoders

    def encoder_started(self, key: int, pid: int, now: float) -> None:
        """An encoder works on the attachment."""
        attempt = self.world.attempts.get(key)
        if attempt is not None:
            attempt.pid = pid
        self._settle(now)

    def progressed(self, key: int, step: str, detail: str, now: float) -> None:
        """The encoder is a step further: `linked`, `hello`, `announced`, `attached`."""
        attempt = self.world.attempts.get(key)
        if attempt is not None and attempt.phase is Phase.ATTACHING:
            attempt.step = step
            if step == "attached":
                endings.attached(self.world, attempt, now)
        self._settle(now)

    def encoder_ended(self, key: int, failure: Failure | None, now: float, resets: int = 0) -> None:
        """The encoder is gone, and the lease with it. No failure: it was told to stop, by us or with a signal. The
        guest has reset the device `resets` times."""
        attempt = self.world.attempts.get(key)
        if attempt is not None and attempt.phase in LIVE:
            attempt.resets = resets
            endings.ended(self.world, attempt, failure, now)
        self._settle(now)

    # ---- sessions

    def session_opened(self, vm: str, channels: tuple[int, ...], now: float) -> None:
        """The session has begun, and the VM has these USBREDIR channels."""
        track = self.world.vms.get(vm)
        if track is None or track.state is not SessionState.CONNECTING:
            self.world.do(CloseSession(vm))
        else:
            endings.session_opened(self.world, track, channels, now)
        self._settle(now)

    def session_failed(self, vm: str, failure: Failure, now: float) -> None:
        """It could not be opened."""
        track = self.world.vms.get(vm)
        if track is not None and track.state is SessionState.CONNECTING:
            endings.session_failed(self.world, track, failure, now)
        self._settle(now)

    def session_lost(self, vm: str, failure: Failure, server_alive: bool, now: float) -> None:
        """It has ended by itself. `server_alive`: the server still takes connections."""
        track = self.world.vms.get(vm)
        if track is not None and track.state is SessionState.CONNECTED:
            endings.session_lost(self.world, track, failure, server_alive=server_alive, now=now)
        self._settle(now)

    # ---- people

    def attach(self, request: Attach, now: float) -> str:
        """Id of the device that goes to a VM now. Raises UsbBridgeError subclasses if it will not."""
        return self._asked(lambda: requests.attach(self.world, request), now).id

    def find(self, selector: str, serial: str) -> str:
        """Id of the device that is meant, of those at a VM if that decides it. Raises UsageError or NotFoundError."""
        return requests.pick_in_use(self.world, selector, serial).id

    def detach(self, request: Detach, now: float) -> str:
        """Id of the device that comes back now, or was here already. Raises UsageError or NotFoundError."""
        return self._asked(lambda: requests.detach(self.world, request), now).id

    def forget(self, request: Forget, now: float) -> tuple[Choice, ...]:
        """The choices that are left. Raises UsageError or NotFoundError."""
        return self._asked(lambda: requests.forget(self.world, request), now)

    def vm_check(self, name: str, now: float) -> str:
        """Name of the VM to which a session is opened now, unless there is one. Raises UsbBridgeError subclasses."""
        return self._asked(lambda: requests.vm_check(self.world, name, now), now).name

    def _asked(self, request: Callable[[], _Answer], now: float) -> _Answer:
        try:
            return request()
        finally:  # a request that is refused may have named a target, which is then forgotten again
            self._settle(now)

    def suspend(self, now: float) -> None:
        """The machine is about to sleep: every device comes back, every session is closed. See `busy`."""
        world = self.world
        world.suspended = True
        for vm in world.vms:
            vm.kept_until = None
        self._settle(now)

    def end(self, now: float) -> None:
        """The service is about to end: as `suspend`, for good."""
        self.world.ending = True
        self.suspend(now)

    def resume(self, now: float) -> None:
        """The machine is awake: everything goes where it was, at once."""
        world = self.world
        world.suspended, world.resumed_at = False, now
        for vm in world.vms:
            vm.backoff.reset()
        for device in world.devices.values():
            device.backoff.reset()
        self._settle(now)

    # ---- what follows

    def tick(self, now: float) -> None:
        """Time has passed."""
        self._settle(now)

    def take_actions(self) -> list[Action]:
        """What is to be done, in this order. Each action is returned once."""
        actions = list(self.world.actions)
        self.world.actions.clear()
        return actions

    def _settle(self, now: float) -> None:
        settle(self.world, now)
        self._deadline = deadline(self.world, now)
        reporting.publish(self.world, now)

    # ---- what is known

    def vm(self, name: str) -> Vm:
        """Its settings. Raises NotFoundError."""
        return reporting.find_vm(self.world, name).settings

    def device_status(self, device: str, now: float, wall: float, counters: tuple[int, int] = (0, 0)) -> DeviceStatus:
        """`wall` is `now` in seconds since the epoch; `counters` are bytes to and from the VM. Raises NotFoundError."""
        return reporting.device_status(self.world, device, now, wall, counters)

    def vm_status(self, name: str, now: float) -> VmStatus:
        """Raises NotFoundError."""
        return reporting.vm_status(self.world, name, now)

    def status(
        self,
        now: float,
        wall: float,
        *,
        version: str = __version__,
        pid: int,
        counters: Mapping[str, tuple[int, int]] | None = None,
    ) -> Status:
        """Everything. `counters` by the device's id."""
        return reporting.status(self.world, now, wall, version, pid, counters or {})
