"""A driver of Bulk-Only Transport (USB Mass Storage Class, Bulk-Only Transport, revision 1.0): the host's side.

One command is three stages: a Command Block Wrapper out, the data either way, a Command Status Wrapper in. A device
that can't go on stalls the pipe; the driver clears it and reads the status (§6.7). One that has lost the thread is
reset (§5.3.4).
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final

from usbbridge.errors import DeviceError
from usbbridge.loopback.tasks import Buffer, Bulk, Control, Reply, Task
from usbbridge.usb.ch9 import FEATURE_ENDPOINT_HALT, ClassCode, Request, SetupPacket, TransferType
from usbbridge.usb.descriptors import Configuration, Interface
from usbbridge.usbredir.proto import Status

SUBCLASS_SCSI: Final = 0x06
PROTOCOL_BULK_ONLY: Final = 0x50
REQUEST_RESET: Final = 0xFF
"Bulk-Only Mass Storage Reset (§3.1)."
REQUEST_GET_MAX_LUN: Final = 0xFE

CBW: Final = Struct("<IIIBBB16s")
"dCBWSignature, dCBWTag, dCBWDataTransferLength, bmCBWFlags, bCBWLUN, bCBWCBLength, CBWCB (§5.1)."
CBW_SIGNATURE: Final = 0x43425355
CBW_DATA_IN: Final = 0x80
CSW: Final = Struct("<IIIB")
"dCSWSignature, dCSWTag, dCSWDataResidue, bCSWStatus (§5.2)."
CSW_SIGNATURE: Final = 0x53425355
PASSED, FAILED, PHASE_ERROR = range(3)

MAX_TRANSFER: Final = 1 << 20
"Bytes a command may move: what Linux's usb-storage asks of a SuperSpeed device (2048 sectors)."


class TransportError(DeviceError):
    """The device broke Bulk-Only Transport, or a transfer failed; it has been reset where that was possible."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    passed: bool
    "False: check condition; REQUEST SENSE says why."
    moved: int
    "Bytes of the data stage that mean something."


class BulkOnly:
    """The Bulk-Only pipe pair of one interface."""

    def __init__(self, interface: Interface, lun: int = 0) -> None:
        bulk = [e.address for e in interface.endpoints if e.transfer_type is TransferType.BULK]
        self.interface = interface.number
        self.pipe_in = next(address for address in bulk if address & 0x80)
        self.pipe_out = next(address for address in bulk if not address & 0x80)
        self.lun = lun
        self._tag = 0
        self._status = memoryview(bytearray(CSW.size))

    def max_lun(self) -> Task[int]:
        """Highest logical unit number; a device with one unit may stall the request (§3.2)."""
        reply = yield Control(SetupPacket(0xA1, REQUEST_GET_MAX_LUN, 0, self.interface, 1))
        return reply.data[0] if reply.length else 0

    def run(self, command: bytes, *, data: Buffer = b"", into: memoryview | None = None) -> Task[Outcome]:
        """Carry out a command block of 6 to 16 bytes; `data` is sent or `into` is filled. Raises `TransportError`."""
        length = len(data) if into is None else len(into)
        self._tag = self._tag % 0xFFFFFFFF + 1
        flags = 0 if into is None else CBW_DATA_IN
        wrapper = CBW.pack(CBW_SIGNATURE, self._tag, length, flags, self.lun, len(command), command)
        reply = yield Bulk(self.pipe_out, wrapper)
        if reply.status is not Status.SUCCESS:
            raise (yield from self._recovered(f"the command was answered {reply.status.name}"))
        moved = (yield from self._data_stage(data, into)) if length else 0
        return (yield from self._status_stage(length, moved))

    def _data_stage(self, data: Buffer, into: memoryview | None) -> Task[int]:
        if into is None:
            pipe, reply = self.pipe_out, (yield Bulk(self.pipe_out, data))
        else:
            pipe, reply = self.pipe_in, (yield Bulk(self.pipe_in, into=into))
        if reply.status is Status.STALL:  # less than was announced: the status comes next all the same (§6.7.2)
            yield from self.clear_halt(pipe)
        elif reply.status is not Status.SUCCESS:
            raise (yield from self._recovered(f"the data stage was answered {reply.status.name}"))
        return reply.length

    def _status_stage(self, length: int, moved: int) -> Task[Outcome]:
        reply = yield from self._read_status()
        if reply.status is Status.STALL:  # once is allowed (figure 2)
            yield from self.clear_halt(self.pipe_in)
            reply = yield from self._read_status()
        if reply.status is not Status.SUCCESS or reply.length != CSW.size:
            raise (yield from self._recovered(f"the status stage ended {reply.status.name}, {reply.length} bytes"))
        signature, tag, residue, status = CSW.unpack(reply.data)
        if signature != CSW_SIGNATURE or tag != self._tag or residue > length or status not in (PASSED, FAILED):
            raise (yield from self._recovered(f"status {status}, residue {residue}, tag {tag} makes no sense (§6.3)"))
        return Outcome(status == PASSED, min(moved, length - residue))

    def _read_status(self) -> Task[Reply]:
        return (yield Bulk(self.pipe_in, into=self._status))

    def clear_halt(self, pipe: int) -> Task[None]:
        """CLEAR_FEATURE(ENDPOINT_HALT) on one of the two pipes. Raises `TransportError`."""
        reply = yield Control(SetupPacket(0x02, Request.CLEAR_FEATURE, FEATURE_ENDPOINT_HALT, pipe, 0))
        if reply.status is not Status.SUCCESS:
            raise TransportError(f"the halt of endpoint {pipe:#04x} could not be cleared: {reply.status.name}")

    def reset_recovery(self) -> Task[None]:
        """Class reset, then clear both halts, in that order (§5.3.4). Raises `TransportError`."""
        reply = yield Control(SetupPacket(0x21, REQUEST_RESET, 0, self.interface, 0))
        if reply.status is not Status.SUCCESS:
            raise TransportError(f"the device refused a mass storage reset: {reply.status.name}")
        yield from self.clear_halt(self.pipe_in)
        yield from self.clear_halt(self.pipe_out)

    def _recovered(self, what: str) -> Task[TransportError]:
        yield from self.reset_recovery()
        return TransportError(f"Bulk-Only Transport: {what}")


def mass_storage_interface(configuration: Configuration) -> Interface | None:
    """The first setting that speaks SCSI over Bulk-Only Transport, or None."""
    wanted = (ClassCode.MASS_STORAGE, SUBCLASS_SCSI, PROTOCOL_BULK_ONLY)
    for setting in configuration.interfaces:
        directions = {e.is_in for e in setting.endpoints if e.transfer_type is TransferType.BULK}
        if (setting.class_, setting.subclass, setting.protocol) == wanted and len(directions) == 2:
            return setting
    return None
