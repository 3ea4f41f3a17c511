"""What people ask for: which device and which VM they mean, whether it may be, and the wish that follows from it."""

from collections.abc import Iterable
from dataclasses import replace

from usbbridge.control.devices import LIVE, DeviceTrack, Origin, Phase, Wish, faces
from usbbridge.control.vms import LINGER_SECONDS, VmTrack
from usbbridge.control.wishes import destination, forbidden, obstacle
from usbbridge.control.world import World
from usbbridge.errors import ConnectionLostError, NotFoundError, RefusedError
from usbbridge.ipc.api import Attach, Choice, Detach, Forget, Remember, SessionState
from usbbridge.usb.selection import find


def attach(world: World, request: Attach) -> DeviceTrack:
    """Somebody wants a device at a VM. Raises UsbBridgeError subclasses, and then nothing has changed."""
    device = pick(world, request.device, request.serial)
    vm = world.vms.resolve(request.vm or _where_to(world, device))
    _check(world, device, request)
    _remember(world, device, vm, _how(world, device, request))
    _wish(world, device, vm, request)
    return device


def _where_to(world: World, device: DeviceTrack) -> str:
    """For a request that names no VM. Empty: nothing is known."""
    if device.wish is not None and world.vms.find(device.wish.vm):
        return device.wish.vm
    choice = world.choice_of(device)
    if choice is not None and world.vms.find(choice.vm):
        return choice.vm
    return destination(device.entry, world.config, "")


def _check(world: World, device: DeviceTrack, request: Attach) -> None:
    _check_awake(world)
    error = forbidden(device.plugged, asked=True)
    if error is not None:
        raise error
    found = obstacle(device.entry, unmount=request.unmount, force=request.force)
    if found is not None and not (device.attempt and device.attempt.phase in LIVE):
        raise found.error()


def _check_awake(world: World) -> None:
    if world.ending:
        raise RefusedError("the service is about to end", hint="ask again when it has been started again")
    if world.suspended:
        raise RefusedError("this machine is about to sleep", hint="`usbbridge resume` says that it is awake again")


def _remember(world: World, device: DeviceTrack, vm: VmTrack, how: Remember) -> None:
    """Keep the choice. One that sends another face of the device to another VM is over."""
    present = world.entries()
    changed = world.choices.remember(device.entry, vm.name, how, present)
    for face in faces(device.plugged)[1:] if how is not Remember.NO else ():
        other = world.choices.find(face, present)
        changed |= other is not None and other.vm != vm.name and world.choices.forget_device(face)
    if changed:
        world.choices_changed()


def _how(world: World, device: DeviceTrack, request: Attach) -> Remember:
    """How to remember it: as was asked for; else as was configured, if this device can be known that way."""
    if request.remember is not Remember.AUTO:
        return request.remember
    configured = Remember(world.config.auto.remember)
    return Remember.AUTO if configured is Remember.SERIAL else configured


def _wish(world: World, device: DeviceTrack, vm: VmTrack, request: Attach) -> None:
    earlier, attempt = device.wish, device.attempt
    stays = earlier is not None and world.vms.find(earlier.vm) is vm
    order = earlier.order if earlier is not None and stays else world.numbers()
    there = stays and attempt is not None and attempt.phase in (Phase.ATTACHING, Phase.ATTACHED)
    device.wish = Wish(vm.name, Origin.PERSON, order, request.unmount and not there, request.force and not there)
    device.held = device.fresh = False
    if not there:
        device.forgive()
        vm.ask_again()
        vm.channels.clear()


def detach(world: World, request: Detach) -> DeviceTrack:
    """Somebody wants a device back, for good unless `keep`. Raises UsageError or NotFoundError."""
    device = pick_in_use(world, request.device, request.serial)
    if not request.keep:
        _forget(world, device)
    device.wish, device.held, device.fresh = None, True, False
    device.forgive()
    return device


def _forget(world: World, device: DeviceTrack) -> None:
    """Drop whatever could bring the device to a VM, with whichever of its faces."""
    before = world.choices.all
    for face in faces(device.plugged):
        world.choices.forget_device(face)
    if world.choices.all != before:
        world.choices_changed()


def forget(world: World, request: Forget) -> tuple[Choice, ...]:
    """Somebody wants choices dropped; what is attached stays so. Raises UsageError or NotFoundError."""
    if world.choices.forget(request, world.entries()):
        world.choices_changed()
    return world.choices.all


def vm_check(world: World, name: str, now: float) -> VmTrack:
    """Somebody wants to know whether a VM can be reached: opens a session for a moment. Raises UsbBridgeError."""
    vm = world.vms.resolve(name)
    if vm.state is SessionState.YIELDED:  # to look would take it away from whoever works there
        raise RefusedError(f"{vm.name} is in use by another SPICE client", hint="attach a device to take it over")
    _check_awake(world)
    vm.kept_until = now + LINGER_SECONDS
    if not vm.raw:  # a raw one has no session: it can't be looked at without taking a channel
        vm.ask_again()
    return vm


def pick(world: World, selector: str, serial: str, among: Iterable[DeviceTrack] | None = None) -> DeviceTrack:
    """The device that is meant, of all or of `among`. Raises UsageError or NotFoundError; ConnectionLostError if it may
    only be unknown because the monitor is not there."""
    tracks = list(world.devices.values() if among is None else among)
    by_id = next((device for device in tracks if device.id == selector), None)
    if by_id is not None and serial in ("", by_id.entry.serial):
        return by_id
    try:
        entry = find([device.entry for device in tracks], selector or None, serial=serial or None)
    except NotFoundError:
        if not world.synced and among is None:
            hint = "systemctl status usbbridge-monitor"
            raise ConnectionLostError("the monitor, which knows the devices, is not connected", hint=hint) from None
        raise
    return next(device for device in tracks if device.entry is entry)


def pick_in_use(world: World, selector: str, serial: str) -> DeviceTrack:
    """The same, first of those that are at a VM or wanted there, then of all."""
    wanted = [device for device in world.devices.values() if device.wish is not None or device.attempt is not None]
    try:
        return pick(world, selector, serial, wanted)
    except NotFoundError:
        return pick(world, selector, serial)


def carry_over(device: DeviceTrack, earlier: tuple[Wish | None, bool] | None) -> None:
    """The device was there before this machine slept: it is wanted as it was then."""
    if earlier is not None:
        wish, device.held = earlier
        device.wish = None if wish is None else replace(wish, unmount=False, force=False)
