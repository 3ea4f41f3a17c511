"""What the API says of devices and VMs, and when it is to say it anew."""

from collections.abc import Mapping

from usbbridge.control.actions import Changed, Failure, VmChanged
from usbbridge.control.devices import DeviceTrack, View
from usbbridge.control.views import device_view, vm_view
from usbbridge.control.vms import VmTrack, VmView
from usbbridge.control.world import World
from usbbridge.errors import NotFoundError
from usbbridge.ipc.api import DeviceStatus, Status, VmStatus


def publish(world: World, now: float) -> None:
    """Compare what is to be shown with what was shown last."""
    for device in world.devices.values():
        view = device_view(world, device, now)
        if view != device.view:
            if device.view is None or device.view.state is not view.state:
                device.since = now
            device.view = view
            world.do(Changed(device.id))
    for vm in world.vms:
        shown = vm_view(world, vm)
        if shown != vm.view:
            vm.view = shown
            world.do(VmChanged(vm.name))


def device_status(world: World, name: str, now: float, wall: float, counters: tuple[int, int]) -> DeviceStatus:
    """Of one device by its id. Raises NotFoundError."""
    device = world.devices.get(name)
    if device is None or device.view is None:
        raise NotFoundError(f"the device {name} is no longer plugged in")
    return _device_status(device, device.view, now, wall, counters)


def vm_status(world: World, name: str, now: float) -> VmStatus:
    """Of one VM by its name. Raises NotFoundError."""
    vm = find_vm(world, name)
    return _vm_status(vm, vm.view or vm_view(world, vm), now)


def find_vm(world: World, name: str) -> VmTrack:
    """The VM of that very name. Raises NotFoundError."""
    vm = world.vms.get(name)
    if vm is None:
        raise NotFoundError(f"no VM is called {name}")
    return vm


def status(
    world: World, now: float, wall: float, version: str, pid: int, counters: Mapping[str, tuple[int, int]]
) -> Status:
    """Everything."""
    return Status(
        version=version,
        pid=pid,
        monitor=world.monitor,
        devices=tuple(device_status(world, d, now, wall, counters.get(d, (0, 0))) for d in world.devices),
        vms=tuple(vm_status(world, vm.name, now) for vm in world.vms),
        choices=world.choices.all,
        suspended=world.suspended,
    )


def _device_status(device: DeviceTrack, view: View, now: float, wall: float, counters: tuple[int, int]) -> DeviceStatus:
    """The view at a certain time: `now` of the engine's clock, which is `wall` seconds since the epoch."""
    return DeviceStatus(
        device=view.plugged,
        state=view.state,
        vm=view.vm,
        channel=view.channel,
        since=wall - (now - device.since),
        retry_in=None if view.until is None else max(view.until - now, 0.0),
        attempts=view.attempts,
        message=view.message,
        hint=view.hint,
        error=view.error,
        status=view.status,
        remembered=view.remembered,
        encoder=view.encoder,
        to_vm=counters[0],
        from_vm=counters[1],
    )


def _vm_status(vm: VmTrack, view: VmView, now: float) -> VmStatus:
    """The view at a certain time."""
    failure = view.failure or Failure(0, "", "")
    return VmStatus(
        name=vm.name,
        target=view.target,
        default=view.default,
        state=view.state,
        channels=view.channels,
        used=view.used,
        queued=view.queued,
        retry_in=None if view.until is None else max(view.until - now, 0.0),
        message=failure.message,
        hint=failure.hint,
        error=failure.error,
        status=failure.status,
    )
