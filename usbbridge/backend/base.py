"""What a USB device is to the rest of usbbridge: the seam between `redirect` and libusb or an emulated device.

A `Device` is opened, claimed and driven by one thread. Work is given to it as `Transfer` objects out of its own pool
and comes back through `Device.reap()`, which calls each finished transfer's `on_done`. Nothing else calls back.

    transfer = device.take(length)          # a free transfer whose data area holds `length` bytes or more
    transfer.on_done = finished             # called once, from reap(), with the transfer
    if device.submit_bulk(transfer, 0x81, length) is not Status.COMPLETED: ...   # refused: nothing is in flight
    ...
    device.reap()                           # -> finished(transfer): transfer.status, transfer.actual, transfer.data
    device.give_back(transfer)              # and only now may its data area be used again

A transfer belongs to the device from a successful submit until `on_done` is called, also when it has been cancelled.

An isochronous transfer has, besides, a table of packets, three numbers each:

    transfer = device.take_iso(packets, size)             # room for `packets` packets of `size` bytes
    transfer.iso[3 * i + ISO_LENGTH] = length             # for each: bytes wanted (IN) or to be sent (OUT)
    device.submit_iso(transfer, 0x81, packets)
    ...                                                   # at the end: transfer.iso[3 * i + ISO_ACTUAL], ISO_STATUS

The data of packet i begins in `transfer.data` where the *lengths* of those before it add up to, as usbfs lays it out;
how many bytes have really moved changes nothing in that.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Final, Protocol

from usbbridge.usb.ch9 import Speed
from usbbridge.usb.descriptors import Configuration, DeviceDescriptor


class Status(IntEnum):
    """How a transfer ended: the numbers of libusb's `enum libusb_transfer_status`, so that none is translated."""

    COMPLETED = 0
    ERROR = 1
    TIMED_OUT = 2
    CANCELLED = 3
    STALL = 4
    NO_DEVICE = 5
    OVERFLOW = 6


ISO_FIELDS: Final = 3
"Numbers of one packet in `Transfer.iso`."
ISO_LENGTH, ISO_ACTUAL, ISO_STATUS = range(ISO_FIELDS)
"Bytes asked for or to be sent, set by the owner; bytes moved; and a `Status`: these two are valid at the end."


class Transfer:
    """One URB's worth of buffer and bookkeeping, allocated once and reused. Backends add their native fields in a
    subclass."""

    __slots__ = (
        "actual",
        "cancelled",
        "capacity",
        "data",
        "endpoint",
        "header",
        "id",
        "iso",
        "length",
        "on_done",
        "packets",
        "setup",
        "status",
        "stream",
    )

    setup: memoryview
    "8 writable bytes: the setup packet (USB 2.0 §9.3) of a control transfer."
    data: memoryview
    "Writable data area of `capacity` bytes; its first `length` bytes take part in the transfer."
    capacity: int
    endpoint: int
    "Endpoint address, bit 7 set for IN. Set by submit."
    length: int
    "Bytes asked for or to be sent in the data stage. Set by submit."
    actual: int
    "Bytes moved in the data stage, valid once the transfer has ended; an isochronous one has it in `iso` only."
    status: int
    "A `Status`, valid once the transfer has ended."
    stream: int
    "Bulk stream (USB 3.2 §8.12.1.4) that it was submitted on by `submit_bulk_stream`; else it says nothing."
    packets: int
    "Isochronous packets it has room for; 0 for a transfer of another kind."
    iso: memoryview
    """ISO_FIELDS integers (format "i") for each of `packets`; see the module's text. Absent from a transfer of another
    kind."""
    on_done: "Callable[[Any], None]"
    id: int
    "For the owner of the transfer: the usbredir id."
    header: Any
    "For the owner of the transfer: what it needs to answer."
    cancelled: bool
    "For the owner of the transfer: it has been answered already; its end is to be swallowed."


class Device(Protocol):
    """An opened USB device. Methods raise `DeviceLostError` when it has gone, `DeviceError` for other failures."""

    @property
    def name(self) -> str:
        """What to call the device in a message, for instance `1-2 46f4:0001 QEMU USB HARDDRIVE`."""

    @property
    def descriptor(self) -> DeviceDescriptor: ...

    @property
    def speed(self) -> Speed: ...

    def configuration(self) -> Configuration | None:
        """The active configuration with all its alternate settings; None while unconfigured."""

    def pollfds(self) -> Sequence[tuple[int, int]]:
        """(fd, epoll event mask) pairs to wait on; `reap()` when any is ready. Empty if the device needs no waiting."""

    def claim(self) -> None:
        """Detach kernel drivers and claim every interface of the active configuration."""

    def release(self) -> None:
        """Release every interface, restore the configuration that was active when it was opened, re-attach kernel
        drivers."""

    def set_configuration(self, value: int) -> None:
        """SET_CONFIGURATION (USB 2.0 §9.4.7) and claim the new interfaces; 0 unconfigures. No transfer may be in
        flight."""

    def set_interface(self, number: int, alternate: int) -> None:
        """SET_INTERFACE (USB 2.0 §9.4.10). No transfer may be in flight on the interface's endpoints."""

    def clear_halt(self, endpoint: int) -> None:
        """Clear an endpoint's halt on the device and its data toggle on the host."""

    def reset(self) -> None:
        """Port reset; the configuration is restored, every interface is in its first alternate setting.
        `DeviceLostError` if it came back as another device."""

    def take(self, size: int) -> Transfer:
        """A free transfer whose data area holds `size` bytes or more."""

    def give_back(self, transfer: Transfer) -> None:
        """Return a transfer that is not in flight to the pool."""

    def submit_control(self, transfer: Transfer, length: int) -> Status:
        """Start a control transfer on endpoint 0: setup packet in `transfer.setup`, `length` bytes of data stage.

        It has no time limit, as no transfer has: that is for the caller, who can `cancel`.
        """

    def submit_bulk(self, transfer: Transfer, endpoint: int, length: int) -> Status:
        """Start a bulk transfer; COMPLETED means it is in flight, anything else that it was refused."""

    def submit_interrupt(self, transfer: Transfer, endpoint: int, length: int) -> Status:
        """Start an interrupt transfer; as `submit_bulk`."""

    def submit_bulk_stream(self, transfer: Transfer, endpoint: int, length: int, stream: int) -> Status:
        """As `submit_bulk`, on one of the streams that `alloc_streams` has made, 1 or above. Transfers of different
        streams may end in any order."""

    def take_iso(self, packets: int, size: int) -> Transfer:
        """A free isochronous transfer with room for `packets` packets of `size` bytes; goes back by `give_back`."""

    def submit_iso(self, transfer: Transfer, endpoint: int, packets: int) -> Status:
        """Start the first `packets` packets of an isochronous transfer, one a service interval; as `submit_bulk`.

        It ends COMPLETED also when packets of it have failed: each has a status of its own.
        """

    def alloc_streams(self, count: int, endpoints: Sequence[int]) -> int:
        """Make `count` streams on each of these SuperSpeed bulk endpoints; how many there are now, 1 to that many.
        `DeviceError` where kernel, controller or device have none."""

    def free_streams(self, endpoints: Sequence[int]) -> None:
        """Back to no streams. No transfer may be in flight on these endpoints."""

    def cancel(self, transfer: Transfer) -> None:
        """Ask for a transfer in flight to be cancelled; it still ends through `reap()`. Harmless if it has ended."""

    def reap(self) -> int:
        """Call `on_done` of every transfer that has ended, oldest of its endpoint first; never blocks. Returns how
        many."""

    def in_flight(self) -> int:
        """How many transfers have been submitted and not yet reaped."""

    def drain(self, seconds: float) -> bool:
        """Reap, waiting `seconds` at the most, until no cancelled transfer is in flight; whether that came about."""

    def close(self) -> None:
        """Cancel what is in flight, wait for it a bounded time, release, and close. May be called again."""
