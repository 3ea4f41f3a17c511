"""A Bulk-Only drive behind a `FakeDevice`, packet by packet, and the driver of a guest that uses it.

The drive answers each command as it is told to, well or badly. The driver asks for data in one packet or in several,
waits for each answer or asks for all at once, gives up in the middle, and clears up behind itself.
"""

import struct
from collections import deque
from dataclasses import dataclass, replace
from typing import Final, Literal

from tests.fakes.device import BULK, BULK_IN, BULK_OUT, DESCRIPTOR, INTERRUPT, FakeDevice, FakeTransfer
from tests.fakes.guest import Rig
from usbbridge.backend.base import Status
from usbbridge.redirect.read_ahead import BULK_ONLY_RESET
from usbbridge.usb.ch9 import DIR_IN, Request
from usbbridge.usb.descriptors import Configuration, DeviceDescriptor, Interface
from usbbridge.usbredir.packets import BulkPacket, CancelDataPacket, Packet, Reset, SetAltSetting
from usbbridge.usbredir.proto import Status as RedirStatus

PACKET: Final = 512
STATUS: Final = 13


@dataclass(frozen=True)
class Command:
    """What a guest wants of the drive, how the drive takes it, and how the guest goes about it."""

    length: int
    "Of the data."
    is_read: bool = True
    sent: int = 1 << 30
    "Bytes that the drive sends of it, if it sends less."
    ending: Literal["short", "stall"] = "short"
    "How it ends data that is less than was wanted: by a short packet, be it an empty one, or by a stall."
    piece: int = 1 << 30
    "Bytes that the guest asks for with one packet, at the most: of whole packets of the bus."
    at_once: bool = False
    "It asks for everything before it is answered."
    is_early: bool = True
    "The drive has what it is to send before the guest asks for it."
    beside: bool = False
    "Before each packet that it asks for, it selects a setting of another interface."
    gives_up: Literal["", "reset", "transport reset", "cancel"] = ""
    "What the guest does instead of asking for data; `cancel`: behind the first packet, which is not answered."

    def wrapper(self, tag: int) -> bytes:
        """The CBW."""
        return struct.pack("<4sIIBBB16s", b"USBC", tag, self.length, DIR_IN * self.is_read, 0, 6, b"")

    @property
    def pieces(self) -> list[int]:
        """Lengths of the packets that the guest asks for data with."""
        return [min(self.piece, self.length - start) for start in range(0, self.length, min(self.piece, 1 << 20))]


class Drive:
    """Takes and sends what is in flight at `device` whenever it is let."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self.commands: deque[Command] = deque()
        "That will come, in this order."
        self.taken = bytearray()
        "All that was written."
        self.waiting: deque[bytes | Status] = deque()
        "Packets that it wants to send; a STALL is one of them."
        self.count = 0
        "Commands so far."
        self._partly: dict[FakeTransfer, bytearray] = {}
        self._wanted = self._resets = 0

    def work(self, *, sends: bool = True) -> None:
        """Do what can be done with what is in flight, `sends` or only takes."""
        if len(self._device.calls("reset")) > self._resets:
            self._resets = len(self._device.calls("reset"))
            self._forget()
        for transfer in list(self._device.flying):
            if transfer.kind == "control":
                if bytes(transfer.setup[:2]) == b"\x21\xff":
                    self._forget()
                self._device.finish(transfer)
            elif transfer.endpoint == BULK_OUT:
                self._take(bytes(transfer.data[: transfer.length]))
                self._device.finish(transfer)
            elif sends:
                self._send(transfer)

    def _forget(self) -> None:
        self.waiting.clear()
        self._wanted = 0

    def _take(self, data: bytes) -> None:
        if self._wanted:
            self.taken += data
            self._wanted -= len(data)
            if not self._wanted:
                self.waiting.append(self._status())
            return
        command = self.commands.popleft()
        self.count += 1
        assert data == command.wrapper(self.count), "that is not the command"
        if command.length and not command.is_read:
            self._wanted = command.length
            return
        if command.length:
            self._queue(command)
        self.waiting.append(self._status())

    def _queue(self, command: Command) -> None:
        sent = min(command.sent, command.length)
        data = bytes((self.count + i // 7) % 256 for i in range(sent))
        self.waiting.extend(data[start : start + PACKET] for start in range(0, sent, PACKET))
        if sent < command.length and not sent % PACKET:  # else a short packet has ended it
            self.waiting.append(Status.STALL if command.ending == "stall" else b"")

    def _status(self) -> bytes:
        return struct.pack("<4sIIB", b"USBS", self.count, 0, 0)

    def _send(self, transfer: FakeTransfer) -> None:
        data = self._partly.setdefault(transfer, bytearray())
        while self.waiting:
            packet = self.waiting.popleft()
            if isinstance(packet, Status):
                self._end(transfer, packet)
                return
            data += packet
            assert len(data) <= transfer.length, "the drive babbles"
            if len(packet) < PACKET or len(data) == transfer.length:
                self._end(transfer, Status.COMPLETED)
                return

    def _end(self, transfer: FakeTransfer, status: Status) -> None:
        self._device.finish(transfer, status, bytes(self._partly.pop(transfer)))


class Driver:
    """A guest that gives the drive one command after the other."""

    def __init__(
        self, *quirks: str, step: int = 1 << 30, descriptor: DeviceDescriptor = DESCRIPTOR, packet: int = 512
    ) -> None:
        """`packet` is what the drive says of the size of its packets."""
        bulk = tuple(replace(endpoint, max_packet_size=packet) for endpoint in BULK)
        others = (Interface(1, alternate, 0xFF, 0, 0, 0, INTERRUPT) for alternate in range(2))
        configuration = Configuration(1, 0x80, 50, 0, (Interface(0, 0, 8, 6, 0x50, 0, bulk), *others))
        self.device = FakeDevice(configuration, descriptor=descriptor)
        self.drive = Drive(self.device)
        self.rig = Rig(self.device, quirks=quirks, step=step).attach()
        self.answers: list[tuple[int, Packet]] = []
        "All that the guest was told."
        self._ids = self._tag = 0
        self._is_early = True

    def run(self, *commands: Command) -> None:
        """Give these commands, and see each through."""
        for command in commands:
            self.begin(command)
            if command.is_read and command.at_once:
                self._ask_for_all([*command.pieces, STATUS])
                continue
            self.settle(sends=self._is_early)
            if command.gives_up:
                self._give_up(command)
            else:
                self._go_on(command)

    def begin(self, command: Command) -> None:
        """Send a command, and no more."""
        self.drive.commands.append(command)
        self._tag += 1
        self._is_early = command.is_early
        self.write(command.wrapper(self._tag))

    def write(self, data: bytes) -> None:
        self._ids += 1
        self.rig.guest.bulk(self._ids, BULK_OUT, data=data)

    def read(self, size: int) -> None:
        self._ids += 1
        self.rig.guest.bulk(self._ids, BULK_IN, size)

    def settle(self, *, sends: bool = True) -> BulkPacket | None:
        """Let all work, until nothing happens any more unless the drive is late; the last bulk answer."""
        self.rig.settle()
        while True:
            before = len(self.device.flying), len(self.drive.waiting)
            self.drive.work(sends=sends)
            self.rig.settle()
            if before == (len(self.device.flying), len(self.drive.waiting)):
                break
            sends = sends and self._is_early
        heard = self.rig.guest.ear.take()
        self.answers += heard
        return next((packet for _, packet in reversed(heard) if isinstance(packet, BulkPacket)), None)

    def _go_on(self, command: Command) -> None:
        if not command.is_read:
            for start, size in zip(range(0, command.length, command.piece), command.pieces, strict=True):
                self.write(bytes((start + i) % 251 for i in range(size)))
                self.settle(sends=self._is_early)
        for size in command.pieces if command.is_read else ():
            self._select(command)
            self.read(size)
            answer = self.settle()
            assert answer is not None, "there is no answer"
            if answer.status == RedirStatus.STALL:
                self._control(0x02, Request.CLEAR_FEATURE, BULK_IN)
            if answer.length < size:
                break
        self._select(command)
        self.read(STATUS)
        self.settle()
        assert not self.drive.waiting, "the drive was not heard to the end"

    def _select(self, command: Command) -> None:
        if command.beside:
            self._ids += 1
            self.rig.guest.say(SetAltSetting(1, self._ids % 2), self._ids)
            self.settle(sends=self._is_early)

    def _ask_for_all(self, sizes: list[int]) -> None:
        """Of a drive that sends less than was wanted, that are more packets than it answers: the guest cancels them."""
        first = self._ids + 1
        for size in sizes:
            self.read(size)
        self.settle()
        for packet_id in range(first, first + len(sizes)):
            self.rig.guest.say(CancelDataPacket(), packet_id)
        self._reset()

    def _give_up(self, command: Command) -> None:
        if command.gives_up == "cancel":
            self.read(command.pieces[0] if command.is_read and command.length else STATUS)
            self.rig.settle()
            self.rig.guest.say(CancelDataPacket(), self._ids)
            self.rig.settle()
        if command.gives_up == "transport reset":
            self._control(0x21, BULK_ONLY_RESET, 0)
        else:
            self._reset()

    def _reset(self) -> None:
        self.rig.guest.say(Reset())
        self.settle()

    def _control(self, requesttype: int, request: int, index: int) -> None:
        self._ids += 1
        self.rig.guest.control(self._ids, requesttype, request, 0, index, 0)
        self.settle(sends=self._is_early)
