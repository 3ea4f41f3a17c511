"""A tap on a device: it stands between the host and the device while somebody captures, and tells every transfer.

While nobody does, it is not there: the host drives the device itself. `redirect.Host.drive` puts it in between and
takes it out again, at any time; transfers that are in flight then are told of at their end alone.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from usbbridge.backend.base import ISO_ACTUAL, ISO_FIELDS, ISO_LENGTH, ISO_STATUS, Device, Status, Transfer
from usbbridge.capture.usbmon import COMPLETE, EINPROGRESS, ERROR, SUBMIT, Event, Urb
from usbbridge.errors import DeviceError, DeviceLostError, UsbBridgeError
from usbbridge.usb.ch9 import DIR_IN, SETUP_STRUCT, Feature, Request, Speed, TransferType
from usbbridge.usb.descriptors import Configuration, DeviceDescriptor, Endpoint

ERRNO: Final[dict[int, int]] = {
    Status.COMPLETED: 0,
    Status.ERROR: -71,  # EPROTO
    Status.TIMED_OUT: -110,  # ETIMEDOUT
    Status.CANCELLED: -2,  # ENOENT: what usbfs makes of a URB that is discarded
    Status.STALL: -32,  # EPIPE
    Status.NO_DEVICE: -108,  # ESHUTDOWN
    Status.OVERFLOW: -75,  # EOVERFLOW
}
"The kernel's status of a URB that ended so (Documentation/driver-api/usb/error-codes.rst)."
_ENODEV: Final = -19

Packets = list[tuple[int, int, int]]


class TappedDevice:
    """A `usbbridge.backend.base.Device` in front of another: `tell` hears what is submitted to it and how that ends.

    `tell` is called before the transfer's owner may use its buffer again, and must not raise.
    """

    def __init__(self, device: Device, tell: Callable[[Event], None]) -> None:
        self._device, self._tell = device, tell
        self._ids = itertools.count(1)
        self._endpoints: dict[int, Endpoint] = {}
        self._learn()
        self.take, self.give_back = device.take, device.give_back
        self.cancel, self.reap, self.in_flight = device.cancel, device.reap, device.in_flight
        self.drain, self.pollfds, self.claim = device.drain, device.pollfds, device.claim
        self.release, self.close = device.release, device.close

    @property
    def name(self) -> str:
        return self._device.name

    @property
    def descriptor(self) -> DeviceDescriptor:
        return self._device.descriptor

    @property
    def speed(self) -> Speed:
        return self._device.speed

    def configuration(self) -> Configuration | None:
        return self._device.configuration()

    def stop(self, transfers: Iterable[Transfer]) -> None:
        """Tell nothing any more. Of `transfers`, those in flight, the ends go straight to their owners again: one that
        waits for days would otherwise carry every tap that there has been."""
        self._tell = _ignore
        for transfer in transfers:
            on_done = transfer.on_done
            if isinstance(on_done, partial) and on_done.func == self._done:
                transfer.on_done = on_done.args[-1]

    def adopt(self, transfers: Iterable[Transfer]) -> None:
        """These are in flight already: tell of their ends."""
        for transfer in transfers:
            urb = self._urb(self._kind_of(transfer), transfer.endpoint or transfer.setup[0] & DIR_IN)
            transfer.on_done = partial(self._done, urb, 0, transfer.on_done)

    # ---- transfers

    def submit_control(self, transfer: Transfer, length: int) -> Status:
        urb = self._urb(TransferType.CONTROL, transfer.setup[0] & DIR_IN)
        out = b"" if urb.endpoint & DIR_IN else transfer.data[:length]
        event = Event(urb, SUBMIT, EINPROGRESS, length, out, setup=bytes(transfer.setup))
        return self._submit(event, transfer, partial(self._device.submit_control, transfer, length))

    def submit_bulk(self, transfer: Transfer, endpoint: int, length: int) -> Status:
        event = self._plain(TransferType.BULK, transfer, endpoint, length)
        return self._submit(event, transfer, partial(self._device.submit_bulk, transfer, endpoint, length))

    def submit_interrupt(self, transfer: Transfer, endpoint: int, length: int) -> Status:
        event = self._plain(TransferType.INTERRUPT, transfer, endpoint, length)
        return self._submit(event, transfer, partial(self._device.submit_interrupt, transfer, endpoint, length))

    def submit_bulk_stream(self, transfer: Transfer, endpoint: int, length: int, stream: int) -> Status:
        event = self._plain(TransferType.BULK, transfer, endpoint, length)
        start = partial(self._device.submit_bulk_stream, transfer, endpoint, length, stream)
        return self._submit(event, transfer, start)

    def submit_iso(self, transfer: Transfer, endpoint: int, packets: int) -> Status:
        table = [(EINPROGRESS, start, length) for start, length, _, _ in _iso(transfer, packets)]
        length = sum(size for _, _, size in table)
        out = b"" if endpoint & DIR_IN else transfer.data[:length]
        event = Event(self._urb(TransferType.ISO, endpoint), SUBMIT, EINPROGRESS, length, out, packets=table)
        return self._submit(event, transfer, partial(self._device.submit_iso, transfer, endpoint, packets))

    def _plain(self, kind: TransferType, transfer: Transfer, endpoint: int, length: int) -> Event:
        out = b"" if endpoint & DIR_IN else transfer.data[:length]
        return Event(self._urb(kind, endpoint), SUBMIT, EINPROGRESS, length, out)

    def _urb(self, kind: TransferType, endpoint: int) -> Urb:
        return Urb(next(self._ids), kind, endpoint, self._interval(endpoint) if endpoint & ~DIR_IN else 0)

    def _submit(self, event: Event, transfer: Transfer, start: Callable[[], Status]) -> Status:
        """Tell it, stand between the transfer's end and its owner, and start it."""
        self._tell(event)
        urb, on_done = event.urb, transfer.on_done
        transfer.on_done = partial(self._done, urb, len(event.packets), on_done)
        status = start()
        if status is not Status.COMPLETED:
            transfer.on_done = on_done
            self._tell(Event(urb, ERROR, _ENODEV if status is Status.NO_DEVICE else ERRNO[status], 0))
        return status

    def _done(self, urb: Urb, packets: int, on_done: Callable[[Transfer], None], transfer: Transfer) -> None:
        transfer.on_done = on_done  # the owner may submit it again as it is
        if urb.kind is TransferType.ISO:
            self._tell(_iso_end(urb, transfer, packets))
        else:
            data = transfer.data[: transfer.actual] if urb.endpoint & DIR_IN else b""
            self._tell(Event(urb, COMPLETE, _errno(transfer.status), transfer.actual, data))
        on_done(transfer)

    def _kind_of(self, transfer: Transfer) -> TransferType:
        """Of a transfer that was submitted past us."""
        if not transfer.endpoint & ~DIR_IN:
            return TransferType.CONTROL
        endpoint = self._endpoints.get(transfer.endpoint)
        return TransferType.BULK if endpoint is None else endpoint.transfer_type

    def take_iso(self, packets: int, size: int) -> Transfer:
        return self._device.take_iso(packets, size)

    def alloc_streams(self, count: int, endpoints: Sequence[int]) -> int:
        return self._device.alloc_streams(count, endpoints)

    def free_streams(self, endpoints: Sequence[int]) -> None:
        self._device.free_streams(endpoints)

    # ---- requests that the kernel makes for us, as control transfers

    def set_configuration(self, value: int) -> None:
        setup = SETUP_STRUCT.pack(0x00, Request.SET_CONFIGURATION, value, 0, 0)
        self._request(setup, lambda: self._device.set_configuration(value))
        self._learn()

    def set_interface(self, number: int, alternate: int) -> None:
        setup = SETUP_STRUCT.pack(0x01, Request.SET_INTERFACE, alternate, number, 0)
        self._request(setup, lambda: self._device.set_interface(number, alternate))

    def clear_halt(self, endpoint: int) -> None:
        setup = SETUP_STRUCT.pack(0x02, Request.CLEAR_FEATURE, Feature.ENDPOINT_HALT, endpoint, 0)
        self._request(setup, lambda: self._device.clear_halt(endpoint))

    def reset(self) -> None:
        """Nothing is told of it: on the bus it is no transfer."""
        self._device.reset()

    def _request(self, setup: bytes, carry_out: Callable[[], None]) -> None:
        urb = self._urb(TransferType.CONTROL, 0)
        self._tell(Event(urb, SUBMIT, EINPROGRESS, 0, setup=setup))
        status = ERRNO[Status.ERROR]
        try:
            carry_out()
            status = 0
        except DeviceLostError:
            status = _ENODEV
            raise
        except DeviceError:
            status = ERRNO[Status.STALL]
            raise
        finally:
            self._tell(Event(urb, COMPLETE, status, 0))

    # ---- endpoints

    def _learn(self) -> None:
        """What endpoints there are. Of one that is different in several alternate settings, the last counts: type and
        interval then may be wrong, in the capture and nowhere else."""
        try:
            configuration = self._device.configuration()
        except UsbBridgeError:  # it is gone, or as good as gone, which shows elsewhere
            return
        settings = configuration.interfaces if configuration else ()
        self._endpoints = {endpoint.address: endpoint for setting in settings for endpoint in setting.endpoints}

    def _interval(self, address: int) -> int:
        """In frames, or microframes from high speed on, as urb->interval has it (usb_fill_int_urb in linux/usb.h)."""
        endpoint = self._endpoints.get(address)
        if endpoint is None or endpoint.transfer_type is TransferType.BULK:
            return 0
        is_slow = self.speed in (Speed.LOW, Speed.FULL)
        if is_slow and endpoint.transfer_type is TransferType.INTERRUPT:
            return endpoint.interval
        return 1 << min(max(endpoint.interval, 1), 16) - 1


def _ignore(event: Event) -> None:
    """Nobody listens."""


def _errno(status: int) -> int:
    return ERRNO.get(status, ERRNO[Status.ERROR])


def _iso(transfer: Transfer, packets: int) -> Iterator[tuple[int, int, int, int]]:
    """Of each packet: where its data begins, its length, bytes moved, its status."""
    start, table = 0, transfer.iso
    for i in range(0, packets * ISO_FIELDS, ISO_FIELDS):
        length = table[i + ISO_LENGTH]
        yield start, length, min(max(table[i + ISO_ACTUAL], 0), length), table[i + ISO_STATUS]
        start += length


def _iso_end(urb: Urb, transfer: Transfer, packets: int) -> Event:
    """The end of an isochronous transfer, with all data up to the last byte that was moved; of one that was submitted
    past us, it is not known how many of its packets were used: all are told."""
    table: Packets = []
    end = 0
    for start, _, actual, status in _iso(transfer, packets or transfer.packets):
        table.append((_errno(status), start, actual))
        end = start + actual if actual else end
    data = transfer.data[:end] if urb.endpoint & DIR_IN else b""
    length = sum(actual for _, _, actual in table)
    return Event(urb, COMPLETE, _errno(transfer.status), length, data, packets=table)
