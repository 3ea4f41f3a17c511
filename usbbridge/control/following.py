"""Devices that leave the bus and come back on the same port as another: which of them are still the same.

Boards and phones change into their boot loader and back: by a request of their driver, a reset, or when their serial
port is opened at 1200 baud. The compatibility list's identities say whose ids belong together. Of those that nobody has
declared, only what a VM had at that moment is followed, and only if it could hardly be anything else.
"""

from dataclasses import replace
from typing import Final

from usbbridge.compat.rule import Verdict
from usbbridge.control.devices import Departed, DeviceTrack, Phase
from usbbridge.control.world import World
from usbbridge.usb.entry import DeviceEntry

DECLARED_SECONDS: Final = 60.0
"How long another face of a declared device is waited for: a phone takes half a minute to its boot loader."

UNDECLARED_SECONDS: Final = 5.0
"""The same without such a declaration. A microcontroller is back in one to three seconds, and somebody who pulls a
plug and puts another into the same socket is hardly faster than this."""

_WITH_THE_VM: Final = (Phase.ATTACHING, Phase.ATTACHED)
_MAY_FOLLOW: Final = (Verdict.CONNECT, Verdict.ALLOW)


def left(world: World, device: DeviceTrack, now: float) -> None:
    """A device is no longer there: what is to be known of it if it comes back as another."""
    known = {place: gone for place, gone in world.departed.items() if now - gone.at <= DECLARED_SECONDS}
    known[device.entry.bus_port] = Departed(device.plugged, device.wish, device.held, _was_in_use(device), now)
    world.departed = known


def arrived(world: World, device: DeviceTrack, now: float) -> None:
    """A device is new: if it is one that was there before, it is wanted, or kept here, as that was."""
    gone = world.departed.pop(device.entry.bus_port, None)
    if gone is None or device.wish is not None:
        return
    if _is_declared(gone, device) and now - gone.at <= DECLARED_SECONDS:
        device.held = device.held or gone.held
    elif not (world.config.auto.follow and _is_likely(gone, device) and now - gone.at <= UNDECLARED_SECONDS):
        return
    if gone.wish is not None and gone.wish.asked:  # what a rule wants follows from the rule
        device.wish = replace(gone.wish, unmount=False, force=False)


def _was_in_use(device: DeviceTrack) -> bool:
    """Whether it disappeared while a VM had it. The encoder may have found that out before the monitor did."""
    if not device.told:
        return False  # nobody knows when it did: the monitor was away
    if device.attempt is not None:
        return device.attempt.phase in _WITH_THE_VM
    return device.failure is not None and device.failure.error == "DeviceLostError"


def _is_declared(gone: Departed, device: DeviceTrack) -> bool:
    """Whether the two are faces of one device; the same face again is what choices are for."""
    return gone.plugged.entry.ids in device.plugged.faces or device.entry.ids in gone.plugged.faces


def _is_likely(gone: Departed, device: DeviceTrack) -> bool:
    before, entry = gone.plugged.entry, device.entry
    return gone.in_use and device.plugged.verdict in _MAY_FOLLOW and _is_alike(before, entry)


def _is_alike(before: DeviceEntry, entry: DeviceEntry) -> bool:
    """Whether another device could hardly be meant. Two sticks of a vendor have serial numbers, each its own; of a boot
    loader and what it loads often only one has any."""
    if before.ids == entry.ids:
        return False
    if before.serial and entry.serial:
        return before.serial == entry.serial
    return before.vendor == entry.vendor
