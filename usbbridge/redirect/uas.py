"""Hiding USB Attached SCSI from a guest that can't have the bulk streams for it.

At SuperSpeed, a UAS disk is of no use without streams: a guest's driver asks its controller for them, gets none, and
leaves the disk alone. But such a disk has another setting, for Bulk-Only Transport. A guest that sees no UAS one takes
that: slower, but a disk. So the protocol of the UAS settings is changed in the configuration descriptors that it reads.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from usbbridge.backend.base import Status, Transfer
from usbbridge.redirect.transfers import Transfers
from usbbridge.usb.ch9 import DescriptorType, Request
from usbbridge.usb.descriptors import INTERFACE_STRUCT

MASS_STORAGE_SCSI: Final = b"\x08\x06"
"bInterfaceClass and bInterfaceSubClass."
BULK_ONLY, UAS, VENDOR_SPECIFIC = 0x50, 0x62, 0xFF
"bInterfaceProtocol (USB Mass Storage Class Specification Overview 1.4, table 4)."
_NUMBER, _CLASS, _PROTOCOL = 2, 5, 7  # offsets in an interface descriptor (USB 2.0 §9.6.5)


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
