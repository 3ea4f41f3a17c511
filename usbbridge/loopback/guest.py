"""The usb-guest, without I/O: QEMU's `usb-redir` device and the host controller above it, as far as a peer can see.

It says hello, waits for a device to be announced, judges it, and from then on carries requests to it and replies back.
What drivers do with the device is not its business (see `tasks`, `enumeration`, `storage`).

It is stricter than QEMU, since it is there to test the other end: a reply to nothing, a second reply, a reply that does
not fit its request, more bytes than were asked for, all raise `RemoteProtocolError`, where QEMU would log a line.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from usbbridge.errors import RemoteProtocolError, UsbBridgeError
from usbbridge.loopback.admission import Announcement, objection
from usbbridge.loopback.tasks import Buffer, Bulk, Command, Control, InterruptOut, Reply, Request, TaskAbortedError
from usbbridge.usb.ch9 import DIR_IN
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.filter import parse
from usbbridge.usbredir.packets import (
    AltSettingStatus,
    BulkStreamsStatus,
    CancelDataPacket,
    ConfigurationStatus,
    DeviceConnect,
    DeviceDisconnect,
    DeviceDisconnectAck,
    EpInfo,
    FilterFilter,
    FilterReject,
    Hello,
    InterfaceInfo,
    InterruptReceivingStatus,
    Packet,
    Reset,
)
from usbbridge.usbredir.proto import ALL_CAPS, Cap, PacketType, Role, Status

VERSION: Final = "usbbridge loopback VM"
ID_BASE_64: Final = 0x1_0000_0000
ID_BASE_32: Final = 0x8000
TRB_BYTES: Final = 16
RING: Final = 4096
"""Ids are made as QEMU's are: addresses of transfer descriptors in the guest's memory, so they are large, sparse, and
come again as soon as the ring has gone round. More requests in flight than the ring has places can't be."""
REPORTS: Final = 1000
"Interrupt packets kept per endpoint, as in QEMU; the oldest goes first."

Answer = ConfigurationStatus | AltSettingStatus | InterruptReceivingStatus | BulkStreamsStatus


class Watcher(Protocol):
    """Who is told what happens to the device."""

    def announced(self, device: Announcement) -> None:
        """A device is there and accepted: requests may be submitted."""

    def rejected(self, reason: str) -> None:
        """A device was announced and refused."""

    def detached(self) -> None:
        """The device was taken away by its host, properly: device_disconnect came."""


@dataclass(eq=False, slots=True)
class _Pending:
    request: Request
    done: Callable[[Reply], None]
    lost: Callable[[UsbBridgeError], None]
    cancelled: bool = field(default=False)


class Guest:
    """One usbredir connection in the guest's role. `feed` it what comes, send what `take_output` gives."""

    def __init__(self, watcher: Watcher, *, caps: Cap = ALL_CAPS, version: str = VERSION, rules: str = "") -> None:
        self._watcher = watcher
        self._rules_text = rules
        self._rules = parse(rules) if rules else ()
        self.codec = Codec(Role.GUEST, caps, version, self)
        self._output: list[Buffer] = [self.codec.hello()]
        self._pending: dict[int, _Pending] = {}
        self._orphans: set[int] = set()
        "Ids whose device has gone: a late reply is no fault, and they aren't used again until the next device."
        self._lent: _Pending | None = None
        self._ring_place = 0
        self._interfaces: InterfaceInfo | None = None
        self._endpoints: EpInfo | None = None
        self.peer: Hello | None = None
        self.connect: DeviceConnect | None = None
        "The device that is attached."
        self.reports: dict[int, deque[tuple[int, int, bytes]]] = {}
        "(id, status, data) of each interrupt IN packet, by endpoint."

    # Bytes

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes from the usb-host. Raises `RemoteProtocolError`; the connection is over then."""
        self.codec.feed(data)

    def take_output(self) -> list[Buffer]:
        """What there is to send, once."""
        output, self._output = self._output, []
        return output

    def lost(self, error: UsbBridgeError) -> None:
        """The connection has ended: so has every request."""
        self.connect = None  # first: a driver that is told may try to submit again
        self.codec.close()
        self._abandon(error)

    # What drivers do

    @property
    def device(self) -> Announcement | None:
        """The attached device with its present interfaces and endpoints."""
        if self.connect is None or self._interfaces is None or self._endpoints is None:
            return None
        return Announcement(self.connect, self._interfaces, self._endpoints)

    def submit(self, request: Request, done: Callable[[Reply], None], lost: Callable[[UsbBridgeError], None]) -> int:
        """Start a request; `done` is called with its reply, or `lost` if the device goes first. Returns the id."""
        if self.connect is None:
            raise TaskAbortedError("no device is attached")
        request_id = self._new_id()
        self._write(request_id, request)
        if isinstance(request, Command) and isinstance(request.packet, Reset):
            done(Reply(Status.SUCCESS))
        else:
            self._pending[request_id] = _Pending(request, done, lost)
        return request_id

    def cancel(self, request_id: int) -> bool:
        """Ask for a transfer to be cancelled; its one reply still comes, cancelled or not. False: not in flight."""
        pending = self._pending.get(request_id)
        if pending is None or pending.cancelled:
            return False
        pending.cancelled = True
        self._put(CancelDataPacket(), request_id)
        return True

    @property
    def in_flight(self) -> tuple[int, ...]:
        """Ids of requests that have no reply yet, oldest first."""
        return tuple(self._pending)

    def _new_id(self) -> int:
        assert len(self._pending) + len(self._orphans) < RING, "more requests than a transfer ring has places"
        base = ID_BASE_64 if Cap.IDS_64BIT in self.codec.negotiated else ID_BASE_32
        while True:
            self._ring_place = (self._ring_place + 1) % RING
            request_id = base + self._ring_place * TRB_BYTES
            if request_id not in self._pending and request_id not in self._orphans:
                return request_id

    def _put(self, packet: Packet, packet_id: int = 0) -> None:
        self._output.append(self.codec.encode(packet, packet_id))

    def _write(self, request_id: int, request: Request) -> None:
        if isinstance(request, Bulk):
            length = len(request.into) if request.endpoint & DIR_IN else len(request.data)
            self._output.append(self.codec.bulk_header(request_id, request.endpoint, 0, length, 0, len(request.data)))
        elif isinstance(request, Control):
            setup, size = request.setup, len(request.data)
            fields = (setup.request_type & DIR_IN, setup.request, setup.request_type, 0)
            self._output.append(
                self.codec.control_header(request_id, *fields, setup.value, setup.index, setup.length, size)
            )
        elif isinstance(request, InterruptOut):
            size = len(request.data)
            self._output.append(self.codec.interrupt_header(request_id, request.endpoint, 0, size, size))
        else:
            self._put(request.packet, request_id)
            return
        if request.data:
            self._output.append(request.data)

    # What the usb-host sends (usbredir.codec.Sink)

    def packet(self, packet_id: int, packet: Packet) -> None:
        """Any packet that is no data packet."""
        if isinstance(packet, Answer):
            self._command_answered(packet_id, packet)
        elif isinstance(packet, InterfaceInfo):
            self._interfaces = packet
        elif isinstance(packet, EpInfo):
            self._endpoints = packet
        elif isinstance(packet, DeviceConnect):
            self._connected(packet)
        elif isinstance(packet, DeviceDisconnect):
            self._disconnected()
        elif isinstance(packet, Hello):
            self._greeted(packet)

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
        """Reply to a control transfer."""
        pending = self._answered(packet_id, Control)
        if pending is None:
            return
        assert isinstance(pending.request, Control)
        setup = pending.request.setup
        echoed = (endpoint, requesttype, request, value, index)
        if echoed != (setup.request_type & DIR_IN, setup.request_type, setup.request, setup.value, setup.index):
            raise RemoteProtocolError(f"the reply {packet_id:#x} echoes another control request than {setup}")
        _check_length(length, setup.length, "control")
        pending.done(Reply(_status(status), length, memoryview(bytes(data))))

    def bulk(self, packet_id: int, endpoint: int, status: int, length: int, stream_id: int, data: memoryview) -> None:
        """Reply to a bulk transfer."""
        lent, self._lent = self._lent, None
        pending = self._answered(packet_id, Bulk)
        if pending is None:
            return
        request = pending.request
        assert isinstance(request, Bulk)
        if (endpoint, stream_id) != (request.endpoint, 0):
            raise RemoteProtocolError(f"the reply {packet_id:#x} is for endpoint {endpoint:#04x}, stream {stream_id}")
        _check_length(length, len(request.into) if endpoint & DIR_IN else len(request.data), "bulk")
        view = request.into[: len(data)]
        if pending is not lent:
            view[:] = data
        pending.done(Reply(_status(status), length, view))

    def interrupt(self, packet_id: int, endpoint: int, status: int, length: int, data: memoryview) -> None:
        """A report of an interrupt IN endpoint, or the reply to an OUT transfer."""
        if endpoint & DIR_IN:
            reports = self.reports.setdefault(endpoint, deque(maxlen=REPORTS))
            reports.append((packet_id, status, bytes(data)))
            return
        pending = self._answered(packet_id, InterruptOut)
        if pending is not None:
            assert isinstance(pending.request, InterruptOut)
            _check_length(length, len(pending.request.data), "interrupt")
            pending.done(Reply(_status(status), length))

    def iso(self, packet_id: int, endpoint: int, status: int, length: int, data: memoryview) -> None:
        """Isochronous data; this guest never starts a stream."""
        raise RemoteProtocolError(f"isochronous packet {packet_id:#x} without a stream on endpoint {endpoint:#04x}")

    def buffered_bulk(
        self, packet_id: int, stream_id: int, length: int, endpoint: int, status: int, data: memoryview
    ) -> None:
        """Buffered bulk data; this guest never asks for it."""
        raise RemoteProtocolError(f"buffered bulk packet {packet_id:#x} unasked on endpoint {endpoint:#04x}")

    def data_area(self, kind: PacketType, endpoint: int, length: int) -> memoryview | None:
        """Where a big bulk reply goes: to the oldest request of its endpoint, since an endpoint answers in order."""
        if kind is not PacketType.BULK_PACKET:
            return None
        for pending in self._pending.values():
            request = pending.request
            if isinstance(request, Bulk) and request.endpoint == endpoint and len(request.into) >= length:
                self._lent = pending
                return request.into
        return None

    def _answered(self, packet_id: int, kind: type[Request]) -> _Pending | None:
        """The request that a reply ends; None if its device has gone since."""
        if packet_id in self._orphans:
            self._orphans.discard(packet_id)
            return None
        pending = self._pending.pop(packet_id, None)
        if pending is None:
            raise RemoteProtocolError(f"reply {packet_id:#x} answers nothing, or for the second time")
        if not isinstance(pending.request, kind):
            raise RemoteProtocolError(f"reply {packet_id:#x} is a {kind.__name__}'s, the request was {pending.request}")
        return pending

    def _command_answered(self, packet_id: int, packet: Answer) -> None:
        if packet_id == 0:  # unasked: a stream has stopped, and none of ours says more by it than its silence
            return
        pending = self._answered(packet_id, Command)
        if pending is not None:
            pending.done(Reply(_status(packet.status), packet=packet))

    # The device's coming and going

    def _greeted(self, packet: Hello) -> None:
        self.peer = packet
        if self._rules_text and Cap.FILTER in self.codec.negotiated:
            self._put(FilterFilter(self._rules_text))

    def _connected(self, packet: DeviceConnect) -> None:
        assert self.peer is not None, "the codec lets nothing pass before hello"
        reason = objection(packet, self._interfaces, self._endpoints, self.peer.caps, self._rules)
        if reason:
            self._reject(reason)
            return
        self._orphans.clear()
        self.connect = packet
        device = self.device
        assert device is not None
        self._watcher.announced(device)

    def _reject(self, reason: str) -> None:
        if Cap.FILTER in self.codec.negotiated:
            self._put(FilterReject())
        self._watcher.rejected(reason)

    def _disconnected(self) -> None:
        if Cap.DEVICE_DISCONNECT_ACK in self.codec.negotiated:
            self._put(DeviceDisconnectAck())
        self._orphans.update(self._pending)
        attached, self.connect = self.connect is not None, None
        self._interfaces = self._endpoints = None
        self._abandon(TaskAbortedError("the device was taken away"))
        if attached:
            self._watcher.detached()

    def _abandon(self, error: UsbBridgeError) -> None:
        pending, self._pending = list(self._pending.values()), {}
        self._lent = None
        for request in pending:
            request.lost(error)


def _status(number: int) -> Status:
    """A status we don't know is an error too (usbredir protocol, "status")."""
    return Status(number) if number in Status.__members__.values() else Status.IOERROR


def _check_length(length: int, asked: int, kind: str) -> None:
    if length > asked:
        raise RemoteProtocolError(f"a {kind} transfer of {asked} bytes is said to have moved {length}")
