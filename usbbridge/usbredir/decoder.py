"""From the peer's bytes to calls on a `Sink`: incremental, bounded, and without a copy where that can be had.

Theory of operation
===================

Bytes are parsed where they lie: in a window of `WINDOW` bytes that the caller receives into, or in a buffer that the
caller has (`feed`). Of both, only an incomplete rest is kept, at the start of the window; it never exceeds one packet
without payload. When a data packet's headers are there but its payload is not, the headers are checked and used up, and
the payload is received straight into its place: into what `Sink.data_area` provides, or else a buffer of our own.

    window ── header ── type header ──┬─ payload all there: the sink gets a view of it
                                      └─ not yet: buffer() hands out the payload's place until it is full

So a decoder holds at most WINDOW and one payload (max_payload, or MAX_FILTER_BYTES of filter), however the peer cuts
its stream and whatever lengths it claims.

Everything that a packet's headers tell is checked before its payload is waited for. The first violation closes the
session for good: the length that would lead to the next packet comes from the peer that has just broken the rules.
The status field is never checked; in a guest's requests it is uninitialised memory.
"""

from collections.abc import Callable
from typing import Any

from usbbridge.usbredir import bodies
from usbbridge.usbredir.errors import ConnectionClosedError, PeerViolationError, Rule
from usbbridge.usbredir.packets import Hello
from usbbridge.usbredir.proto import ENDPOINT_IN, MAX_TRANSFER, WINDOW, Cap, Direction, PacketType
from usbbridge.usbredir.sink import Sink
from usbbridge.usbredir.state import Session, State
from usbbridge.usbredir.wire import HELLO_HEADER, wire

_T = PacketType
_NOTHING = memoryview(b"")

_Handler = Callable[[int, int, memoryview, int, int], bool]
"""Takes one data type's packets: (id, bytes after the header, buffer, where they start, where the buffer's bytes end).
True: the packet is used up. False: more bytes are needed, and `_place` or `_need` says how many."""


class Decoder:
    """The receiving half of a connection."""

    __slots__ = (
        "_agreed",
        "_buffered_body",
        "_bulk_body",
        "_carries",
        "_control_body",
        "_deliver",
        "_fields",
        "_filled",
        "_handlers",
        "_have",
        "_header",
        "_max_payload",
        "_need",
        "_place",
        "_session",
        "_short_body",
        "_sink",
        "_wide_length",
        "_window",
        "_wire",
    )

    def __init__(self, session: Session, sink: Sink, max_payload: int, agreed: Callable[[Cap], None]) -> None:
        self._session = session
        self._sink = sink
        self._max_payload = max_payload
        self._agreed = agreed
        "Called with the agreed capabilities once the peer's hello has come."
        self._window = memoryview(bytearray(WINDOW))
        self._have = 0
        "Bytes of an incomplete packet at the start of the window."
        self._need = HELLO_HEADER.size
        "How many it must become before another look at it pays."
        self._place: memoryview | None = None
        "Where the payload that is being received goes; exactly as long as that payload."
        self._filled = 0
        self._deliver: Callable[..., None] = sink.bulk
        self._fields: tuple[Any, ...] = ()
        self._carries = 0 if session.receives is Direction.TO_HOST else ENDPOINT_IN
        "Direction bit of the endpoints whose packets carry payload towards us."
        self._handlers: dict[int, _Handler] = {
            int(_T.CONTROL_PACKET): self._control,
            int(_T.BULK_PACKET): self._bulk,
            int(_T.ISO_PACKET): self._iso,
            int(_T.INTERRUPT_PACKET): self._interrupt,
            int(_T.BUFFERED_BULK_PACKET): self._buffered_bulk,
        }
        self._use_layouts(Cap(0))

    def _use_layouts(self, caps: Cap) -> None:
        layouts = wire(caps)
        self._wire = layouts
        self._header = layouts.header
        self._control_body = layouts.bodies[_T.CONTROL_PACKET]
        self._bulk_body = layouts.bodies[_T.BULK_PACKET]
        self._short_body = layouts.bodies[_T.INTERRUPT_PACKET]
        self._buffered_body = layouts.bodies[_T.BUFFERED_BULK_PACKET]
        self._wide_length = Cap.BULK_LENGTH_32BIT in caps

    # Bytes in

    def buffer(self) -> memoryview:
        """Where the next bytes are to be received; never empty."""
        if self._place is not None:
            return self._place[self._filled :]
        return self._window[self._have :]

    def received(self, n: int) -> None:
        """The first `n` bytes of `buffer()` have been received. Raises `PeerViolationError`."""
        if self._session.state is State.CLOSED:
            raise ConnectionClosedError
        try:
            if self._place is not None:
                self._payload_received(n)
            else:
                end = self._have + n
                if end < self._need:
                    self._have = end
                else:
                    self._keep(self._window, self._parse(self._window, 0, end), end)
        except BaseException:
            self._close()
            raise

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """These bytes have been received elsewhere. Raises `PeerViolationError`."""
        if self._session.state is State.CLOSED:
            raise ConnectionClosedError
        view, at, end = memoryview(data), 0, len(data)
        while at < end and (self._place is not None or self._have):
            at += self._complete(view, at, end)
        if at == end:
            return
        try:
            self._keep(view, self._parse(view, at, end), end)
        except BaseException:
            self._close()
            raise

    def _complete(self, view: memoryview, at: int, end: int) -> int:
        """Add to what is incomplete no more than completes it, so that the rest can be parsed where it lies."""
        target = self.buffer()
        missing = len(target) if self._place is not None else self._need - self._have
        n = min(missing, end - at)
        target[:n] = view[at : at + n]
        self.received(n)
        return n

    def _keep(self, view: memoryview, at: int, end: int) -> None:
        self._have = rest = end - at
        if rest:
            self._window[:rest] = view[at:end]

    def _close(self) -> None:
        self._session.close()
        self._place = None
        self._have = 0

    # Packets out

    def _parse(self, view: memoryview, at: int, end: int) -> int:
        """Take packets from `view` until one is incomplete; returns where what has to be kept of that one starts."""
        session, handlers = self._session, self._handlers
        while True:
            header = self._header
            body = at + header.size
            if body > end:
                self._need = header.size
                return at
            kind, length, packet_id = header.unpack_from(view, at)
            if kind not in session.receivable:
                if session.state is State.CLOSED:
                    return end  # the sink has just closed the connection: nobody wants the rest
                raise session.violation(kind)
            handler = handlers.get(kind)
            if handler is not None:
                done = handler(packet_id, length, view, body, end)
            else:
                done = self._packet(kind, packet_id, length, view, body, end)
            if not done:
                return at if self._place is None else end
            at = body + length

    def _packet(self, kind: int, packet_id: int, length: int, view: memoryview, at: int, end: int) -> bool:
        packet = PacketType(kind)
        shortest, longest = self._wire.bodies[packet].size, bodies.longest_body(packet, self._wire)
        if not shortest <= length <= longest:
            raise PeerViolationError(packet, Rule.LENGTH, "length", length, f"{shortest} to {longest}")
        if at + length <= end:
            self._accept(packet, packet_id, view[at : at + length])
            return True
        if packet is _T.FILTER_FILTER:
            # The one packet that may be longer than the window.
            self._receive_into(memoryview(bytearray(length)), self._accept, (packet, packet_id), view[at:end])
        self._need = self._header.size + length
        return False

    def _accept(self, kind: PacketType, packet_id: int, body: memoryview) -> None:
        if kind is _T.HELLO:
            self._hello(packet_id, body)
            return
        packet = bodies.unpack_body(kind, body, self._wire)
        self._session.passed(self._session.receives, kind)
        self._sink.packet(packet_id, packet)

    def _hello(self, packet_id: int, body: memoryview) -> None:
        session = self._session
        if session.peer_caps is not None:
            return
        hello = bodies.unpack_body(_T.HELLO, body, self._wire)
        assert isinstance(hello, Hello)
        session.hello_received(hello.caps)
        self._use_layouts(session.negotiated)
        self._agreed(session.negotiated)
        self._sink.packet(packet_id, Hello(hello.version, session.peer_caps or Cap(0)))

    # The data types: headers first, then the payload if the direction rule has one

    def _control(self, packet_id: int, length: int, view: memoryview, at: int, end: int) -> bool:
        layout = self._control_body
        start, payload = at + layout.size, length - layout.size
        if start > end or payload < 0:
            return self._header_missing(_T.CONTROL_PACKET, length, layout.size)
        endpoint, request, requesttype, status, value, index, size = layout.unpack_from(view, at)
        if payload != (size if endpoint & ENDPOINT_IN == self._carries else 0):
            raise self._violation(_T.CONTROL_PACKET, endpoint, size, payload)
        if payload > end - start:
            fields = (packet_id, endpoint, request, requesttype, status, value, index, size)
            return self._wait_for(_T.CONTROL_PACKET, endpoint, payload, self._sink.control, fields, view[start:end])
        data = view[start : start + payload] if payload else _NOTHING
        self._sink.control(packet_id, endpoint, request, requesttype, status, value, index, size, data)
        return True

    def _bulk(self, packet_id: int, length: int, view: memoryview, at: int, end: int) -> bool:
        layout = self._bulk_body
        start, payload = at + layout.size, length - layout.size
        if start > end or payload < 0:
            return self._header_missing(_T.BULK_PACKET, length, layout.size)
        if self._wide_length:
            endpoint, status, size, stream_id, high = layout.unpack_from(view, at)
            size |= high << 16
        else:
            endpoint, status, size, stream_id = layout.unpack_from(view, at)
        if payload != (size if endpoint & ENDPOINT_IN == self._carries else 0) or self._too_long(size, payload):
            raise self._violation(_T.BULK_PACKET, endpoint, size, payload)
        if payload > end - start:
            fields = (packet_id, endpoint, status, size, stream_id)
            return self._wait_for(_T.BULK_PACKET, endpoint, payload, self._sink.bulk, fields, view[start:end])
        data = view[start : start + payload] if payload else _NOTHING
        self._sink.bulk(packet_id, endpoint, status, size, stream_id, data)
        return True

    def _interrupt(self, packet_id: int, length: int, view: memoryview, at: int, end: int) -> bool:
        layout = self._short_body
        start, payload = at + layout.size, length - layout.size
        if start > end or payload < 0:
            return self._header_missing(_T.INTERRUPT_PACKET, length, layout.size)
        endpoint, status, size = layout.unpack_from(view, at)
        # Interrupt IN endpoints are read by start_interrupt_receiving: no packet asks for their data.
        carries = endpoint & ENDPOINT_IN == self._carries
        if payload != (size if carries else 0) or not (carries or self._carries):
            raise self._violation(_T.INTERRUPT_PACKET, endpoint, size, payload)
        if payload > end - start:
            fields = (packet_id, endpoint, status, size)
            return self._wait_for(_T.INTERRUPT_PACKET, endpoint, payload, self._sink.interrupt, fields, view[start:end])
        data = view[start : start + payload] if payload else _NOTHING
        self._sink.interrupt(packet_id, endpoint, status, size, data)
        return True

    def _iso(self, packet_id: int, length: int, view: memoryview, at: int, end: int) -> bool:
        layout = self._short_body
        start, payload = at + layout.size, length - layout.size
        if start > end or payload < 0:
            return self._header_missing(_T.ISO_PACKET, length, layout.size)
        endpoint, status, size = layout.unpack_from(view, at)
        if payload != size or endpoint & ENDPOINT_IN != self._carries:
            raise self._violation(_T.ISO_PACKET, endpoint, size, payload)
        if payload > end - start:
            fields = (packet_id, endpoint, status, size)
            return self._wait_for(_T.ISO_PACKET, endpoint, payload, self._sink.iso, fields, view[start:end])
        self._sink.iso(packet_id, endpoint, status, size, view[start : start + payload])
        return True

    def _buffered_bulk(self, packet_id: int, length: int, view: memoryview, at: int, end: int) -> bool:
        layout = self._buffered_body
        start, payload = at + layout.size, length - layout.size
        if start > end or payload < 0:
            return self._header_missing(_T.BUFFERED_BULK_PACKET, length, layout.size)
        stream_id, size, endpoint, status = layout.unpack_from(view, at)
        if payload != size or endpoint & ENDPOINT_IN != self._carries or self._too_long(size, payload):
            raise self._violation(_T.BUFFERED_BULK_PACKET, endpoint, size, payload)
        fields = (packet_id, stream_id, size, endpoint, status)
        deliver = self._sink.buffered_bulk
        if payload > end - start:
            return self._wait_for(_T.BUFFERED_BULK_PACKET, endpoint, payload, deliver, fields, view[start:end])
        deliver(*fields, view[start : start + payload])
        return True

    def _too_long(self, size: int, payload: int) -> bool:
        return size > MAX_TRANSFER or payload > self._max_payload

    def _header_missing(self, packet: PacketType, length: int, size: int) -> bool:
        if length < size:
            raise PeerViolationError(packet, Rule.LENGTH, "length", length, f"at least {size}")
        self._need = self._header.size + size
        return False

    def _violation(self, packet: PacketType, endpoint: int, size: int, payload: int) -> PeerViolationError:
        if size > MAX_TRANSFER:
            return PeerViolationError(packet, Rule.LENGTH, "length", size, f"at most {MAX_TRANSFER}")
        if payload > self._max_payload:
            return PeerViolationError(packet, Rule.LENGTH, "payload", payload, f"at most {self._max_payload} bytes")
        wanted = size if endpoint & ENDPOINT_IN == self._carries else "from this side"
        return PeerViolationError(packet, Rule.PAYLOAD, f"payload for endpoint {endpoint:#04x}", payload, wanted)

    # Payloads that are still on their way

    def _wait_for(
        self,
        packet: PacketType,
        endpoint: int,
        payload: int,
        deliver: Callable[..., None],
        fields: tuple[int, ...],
        start: memoryview,
    ) -> bool:
        place = self._sink.data_area(packet, endpoint, payload)
        if place is None:
            place = memoryview(bytearray(payload))
        elif len(place) < payload:
            raise ValueError(f"data_area gave {len(place)} bytes for {payload}")
        self._receive_into(place[:payload], deliver, fields, start)
        return False

    def _receive_into(
        self, place: memoryview, deliver: Callable[..., None], fields: tuple[Any, ...], start: memoryview
    ) -> None:
        place[: len(start)] = start
        self._place = place
        self._filled = len(start)
        self._deliver = deliver
        self._fields = fields

    def _payload_received(self, n: int) -> None:
        self._filled += n
        place = self._place
        assert place is not None
        if self._filled < len(place):
            return
        self._place = None
        self._need = self._header.size
        self._deliver(*self._fields, place)
