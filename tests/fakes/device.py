"""A USB device that does what the test says: transfers end when and how the test wants, and any call can fail.

    device = FakeDevice()
    ...                                            # somebody submits to it
    device.finish(device.flying[0], data=b"...")   # ended; its owner hears of it at the next reap()
    device.finish_iso(device.flying[0], [b"...", Status.ERROR])   # the same, of isochronous packets

It is strict: what the contract of `usbbridge.backend.base` forbids (giving back a transfer in flight, setting a
configuration with transfers in flight, ...) fails an assertion.
"""

from array import array
from collections import deque
from collections.abc import Sequence
from itertools import accumulate

from usbbridge.backend.base import ISO_ACTUAL, ISO_FIELDS, ISO_LENGTH, ISO_STATUS, Status, Transfer
from usbbridge.errors import DeviceError, DeviceLostError, UsbBridgeError
from usbbridge.usb.ch9 import Speed, TransferType
from usbbridge.usb.descriptors import Configuration, DeviceDescriptor, Endpoint, Interface, SuperSpeedCompanion

BULK_IN, BULK_OUT, INTERRUPT_IN, INTERRUPT_OUT, ISO_IN, ISO_OUT = 0x81, 0x02, 0x83, 0x04, 0x85, 0x06
REPORT_BYTES, ISO_BYTES = 64, 192
"wMaxPacketSize of the interrupt and of the isochronous endpoints."
UAS_COMMAND, UAS_STATUS, UAS_IN, UAS_OUT = 0x04, 0x83, 0x81, 0x02
UAS_STREAMS = 32


def _endpoint(address: int, kind: TransferType, size: int, interval: int) -> Endpoint:
    return Endpoint(address, kind, size, interval)


def _interface(
    number: int, alternate: int, *endpoints: Endpoint, triple: tuple[int, int, int] = (0xFF, 0, 0)
) -> Interface:
    return Interface(number, alternate, *triple, 0, endpoints)


BULK = (_endpoint(BULK_IN, TransferType.BULK, 512, 0), _endpoint(BULK_OUT, TransferType.BULK, 512, 0))
INTERRUPT = (
    _endpoint(INTERRUPT_IN, TransferType.INTERRUPT, REPORT_BYTES, 4),
    _endpoint(INTERRUPT_OUT, TransferType.INTERRUPT, REPORT_BYTES, 4),
)
ISO = (_endpoint(ISO_IN, TransferType.ISO, ISO_BYTES, 1), _endpoint(ISO_OUT, TransferType.ISO, ISO_BYTES, 1))
EVERYTHING = Configuration(
    1, 0x80, 50, 0, (_interface(0, 0, *BULK), _interface(1, 0, *INTERRUPT), _interface(1, 1), _interface(2, 0, *ISO))
)
"Interface 0 has bulk endpoints, 1 interrupt ones (none in its setting 1), 2 isochronous ones."
UAS = Configuration(
    1,
    0x80,
    50,
    0,
    (
        _interface(0, 0, *BULK, triple=(8, 6, 0x50)),
        _interface(
            0,
            1,
            _endpoint(UAS_COMMAND, TransferType.BULK, 1024, 0),
            *(
                Endpoint(address, TransferType.BULK, 1024, 0, SuperSpeedCompanion(15, exponent, 0))
                for address, exponent in ((UAS_STATUS, 5), (UAS_IN, 5), (UAS_OUT, 6))
            ),
            triple=(8, 6, 0x62),
        ),
    ),
)
"A disk: Bulk-Only in setting 0, USB Attached SCSI with UAS_STREAMS streams (one endpoint has twice that) in setting 1."
BULK_ONLY = Configuration(2, 0x80, 50, 0, (_interface(0, 0, *BULK, triple=(8, 6, 0x50)),))
DESCRIPTOR = DeviceDescriptor(0x0200, 0, 0, 0, 64, 0x1234, 0x5678, 0x0102, 0, 0, 0, 2)


class FakeTransfer(Transfer):
    """Plain memory; capacities are powers of two, so that they differ from what was asked for."""

    __slots__ = ("free", "kind")

    def __init__(self, capacity: int) -> None:
        self.setup, self.data, self.capacity = memoryview(bytearray(8)), memoryview(bytearray(capacity)), capacity
        self.endpoint = self.length = self.actual = self.status = self.id = self.packets = 0
        self.header, self.cancelled, self.free, self.kind = None, False, False, ""

    @property
    def lengths(self) -> list[int]:
        """Of the packets that were submitted; after those, the numbers are -1."""
        lengths = self.iso.tolist()[ISO_LENGTH::ISO_FIELDS]
        return [length for length in lengths if length >= 0]

    @property
    def sent(self) -> list[bytes]:
        """The packets of an isochronous OUT transfer: each behind the one before, whatever room there is."""
        ends = list(accumulate(self.lengths))
        return [bytes(self.data[end - length : end]) for length, end in zip(self.lengths, ends, strict=True)]


class FakeDevice:
    """See the module's text; `usbbridge.backend.base.Device` is the contract."""

    def __init__(
        self,
        *configurations: Configuration,
        descriptor: DeviceDescriptor = DESCRIPTOR,
        speed: Speed = Speed.HIGH,
    ) -> None:
        self.configurations = configurations or (EVERYTHING, BULK_ONLY)
        self.active: Configuration | None = self.configurations[0]
        self.alternates: dict[int, int] = {}
        self.descriptor, self.speed, self.name = descriptor, speed, "1-1 1234:5678 Fake"
        self.log: list[tuple[object, ...]] = []
        "Calls that change something, in order: (method, arguments ...); submits and cancels are not among them."
        self.failures: dict[str, UsbBridgeError] = {}
        "By method: what it raises."
        self.refuse = Status.COMPLETED
        "What submits answer; anything but COMPLETED means that nothing is in flight."
        self.keeps_cancelled = False
        "Cancelled transfers do not come back by themselves."
        self.flying: list[FakeTransfer] = []
        "In flight, oldest first."
        self.cancelled: list[FakeTransfer] = []
        "Every transfer that a cancel was asked for."
        self.outstanding = 0
        "Transfers taken and not given back."
        self.outstanding_bytes = 0
        "Their data areas."
        self.streams: dict[int, int] = {}
        "How many bulk streams there are, by endpoint."
        self.most_streams = 1 << 16
        "What the controller has, at the most; 0: it has none, and says so."
        self._ended: deque[FakeTransfer] = deque()

    # ---- for the test

    def finish(
        self, transfer: FakeTransfer, status: Status = Status.COMPLETED, data: bytes = b"", actual: int | None = None
    ) -> None:
        """End a transfer in flight: an IN one with `data`, an OUT one with `actual` bytes, all by default."""
        if transfer.kind == "iso":
            self._finish_iso(transfer, status, data)
            return
        self.flying.remove(transfer)
        is_in = transfer.setup[0] & 0x80 if transfer.kind == "control" else transfer.endpoint & 0x80
        whole = transfer.length if status is Status.COMPLETED else 0
        transfer.actual = len(data) if is_in else whole if actual is None else actual
        transfer.data[: len(data)] = data
        transfer.status = status
        self._ended.append(transfer)

    def finish_iso(self, transfer: FakeTransfer, packets: Sequence[bytes | Status] = ()) -> None:
        """End an isochronous transfer, which is COMPLETED as a whole: its packets brought this data or ended like this,
        those not named here are good and empty (IN) or sent (OUT)."""
        is_in = transfer.endpoint & 0x80
        for i, length in enumerate(transfer.lengths):
            packet = packets[i] if i < len(packets) else b"" if is_in else bytes(length)
            start = sum(transfer.lengths[:i])
            if isinstance(packet, bytes) and is_in:
                assert len(packet) <= length, "more than the packet has room for"
                transfer.data[start : start + len(packet)] = packet
            transfer.iso[ISO_FIELDS * i + ISO_ACTUAL] = len(packet) if isinstance(packet, bytes) else 0
            transfer.iso[ISO_FIELDS * i + ISO_STATUS] = packet if isinstance(packet, Status) else Status.COMPLETED
        self.flying.remove(transfer)
        transfer.status, transfer.actual = Status.COMPLETED, 0
        self._ended.append(transfer)

    def _finish_iso(self, transfer: FakeTransfer, status: Status, data: bytes) -> None:
        """All packets with the same data, cut to what they have room for; or none, and a bad end."""
        if status is Status.COMPLETED:
            self.finish_iso(transfer, [data[:length] for length in transfer.lengths] if data else ())
            return
        self.flying.remove(transfer)
        transfer.status = status
        self._ended.append(transfer)

    def unplug(self) -> None:
        """From now on there is no device: what is in flight ends with NO_DEVICE."""
        lost = DeviceLostError(f"{self.name} is gone")
        methods = ("configuration", "claim", "set_configuration", "set_interface", "clear_halt", "reset")
        self.failures |= dict.fromkeys((*methods, "alloc_streams", "free_streams"), lost)
        self.refuse = Status.NO_DEVICE
        for transfer in list(self.flying):
            self.finish(transfer, Status.NO_DEVICE)

    def calls(self, method: str) -> list[list[object]]:
        """The arguments of all calls of a method."""
        return [arguments for name, *arguments in self.log if name == method]

    def _called(self, method: str, *arguments: object) -> None:
        self.log.append((method, *arguments))
        if method in self.failures:
            raise self.failures[method]

    # ---- Device

    def configuration(self) -> Configuration | None:
        if "configuration" in self.failures:
            raise self.failures["configuration"]
        return self.active

    def pollfds(self) -> Sequence[tuple[int, int]]:
        return ()

    def claim(self) -> None:
        self._called("claim")

    def release(self) -> None:
        self._called("release")

    def set_configuration(self, value: int) -> None:
        assert not self.flying, "a configuration is set with transfers in flight"
        self._called("set_configuration", value)
        self.active = next((c for c in self.configurations if c.value == value), None)
        self.alternates.clear()
        self.streams.clear()

    def set_interface(self, number: int, alternate: int) -> None:
        assert self.active is not None
        mine = {e.address for s in self.active.interfaces if s.number == number for e in s.endpoints}
        assert not mine & {t.endpoint for t in self.flying if t.kind != "control"}, "the interface is in use"
        self._called("set_interface", number, alternate)
        self.alternates[number] = alternate
        for endpoint in mine & self.streams.keys():  # as Linux does it
            del self.streams[endpoint]

    def clear_halt(self, endpoint: int) -> None:
        self._called("clear_halt", endpoint)

    def reset(self) -> None:
        self._called("reset")
        self.alternates.clear()
        self.streams.clear()

    def take(self, size: int) -> FakeTransfer:
        self.outstanding += 1
        transfer = FakeTransfer(max(64, 1 << (size - 1).bit_length()) if size else 64)
        self.outstanding_bytes += transfer.capacity
        return transfer

    def take_iso(self, packets: int, size: int) -> FakeTransfer:
        assert packets > 0 < size
        transfer = self.take(packets * size)
        transfer.packets, transfer.iso = packets, memoryview(array("i", [-1] * (ISO_FIELDS * packets)))
        return transfer

    def give_back(self, transfer: FakeTransfer) -> None:
        assert not transfer.free, "a transfer is given back twice"
        assert transfer not in self.flying, "a transfer is given back in flight"
        transfer.free = True
        self.outstanding -= 1
        self.outstanding_bytes -= transfer.capacity

    def submit_control(self, transfer: FakeTransfer, length: int) -> Status:
        return self._submit("control", transfer, 0, length)

    def submit_bulk(self, transfer: FakeTransfer, endpoint: int, length: int) -> Status:
        self._check_endpoint(endpoint, TransferType.BULK)
        assert endpoint not in self.streams, "an endpoint with streams is used without one"
        return self._submit("bulk", transfer, endpoint, length)

    def submit_bulk_stream(self, transfer: FakeTransfer, endpoint: int, length: int, stream: int) -> Status:
        self._check_endpoint(endpoint, TransferType.BULK)
        assert 1 <= stream <= self.streams.get(endpoint, 0), f"there is no stream {stream} on {endpoint:#04x}"
        transfer.stream = stream
        return self._submit("bulk stream", transfer, endpoint, length)

    def submit_iso(self, transfer: FakeTransfer, endpoint: int, packets: int) -> Status:
        self._check_endpoint(endpoint, TransferType.ISO)
        assert 1 <= packets <= transfer.packets, "more packets than there is room for"
        lengths = transfer.iso.tolist()[ISO_LENGTH : ISO_FIELDS * packets : ISO_FIELDS]
        assert all(length >= 0 for length in lengths), "a packet without a length"
        return self._submit("iso", transfer, endpoint, sum(lengths))

    def submit_interrupt(self, transfer: FakeTransfer, endpoint: int, length: int) -> Status:
        self._check_endpoint(endpoint, TransferType.INTERRUPT)
        return self._submit("interrupt", transfer, endpoint, length)

    def alloc_streams(self, count: int, endpoints: Sequence[int]) -> int:
        assert self.speed >= Speed.SUPER
        assert count >= 1
        self._check_unused(endpoints)
        assert not self.streams.keys() & set(endpoints), "streams are made twice"
        self._called("alloc_streams", count, *endpoints)
        able = {e.address: e.max_streams for s in self._settings() for e in s.endpoints}
        made = min([count, self.most_streams, *(able.get(endpoint, 0) for endpoint in endpoints)])
        if not made:
            raise DeviceError("no streams")
        self.streams |= dict.fromkeys(endpoints, made)
        return made

    def free_streams(self, endpoints: Sequence[int]) -> None:
        self._check_unused(endpoints)
        self._called("free_streams", *endpoints)
        for endpoint in endpoints:
            del self.streams[endpoint]

    def _check_unused(self, endpoints: Sequence[int]) -> None:
        assert endpoints, "streams of no endpoint"
        assert not set(endpoints) & {t.endpoint for t in self.flying if t.kind != "control"}, "an endpoint is in use"

    def _settings(self) -> list[Interface]:
        assert self.active is not None
        settings = (self.active.setting(n, self.alternates.get(n, 0)) for n in self.active.numbers)
        return [setting for setting in settings if setting]

    def _check_endpoint(self, address: int, kind: TransferType) -> None:
        kinds = {e.address: e.transfer_type for s in self._settings() for e in s.endpoints}
        assert kinds.get(address) is kind, f"endpoint {address:#04x} is no {kind.name} endpoint"

    def _submit(self, kind: str, transfer: FakeTransfer, endpoint: int, length: int) -> Status:
        assert not transfer.free, "a transfer is used after it was given back"
        assert transfer not in self.flying, "a transfer is submitted twice"
        assert 0 <= length <= transfer.capacity, "the kernel would write over the end of the buffer"
        if self.refuse is Status.COMPLETED:
            transfer.kind, transfer.endpoint, transfer.length = kind, endpoint, length
            self.flying.append(transfer)
        return self.refuse

    def cancel(self, transfer: FakeTransfer) -> None:
        assert transfer in self.flying or transfer in self._ended, "what is cancelled is not the device's"
        self.cancelled.append(transfer)
        if transfer in self.flying and not self.keeps_cancelled:
            self.finish(transfer, Status.CANCELLED)

    def reap(self) -> int:
        count = len(self._ended)
        for _ in range(count):
            transfer = self._ended.popleft()
            transfer.on_done(transfer)
        return count

    def in_flight(self) -> int:
        return len(self.flying) + len(self._ended)

    def drain(self, seconds: float) -> bool:
        self.reap()
        return not any(transfer in self.flying for transfer in self.cancelled)

    def close(self) -> None:
        if ("close",) in self.log:
            return
        self._called("close")
        self.keeps_cancelled = False
        for transfer in list(self.flying):
            transfer.on_done = self.give_back
            self.cancel(transfer)
        self.reap()
