"""A disk driver on Bulk-Only Transport: the few SCSI commands a guest's kernel needs to find, read and write a drive.

Sources: SPC-4 (INQUIRY, TEST UNIT READY, REQUEST SENSE, MODE SENSE) and SBC-3 (the others).
"""

from dataclasses import dataclass
from struct import Struct, unpack_from
from typing import Final

from usbbridge.errors import DeviceError
from usbbridge.loopback.bulkonly import MAX_TRANSFER, BulkOnly, Outcome
from usbbridge.loopback.tasks import Buffer, Task

TEST_UNIT_READY, REQUEST_SENSE, INQUIRY, MODE_SENSE_6 = 0x00, 0x03, 0x12, 0x1A
READ_CAPACITY_10, READ_10, WRITE_10, SYNCHRONIZE_CACHE_10 = 0x25, 0x28, 0x2A, 0x35
READ_16, WRITE_16, SERVICE_ACTION_IN_16, SAI_READ_CAPACITY_16 = 0x88, 0x8A, 0x9E, 0x10

TYPE_CD_DVD: Final = 0x05
NOT_READY, MEDIUM_ERROR, ILLEGAL_REQUEST, UNIT_ATTENTION, DATA_PROTECT = 0x2, 0x3, 0x5, 0x6, 0x7

SENSE_LENGTH: Final = 18
"Fixed-format sense data up to the sense key specific bytes (SPC-4 §4.5.3)."
INQUIRY_LENGTH: Final = 36
ATTENTIONS: Final = 3
"A device reports each unit attention once (reset, medium change, ...); more than a few in a row is a fault."
MAX_BLOCK_SIZE: Final = 64 << 10
"No drive has larger blocks; it also bounds what a lying READ CAPACITY can make us allocate."

_CDB_10: Final = Struct(">BBIBHB")
_CDB_16: Final = Struct(">BBQIBB")


class ScsiError(DeviceError):
    """A command ended in check condition."""

    def __init__(self, what: str, key: int, code: int, qualifier: int) -> None:
        super().__init__(f"{what}: sense key {key:#x}, additional sense {code:02x}h/{qualifier:02x}h")
        self.key, self.code, self.qualifier = key, code, qualifier


@dataclass(frozen=True, slots=True)
class Drive:
    """What a drive says of itself."""

    vendor: str
    product: str
    revision: str
    device_type: int
    "Peripheral device type (SPC-4 §6.6.2): 0 a disk, 5 a CD or DVD."
    removable: bool
    blocks: int
    block_size: int
    write_protected: bool

    @property
    def size(self) -> int:
        """Bytes."""
        return self.blocks * self.block_size


class Disk:
    """The driver of one logical unit. `drive` is known once `probe` has run."""

    def __init__(self, transport: BulkOnly) -> None:
        self.transport = transport
        self.drive: Drive | None = None

    def probe(self) -> Task[Drive]:
        """Find out what the drive is and make it ready. Raises `ScsiError`, `TransportError`."""
        data = yield from self._read(bytes((INQUIRY, 0, 0, 0, INQUIRY_LENGTH, 0)), INQUIRY_LENGTH)
        if len(data) < INQUIRY_LENGTH:
            raise DeviceError(f"INQUIRY brought {len(data)} bytes instead of {INQUIRY_LENGTH}")
        yield from self.wait_ready()
        blocks, block_size = yield from self.capacity()
        protected = yield from self.write_protected(data[0] & 0x1F)
        self.drive = Drive(
            vendor=_text(data[8:16]),
            product=_text(data[16:32]),
            revision=_text(data[32:36]),
            device_type=data[0] & 0x1F,
            removable=bool(data[1] & 0x80),
            blocks=blocks,
            block_size=block_size,
            write_protected=protected,
        )
        return self.drive

    def wait_ready(self) -> Task[None]:
        """TEST UNIT READY until the drive has told all its unit attentions; `ScsiError` if it isn't ready then."""
        for attempt in range(ATTENTIONS + 1):
            try:
                yield from self._command(bytes(6))
            except ScsiError as error:
                if error.key != UNIT_ATTENTION or attempt == ATTENTIONS:
                    raise
            else:
                return

    def capacity(self) -> Task[tuple[int, int]]:
        """(blocks, bytes a block); READ CAPACITY(16) where 32 bits don't hold the last block's number (SBC-3 §5.15)."""
        data = yield from self._read(_CDB_10.pack(READ_CAPACITY_10, 0, 0, 0, 0, 0), 8)
        last, block_size = self._two(">II", data)
        if last == 0xFFFFFFFF:
            data = yield from self._read(_CDB_16.pack(SERVICE_ACTION_IN_16, SAI_READ_CAPACITY_16, 0, 32, 0, 0), 32)
            last, block_size = self._two(">QI", data)
        if not 0 < block_size <= MAX_BLOCK_SIZE:
            raise DeviceError(f"the drive claims blocks of {block_size} bytes")
        return last + 1, block_size

    @staticmethod
    def _two(layout: str, data: bytes) -> tuple[int, int]:
        if len(data) < Struct(layout).size:
            raise DeviceError(f"READ CAPACITY brought {len(data)} bytes")
        first, second = unpack_from(layout, data)
        return first, second

    def write_protected(self, device_type: int) -> Task[bool]:
        """The WP bit of MODE SENSE(6)'s header, all pages asked for (SBC-3 §6.4.1); a CD is never written."""
        if device_type == TYPE_CD_DVD:
            return True
        try:
            data = yield from self._read(bytes((MODE_SENSE_6, 0, 0x3F, 0, 192, 0)), 192)
        except ScsiError:
            return False  # the command is optional: Linux, too, then takes the drive for writable
        return len(data) > 2 and bool(data[2] & 0x80)

    def read(self, block: int, into: memoryview, *, long: bool = False) -> Task[None]:
        """Fill `into`, a whole number of blocks, from `block` on; READ(16) if `long` or needed, else READ(10)."""
        outcome = yield from self._command(self._cdb(READ_16, READ_10, block, len(into), long), into=into)
        if outcome.moved != len(into):
            raise DeviceError(f"a read of {len(into)} bytes at block {block} brought {outcome.moved}")

    def write(self, block: int, data: Buffer, *, long: bool = False) -> Task[None]:
        """Write `data`, a whole number of blocks, from `block` on; WRITE(16) if `long` or needed, else WRITE(10)."""
        outcome = yield from self._command(self._cdb(WRITE_16, WRITE_10, block, len(data), long), data=data)
        if outcome.moved != len(data):
            raise DeviceError(f"a write of {len(data)} bytes at block {block} moved {outcome.moved}")

    def _cdb(self, opcode_16: int, opcode_10: int, block: int, size: int, long: bool) -> bytes:
        assert self.drive is not None, "probe() comes first"
        count, rest = divmod(size, self.drive.block_size)
        assert not rest, "only whole blocks can be moved"
        assert size <= MAX_TRANSFER, "a command moves MAX_TRANSFER bytes at most"
        if long or block + count > 1 << 32 or count > 0xFFFF:
            return _CDB_16.pack(opcode_16, 0, block, count, 0, 0)
        return _CDB_10.pack(opcode_10, 0, block, 0, count, 0)

    def synchronize(self) -> Task[None]:
        """SYNCHRONIZE CACHE(10) of the whole medium."""
        yield from self._command(_CDB_10.pack(SYNCHRONIZE_CACHE_10, 0, 0, 0, 0, 0))

    def request_sense(self, what: str) -> Task[ScsiError]:
        """Why the last command failed, as an error to raise (fixed-format sense data, SPC-4 §4.5.3)."""
        into = memoryview(bytearray(SENSE_LENGTH))
        outcome = yield from self.transport.run(bytes((REQUEST_SENSE, 0, 0, 0, SENSE_LENGTH, 0)), into=into)
        sense = bytes(into[: outcome.moved]).ljust(SENSE_LENGTH, b"\0")
        return ScsiError(what, sense[2] & 0x0F, sense[12], sense[13])

    def _read(self, command: bytes, length: int) -> Task[bytes]:
        into = memoryview(bytearray(length))
        outcome = yield from self._command(command, into=into)
        return bytes(into[: outcome.moved])

    def _command(self, command: bytes, *, data: Buffer = b"", into: memoryview | None = None) -> Task[Outcome]:
        outcome = yield from self.transport.run(command, data=data, into=into)
        if not outcome.passed:
            raise (yield from self.request_sense(f"SCSI command {command[0]:02x}h failed"))
        return outcome


def _text(field: bytes) -> str:
    return field.decode("ascii", "replace").strip(" \0")
