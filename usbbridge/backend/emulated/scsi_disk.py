"""A flash drive: the block commands (SBC-3) on top of the primary ones."""

from struct import Struct
from typing import Final

from usbbridge.backend.emulated.medium import Medium
from usbbridge.backend.emulated.scsi import (
    INVALID_FIELD,
    MISCOMPARE,
    NOTHING,
    OUT_OF_RANGE,
    WRITE_PROTECTED,
    CheckCondition,
    LogicalUnit,
    ReadBlocks,
    Reply,
    Sense,
    Task,
)

BLOCK_SIZE: Final = 512

_COMMAND_10: Final = Struct(">BBIxHx")
_COMMAND_12: Final = Struct(">BBIIxx")
_COMMAND_16: Final = Struct(">BBQIxx")

FORCE_UNIT_ACCESS: Final = 0x08
PROTECTION: Final = 0xE0
"Bits of byte 1 of READ and WRITE: on stable storage before the status; protection information, which there is none of."
BYTE_CHECK: Final = 0x06
"BYTCHK in byte 1 of VERIFY (SBC-3 §5.30): 0 no data, 1 compare with the data sent, others this drive doesn't do."
COMPARE_CHUNK: Final = 64 << 10
"What VERIFY reads at a time to compare: the memory it takes, whatever the guest asks for."


class WriteBlocks(Task):
    """Blocks from the transfer's memory straight to the medium."""

    __slots__ = ("_offset", "_sync", "_unit")

    to_host = False

    def __init__(self, unit: LogicalUnit, offset: int, length: int, *, sync: bool) -> None:
        self._unit, self._offset, self._sync = unit, offset, sync
        super().__init__(length)

    def write(self, data: memoryview) -> int:
        moved = self._unit.move(self._unit.medium.write, data, self._offset)
        self._offset += moved
        self.failed = self.failed or moved < len(data)
        return moved

    def finish(self) -> bool:
        if self._sync and not self.failed:
            try:
                self._unit.sync()
            except CheckCondition as refusal:
                self._unit.sense, self.failed = refusal.sense, True
        return not self.failed


class CompareBlocks(Task):
    """VERIFY with data: the host's bytes against the medium's."""

    __slots__ = ("_offset", "_unit")

    to_host = False

    def __init__(self, unit: LogicalUnit, offset: int, length: int) -> None:
        self._unit, self._offset = unit, offset
        super().__init__(length)

    def write(self, data: memoryview) -> int:
        scratch, done = memoryview(bytearray(min(len(data), COMPARE_CHUNK))), 0
        while done < len(data) and not self.failed:
            here = scratch[: len(data) - done]
            moved = self._unit.move(self._unit.medium.read, here, self._offset)
            self.failed = moved < len(here)
            if not self.failed and here != data[done : done + moved]:
                self.failed = True
                self._unit.sense = Sense(MISCOMPARE, 0x1D, 0, self._offset // self._unit.medium.block_size)
            self._offset += moved
            done += moved
        return done


class DiskUnit(LogicalUnit):
    """Direct-access block device, removable, not rotating."""

    device_type = 0x00
    product = "usbbridge disk"

    def __init__(self, medium: Medium, serial: str) -> None:
        super().__init__(medium, serial)
        self._handlers |= {
            0x08: self._read_6,
            0x0A: self._write_6,
            0x23: self._read_format_capacities,
            0x25: self._read_capacity_10,
            0x28: self._read,
            0x2A: self._write,
            0x2F: self._verify,
            0x35: self._synchronize_cache,
            0x88: self._read,
            0x8A: self._write,
            0x8F: self._verify,
            0x91: self._synchronize_cache,
            0x9E: self._service_action_in,
            0xA8: self._read,
            0xAA: self._write,
        }

    # ---- reading and writing

    def _read_6(self, command: bytes) -> Task:
        return ReadBlocks(self, *self.extent(*_range_6(command)))

    def _write_6(self, command: bytes) -> Task:
        return self._writing(*_range_6(command), sync=False)

    def _read(self, command: bytes) -> Task:
        flags, lba, count = _range(command)
        if flags & PROTECTION:
            raise CheckCondition(INVALID_FIELD)
        return ReadBlocks(self, *self.extent(lba, count))

    def _write(self, command: bytes) -> Task:
        flags, lba, count = _range(command)
        if flags & PROTECTION:
            raise CheckCondition(INVALID_FIELD)
        return self._writing(lba, count, sync=bool(flags & FORCE_UNIT_ACCESS))

    def _writing(self, lba: int, count: int, *, sync: bool) -> Task:
        offset, length = self.extent(lba, count)
        if not self.medium.writable:
            raise CheckCondition(WRITE_PROTECTED)
        return WriteBlocks(self, offset, length, sync=sync)

    def _verify(self, command: bytes) -> Task:
        """Without data only the range is checked: an image has no bad spots that reading it now would tell of."""
        flags, lba, count = _range(command)
        offset, length = self.extent(lba, count)
        check = flags & BYTE_CHECK
        if flags & PROTECTION or check > 2:
            raise CheckCondition(INVALID_FIELD)
        return CompareBlocks(self, offset, length) if check else NOTHING

    def _synchronize_cache(self, command: bytes) -> Task:
        """All of it, whatever range was named: the file system knows no other."""
        _, lba, count = _range(command)
        self.extent(lba, count)
        self.sync()
        return NOTHING

    # ---- what the drive is

    def _read_capacity_10(self, command: bytes) -> Task:
        """SBC-3 §5.15: FFFFFFFFh means "ask with READ CAPACITY (16)"."""
        self.need_medium()
        self._check_capacity_lba(int.from_bytes(command[2:6]), partial=command[8] & 1)
        last = min(self.medium.blocks - 1, 0xFFFFFFFF)
        return Reply(last.to_bytes(4) + self.medium.block_size.to_bytes(4), 8)

    def _service_action_in(self, command: bytes) -> Task:
        """READ CAPACITY (16), SBC-3 §5.16, is the only service action."""
        if command[1] & 0x1F != 0x10:
            raise CheckCondition(INVALID_FIELD)
        self.need_medium()
        self._check_capacity_lba(int.from_bytes(command[2:10]), partial=command[14] & 1)
        data = (self.medium.blocks - 1).to_bytes(8) + self.medium.block_size.to_bytes(4)
        return Reply(data.ljust(32, b"\0"), int.from_bytes(command[10:14]))

    def _check_capacity_lba(self, lba: int, *, partial: int) -> None:
        """The obsolete "up to which block is it fast" form: all of it is, but the block must exist."""
        if lba and not partial:
            raise CheckCondition(INVALID_FIELD)
        if lba >= self.medium.blocks:
            raise CheckCondition(OUT_OF_RANGE)

    def _read_format_capacities(self, command: bytes) -> Task:
        """MMC-6 §6.23; Windows asks every removable disk. One descriptor: formatted, and how large."""
        count = min(self.medium.blocks, 0xFFFFFFFF)
        kind = 3 if self.ejected else 2  # no medium; formatted
        data = bytes((0, 0, 0, 8)) + count.to_bytes(4) + bytes((kind,)) + self.medium.block_size.to_bytes(3)
        return Reply(data, int.from_bytes(command[7:9]))

    def mode_parameter(self) -> int:
        """SBC-3 §6.5.1: WP in bit 7, DPOFUA (FORCE_UNIT_ACCESS is heeded) in bit 4."""
        return 0x10 if self.medium.writable else 0x90

    def mode_pages(self, *, changeable: bool) -> dict[int, bytes]:
        """Nothing is changeable. Error recovery, caching (SBC-3 §6.5.4) and control (SPC-4 §7.5.8)."""
        caching = bytearray(18)
        if not changeable and self.medium.writable:
            caching[0] = 0x04  # WCE: written data is safe after SYNCHRONIZE CACHE, not before
        return {0x01: bytes(10), 0x08: bytes(caching), 0x0A: bytes(10)}

    def vital_product_pages(self) -> dict[int, bytes]:
        """Also block limits, without any (SBC-3 §6.6.4), and characteristics: it does not rotate (§6.6.2)."""
        limits = bytearray(60)
        limits[2:4] = (8).to_bytes(2)  # optimal granularity: 4 KiB, a page of the file system below
        limits[8:12] = ((1 << 20) // self.medium.block_size).to_bytes(4)  # optimal transfer: 1 MiB
        return super().vital_product_pages() | {0xB0: bytes(limits), 0xB1: bytes((0, 1)).ljust(60, b"\0")}


def _range_6(command: bytes) -> tuple[int, int]:
    """First block and count of READ (6) and WRITE (6); a count of 0 means 256 (SBC-3 §5.9)."""
    return int.from_bytes(command[1:4]) & 0x1FFFFF, command[4] or 256


def _range(command: bytes) -> tuple[int, int, int]:
    """Byte 1, first block and count of a 10-, 12- or 16-byte command."""
    group = command[0] >> 5
    layout = _COMMAND_16 if group == 4 else _COMMAND_12 if group == 5 else _COMMAND_10
    _, flags, lba, count = layout.unpack_from(command)
    return flags, lba, count
