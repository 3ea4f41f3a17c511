"""The transfers that the guest waits for: taken from the device's pool, counted, and kept until they have ended and
what they brought is written; and which endpoints there are for them.

Receiving a packet's data straight into its transfer (`data_area`) comes before the packet itself: in between, that
transfer is reserved.
"""

from collections.abc import Callable

from usbbridge.backend.base import Device, Status, Transfer
from usbbridge.redirect.limits import MAX_PENDING, MAX_PENDING_BYTES, MAX_TRANSFER
from usbbridge.redirect.outbox import Outbox
from usbbridge.redirect.status import REDIR_STATUS
from usbbridge.usb.ch9 import DIR_IN, TransferType
from usbbridge.usb.descriptors import Endpoint
from usbbridge.usbredir.proto import PacketType
from usbbridge.usbredir.proto import Status as RedirStatus

COPY_BELOW = 8192
"Bytes up to which data is copied behind its header: that costs less than one more part to hold and to write."

# Names of their own: an enumeration's member costs seven times as much to look up as a global.
_NO_DEVICE = Status.NO_DEVICE
_INVAL, _IOERROR = RedirStatus.INVAL, RedirStatus.IOERROR
_CONTROL, _BULK = PacketType.CONTROL_PACKET, PacketType.BULK_PACKET


class PendingTransfers:
    """See the module's text."""

    def __init__(
        self,
        device: Device,
        outbox: Outbox,
        lost: Callable[[], None],
        used: Callable[[], None],
    ) -> None:
        """`lost` is called when the device turns out to be gone, `used` for the first transfer after `touched` was set
        to False."""
        self.touched = False
        """Whether any transfer was started since this was last set to False: a reset of an untouched device is for
        nothing."""
        self.pending: dict[Transfer, None] = {}
        "What is in flight, oldest first."
        self.pending_bytes = 0
        "Data areas that are in use, in flight or waiting to be written."
        self._outbox = outbox
        self._lost, self._used = lost, used
        self.drive(device)
        self._reserved: Transfer | None = None  # its data is just being received
        self.connected = False
        "Whether packets are carried out."
        self._all_bulk: frozenset[int] = frozenset()
        self._taken_over: frozenset[int] = frozenset()
        self._bulk_endpoints: frozenset[int] = frozenset()  # what is left of those: plain bulk packets may use them

    def drive(self, device: Device) -> None:
        """Give transfers to this device object from now on."""
        self._device = device
        self._take, self._give_back = device.take, device.give_back

    def connect(self) -> None:
        """From now on packets are carried out; before, they are answered IOERROR."""
        self.connected = True

    def disconnect(self) -> None:
        """From now on packets are answered IOERROR: the device they are for is no longer there."""
        self.connected = False
        self.set_endpoints({})

    def set_endpoints(self, endpoints: dict[int, Endpoint]) -> None:
        """Which endpoints the current configuration and alternate settings have."""
        self._all_bulk = frozenset(a for a, e in endpoints.items() if e.transfer_type is TransferType.BULK)
        self._bulk_endpoints = self._all_bulk - self._taken_over

    def take_over(self, endpoints: set[int]) -> bool:
        """From now on bulk packets on these are invalid, as somebody else uses them; False if somebody does already."""
        if endpoints & self._taken_over:
            return False
        self._taken_over |= endpoints
        self._bulk_endpoints = self._all_bulk - self._taken_over
        return True

    def hand_back(self, endpoints: set[int]) -> None:
        """Bulk packets may use these again."""
        self._taken_over -= endpoints
        self._bulk_endpoints = self._all_bulk - self._taken_over

    def in_use(self, endpoints: set[int]) -> bool:
        """Whether the guest waits for a transfer on one of these."""
        return any(t.endpoint in endpoints and not t.cancelled for t in self.pending)

    def touch(self) -> None:
        """The device is used: by something that is no transfer here, perhaps."""
        if not self.touched:
            self.touched = True
            self._used()

    # ---- accounting

    def _room(self, length: int) -> bool:
        return len(self.pending) < MAX_PENDING and self.pending_bytes + length <= MAX_PENDING_BYTES

    def _new(self, packet_id: int, length: int, on_done: Callable[[Transfer], None]) -> Transfer:
        t = self._reserved
        if t is None:
            t = self._take(length)
            self.pending_bytes += t.capacity
        else:
            self._reserved = None
        t.id, t.on_done, t.cancelled = packet_id, on_done, False
        if not self.touched:
            self.touched = True
            self._used()
        return t

    def release(self, t: Transfer) -> None:
        """The transfer's data area is no longer needed."""
        self.pending_bytes -= t.capacity
        self._give_back(t)

    def drop_reserved(self) -> None:
        """The packet whose data was received in place is not going to be a transfer."""
        if self._reserved is not None:
            t, self._reserved = self._reserved, None
            self.release(t)

    def data_area(self, kind: PacketType, endpoint: int, length: int) -> memoryview | None:
        """Where a packet's data may be received straight into: a transfer's own buffer, if it is going to get one."""
        wanted = endpoint in self._all_bulk if kind == _BULK else kind == _CONTROL and self.connected
        if not wanted or length > MAX_TRANSFER or not self._room(length):
            return None
        self.drop_reserved()
        t = self._reserved = self._take(length)
        self.pending_bytes += t.capacity
        return t.data[:length]

    def admit(
        self, packet_id: int, endpoint: int, length: int, data: memoryview, on_done: Callable[[Transfer], None]
    ) -> Transfer | None:
        """A transfer for a packet of somebody else's, with its data in it; None if there is no room for it now."""
        received_in_place = self._reserved is not None
        if not received_in_place and not self._room(length):
            return None
        t = self._new(packet_id, length, on_done)
        if not endpoint & DIR_IN and not received_in_place:
            t.data[:length] = data
        return t

    def deliver(self, t: Transfer, header: bytes, payload: int) -> None:
        """Answer with a header and so much of the data of a transfer that has ended."""
        if payload > COPY_BELOW:
            self._outbox.put_data(header, t.data[:payload], t)
        else:
            self._outbox.put(header + t.data[:payload])
            self.release(t)

    def start_failed(self, t: Transfer, status: Status) -> RedirStatus:
        """The device did not take a transfer. Answer: with what status its packet is to be answered."""
        self.release(t)
        if status is _NO_DEVICE:
            self._lost()
        return REDIR_STATUS[status]

    def why_not(self) -> RedirStatus:
        """With what status a packet is answered that is not for an endpoint of its kind."""
        self.drop_reserved()
        return _INVAL if self.connected else _IOERROR
