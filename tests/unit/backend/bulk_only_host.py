"""A mass-storage host for tests: speaks Bulk-Only Transport to any `usbbridge.backend.base.Device`."""

import struct
from dataclasses import dataclass

from usbbridge.backend.base import Device, Status, Transfer
from usbbridge.usb.ch9 import SetupPacket

IN, OUT = 0x81, 0x02
CBW = struct.Struct("<4sIIBBB16s")


@dataclass
class Done:
    """How a transfer ended."""

    status: Status
    data: bytes


@dataclass
class Outcome:
    """How a command ended."""

    data: bytes
    stalled: bool
    "A STALL ended the data stage."
    residue: int
    status: int
    "bCSWStatus."


class Pending:
    """A transfer that has been submitted."""

    def __init__(self, device: Device, transfer: Transfer) -> None:
        self._device, self._transfer, self._done = device, transfer, None
        transfer.on_done = self._finished

    def _finished(self, transfer: Transfer) -> None:
        data = bytes(transfer.data[: transfer.actual]) if transfer.endpoint & 0x80 or not transfer.endpoint else b""
        self._done = Done(Status(transfer.status), data)
        self._device.give_back(transfer)

    @property
    def transfer(self) -> Transfer:
        return self._transfer

    @property
    def done(self) -> Done | None:
        """None while it waits."""
        self._device.reap()
        return self._done

    @property
    def status(self) -> Status | None:
        done = self.done
        return done.status if done else None


class Host:
    """Makes transfers one by one, or whole commands."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def submit_out(self, data: bytes) -> Pending:
        transfer = self.device.take(len(data))
        transfer.data[: len(data)] = data
        return self._submit(transfer, OUT, len(data))

    def submit_in(self, size: int) -> Pending:
        return self._submit(self.device.take(size), IN, size)

    def _submit(self, transfer: Transfer, endpoint: int, size: int) -> Pending:
        pending = Pending(self.device, transfer)
        assert self.device.submit_bulk(transfer, endpoint, size) is Status.COMPLETED
        return pending

    def send(self, data: bytes) -> Status | None:
        return self.submit_out(data).status

    def receive(self, size: int) -> Done | None:
        return self.submit_in(size).done

    def control(self, kind: int, request: int, value: int, index: int, length: int, data: bytes = b"") -> Done:
        transfer = self.device.take(length)
        transfer.setup[:] = SetupPacket(kind, request, value, index, length).pack()
        transfer.data[: len(data)] = data
        pending = Pending(self.device, transfer)
        assert self.device.submit_control(transfer, length) is Status.COMPLETED
        assert pending.done is not None
        return pending.done

    @staticmethod
    def cbw(command: bytes, length: int, *, to_host: bool = True, tag: int = 7, size: int | None = None) -> bytes:
        return CBW.pack(b"USBC", tag, length, 0x80 * to_host, 0, len(command) if size is None else size, command)

    def csw(self) -> tuple[int, int]:
        """Residue and status; clears a halt first, once, as hosts do (§5.3.3)."""
        done = self.receive(13)
        if done is not None and done.status is Status.STALL:
            self.device.clear_halt(IN)
            done = self.receive(13)
        assert done is not None
        assert done.status is Status.COMPLETED
        signature, tag, residue, status = struct.unpack("<4sIIB", done.data)
        assert (signature, tag) == (b"USBS", 7)
        return residue, status

    def read(self, command: bytes, length: int, *, chunk: int | None = None) -> Outcome:
        """A command whose data goes to the host, in transfers of `chunk` bytes."""
        assert self.send(self.cbw(command, length)) is Status.COMPLETED
        data, stalled = b"", False
        while len(data) < length:
            size = min(chunk or length, length - len(data))
            done = self.receive(size)
            assert done is not None
            data += done.data
            if done.status is Status.STALL:
                stalled = True
                self.device.clear_halt(IN)
            if len(done.data) < size:
                break
        if not stalled and len(data) < length:  # a short transfer: the STALL is yet to come
            done = self.receive(13)
            assert done is not None
            stalled = done.status is Status.STALL
            self.device.clear_halt(IN)
        return Outcome(data, stalled, *self.csw())

    def write(self, command: bytes, data: bytes, *, chunk: int | None = None) -> Outcome:
        """A command whose data goes to the device."""
        assert self.send(self.cbw(command, len(data), to_host=False)) is Status.COMPLETED
        size = chunk or max(1, len(data))
        for start in range(0, len(data), size):
            assert self.send(data[start : start + size]) is Status.COMPLETED
        return Outcome(b"", False, *self.csw())

    def run(self, command: bytes) -> int:
        """A command without data: its status."""
        return self.write(command, b"").status

    def sense(self) -> tuple[int, int, int]:
        """REQUEST SENSE: key, additional code, qualifier."""
        data = self.read(bytes((0x03, 0, 0, 0, 18, 0)), 18).data
        return data[2], data[12], data[13]

    def recover(self) -> None:
        """Reset recovery (§5.3.4)."""
        assert self.control(0x21, 0xFF, 0, 0, 0).status is Status.COMPLETED
        self.device.clear_halt(IN)
        self.device.clear_halt(OUT)


def read_10(lba: int, count: int, code: int = 0x28) -> bytes:
    """READ (10), or another command of its shape."""
    return struct.pack(">BBIBHB", code, 0, lba, 0, count, 0)


def read_16(lba: int, count: int, code: int = 0x88) -> bytes:
    """READ (16), or another command of its shape."""
    return struct.pack(">BBQIBB", code, 0, lba, count, 0, 0)
