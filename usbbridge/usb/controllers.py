"""Which of QEMU's USB controllers refuse a device, worked out before it is tried.

A device has a set of speeds that it can be attached at: its own, and those that its endpoints would fit into; a port
has a set that it carries. Without one in common usb-redir rejects the device (hw/usb/redirect.c, hw/usb/bus.c: "speed
mismatch"). The VM's end never says which controller it has, so all of them are named.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Flag
from typing import Final

from usbbridge.usb.ch9 import Speed, TransferType
from usbbridge.usb.descriptors import Configuration, Endpoint

MAX_FULL_INTERRUPT: Final = 64
"Bytes of an interrupt packet at full speed (USB 2.0 §5.7.3)."
MAX_HIGH_INTERRUPT: Final = 1024
"The same at high speed."


class Rates(Flag):
    """QEMU's USB_SPEED_MASK_*."""

    LOW = 1
    FULL = 2
    HIGH = 4
    SUPER = 8


@dataclass(frozen=True, slots=True)
class Controller:
    """A kind of USB controller that a VM may have."""

    name: str
    models: str
    "What QEMU and libvirt call it."
    rates: Rates


CONTROLLERS: Final = (
    Controller("UHCI or OHCI alone", "piix3-uhci, pci-ohci", Rates.LOW | Rates.FULL),
    Controller("EHCI alone", "usb-ehci", Rates.HIGH),
    Controller("EHCI with UHCI beside it", "ich9-ehci1", Rates.LOW | Rates.FULL | Rates.HIGH),
    Controller("xHCI", "qemu-xhci", Rates.LOW | Rates.FULL | Rates.HIGH | Rates.SUPER),
)
"By what they carry; the last takes everything."

_OWN: Final = {
    Speed.LOW: Rates.LOW,
    Speed.FULL: Rates.FULL,
    Speed.HIGH: Rates.HIGH,
    Speed.SUPER: Rates.SUPER,
    Speed.SUPER_PLUS: Rates.SUPER,  # announced as SuperSpeed: usbredir has no code for more
    Speed.UNKNOWN: Rates.FULL,
}
_COMPATIBLE: Final = {Speed.LOW: Rates(0), Speed.FULL: Rates.FULL}
"What slower devices fit into beside their own speed; all others start with `_FULL_OR_HIGH`."
_FULL_OR_HIGH: Final = Rates.FULL | Rates.HIGH


def rates(speed: Speed, endpoints: Iterable[Endpoint]) -> Rates:
    """The speeds at which QEMU would attach a device of this speed with these endpoints."""
    compatible = _COMPATIBLE.get(speed, _FULL_OR_HIGH)
    for endpoint in endpoints:
        compatible &= ~_unfit(endpoint)
    return _OWN[speed] | compatible


def _unfit(endpoint: Endpoint) -> Rates:
    """The speeds that would not do the endpoint justice (usbredir_ep_info)."""
    if endpoint.transfer_type is TransferType.ISO:
        return _FULL_OR_HIGH
    if endpoint.transfer_type is not TransferType.INTERRUPT:
        return Rates(0)
    size = endpoint.max_packet_size & 0x7FF
    if size > MAX_HIGH_INTERRUPT:
        return _FULL_OR_HIGH
    return Rates.FULL if size > MAX_FULL_INTERRUPT else Rates(0)


def refusing(speed: Speed, configuration: Configuration | None) -> tuple[Controller, ...]:
    """The controllers that refuse the device at once, or as soon as the guest uses all it has."""
    return refused_by(speed, all_endpoints(configuration))


def refused_by(speed: Speed, endpoints: Iterable[Endpoint]) -> tuple[Controller, ...]:
    """The controllers that refuse a device of this speed with these endpoints."""
    taken = rates(speed, endpoints)
    return tuple(controller for controller in CONTROLLERS if not controller.rates & taken)


def all_endpoints(configuration: Configuration | None) -> Iterator[Endpoint]:
    """Endpoints of every alternate setting: cameras and sound have theirs in settings that are chosen later."""
    for interface in configuration.interfaces if configuration else ():
        yield from interface.endpoints


def in_words(speed: Speed) -> str:
    """The speed as people call it."""
    return {
        Speed.LOW: "low speed",
        Speed.FULL: "full speed",
        Speed.HIGH: "high speed",
        Speed.SUPER: "SuperSpeed",
        Speed.SUPER_PLUS: "SuperSpeedPlus",
    }.get(speed, "unknown speed")
