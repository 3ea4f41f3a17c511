"""Whether the guest's filter lets a device in, which a usb-host has to ask itself, and what to do if it does not."""

from usbbridge.backend.base import Device
from usbbridge.errors import RefusedError
from usbbridge.redirect.layout import Layout
from usbbridge.redirect.quirks import NO_STREAMS
from usbbridge.usb.descriptors import DeviceDescriptor
from usbbridge.usbredir import filter as redir_filter


def check(rules: tuple[redir_filter.FilterRule, ...], device: Device, layout: Layout) -> None:
    """Hold a device against the filter that the guest sent. Raises RefusedError."""
    d = device.descriptor
    interfaces = layout.interface_info().interfaces
    facts = redir_filter.DeviceFacts(d.class_, d.subclass, d.protocol, d.vendor, d.product, d.bcd_device, interfaces)
    verdict = redir_filter.check(rules, facts)
    if not verdict.allowed:
        raise RefusedError(
            f"the VM's filter does not allow {device.name}{_because(verdict)}",
            hint="the filter is a property of the VM's usb-redir device (libvirt: <redirfilter>)",
        )


def refused_hint(d: DeviceDescriptor, *, no_streams: bool) -> str:
    """What to do about a device that the guest has refused; `no_streams`: after it did not get its bulk streams."""
    if no_streams:
        return (
            "this machine could not make the bulk streams that the VM asked for; without them: "
            f"usbbridge rules add id={d.vendor:04x}:{d.product:04x} quirks={NO_STREAMS}"
        )
    return (
        "its USB filter denies the device, or its USB controller can't carry the device's speed: "
        "give the VM a qemu-xhci controller"
    )


def _because(verdict: redir_filter.Verdict) -> str:
    """Which rule and interface decided, for the message."""
    if verdict.rule is None:
        return ": no rule of it is about this device"
    interface = f", interface {verdict.interface.interface}" if verdict.interface else ""
    return f" (rule {redir_filter.format((verdict.rule,))}{interface})"
