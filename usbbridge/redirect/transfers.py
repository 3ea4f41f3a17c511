"""The hot path: a guest's control and bulk packets become transfers, and ended transfers become replies.

For each packet exactly one reply goes out. A packet that can't be carried out is answered at once with a status; a
cancelled one is answered when its cancel arrives, and its later end is swallowed. Data is never copied on the way in
to a transfer that was received straight into it (`data_area`), nor on the way out (`Outbox.put_data`).

Other packets that are answered (interrupt OUT, bulk streams) are transfers here, too: of those, who started them knows
how to answer.
"""

from collections.abc import Callable, Iterable
from typing import Final

from usbbridge.backend.base import Device, Status, Transfer
from usbbridge.redirect.limits import CONTROL_SECONDS, MAX_TRANSFER, MAX_UNASKED
from usbbridge.redirect.outbox import Outbox
from usbbridge.redirect.pending import COPY_BELOW, PendingTransfers
from usbbridge.redirect.read_ahead import BULK_ONLY_RESET, ReadAhead
from usbbridge.redirect.status import REDIR_STATUS
from usbbridge.usb.ch9 import DIR_IN, SETUP_STRUCT, Request
from usbbridge.usb.descriptors import Endpoint
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.proto import PacketType
from usbbridge.usbredir.proto import Status as RedirStatus

NEVER = float("inf")

# Names of their own: an enumeration's member costs seven times as much to look up as a global.
_COMPLETED, _NO_DEVICE = Status.COMPLETED, Status.NO_DEVICE
_CANCELLED = RedirStatus.CANCELLED
_INVAL = RedirStatus.INVAL
_IOERROR = RedirStatus.IOERROR
_TIMEOUT = RedirStatus.TIMEOUT
_pack_setup = SETUP_STRUCT.pack_into
_TO_OTHER = 0x03
"bmRequestType from here on: class, vendor and IN requests, and those to no device, interface or endpoint."
_NOTHING: Final = memoryview(b"")
_TO_CLASS_INTERFACE = 0x21
"bmRequestType of a class request to an interface."
_CONTROL, _BULK = PacketType.CONTROL_PACKET, PacketType.BULK_PACKET

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


OnStream = Callable[[int, int, int, int, memoryview], None]
"Carries out a bulk packet for a stream: (id, endpoint, length, stream, data)."


class Transfers(PendingTransfers):
    """All transfers that answer packets of the guest. What runs without being asked for (streams) is not among them.

    A transfer's `header` is what it needs to answer: _BULK; (_CONTROL, endpoint, setup, deadline); or, of those that
    somebody else has started, a function that answers (transfer, status) without data.
    """

    def __init__(
        self,
        device: Device,
        outbox: Outbox,
        clock: Callable[[], float],
        lost: Callable[[], None],
        used: Callable[[], None],
        intercept: Intercept,
    ) -> None:
        """As `PendingTransfers`; `clock` gives seconds, and `intercept` is called for the control packets in
        INTERCEPTED."""
        super().__init__(device, outbox, lost, used)
        self.deadline = NEVER
        "When `expire` is to be called, by `clock`."
        self.clock = clock
        "Seconds."
        self._intercept = intercept
        self._controls = 0  # control transfers in flight
        self.foreseen: dict[ReadAhead, None] = {}
        "Who knows what the guest will ask for next: `read_ahead` is to be called when the outbox has been written."
        self.unasked: dict[Transfer, None] = {}
        "What is in flight without the guest's waiting for it: not yet, or not any more."
        self._ahead: dict[int, ReadAhead] = {}  # by the address of either endpoint

    def drive(self, device: Device) -> None:
        """As `PendingTransfers.drive`."""
        super().drive(device)
        self._submit_bulk, self._submit_control = device.submit_bulk, device.submit_control

    def answer_through(self, codec: Codec) -> None:
        """Whose headers the replies have; to be called before the first packet."""
        self._bulk_header, self._control_header = codec.bulk_header, codec.control_header

    def carry_streams(self, on_stream: OnStream) -> None:
        """Who takes the bulk packets that are for a stream; to be called before the first packet."""
        self._on_stream = on_stream

    # ---- reading ahead

    def foresee(self, drives: Iterable[tuple[int, Endpoint, Endpoint]]) -> None:
        """Read ahead on these, and on nothing else: (interface, bulk IN endpoint, bulk OUT endpoint) each. What is
        under way on one of them goes on: it may be another interface that has changed."""
        had = {ahead.drive: ahead for ahead in self._ahead.values()}
        found = [had.pop(drive) if drive in had else ReadAhead(self, *drive) for drive in drives]
        for gone in had.values():
            gone.forget(_CANCELLED)
        self._ahead = {address: ahead for ahead in found for address in (ahead.source, ahead.sink)}

    def read_ahead(self) -> None:
        """Start what is foreseen."""
        foreseen = list(self.foreseen)
        self.foreseen.clear()
        for ahead in foreseen:
            ahead.start()

    def forget_ahead(
        self, endpoints: Iterable[int] | None = None, status: RedirStatus | None = _CANCELLED
    ) -> None:
        """Throw away what has been read ahead from these endpoint addresses (None: from all). Packets that wait for a
        piece of it are answered with `status`; None: not at all."""
        wanted = None if endpoints is None else frozenset(endpoints)
        for address, ahead in self._ahead.items():
            if address == ahead.source and (wanted is None or address in wanted):
                ahead.forget(status)

    def take_over(self, endpoints: set[int]) -> bool:
        """As `PendingTransfers.take_over`."""
        taken = super().take_over(endpoints)
        if taken:
            self.forget_ahead(endpoints)
        return taken

    def is_awaited(self, endpoint: int) -> bool:
        """Whether the guest waits for a transfer on this endpoint."""
        return any(t.endpoint == endpoint and not t.cancelled for t in self.pending)

    def read_unasked(self, endpoint: int, length: int, on_done: Callable[[Transfer], None]) -> Transfer | None:
        """Start a bulk transfer that the guest has not asked for; None if it can't be."""
        if endpoint not in self._bulk_endpoints or not self._room(length) or len(self.unasked) >= MAX_UNASKED:
            return None
        t = self._take(length)  # not `_new`: a packet's data may just be being received
        self.pending_bytes += t.capacity
        t.on_done, t.cancelled, t.header = on_done, False, _BULK
        if self._submit_bulk(t, endpoint, length):
            self.release(t)
            return None
        self.unasked[t] = None
        return t

    def adopt(self, t: Transfer) -> None:
        """The guest waits for this transfer, which is in flight, from now on."""
        del self.unasked[t]
        self.pending[t] = None

    def abort(self, t: Transfer) -> None:
        """Cancel a transfer in flight that nobody waits for."""
        self._device.cancel(t)

    def lost(self) -> None:
        """The device has gone."""
        self._lost()

    def ask_again(self, packet_id: int, endpoint: int, length: int) -> None:
        """A bulk packet of the guest's that was to be answered otherwise is for the device."""
        reserved, self._reserved = self._reserved, None  # the data of another packet may just be being received
        self.bulk(packet_id, endpoint, 0, length, 0, _NOTHING)
        self._reserved = reserved

    def answer_piece(self, packet_id: int, endpoint: int, status: RedirStatus, data: memoryview) -> None:
        """Answer a bulk packet with some bytes, which are copied."""
        n = len(data)
        self._outbox.put(self._bulk_header(packet_id, endpoint, status, n, 0, n) + data)

    # ---- bulk

    def bulk(self, packet_id: int, endpoint: int, status: int, length: int, stream_id: int, data: memoryview) -> None:
        """A bulk packet from the guest. `status` is not looked at: QEMU leaves it uninitialised."""
        if endpoint not in self._bulk_endpoints or stream_id or length > MAX_TRANSFER:
            if stream_id:
                self._on_stream(packet_id, endpoint, length, stream_id, data)
            else:
                self.refuse_bulk(packet_id, endpoint, stream_id, self.why_not())
            return
        ahead = self._ahead.get(endpoint)
        if ahead is not None:
            if not endpoint & DIR_IN:
                ahead.overtaken()
            elif ahead.asked(packet_id, length):
                return
        received_in_place = self._reserved is not None
        if not received_in_place and not self._room(length):
            self.refuse_bulk(packet_id, endpoint, stream_id, _IOERROR)
            return
        t = self._new(packet_id, length, self.bulk_done)
        if not endpoint & DIR_IN and not received_in_place:
            t.data[:length] = data
        t.header = _BULK
        started = self._submit_bulk(t, endpoint, length)
        if started:
            self.refuse_bulk(packet_id, endpoint, stream_id, self.start_failed(t, started))
            return
        self.pending[t] = None

    def refuse_bulk(self, packet_id: int, endpoint: int, stream_id: int, status: RedirStatus) -> None:
        """Answer a bulk packet without data."""
        self._outbox.put(self._bulk_header(packet_id, endpoint, status, 0, stream_id, 0))

    def bulk_done(self, t: Transfer) -> None:
        """A transfer that the guest waits for has ended."""
        del self.pending[t]
        if t.cancelled:
            self.release(t)
        else:
            self.answer_bulk(t)

    def answer_bulk(self, t: Transfer) -> None:
        """Answer the guest with a bulk transfer that has ended."""
        endpoint, n = t.endpoint, t.actual
        ahead = self._ahead.get(endpoint)
        if ahead is not None:
            if endpoint & DIR_IN:
                ahead.received(t)
            else:
                ahead.sent(t)
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
        if not self.connected or not legal:
            self.answer_control(packet_id, endpoint, setup, self.why_not())
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
        if requesttype == _TO_CLASS_INTERFACE and request == BULK_ONLY_RESET:
            self.forget_ahead(a.source for a in self._ahead.values() if a.interface == index & 0xFF)
        t = self._new(packet_id, length, self._control_done)
        if not endpoint and not received_in_place:
            t.data[:length] = data
        _pack_setup(t.setup, 0, requesttype, request, value, index, length)
        deadline = self.clock() + CONTROL_SECONDS
        t.header = (_CONTROL, endpoint, setup, deadline)
        started = self._submit_control(t, length)
        if started:
            self.answer_control(packet_id, endpoint, setup, self.start_failed(t, started))
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
        now, left = self.clock(), NEVER
        for t in [t for t in self.pending if not t.cancelled and type(t.header) is tuple]:
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

    # ---- cancel

    def cancel(self, packet_id: int) -> None:
        """Cancel one packet: answered CANCELLED at once; one that has just ended has been answered already."""
        for t in self.pending:
            if t.id == packet_id and not t.cancelled:
                self._cancel(t)
                return
        for ahead in self._ahead.values():
            if ahead.cancelled(packet_id):
                return

    def cancel_all(self, endpoints: Iterable[int] | None = None) -> None:
        """Cancel whatever is in flight, or only on the given endpoint addresses, each answered CANCELLED."""
        wanted = None if endpoints is None else frozenset(endpoints)
        self.forget_ahead(wanted)
        for t in list(self.pending):
            if not t.cancelled and (wanted is None or t.endpoint in wanted):
                self._cancel(t)

    def abandon_all(self) -> None:
        """Cancel whatever is in flight without a word: the guest is gone, or can't be talked to any more."""
        self.forget_ahead(status=None)
        for t in list(self.pending):
            t.cancelled = True
            self._device.cancel(t)

    def _cancel(self, t: Transfer) -> None:
        t.cancelled = True
        self._device.cancel(t)
        if t.header is _BULK:
            self.refuse_bulk(t.id, t.endpoint, 0, _CANCELLED)
        elif type(t.header) is tuple:
            _, endpoint, setup, _ = t.header
            self.answer_control(t.id, endpoint, setup, _CANCELLED)
        else:
            t.header(t, _CANCELLED)
