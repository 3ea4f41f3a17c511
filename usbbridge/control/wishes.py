"""Which VM a device is wanted at, and what speaks against it."""

from dataclasses import replace

from usbbridge.compat.rule import Verdict
from usbbridge.config import Assign, Config
from usbbridge.control.actions import Failure
from usbbridge.control.devices import DeviceTrack, Origin, Wish
from usbbridge.errors import RefusedError, UsbBridgeError
from usbbridge.ipc.api import Choice
from usbbridge.ipc.monitoring import PluggedDevice
from usbbridge.usb.entry import DeviceEntry, Obstacle, Reason
from usbbridge.usb.identity import is_bus_port

FOR_GOOD = (Reason.HUB, Reason.NOT_AUTHORIZED)
"Obstacles that make a device nothing to be wanted at all, unless somebody asks and is told why not."


def destination(entry: DeviceEntry, config: Config, default: str) -> str:
    """Name of the VM for a device that nobody has chosen one for; empty if there is none."""
    return next((assign.vm for assign in config.assignments if _is_assigned(entry, assign)), default)


def _is_assigned(entry: DeviceEntry, assign: Assign) -> bool:
    if assign.serial and assign.serial != entry.serial:
        return False
    if not assign.device:
        return bool(assign.serial)
    if is_bus_port(assign.device):
        return assign.device == entry.bus_port
    vendor, _, product = assign.device.partition(":")
    return int(vendor, 16) == entry.vendor and (product == "*" or int(product, 16) == entry.product)


def derive(device: DeviceTrack, choice: Choice | None, config: Config, default: str, order: int) -> Wish | None:
    """The wish that a device comes with when it is plugged in; None if it stays with this machine."""
    verdict, obstacle = device.plugged.verdict, device.entry.obstacle
    if device.held or verdict is Verdict.DENY or (obstacle and obstacle.reason in FOR_GOOD):
        return None
    if choice is not None:
        return Wish(choice.vm, Origin.CHOICE, order)
    if verdict is Verdict.CONNECT and config.auto.connect:
        vm = destination(device.entry, config, default)
        return Wish(vm, Origin.RULE, order) if vm else None
    return None


def retarget(wish: Wish, entry: DeviceEntry, config: Config, default: str) -> Wish | None:
    """The wish under a new configuration: where a rule sends a device is for that to say, not what somebody chose."""
    if wish.origin is not Origin.RULE:
        return wish
    vm = destination(entry, config, default)
    return replace(wish, vm=vm) if vm else None


def forbidden(plugged: PluggedDevice, *, asked: bool) -> RefusedError | None:
    """What the compatibility list has against it, if it has."""
    if plugged.verdict is Verdict.DENY:
        why = plugged.because or "the compatibility list denies it"
        where = f" ({plugged.rule})" if plugged.rule else ""
        hint = f"`usbbridge rules explain {plugged.entry.bus_port}` shows the rule that decides"
        return RefusedError(f"{plugged.entry} may not be attached: {why}{where}", hint=hint)
    if plugged.verdict is Verdict.ASK and not asked:
        hint = f"usbbridge attach {plugged.entry.bus_port}"
        return RefusedError(f"{plugged.entry} may be attached by an explicit request only", hint=hint)
    return None


def obstacle(entry: DeviceEntry, *, unmount: bool, force: bool) -> Obstacle | None:
    """What is in the way; a device that is in use is not if it was asked for all the same."""
    found = entry.obstacle
    return None if found and found.reason is Reason.IN_USE and (unmount or force) else found


def refusal(device: DeviceTrack, wish: Wish) -> Failure | None:
    """Why a wish can't be granted, however often it is tried."""
    error: UsbBridgeError | None = forbidden(device.plugged, asked=wish.asked)
    return Failure.of(error) if error else None
