"""Bulk streams (USB 3.2 §8.12.1.4): several queues of transfers on one SuperSpeed endpoint, by which UAS disks carry
out many commands at once.

They are only offered to a guest if they are to be had: whether kernel, host controller and device make them is tried
out, by making and freeing them, before the guest sees the device. A guest that was offered streams and does not get
them gives up the device.

While an endpoint has streams, bulk packets without one are invalid on it, and the other way round.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable
from typing import Final

from usbbridge.backend.base import Device, Status, Transfer
from usbbridge.errors import DeviceError, DeviceLostError, UsbBridgeError
from usbbridge.redirect.layout import Layout
from usbbridge.redirect.limits import DRAIN_SECONDS, MAX_BULK_STREAMS, MAX_TRANSFER
from usbbridge.redirect.quirks import NO_STREAMS
from usbbridge.redirect.status import REDIR_STATUS
from usbbridge.redirect.transfers import Transfers
from usbbridge.usb.ch9 import DIR_IN, Speed
from usbbridge.usb.descriptors import Interface
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.packets import BulkStreamsStatus, Packet
from usbbridge.usbredir.proto import ENDPOINT_SLOTS, Cap, endpoint_address
from usbbridge.usbredir.proto import Status as RedirStatus

SUPER_SPEEDS: Final = (Speed.SUPER, Speed.SUPER_PLUS)


class BulkStreams:
    """The streams of a device's bulk endpoints, and the transfers on them. `send` puts a packet into the outbox."""

    def __init__(
        self,
        device: Device,
        transfers: Transfers,
        send: Callable[[Packet, int], None],
        lost: Callable[[], None],
        quirks: Collection[str],
    ) -> None:
        self._device, self._transfers, self._send, self._lost = device, transfers, send, lost
        self._possible = device.speed in SUPER_SPEEDS and NO_STREAMS not in quirks
        self._offered: dict[int, int] = {}
        self._found: dict[frozenset[int], int] = {}  # how many these endpoints got when it was tried out
        self._counts: dict[int, int] = {}  # by endpoint, while it has streams
        self.failed = False
        "A guest has asked for streams that were offered, and did not get them."
        self._answer_cancelled = self._answer
        transfers.carry_streams(self.bulk)

    def answer_through(self, codec: Codec) -> None:
        """Whose packets the answers are; to be called before the first packet."""
        self._codec = codec

    def drive(self, device: Device) -> None:
        """Give transfers to this device object from now on."""
        self._device = device

    # ---- what there is

    def lacking(self, layout: Layout) -> bool:
        """Whether the device, just claimed, has streams that are not to be had. Raises DeviceLostError.

        It is tried out in its first setting that has some; others are, when the guest selects them (`offer`).
        """
        if self._device.speed not in SUPER_SPEEDS or layout.configuration is None:
            return False
        for setting in layout.configuration.interfaces:
            if able := _able(setting):
                return not self._available or not self._find_out_in(setting, able)
        return False

    @property
    def _available(self) -> bool:
        return self._possible and Cap.BULK_STREAMS in self._codec.negotiated

    def _find_out_in(self, setting: Interface, able: dict[int, int]) -> int:
        """As `_find_out`, of a setting that may not be the chosen one."""
        if not setting.alternate:
            return self._find_out(able)
        found = self._find_out(able) if self._selected(setting.number, setting.alternate) else 0
        self._selected(setting.number, 0)
        return found

    def _selected(self, number: int, alternate: int) -> bool:
        try:
            self._device.set_interface(number, alternate)
        except DeviceLostError:
            raise
        except DeviceError:
            return False
        return True

    def offer(self, layout: Layout) -> dict[int, int]:
        """How many streams the endpoints of the chosen settings can have, by address. Raises DeviceLostError.

        All endpoints of a setting have the same number: QEMU's controller makes none for those that differ.
        """
        self._offered = {}
        if self._available:
            for able in filter(None, map(_able, layout.settings())):
                self._offered |= dict.fromkeys(able, self._find_out(able))
        return self._offered

    def _find_out(self, able: dict[int, int]) -> int:
        key = frozenset(able)
        if key not in self._found:
            self._found[key] = self._try(sorted(able), min(able.values()))
        return self._found[key]

    def _try(self, endpoints: list[int], count: int) -> int:
        try:
            found = self._device.alloc_streams(count, endpoints)
            self._device.free_streams(endpoints)
        except DeviceLostError:
            raise
        except DeviceError:
            return 0
        return found

    # ---- alloc and free

    def alloc(self, mask: int, count: int, packet_id: int = 0) -> None:
        """alloc_bulk_streams, and its answer."""
        endpoints = _endpoints(mask)
        status = self._alloc(endpoints, count) if self._transfers.connected else RedirStatus.IOERROR
        self._send(BulkStreamsStatus(mask, count, status), packet_id)

    def _alloc(self, endpoints: set[int], count: int) -> RedirStatus:
        most = min((self._offered.get(endpoint, 0) for endpoint in endpoints), default=0)
        if not 1 <= count <= most or self._transfers.in_use(endpoints) or not self._transfers.take_over(endpoints):
            return RedirStatus.INVAL
        self._transfers.touch()
        if self._make(sorted(endpoints), count):
            self._counts |= dict.fromkeys(endpoints, count)
            return RedirStatus.SUCCESS
        self._transfers.hand_back(endpoints)
        self.failed = True
        return RedirStatus.IOERROR

    def _make(self, endpoints: list[int], count: int) -> bool:
        """Have the kernel make streams; fewer than were asked for are none."""
        try:
            if not self._device.drain(DRAIN_SECONDS):
                return False
            if self._device.alloc_streams(count, endpoints) >= count:
                return True
            self._device.free_streams(endpoints)
        except DeviceLostError:
            self._lost()
        except UsbBridgeError:
            pass
        return False

    def free(self, mask: int, packet_id: int = 0) -> None:
        """free_bulk_streams, and its answer; to free what has none is no error: a guest gives up the device for one."""
        status = RedirStatus.IOERROR
        if self._transfers.connected and self._free(_endpoints(mask)):
            status = RedirStatus.SUCCESS
        self._send(BulkStreamsStatus(mask, 0, status), packet_id)

    def _free(self, endpoints: set[int]) -> bool:
        mine = endpoints & self._counts.keys()
        self._transfers.cancel_all(mine)
        try:
            if not self._device.drain(DRAIN_SECONDS):
                return False
            if mine:
                self._device.free_streams(sorted(mine))
        except DeviceLostError:
            self._lost()
            return False
        except UsbBridgeError:
            return False
        self.forget(mine)
        return True

    def drop(self, endpoints: set[int] | None) -> None:
        """Free the streams of these endpoints (None: of all) before they change; nothing is in flight on them."""
        mine = self._counts.keys() if endpoints is None else endpoints & self._counts.keys()
        if mine:
            with contextlib.suppress(DeviceError):  # the change frees them, too, or says what is wrong
                self._device.free_streams(sorted(mine))
                self.forget(set(mine))

    def forget(self, endpoints: Iterable[int] | None = None) -> None:
        """These endpoints (None: all) have no streams any more."""
        gone = self._counts.keys() & set(self._counts if endpoints is None else endpoints)
        for endpoint in gone:
            del self._counts[endpoint]
        self._transfers.hand_back(gone)

    # ---- transfers

    def bulk(self, packet_id: int, endpoint: int, length: int, stream_id: int, data: memoryview) -> None:
        """A bulk packet for a stream."""
        transfers = self._transfers
        if not 1 <= stream_id <= self._counts.get(endpoint, 0) or length > MAX_TRANSFER:
            transfers.refuse_bulk(packet_id, endpoint, stream_id, transfers.why_not())
            return
        t = transfers.admit(packet_id, endpoint, length, data, self._done)
        if t is None:
            transfers.refuse_bulk(packet_id, endpoint, stream_id, RedirStatus.IOERROR)
            return
        t.header = self._answer_cancelled
        started = self._device.submit_bulk_stream(t, endpoint, length, stream_id)
        if started:
            transfers.refuse_bulk(packet_id, endpoint, stream_id, transfers.start_failed(t, started))
        else:
            transfers.pending[t] = None

    def _answer(self, t: Transfer, status: RedirStatus) -> None:
        self._transfers.refuse_bulk(t.id, t.endpoint, t.stream, status)

    def _done(self, t: Transfer) -> None:
        transfers = self._transfers
        del transfers.pending[t]
        if t.cancelled:
            transfers.release(t)
            return
        n = t.actual
        payload = n if t.endpoint & DIR_IN else 0
        header = self._codec.bulk_header(t.id, t.endpoint, REDIR_STATUS[t.status], n, t.stream, payload)
        transfers.deliver(t, header, payload)
        if t.status == Status.NO_DEVICE:
            self._lost()


def _able(setting: Interface) -> dict[int, int]:
    """How many streams the endpoints of a setting have, of which it is not known yet whether they are to be had."""
    return {e.address: min(e.max_streams, MAX_BULK_STREAMS) for e in setting.endpoints if e.max_streams}


def _endpoints(mask: int) -> set[int]:
    """The addresses that a mask of ep_info's indices stands for."""
    return {endpoint_address(index) for index in range(ENDPOINT_SLOTS) if mask >> index & 1}
