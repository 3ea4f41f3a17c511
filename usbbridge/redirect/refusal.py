"""Why a VM has most likely refused a device, and what to do: its end says no more than that it did (filter_reject).

QEMU refuses for its filter, which it has told us before if it has one, and for the speeds that its controller's ports
carry: at once, or later, when the guest chooses a setting whose endpoints need more (hw/usb/redirect.c).
"""

from collections.abc import Iterable, Iterator
from typing import Final

from usbbridge.redirect.quirks import NO_STREAMS
from usbbridge.usb.ch9 import Speed, TransferType
from usbbridge.usb.controllers import MAX_FULL_INTERRUPT, in_words, refused_by
from usbbridge.usb.descriptors import DeviceDescriptor, Endpoint

XHCI: Final = (
    "give the VM an xHCI controller (libvirt: <controller type='usb' model='qemu-xhci'/>, QEMU: -device qemu-xhci)"
)
OPEN_FILTER: Final = "the filter is a property of the VM's usb-redir device (libvirt: <redirfilter>)"


def hint(speed: Speed, endpoints: Iterable[Endpoint], *, filtered: bool) -> str:
    """The likely reason, and the fix, for a device of this speed with these endpoints, those of the settings in use.
    `filtered`: the VM has told its filter, which lets the device in."""
    endpoints = list(endpoints)
    refusing = refused_by(speed, endpoints)
    if not refusing:
        words = f"a {in_words(speed)} device with such endpoints suits any USB controller"
        if filtered:
            return f"{words}, and its filter allows it: QEMU's log on the VM's host may say why"
        return f"{words}, so that its USB filter denies it: {OPEN_FILTER}"
    what = " with ".join([f"a {in_words(speed)} device", *_demands(endpoints)])
    names = " or ".join(f"{each.name} ({each.models})" for each in refusing)
    also = "" if filtered else f"; or its USB filter denies it: {OPEN_FILTER}"
    return f"it is {what}, which {names} does not carry: {XHCI}{also}"


def without_streams(d: DeviceDescriptor) -> str:
    """The same for one that did not get the bulk streams the guest asked for."""
    return (
        "this machine could not make the bulk streams that the VM asked for; without them: "
        f"usbbridge rules add id={d.vendor:04x}:{d.product:04x} quirks={NO_STREAMS}"
    )


def _demands(endpoints: list[Endpoint]) -> Iterator[str]:
    """What, beside its own speed, keeps it from slower ports."""
    if any(endpoint.transfer_type is TransferType.ISO for endpoint in endpoints):
        yield "isochronous endpoints"
        return
    reports = [e.max_packet_size & 0x7FF for e in endpoints if e.transfer_type is TransferType.INTERRUPT]
    if max(reports, default=0) > MAX_FULL_INTERRUPT:
        yield f"interrupt packets of {max(reports)} bytes"
