"""A device as it is announced, and whether QEMU would attach it or reject it (hw/usb/redirect.c)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from usbbridge.usbredir.filter import DeviceFacts, FilterRule, check
from usbbridge.usbredir.packets import DeviceConnect, EpInfo, InterfaceInfo
from usbbridge.usbredir.proto import Cap, DeviceSpeed, EndpointType

XHCI_CAPS: Final = Cap.EP_INFO_MAX_PACKET_SIZE | Cap.IDS_64BIT | Cap.BULK_LENGTH_32BIT
"What the usb-host must be capable of before its device may go to an xHCI port."


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the usb-host said of its device; interfaces and endpoints change with its configuration."""

    connect: DeviceConnect
    interfaces: InterfaceInfo
    endpoints: EpInfo

    @property
    def speed(self) -> str:
        """The device's speed in a word."""
        known = {speed.value: speed.name.lower() for speed in DeviceSpeed}
        return known.get(self.connect.speed, f"unknown ({self.connect.speed})")


def objection(
    connect: DeviceConnect,
    interfaces: InterfaceInfo | None,
    endpoints: EpInfo | None,
    peer_caps: Cap,
    rules: Sequence[FilterRule],
) -> str:
    """Why the device is rejected; empty if it is attached. No rules: no filter is set."""
    if interfaces is None or endpoints is None:
        return "it was announced before its interfaces and endpoints"
    missing = XHCI_CAPS & ~peer_caps
    if missing:
        return f"its host lacks {missing.name}, which an xHCI port needs"
    for index, entry in enumerate(endpoints.endpoints):
        if entry.type in (EndpointType.ISO, EndpointType.INTERRUPT) and entry.interval == 0:
            return f"endpoint entry {index} has interval 0"
    if rules and not check(rules, _facts(connect, interfaces)).allowed:
        return "the VM's filter denies it"
    return ""


def _facts(connect: DeviceConnect, interfaces: InterfaceInfo) -> DeviceFacts:
    return DeviceFacts(
        connect.class_,
        connect.subclass,
        connect.protocol,
        connect.vendor,
        connect.product,
        connect.version,
        interfaces.interfaces,
    )
