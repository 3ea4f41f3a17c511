"""Whether the guest's filter lets a device in, which a usb-host has to ask itself."""

from usbbridge.backend.base import Device
from usbbridge.errors import RefusedError
from usbbridge.redirect.layout import Layout
from usbbridge.redirect.refusal import OPEN_FILTER
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
            hint=OPEN_FILTER,
        )


def _because(verdict: redir_filter.Verdict) -> str:
    """Which rule and interface decided, for the message."""
    if verdict.rule is None:
        return ": no rule of it is about this device"
    interface = f", interface {verdict.interface.interface}" if verdict.interface else ""
    return f" (rule {redir_filter.format((verdict.rule,))}{interface})"
