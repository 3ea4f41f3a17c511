"""What one guest can make one host hold, each with its reason. All sizes in bytes."""

from typing import Final

MAX_TRANSFER: Final = 16 << 20
"""The longest bulk transfer. Linux's usbfs holds 16 MiB for a process by default (usbfs_memory_mb), all URBs
together; mass-storage drivers ask for 2 MiB at the most. A request for more is answered INVAL; a packet that brings
more ends the session, as what it brings would have to be received first."""

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

INTERRUPT_TRANSFERS: Final = 5
"""Transfers kept running on a receiving interrupt endpoint: enough for 8 kHz polling with the process away for half a
millisecond, and what other usbredir hosts use."""

MAX_REPORT_TRANSFERS: Final = 2 * 15 * INTERRUPT_TRANSFERS
"""Transfers of all receiving endpoints together, cancelled ones that have not come back included: each of the 15 IN
endpoints may run once while those of its last run are on their way back. A guest that starts and stops in a row meets
this; its start is answered STALL."""

MAX_STREAM_ERRORS: Final = 50
"""Errors in a row after which a receiving endpoint is stopped and said to be stalled: an unplugged device shows some
before it is known to be gone."""

CONTROL_SECONDS: Final = 5.0
"A control transfer's time, after which it is answered TIMEOUT: USB 2.0 §9.2.6.4 lets a device take 5 s."

DRAIN_SECONDS: Final = 2.0
"How long cancelled transfers are waited for before a configuration, alternate setting or reset is applied."
