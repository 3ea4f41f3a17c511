"""Hiding USB Attached SCSI from a guest that can't have the bulk streams for it.

At SuperSpeed, a UAS disk is of no use without streams: a guest's driver asks its controller for them, gets none, and
leaves the disk alone. But most such disks have another setting, for Bulk-Only Transport. A guest that sees no UAS one
takes that: slower, but a disk. So the protocol of the UAS settings is changed in the configuration descriptors that it
reads. A disk without another setting is refused: the VM would take it, and its guest would make nothing of it.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from usbbridge.backend.base import Status, Transfer
from usbbridge.errors import RefusedError
from usbbridge.redirect.layout import BULK_ONLY
from usbbridge.redirect.quirks import NO_STREAMS
from usbbridge.redirect.transfers import Transfers
from usbbridge.usb.ch9 import DescriptorType, Request
from usbbridge.usb.descriptors import INTERFACE_STRUCT, Configuration

MASS_STORAGE_SCSI: Final = b"\x08\x06"
"bInterfaceClass and bInterfaceSubClass."
UAS, VENDOR_SPECIFIC = 0x62, 0xFF
"bInterfaceProtocol (USB Mass Storage Class Specification Overview 1.4, table 4)."
_NUMBER, _CLASS, _PROTOCOL = 2, 5, 7  # offsets in an interface descriptor (USB 2.0 §9.6.5)


def check(name: str, configuration: Configuration | None) -> None:
    """Whether a SuperSpeed device of that name can be used without streams. Raises RefusedError if it is nothing but
    UAS."""
    if configuration is None or not all(
        bytes((setting.class_, setting.subclass)) == MASS_STORAGE_SCSI and setting.protocol == UAS
        for setting in configuration.interfaces
    ):
        return
    raise RefusedError(
        f"{name} is a disk that works only with bulk streams at SuperSpeed, and can't have them here",
        hint="plug it into a USB 2 port, where it needs none; they are lacking because of this machine's USB "
        f"controller, an old QEMU, or the quirk {NO_STREAMS} in a rule (usbbridge rules explain DEVICE)",
    )


class WithoutUas:
    """Takes a guest's control packets in place of `transfers`."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers

    def control(
        self,
        packet_id: int,
        endpoint: int,
        request: int,
        requesttype: int,
        status: int,
        value: int,
        index: int,
        length: int,
        data: memoryview,
    ) -> None:
        """As `Transfers.control`."""
        transfers = self._transfers
        before = len(transfers.pending)
        transfers.control(packet_id, endpoint, request, requesttype, status, value, index, length, data)
        asked = requesttype == 0x80 and request == Request.GET_DESCRIPTOR
        if asked and value >> 8 == DescriptorType.CONFIGURATION and len(transfers.pending) > before:
            t = next(reversed(transfers.pending))
            t.on_done = partial(_hidden, t.on_done)


def _hidden(done: Callable[[Transfer], None], t: Transfer) -> None:
    """A configuration descriptor, or the beginning of one, has come."""
    if t.status == Status.COMPLETED:
        hide(t.data[: t.actual])
    done(t)


def hide(configuration: memoryview) -> None:
    """Change the UAS settings of those interfaces that have a Bulk-Only one, in place."""
    found: list[int] = []
    at = 0
    while at + 1 < len(configuration) and configuration[at] >= 2:
        whole = INTERFACE_STRUCT.size <= min(configuration[at], len(configuration) - at)
        if whole and configuration[at + 1] == DescriptorType.INTERFACE:
            found += [at] if bytes(configuration[at + _CLASS : at + _PROTOCOL]) == MASS_STORAGE_SCSI else []
        at += configuration[at]
    bulk_only = {configuration[at + _NUMBER] for at in found if configuration[at + _PROTOCOL] == BULK_ONLY}
    for at in found:
        if configuration[at + _PROTOCOL] == UAS and configuration[at + _NUMBER] in bulk_only:
            configuration[at + _PROTOCOL] = VENDOR_SPECIFIC
