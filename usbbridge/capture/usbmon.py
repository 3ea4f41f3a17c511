"""USB transfers as Linux's usbmon tells them, which is what Wireshark dissects: an event when one is submitted, another
when it has ended, each with the 64 bytes of `struct mon_bin_hdr`.

Layout: Documentation/usb/usbmon.rst, "struct usbmon_packet". What stands in the fields: drivers/usb/mon/mon_bin.c.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from usbbridge.capture.pcapng import MAX_PACKET
from usbbridge.usb.ch9 import DIR_IN, SETUP_SIZE, TransferType

SUBMIT, COMPLETE, ERROR = b"S"[0], b"C"[0], b"E"[0]
"Types of events: submitted; ended; could not be submitted."

HEADER: Final = Struct("<QBBBBHBBqiiII8siiII")
"""id, type, xfer_type, epnum, devnum, busnum, flag_setup, flag_data, ts_sec, ts_usec, status, length, len_cap, setup
(or error_count and numdesc of isochronous transfers), interval, start_frame, xfer_flags, ndesc."""
ISO_DESCRIPTOR: Final = Struct("<iIIi")
"iso_status, iso_off, iso_len and padding of one isochronous packet (struct mon_bin_isodesc)."
_ISO_COUNTS: Final = Struct("<iI")

MAX_ISO_DESCRIPTORS: Final = 128
"Packets of one transfer that are described: usbmon's own limit (ISODESC_MAX)."

EINPROGRESS: Final = -115
"Status of every transfer that has been submitted (Documentation/driver-api/usb/error-codes.rst)."

_XFER_TYPE: Final = {TransferType.ISO: 0, TransferType.INTERRUPT: 1, TransferType.CONTROL: 2, TransferType.BULK: 3}
_URB_DIR_IN: Final = 0x0200  # include/linux/usb.h
_NO_SETUP, _ABSENT_IN, _ABSENT_OUT, _ABSENT_ERROR = b"-"[0], b"<"[0], b">"[0], b"E"[0]
_NO_SETUP_BYTES: Final = bytes(SETUP_SIZE)


@dataclass(frozen=True, slots=True)
class Address:
    """Of a device, as the kernel that has it numbers it."""

    bus: int = 0
    device: int = 0


@dataclass(frozen=True, slots=True)
class Urb:
    """What the events of one transfer have in common."""

    id: int
    "The same in both events, and in no other transfer's."
    kind: TransferType
    endpoint: int
    "Address; of endpoint 0 with the direction of the data stage in bit 7."
    interval: int = 0
    "Of interrupt and isochronous endpoints: (micro)frames between two packets."


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a transfer. `data` may lie in a buffer that changes later: make the record at once."""

    urb: Urb
    type: int
    status: int
    "0 or a negative errno."
    length: int
    "Bytes asked for or to be sent; at the end, bytes that were moved."
    data: bytes | memoryview = b""
    "Of SUBMIT and OUT, and of COMPLETE and IN; of isochronous packets with the gaps between them."
    setup: bytes = b""
    "Of control transfers' SUBMIT."
    packets: Sequence[tuple[int, int, int]] = ()
    "Of each isochronous packet: status as above, where its data begins, its length as above."

    def record(self, address: Address, microseconds: int, *, payload: bool) -> tuple[list[bytes | memoryview], int]:
        """The parts of the event's record, with as much data as there is room for, or with none; and how many bytes
        the record would have with all of it."""
        described = self.packets[:MAX_ISO_DESCRIPTORS]
        table = b"".join(ISO_DESCRIPTOR.pack(status, start, size, 0) for status, start, size in described)
        room = MAX_PACKET - HEADER.size - len(table) if payload else 0
        data = self.data[:room]
        whole = HEADER.size + len(table) + len(self.data)
        parts: list[bytes | memoryview] = [self._header(address, microseconds, len(table) + len(data)), table, data]
        return parts, whole

    def _header(self, address: Address, microseconds: int, captured: int) -> bytes:
        urb, count = self.urb, len(self.packets)
        described = min(count, MAX_ISO_DESCRIPTORS)
        is_in = urb.endpoint & DIR_IN
        absent = _ABSENT_ERROR if self.type == ERROR else _ABSENT_IN if is_in else _ABSENT_OUT
        has_data = captured > described * ISO_DESCRIPTOR.size
        counts = _NO_SETUP_BYTES
        if urb.kind is TransferType.ISO:
            errors = sum(1 for status, _, _ in self.packets if status) if self.type == COMPLETE else 0
            counts = _ISO_COUNTS.pack(errors, count)
        return HEADER.pack(
            urb.id,
            self.type,
            _XFER_TYPE[urb.kind],
            urb.endpoint,
            address.device & 0xFF,
            address.bus & 0xFFFF,
            0 if self.setup else _NO_SETUP,
            0 if has_data else absent,
            *divmod(microseconds, 1_000_000),
            self.status,
            self.length,
            captured,
            self.setup or counts,
            urb.interval,
            0,
            _URB_DIR_IN if is_in else 0,
            described,
        )
