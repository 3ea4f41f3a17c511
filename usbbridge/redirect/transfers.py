"""The hot path: a guest's control, bulk and interrupt OUT packets become transfers, and ended transfers become replies.

For each packet exactly one reply goes out. A packet that can't be carried out is answered at once with a status; a
cancelled one is answered when its cancel arrives, and its later end is swallowed. Data is never copied on the way in
to a transfer that was received straight into it (`data_area`), nor on the way out (`Outbox.put_data`).
"""

from collections.abc import Callable, Iterable
from typing import Final

from usbbridge.backend.base import Device, Status, Transfer
from usbbridge.redirect.limits import CONTROL_SECONDS, MAX_PENDING, MAX_PENDING_BYTES, MAX_TRANSFER
from usbbridge.redirect.outbox import Outbox
from usbbridge.redirect.status import REDIR_STATUS
from usbbridge.usb.ch9 import DIR_IN, SETUP_STRUCT, Request, TransferType
from usbbridge.usb.descriptors import Endpoint
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.proto import PacketType
from usbbridge.usbredir.proto import Status as RedirStatus

NEVER = float("inf")

COPY_BELOW = 8192
"Bytes up to which data is copied behind its header: that costs less than one more part to hold and to write."

# Names of their own: an enumeration's member costs seven times as much to look up as a global.
_COMPLETED, _NO_DEVICE = Status.COMPLETED, Status.NO_DEVICE
_CANCELLED = RedirStatus.CANCELLED
_INVAL = RedirStatus.INVAL
_IOERROR = RedirStatus.IOERROR
_TIMEOUT = RedirStatus.TIMEOUT
_pack_setup = SETUP_STRUCT.pack_into
_TO_OTHER = 0x03
"bmRequestType from here on: class, vendor and IN requests, and those to no device, interface or endpoint."
_CONTROL, _BULK, _INTERRUPT = PacketType.CONTROL_PACKET, PacketType.BULK_PACKET, PacketType.INTERRUPT_PACKET

INTERCEPTED: Final = frozenset(
    {
        (0x00, Request.SET_CONFIGURATION),
        (0x00, Request.SET_ADDRESS),
        (0x01, Request.SET_INTERFACE),
        (0x02, Request.CLEAR_FEATURE),
    }
)
"""(bmRequestType, bRequest) of standard requests to the device, an interface and an endpoint that the kernel must
know of."""

Intercept = Callable[[int, int, int], RedirStatus | None]
"Carries out (bRequest, wValue, wIndex) in another way; None: it may go to the device as it is."


class Transfers:
    """All transfers that answer packets of the guest. Receiving endpoints (streams of reports) are not among them."""

    def __init__(
        self,
        device: Device,
        outbox: Outbox,
        clock: Callable[[], float],
        lost: Callable[[], None],
        used: Callable[[], None],
        intercept: Intercept,
    ) -> None:
        """`lost` is called when the device turns out to be gone, `used` for the first transfer after `touched` was set
        to False, `intercept` for the control packets in INTERCEPTED."""
        self.touched = False
        """Whether any transfer was started since this was last set to False: a reset of an untouched device is for
        nothing."""
        self.deadline = NEVER
        "When `expire` is to be called, by `clock`."
        self.pending: dict[Transfer, None] = {}
        "What is in flight, oldest first."
        self.pending_bytes = 0
        "Data areas that are in use, in flight or waiting to be written."
        self._device, self._outbox = device, outbox
        self._lost, self._used, self._intercept, self._clock = lost, used, intercept, clock
        self._take, self._give_back = device.take, device.give_back
        self._submit_bulk, self._submit_control = device.submit_bulk, device.submit_control
        self._reserved: Transfer | None = None  # its data is just being received
        self._controls = 0  # control transfers in flight
        self._connected = False
        self._bulk_endpoints: frozenset[int] = frozenset()
        self._interrupt_out: dict[int, int] = {}  # address: largest packet

    def answer_through(self, codec: Codec) -> None:
        """Whose headers the replies have; to be called before the first packet."""
        self._bulk_header, self._control_header = codec.bulk_header, codec.control_header
        self._interrupt_header = codec.interrupt_header

    def connect(self) -> None:
        """From now on packets are carried out; before, they are answered IOERROR."""
        self._connected = True

    def disconnect(self) -> None:
        """From now on packets are answered IOERROR: the device they are for is no longer there."""
        self._connected = False
        self.set_endpoints({})

    def set_endpoints(self, endpoints: dict[int, Endpoint]) -> None:
        """Which endpoints the current configuration and alternate settings have."""
        of = {kind: [a for a, e in endpoints.items() if e.transfer_type is kind] for kind in TransferType}
        self._bulk_endpoints = frozenset(of[TransferType.BULK])
        out = (address for address in of[TransferType.INTERRUPT] if not address & DIR_IN)
        self._interrupt_out = {address: endpoints[address].max_packet_size & 0x7FF for address in out}

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
        wanted = endpoint in self._bulk_endpoints if kind == _BULK else kind == _CONTROL and self._connected
        if not wanted or length > MAX_TRANSFER or not self._room(length):
            return None
        self.drop_reserved()
        t = self._reserved = self._take(length)
        self.pending_bytes += t.capacity
        return t.data[:length]

    def _start_failed(self, t: Transfer, status: Status) -> RedirStatus:
        self.release(t)
        if status is _NO_DEVICE:
            self._lost()
        return REDIR_STATUS[status]

    def _why_not(self) -> RedirStatus:
        self.drop_reserved()
        return _INVAL if self._connected else _IOERROR

    # ---- bulk

    def bulk(self, packet_id: int, endpoint: int, status: int, length: int, stream_id: int, data: memoryview) -> None:
        """A bulk packet from the guest. `status` is not looked at: QEMU leaves it uninitialised."""
        if endpoint not in self._bulk_endpoints or stream_id or length > MAX_TRANSFER:
            self._refuse_bulk(packet_id, endpoint, stream_id, self._why_not())
            return
        received_in_place = self._reserved is not None
        if not received_in_place and not self._room(length):
            self._refuse_bulk(packet_id, endpoint, stream_id, _IOERROR)
            return
        t = self._new(packet_id, length, self._bulk_done)
        if not endpoint & DIR_IN and not received_in_place:
            t.data[:length] = data
        t.header = _BULK
        started = self._submit_bulk(t, endpoint, length)
        if started:
            self._refuse_bulk(packet_id, endpoint, stream_id, self._start_failed(t, started))
            return
        self.pending[t] = None

    def _refuse_bulk(self, packet_id: int, endpoint: int, stream_id: int, status: RedirStatus) -> None:
        self._outbox.put(self._bulk_header(packet_id, endpoint, status, 0, stream_id, 0))

    def _bulk_done(self, t: Transfer) -> None:
        del self.pending[t]
        if t.cancelled:
            self.release(t)
            return
        endpoint, n = t.endpoint, t.actual
        if n and endpoint & DIR_IN:
            header = self._bulk_header(t.id, endpoint, REDIR_STATUS[t.status], n, 0, n)
            if n <= COPY_BELOW:
                self._outbox.put(header + t.data[:n])
                self.release(t)
            else:
                self._outbox.put_data(header, t.data[:n], t)
        else:
            self._outbox.put(self._bulk_header(t.id, endpoint, REDIR_STATUS[t.status], n, 0, 0))
            self.release(t)
        if t.status == _NO_DEVICE:
            self._lost()

    # ---- control

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
        """A control packet from the guest. `status` is not looked at: QEMU leaves it uninitialised."""
        received_in_place = self._reserved is not None
        setup = (request, requesttype, value, index)
        legal = endpoint in (0, DIR_IN) and (not length or endpoint == requesttype & DIR_IN)
        if not self._connected or not legal:
            self.answer_control(packet_id, endpoint, setup, self._why_not())
            return
        if not received_in_place and not self._room(length):
            self.answer_control(packet_id, endpoint, setup, _IOERROR)
            return
        if requesttype < _TO_OTHER and (requesttype, request) in INTERCEPTED:
            answer = self._intercept(request, value, index)
            if answer is not None:
                self.drop_reserved()
                self.answer_control(packet_id, endpoint, setup, answer)
                return
        t = self._new(packet_id, length, self._control_done)
        if not endpoint and not received_in_place:
            t.data[:length] = data
        _pack_setup(t.setup, 0, requesttype, request, value, index, length)
        deadline = self._clock() + CONTROL_SECONDS
        t.header = (_CONTROL, endpoint, setup, deadline)
        started = self._submit_control(t, length)
        if started:
            self.answer_control(packet_id, endpoint, setup, self._start_failed(t, started))
            return
        self.pending[t] = None
        if self.deadline == NEVER:
            self.deadline = deadline
        self._controls += 1

    def answer_control(
        self, packet_id: int, endpoint: int, setup: tuple[int, int, int, int], status: RedirStatus
    ) -> None:
        """Answer a control packet without data: `setup` is (request, requesttype, value, index)."""
        self._outbox.put(self._control_header(packet_id, endpoint, *setup[:2], status, *setup[2:], 0, 0))

    def expire(self) -> None:
        """Answer the control packets whose time is up with TIMEOUT; to be called when `deadline` has passed."""
        now, left = self._clock(), NEVER
        for t in [t for t in self.pending if not t.cancelled and t.header not in (_BULK, _INTERRUPT)]:
            _, endpoint, setup, deadline = t.header
            if deadline > now:
                left = min(left, deadline)
                continue
            t.cancelled = True
            self._device.cancel(t)
            self.answer_control(t.id, endpoint, setup, _TIMEOUT)
        self.deadline = left

    def _control_done(self, t: Transfer) -> None:
        del self.pending[t]
        self._controls -= 1
        if not self._controls:
            self.deadline = NEVER
        if t.cancelled:
            self.release(t)
            return
        _, endpoint, (request, requesttype, value, index), _ = t.header
        good = t.status == _COMPLETED
        n = t.actual if good else 0
        payload = n if endpoint else 0
        header = self._control_header(
            t.id, endpoint, request, requesttype, REDIR_STATUS[t.status], value, index, n, payload
        )
        if payload > COPY_BELOW:
            self._outbox.put_data(header, t.data[:n], t)
        else:
            self._outbox.put(header + t.data[:payload])
            self.release(t)
        if t.status == _NO_DEVICE:
            self._lost()

    # ---- interrupt OUT

    def interrupt(self, packet_id: int, endpoint: int, status: int, length: int, data: memoryview) -> None:
        """An interrupt packet from the guest, always OUT; at most one packet of the endpoint long."""
        if length > self._interrupt_out.get(endpoint, -1):
            self._refuse_interrupt(packet_id, endpoint, self._why_not())
            return
        if not self._room(length):
            self._refuse_interrupt(packet_id, endpoint, _IOERROR)
            return
        t = self._new(packet_id, length, self._interrupt_done)
        t.data[:length] = data
        t.header = _INTERRUPT
        started = self._device.submit_interrupt(t, endpoint, length)
        if started:
            self._refuse_interrupt(packet_id, endpoint, self._start_failed(t, started))
            return
        self.pending[t] = None

    def _refuse_interrupt(self, packet_id: int, endpoint: int, status: RedirStatus) -> None:
        self._outbox.put(self._interrupt_header(packet_id, endpoint, status, 0, 0))

    def _interrupt_done(self, t: Transfer) -> None:
        del self.pending[t]
        if not t.cancelled:
            status = REDIR_STATUS[t.status]
            self._outbox.put(self._interrupt_header(t.id, t.endpoint, status, t.actual, 0))
        self.release(t)
        if t.status == _NO_DEVICE:
            self._lost()

    # ---- cancel

    def cancel(self, packet_id: int) -> None:
        """Cancel one packet: answered CANCELLED at once; one that has just ended has been answered already."""
        for t in self.pending:
            if t.id == packet_id and not t.cancelled:
                self._cancel(t)
                return

    def cancel_all(self, endpoints: Iterable[int] | None = None) -> None:
        """Cancel whatever is in flight, or only on the given endpoint addresses, each answered CANCELLED."""
        wanted = None if endpoints is None else frozenset(endpoints)
        for t in list(self.pending):
            if not t.cancelled and (wanted is None or t.endpoint in wanted):
                self._cancel(t)

    def abandon_all(self) -> None:
        """Cancel whatever is in flight without a word: the guest is gone, or can't be talked to any more."""
        for t in list(self.pending):
            t.cancelled = True
            self._device.cancel(t)

    def _cancel(self, t: Transfer) -> None:
        t.cancelled = True
        self._device.cancel(t)
        if t.header == _BULK:
            self._outbox.put(self._bulk_header(t.id, t.endpoint, _CANCELLED, 0, 0, 0))
        elif t.header == _INTERRUPT:
            self._outbox.put(self._interrupt_header(t.id, t.endpoint, _CANCELLED, 0, 0))
        else:
            _, endpoint, setup, _ = t.header
            self.answer_control(t.id, endpoint, setup, _CANCELLED)
