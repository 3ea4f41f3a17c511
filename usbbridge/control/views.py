"""What is shown of devices and VMs: states, and sentences that say why."""

from collections.abc import Sequence
from dataclasses import replace

from usbbridge.control.actions import Failure
from usbbridge.control.devices import Attempt, DeviceTrack, Phase, View
from usbbridge.control.vms import VmTrack, VmView
from usbbridge.control.wishes import refusal
from usbbridge.control.world import World
from usbbridge.errors import ConnectionLostError, NotFoundError
from usbbridge.ipc.api import SessionState, State

NO_MONITOR = Failure.of(
    ConnectionLostError("waits for the monitor, which is not connected", hint="systemctl status usbbridge-monitor")
)
MORE_CHANNELS = "detach one of them, or give the VM more USB channels (libvirt: <redirdev bus='usb' type='spicevmc'/>)"

_STATES = {
    Phase.OPENING: State.OPENING,
    Phase.UNWANTED: State.DETACHING,
    Phase.ATTACHING: State.ATTACHING,
    Phase.ATTACHED: State.ATTACHED,
    Phase.STOPPING: State.DETACHING,
}
_STEPS = {"linked": "linked to the VM", "hello": "the VM answers", "announced": "the VM has been told of it"}


def device_view(world: World, device: DeviceTrack, now: float) -> View:
    """What a device is shown as."""
    attempt = device.attempt
    view = _of_wish(world, device, now) if attempt is None else _of_attempt(device, attempt)
    return replace(view, remembered=world.choice_of(device) is not None)


def _of_attempt(device: DeviceTrack, attempt: Attempt) -> View:
    return View(
        device.plugged,
        _STATES[attempt.phase],
        attempt.vm.name,
        channel=None if attempt.vm.raw else attempt.channel,
        attempts=0 if attempt.phase is Phase.ATTACHED else device.backoff.failures,
        message=_STEPS.get(attempt.step, "") if attempt.phase is Phase.ATTACHING else "",
        encoder=attempt.pid,
    )


def _of_wish(world: World, device: DeviceTrack, now: float) -> View:
    wish = device.wish
    if wish is None or world.suspended:
        if device.returning is not None:
            return View(device.plugged, State.DETACHING, message="is being given back to the system")
        if wish is None:
            return View(device.plugged, State.LOCAL)
        why = "taken back, as the service ends" if world.ending else "taken back for as long as this machine sleeps"
        return View(device.plugged, State.SUSPENDED, wish.vm, message=why)
    vm = world.vms.find(wish.vm)
    refused = refusal(device, wish) or (_missing(wish.vm) if vm is None else None)
    view = View(device.plugged, State.FAILED, vm.name if vm else wish.vm, attempts=device.backoff.failures)
    if refused or vm is None:
        return _with(view, State.FAILED, refused)
    obstacle = world.obstacle(device)
    if obstacle:
        return _with(view, State.WAITING, Failure.of(obstacle.error()))
    if device.given_up:
        return _with(view, State.FAILED, device.failure)
    return _waiting(world, device, vm, view, now)


def _waiting(world: World, device: DeviceTrack, vm: VmTrack, view: View, now: float) -> View:
    """Nothing is wrong with the device: what it waits for."""
    if vm.state is SessionState.FAILED:
        return _with(view, State.FAILED, vm.failure)
    if vm.state is SessionState.YIELDED:
        return _with(view, State.WAITING, vm.failure)
    if not world.synced:
        return _with(view, State.WAITING, NO_MONITOR)
    if vm.state is SessionState.WAITING:
        return _with(view, State.WAITING, vm.failure, until=vm.backoff.until)
    if device.backoff.waits(now):
        return _with(view, State.WAITING, device.failure, until=device.backoff.until)
    if not vm.usable:
        return replace(view, state=State.WAITING, message=f"connecting to {vm.name}")
    return replace(view, state=State.QUEUED, message=_queued(world, vm), hint=MORE_CHANNELS)


def _with(view: View, state: State, failure: Failure | None, *, until: float | None = None) -> View:
    if failure is None:
        return replace(view, state=state, until=until)
    return replace(
        view,
        state=state,
        until=until,
        message=failure.message,
        hint=failure.hint,
        error=failure.error,
        status=failure.status,
    )


def _missing(vm: str) -> Failure:
    hint = "attach it to another one, or put that VM back into the configuration"
    return Failure.of(NotFoundError(f"belongs to the VM {vm}, which the configuration does not have", hint=hint))


def _queued(world: World, vm: VmTrack) -> str:
    holders = [attempt.name for attempt in sorted(world.attempts_at(vm), key=lambda attempt: attempt.channel)]
    others = len(vm.ids) - len(holders)
    if others:
        holders.append("another SPICE client" if others == 1 else f"{others} other SPICE clients")
    return f"waits for a free channel on {vm.name}: {_all_in_use(len(vm.ids))}, by {_listed(holders)}"


def _all_in_use(number: int) -> str:
    if number == 1:
        return "its only one is in use"
    return "both are in use" if number == 2 else f"all {number} are in use"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def vm_view(world: World, vm: VmTrack) -> VmView:
    """What a VM is shown as."""
    queued = [device for device in world.devices.values() if _is_queued_at(device, vm)]
    state = vm.state
    if vm.raw:
        state = SessionState.CONNECTED if any(a.attached_at is not None for a in world.attempts_at(vm)) else state
    return VmView(
        state=state,
        target=vm.target,
        default=vm.name == world.vms.default,
        channels=vm.known,
        used=len(world.attempts_at(vm)),
        queued=len(queued),
        until=vm.backoff.until if state is SessionState.WAITING and world.wanted(vm) else None,
        failure=vm.failure,
    )


def _is_queued_at(device: DeviceTrack, vm: VmTrack) -> bool:
    view = device.view
    return view is not None and view.state is State.QUEUED and view.vm == vm.name
