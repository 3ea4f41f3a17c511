"""What one guest can make one host hold, each with its reason. All sizes in bytes."""

from typing import Final

MAX_TRANSFER: Final = 16 << 20
"""The longest bulk transfer. Linux's usbfs holds 16 MiB for a process by default (usbfs_memory_mb), all URBs
together; mass-storage drivers ask for 2 MiB at the most. A request for more is answered INVAL; a packet that brings
more ends the session, as what it brings would have to be received first."""

MAX_READ_AHEAD: Final = 2 << 20
"What is read of a drive before the guest asks for it, at the most: drivers do not command more at once."

MAX_UNASKED: Final = 2 * 15
"""Transfers in flight that the guest has not asked for: one of each IN endpoint, and one that was cancelled and has not
come back yet."""

MAX_PENDING: Final = 1024
"""Transfers in flight at once. QEMU's xHCI queues as many TRBs as its guest does, tens for an endpoint; 30 endpoints
of 32 fit."""

MAX_PENDING_BYTES: Final = 64 << 20
"""Data areas of all transfers in flight or waiting to be written: four times what usbfs grants, so that usbfs decides
first. A request over this or the limit above is answered IOERROR at once: to stop reading instead would lock out its
own cancel."""

OUTBOX_HIGH: Final = 4 << 20
"""Bytes waiting to be written over which nothing more is read from the guest. Replies with
data are bounded by the limits above; this one is about small answers to a guest that asks and never reads."""

STREAM_DROP: Final = 256 << 10
"""Bytes of reports waiting to be written at which further ones are dropped: old key strokes and pointer movements are
of no use. Only reports count: data of another endpoint that waits is no sign that the guest does not read."""

INTERRUPT_TRANSFERS: Final = 32
"""Transfers kept running on a receiving interrupt endpoint, at the least. Other usbredir hosts have 5: at 8 kHz they
last for 0.6 ms, less than a busy system's scheduler keeps a process away, and reports are lost."""

REPORT_SECONDS: Final = 0.02
"How long the transfers of a fast endpoint last, if nobody handles them: what virtual machines have been seen to stall."

MOST_INTERRUPT_TRANSFERS: Final = 160
"Transfers of one endpoint: REPORT_SECONDS at 8 kHz, the highest rate that there is."

MAX_REPORT_TRANSFERS: Final = 2 * 15 * MOST_INTERRUPT_TRANSFERS
"""Transfers of all receiving interrupt endpoints together, cancelled ones that have not come back included: each of the
15 IN endpoints may run once while those of its last run are on their way back. A guest that starts and stops in a row
meets this; its start is answered STALL."""

MAX_REPORT_BYTES: Final = MAX_REPORT_TRANSFERS << 11
"Their data areas: wMaxPacketSize has 11 bits for its bytes (USB 2.0 §9.6.6)."

MAX_ISO_PACKETS: Final = 32
"Packets in an isochronous URB, 4 ms of high-speed microframes: what other usbredir hosts allow, and QEMU asks for."

MAX_STREAM_URBS: Final = 16
"URBs of an isochronous stream, or transfers of a receiving bulk endpoint: what the protocol allows."

MAX_BULK_RECEIVING: Final = 64 << 10
"One transfer of a receiving bulk endpoint. QEMU asks for 512 bytes, or one packet; its serial drivers for no more."

MAX_STREAM_TRANSFERS: Final = 2 * 30 * MAX_STREAM_URBS
"""Transfers of all isochronous streams and receiving bulk endpoints together, cancelled ones that have not come back
included: as MAX_REPORT_TRANSFERS, with the OUT endpoints."""

MAX_STREAM_BYTES: Final = 16 << 20
"""Data areas of those transfers: what usbfs grants a process by default (usbfs_memory_mb). The largest high-speed
stream there is takes 1.5 MiB: 16 URBs of 32 packets of 3 KiB. A start that exceeds this, or the limit above, is
answered STALL."""

ISO_DROP_FROM: Final = 3
"How often what all URBs of an isochronous IN stream hold has to wait to be written, until its packets are dropped."
ISO_DROP_UNTIL: Final = 2
"Dropping goes on until less than what they hold, divided by this, waits. Both as other usbredir hosts have it."

ISO_BACKLOG: Final = 1 << 20
"""Bytes of all isochronous IN streams together waiting to be written from which packets are dropped in any case: that,
and one URB more, is what can stand in front of a control answer or a report. 84 ms at 100 Mbit/s; 43 ms of the fastest
high-speed stream. Well below OUTBOX_HIGH: a camera must not keep the guest's requests from being read."""

BULK_BACKLOG: Final = 256 << 10
"Bytes waiting to be written from which the transfers of a receiving bulk endpoint wait with them, and so the device."

MAX_STREAM_ERRORS: Final = 50
"""Errors in a row after which a stream is stopped and said to be stalled: an unplugged device shows some before it is
known to be gone."""

MAX_BULK_STREAMS: Final = 256
"""Bulk streams of an endpoint that are offered: as many commands as Linux's UAS driver ever has under way. For each the
kernel has a ring of its own, of 8 KiB; a device may say that it has 65536."""

CONTROL_SECONDS: Final = 5.0
"A control transfer's time, after which it is answered TIMEOUT: USB 2.0 §9.2.6.4 lets a device take 5 s."

DRAIN_SECONDS: Final = 2.0
"How long cancelled transfers are waited for before a configuration, alternate setting or reset is applied."
