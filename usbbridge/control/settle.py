"""From what is wanted and what is, what to do next. Called after everything that happens.

Nothing here asks what has just happened. So it does not matter in which order things happen: whatever was missed is
made up for the next time.
"""

import math

from usbbridge.control.actions import CloseSession, OpenSession, Tell, VmLeft
from usbbridge.control.devices import Attempt, DeviceTrack, Phase, short_name
from usbbridge.control.vms import VmTrack
from usbbridge.control.wishes import derive
from usbbridge.control.world import World
from usbbridge.ipc.api import SessionState
from usbbridge.ipc.monitoring import Open


def settle(world: World, now: float) -> None:
    """Decide all that can be decided now."""
    _expire(world, now)
    if world.synced and not world.suspended:
        _derive_wishes(world)
    for attempt in list(world.attempts.values()):
        if not _is_wanted(world, attempt):
            world.end(attempt)
    for vm in world.vms:
        _care_for_session(world, vm, now)
    for vm in world.vms:
        _open_next(world, vm, now)
    _drop_unused(world)


def deadline(world: World, now: float) -> float:
    """When something is to be decided that nothing but the time brings about. Infinite if nothing is."""
    times = [math.inf]
    for device in world.devices.values():
        times += [device.returning] if device.returning is not None else []
        vm = world.candidate_for(device) if world.synced else None
        if vm is None or not vm.usable:
            continue
        if device.backoff.waits(now):
            times.append(device.backoff.until)
        else:
            times.append(vm.next_chance(world.used(vm), now))
    for vm in world.vms:
        times += [vm.kept_until] if vm.kept_until is not None else []
        if vm.state is SessionState.WAITING and world.wanted(vm):
            times.append(vm.backoff.until)
    return min(times)


def _expire(world: World, now: float) -> None:
    for device in world.devices.values():
        if device.returning is not None and device.returning <= now:
            device.returning = None
    for vm in world.vms:
        if vm.kept_until is not None and vm.kept_until <= now:
            vm.kept_until = None


def _derive_wishes(world: World) -> None:
    present = world.entries()
    chosen = [device.entry for device in world.devices.values() if device.wish is not None]
    if world.choices.tell_apart(chosen, present):
        world.choices_changed()
    for device in world.devices.values():
        fresh, device.fresh = device.fresh, False
        if device.wish is None:
            device.wish = derive(device, world.choice_of(device), world.config, world.vms.default, world.numbers())
        vm = world.vm_of(device)
        if fresh and vm is not None and vm.state is SessionState.FAILED:
            vm.ask_again()  # plugging in is asking


def _is_wanted(world: World, attempt: Attempt) -> bool:
    device = world.devices.get(attempt.device)
    return device is not None and world.vm_of(device) is attempt.vm and attempt.vm.usable


def _care_for_session(world: World, vm: VmTrack, now: float) -> None:
    if vm.raw:
        return
    state = vm.state
    if state in (SessionState.CONNECTING, SessionState.CONNECTED) and not world.needed(vm):
        vm.close(now)
        world.do(CloseSession(vm.name))
    elif state is SessionState.WAITING and not world.awaited(vm):
        vm.close(now)
    elif _may_be_tried(vm, now) and world.wanted(vm):
        vm.state = SessionState.CONNECTING
        world.do(OpenSession(vm.name, vm.settings))


def _may_be_tried(vm: VmTrack, now: float) -> bool:
    return vm.state is SessionState.IDLE or (vm.state is SessionState.WAITING and not vm.backoff.waits(now))


def _open_next(world: World, vm: VmTrack, now: float) -> None:
    for device in world.queue(vm, now):
        channel = vm.free(world.used(vm), now)
        if channel is None:
            return
        _open(world, device, vm, channel)


def _open(world: World, device: DeviceTrack, vm: VmTrack, channel: int) -> None:
    wish = device.wish
    assert wish is not None
    attempt = Attempt(world.numbers(), device.id, short_name(device.entry), vm, channel, wish, Phase.OPENING)
    world.attempts[attempt.key] = device.attempt = attempt
    device.returning = None
    asks = Open(attempt.key, device.id, asked=wish.asked, unmount=wish.unmount, force=wish.force)
    world.do(Tell(asks, attempt.key))


def _drop_unused(world: World) -> None:
    """VMs that somebody has named by their target, and that nobody needs any more."""
    wanted = {world.vms.find(device.wish.vm) for device in world.devices.values() if device.wish is not None}
    for vm in world.vms:
        if not (vm.configured or vm in wanted or vm.kept_until is not None or world.attempts_at(vm)):
            world.vms.drop(vm)
            world.do(VmLeft(vm.name))
