"""Interrupt OUT packets: transfers that are answered as bulk ones are, at most one packet of the endpoint long."""

from collections.abc import Callable

from usbbridge.backend.base import Device, Status, Transfer
from usbbridge.redirect.outbox import Outbox
from usbbridge.redirect.status import REDIR_STATUS
from usbbridge.redirect.transfers import Transfers
from usbbridge.usb.ch9 import DIR_IN, TransferType
from usbbridge.usb.descriptors import Endpoint
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.proto import Status as RedirStatus


class InterruptOut:
    """The interrupt OUT endpoints of a device."""

    def __init__(self, device: Device, transfers: Transfers, outbox: Outbox, lost: Callable[[], None]) -> None:
        self._device, self._transfers, self._outbox, self._lost = device, transfers, outbox, lost
        self._largest: dict[int, int] = {}  # packet, by address
        self._answer_cancelled = self._answer

    def answer_through(self, codec: Codec) -> None:
        """Whose headers the answers have; to be called before the first packet."""
        self._header = codec.interrupt_header

    def drive(self, device: Device) -> None:
        """Give transfers to this device object from now on."""
        self._device = device

    def set_endpoints(self, endpoints: dict[int, Endpoint]) -> None:
        """Which endpoints the current configuration and alternate settings have."""
        out = (e for e in endpoints.values() if e.transfer_type is TransferType.INTERRUPT and not e.address & DIR_IN)
        self._largest = {e.address: e.max_packet_size & 0x7FF for e in out}

    def packet(self, packet_id: int, endpoint: int, status: int, length: int, data: memoryview) -> None:
        """An interrupt packet from the guest, always OUT. `status` is not looked at: QEMU leaves it uninitialised."""
        transfers = self._transfers
        if length > self._largest.get(endpoint, -1):
            self._refuse(packet_id, endpoint, transfers.why_not())
            return
        t = transfers.admit(packet_id, endpoint, length, data, self._done)
        if t is None:
            self._refuse(packet_id, endpoint, RedirStatus.IOERROR)
            return
        t.header = self._answer_cancelled
        started = self._device.submit_interrupt(t, endpoint, length)
        if started:
            self._refuse(packet_id, endpoint, transfers.start_failed(t, started))
        else:
            transfers.pending[t] = None

    def _refuse(self, packet_id: int, endpoint: int, status: RedirStatus) -> None:
        self._outbox.put(self._header(packet_id, endpoint, status, 0, 0))

    def _answer(self, t: Transfer, status: RedirStatus) -> None:
        self._refuse(t.id, t.endpoint, status)

    def _done(self, t: Transfer) -> None:
        del self._transfers.pending[t]
        if not t.cancelled:
            self._outbox.put(self._header(t.id, t.endpoint, REDIR_STATUS[t.status], t.actual, 0))
        self._transfers.release(t)
        if t.status == Status.NO_DEVICE:
            self._lost()
