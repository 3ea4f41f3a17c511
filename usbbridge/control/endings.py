"""What follows when something has succeeded, failed or ended: attachments and sessions."""

from dataclasses import replace

from usbbridge.control.actions import CloseSession, Failure
from usbbridge.control.devices import Attempt, DeviceTrack, Phase
from usbbridge.control.failures import Fate, concerns_model, fate, no_channels
from usbbridge.control.vms import VmTrack
from usbbridge.control.world import World
from usbbridge.errors import ConnectionLostError
from usbbridge.ipc.api import SessionState
from usbbridge.ipc.monitoring import PluggedDevice

FROM_OUTSIDE = Failure(1, "EncoderError", "the encoder process was told to end, and not by this service")


def told_again(device: DeviceTrack, plugged: PluggedDevice) -> None:
    """The monitor tells a device that is known."""
    before, device.plugged, device.told = device.plugged, plugged, True
    rules_changed = (before.verdict, before.rule, before.quirks) != (plugged.verdict, plugged.rule, plugged.quirks)
    cleared = before.entry.obstacle is not None and plugged.entry.obstacle is None
    if rules_changed or (cleared and device.by_monitor):
        device.forgive()


# ---- attachments


def attached(world: World, attempt: Attempt, now: float) -> None:
    """The VM uses the device."""
    attempt.phase, attempt.attached_at = Phase.ATTACHED, now
    attempt.vm.channel_works(attempt.channel)
    device = world.devices.get(attempt.device)
    if device is not None:
        device.backoff.works(now)
        device.failure = None
        if device.wish is not None:  # that was for this time: by the next, its disks may be in use for another reason
            device.wish = replace(device.wish, unmount=False, force=False)
    world.tell_outcome(attempt, "attached", now=now)


def refused(world: World, attempt: Attempt, failure: Failure, now: float) -> None:
    """The monitor has not handed the device out."""
    device = world.forget_attempt(attempt)
    if device is None or attempt.phase is Phase.UNWANTED:
        return
    if device.wish is not None and device.wish != attempt.wish:
        return  # it has been asked for in another way since: that is another question
    _fail(world, device, failure, now, by_monitor=True)


def ended(world: World, attempt: Attempt, failure: Failure | None, now: float) -> None:
    """The encoder is gone."""
    device = world.forget_attempt(attempt)
    world.given_back(device, now)
    wanted = attempt.phase is Phase.STOPPING
    _tell_end(world, attempt, None if wanted else failure, now)
    if device is None:
        return
    if wanted:
        device.backoff.ended(now)
        return
    failure = failure or FROM_OUTSIDE
    what, vm = fate(failure), attempt.vm
    if what is Fate.OTHER_CHANNEL and not vm.raw:
        vm.channel_failed(attempt.channel, now, world.pace)
    elif what is Fate.NEW_SESSION and not vm.raw:
        _session_forgotten(world, vm, failure, now)
    else:
        if vm.raw:
            vm.channel_failed(attempt.channel, now, world.pace)
        _fail(world, device, failure, now)


def _fail(world: World, device: DeviceTrack, failure: Failure, now: float, *, by_monitor: bool = False) -> None:
    device.fail(failure, given_up=fate(failure) is Fate.GIVE_UP, by_monitor=by_monitor)
    device.backoff.failed(now, world.pace)


def _tell_end(world: World, attempt: Attempt, failure: Failure | None, now: float) -> None:
    error, words = (failure.error, failure.message) if failure else ("", "")
    if attempt.attached_at is not None:
        world.tell_outcome(attempt, "ended", error=error, words=words, now=now)
    elif failure is not None and concerns_model(failure):
        world.tell_outcome(attempt, "failed", error=error, words=words, now=now)


# ---- sessions


def session_opened(world: World, vm: VmTrack, channels: tuple[int, ...], now: float) -> None:
    """It has begun."""
    if channels:
        vm.opened(channels, now)
    else:
        world.do(CloseSession(vm.name))
        vm.known = 0
        vm.give_up(no_channels(vm.name), now)


def session_failed(world: World, vm: VmTrack, failure: Failure, now: float) -> None:
    """It could not be opened."""
    if fate(failure) is Fate.GIVE_UP:
        vm.give_up(failure, now)
    else:
        vm.retry(failure, now, world.pace)


def session_lost(world: World, vm: VmTrack, failure: Failure, *, server_alive: bool, now: float) -> None:
    """It has ended by itself."""
    if server_alive and vm.lost_to_another(now):
        words = f"another SPICE client has taken {vm.name} over"
        error = ConnectionLostError(words, hint="attach a device to take it back")
        vm.yield_to_another(Failure.of(error), now)
    else:
        vm.retry(failure, now, world.pace)


def _session_forgotten(world: World, vm: VmTrack, failure: Failure, now: float) -> None:
    """The server knows nothing of it: MAIN, too, is about to be closed."""
    if vm.state is SessionState.CONNECTED and world.vms.get(vm.name) is vm:
        world.do(CloseSession(vm.name))
        session_lost(world, vm, failure, server_alive=True, now=now)
