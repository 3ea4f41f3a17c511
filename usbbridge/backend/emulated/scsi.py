"""SCSI as a logical unit sees it: commands in, tasks out, sense data for what went wrong (SPC-4).

A `Task` is one command under way: which way how many bytes want to go, and the calls that move them. A command that
needs no data has done its work when `LogicalUnit.start` returns. A command is refused, before any data moves, by
raising `CheckCondition` inside its handler; `start` turns that into a task that fails and into sense data.
"""

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Final

from usbbridge.backend.emulated.medium import Medium, MediumError

SENSE_SIZE: Final = 18
"Fixed format sense data up to and including the sense-key specific bytes (SPC-4 §4.5.3)."
NOT_READY, MEDIUM_ERROR, ILLEGAL_REQUEST, UNIT_ATTENTION, DATA_PROTECT, MISCOMPARE = 2, 3, 5, 6, 7, 0xE
"Sense keys (SPC-4 table 48)."
COMMAND_SIZES: Final = (6, 10, 10, 0, 16, 12, 0, 0)
"Bytes of a command by the top three bits of its operation code (SPC-4 §4.2.5.1); 0: vendor's or of variable length."


@dataclass(frozen=True, slots=True)
class Sense:
    """Why the last command failed."""

    key: int = 0
    code: int = 0
    "Additional sense code."
    qualifier: int = 0
    "Additional sense code qualifier."
    lba: int | None = None
    "The first logical block address that the error is about."

    def fixed(self) -> bytes:
        """Fixed format sense data; the INFORMATION field has room for 32 bits and stays invalid otherwise."""
        valid = self.lba is not None and self.lba < 1 << 32
        information = self.lba if self.lba is not None and valid else 0
        return _SENSE.pack(0x70 | valid << 7, self.key, information, SENSE_SIZE - 8, self.code, self.qualifier)


_SENSE: Final = Struct(">BxBIB4xBBxxxx")
NO_SENSE: Final = Sense()
INVALID_OPCODE: Final = Sense(ILLEGAL_REQUEST, 0x20)
OUT_OF_RANGE: Final = Sense(ILLEGAL_REQUEST, 0x21)
INVALID_FIELD: Final = Sense(ILLEGAL_REQUEST, 0x24)
SAVING_NOT_SUPPORTED: Final = Sense(ILLEGAL_REQUEST, 0x39)
REMOVAL_PREVENTED: Final = Sense(ILLEGAL_REQUEST, 0x53, 0x02)
WRITE_PROTECTED: Final = Sense(DATA_PROTECT, 0x27)
SPACE_EXHAUSTED: Final = Sense(DATA_PROTECT, 0x27, 0x07)
NO_MEDIUM: Final = Sense(NOT_READY, 0x3A)
MEDIUM_CHANGED: Final = Sense(UNIT_ATTENTION, 0x28)


class CheckCondition(Exception):  # noqa: N818 - the name SCSI has for it
    """A command is refused; raised by handlers, never out of `LogicalUnit`."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(sense)
        self.sense = sense


class Task:
    """A command without data, and the base of those with data."""

    __slots__ = ("failed", "length")

    to_host = True

    def __init__(self, length: int = 0, *, failed: bool = False) -> None:
        self.length, self.failed = length, failed

    def read(self, into: memoryview) -> int:
        """Move the next bytes to the host; fewer than asked for: it failed there. `into` never exceeds what is left."""
        return 0

    def write(self, data: memoryview) -> int:
        """Take the next bytes from the host; fewer than given: it failed there."""
        return 0

    def finish(self) -> bool:
        """The data stage is over. Whether the command was carried out."""
        return not self.failed


NOTHING: Final = Task()
FAILURE: Final = Task(failed=True)


class Reply(Task):
    """Parameter data for the host, made when the command came and cut to its allocation length."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes, allocation: int) -> None:
        self._data = data[:allocation]
        super().__init__(len(self._data))

    def read(self, into: memoryview) -> int:
        size = len(into)
        into[:] = self._data[:size]
        self._data = self._data[size:]
        return size


class ReadBlocks(Task):
    """Blocks from the medium straight into the transfer's memory."""

    __slots__ = ("_offset", "_unit")

    def __init__(self, unit: "LogicalUnit", offset: int, length: int) -> None:
        self._unit, self._offset = unit, offset
        super().__init__(length)

    def read(self, into: memoryview) -> int:
        moved = self._unit.move(self._unit.medium.read, into, self._offset)
        self._offset += moved
        self.failed = self.failed or moved < len(into)
        return moved


Handler = Callable[[bytes], Task]


class LogicalUnit:
    """What all units here have in common: the primary commands, removable medium and sense data."""

    device_type = 0
    product = "usbbridge"

    def __init__(self, medium: Medium, serial: str) -> None:
        self.medium, self.serial = medium, serial
        self.sense = NO_SENSE
        self.ejected = False
        self.locked = False
        "The host has forbidden to eject."
        self.attention: Sense | None = None
        "A change the host must hear of before anything else."
        self._handlers: dict[int, Handler] = {
            0x00: self._test_unit_ready,
            0x03: self._request_sense,
            0x12: self._inquiry,
            0x1A: self._mode_sense_6,
            0x1B: self._start_stop_unit,
            0x1E: self._prevent_allow_removal,
            0x5A: self._mode_sense_10,
            0xA0: self._report_luns,
        }
        self._always: set[int] = {0x03, 0x12, 0xA0}
        "Commands that work, and leave the unit attention be, whatever state the unit is in (SPC-4 §5.14)."

    def start(self, command: bytes) -> Task:
        """Carry out a command, or begin it if it moves data. Never raises."""
        code = command[0]
        try:
            handler = self._handlers.get(code)
            if handler is None:
                raise CheckCondition(INVALID_OPCODE)
            if len(command) < COMMAND_SIZES[code >> 5]:
                raise CheckCondition(INVALID_FIELD)
            if code not in self._always:
                self._raise_attention()
            if code != 0x03:
                self.sense = NO_SENSE
            return handler(command)
        except CheckCondition as refusal:
            self.sense = refusal.sense
            return FAILURE

    def _raise_attention(self) -> None:
        if self.attention is not None:
            attention, self.attention = self.attention, None
            raise CheckCondition(attention)

    def reset(self) -> None:
        """A reset of the port: nothing is locked any more, no sense data is pending (SAM-5 §6.3.2)."""
        self.sense, self.locked = NO_SENSE, False

    def close(self) -> None:
        """Let go of the medium."""
        self.medium.close()

    def move(self, call: Callable[[memoryview, int], int], data: memoryview, offset: int) -> int:
        """Read or write the medium; an error becomes sense data. Returns the bytes that were moved."""
        if self.ejected:  # between the command and its data, by the owner of the device
            self.sense = self.no_medium()
            return 0
        try:
            return call(data, offset)
        except MediumError as error:
            self.sense = _medium_sense(error, (offset + error.moved) // self.medium.block_size)
            return error.moved

    def sync(self) -> None:
        """Bring what was written to stable storage."""
        try:
            self.medium.sync()
        except MediumError as error:
            raise CheckCondition(_medium_sense(error, None)) from error

    def no_medium(self) -> Sense:
        """Sense data of a unit without medium."""
        return NO_MEDIUM

    def need_medium(self) -> None:
        """Refuse the command when the medium has been ejected."""
        if self.ejected:
            raise CheckCondition(self.no_medium())

    def extent(self, lba: int, count: int) -> tuple[int, int]:
        """Byte offset and length of `count` blocks; refused unless all of them exist."""
        self.need_medium()
        if lba + count > self.medium.blocks:
            raise CheckCondition(Sense(OUT_OF_RANGE.key, OUT_OF_RANGE.code, 0, lba))
        return lba * self.medium.block_size, count * self.medium.block_size

    # ---- commands

    def _test_unit_ready(self, command: bytes) -> Task:
        self.need_medium()
        return NOTHING

    def _request_sense(self, command: bytes) -> Task:
        if command[1] & 1:  # descriptor format
            raise CheckCondition(INVALID_FIELD)
        if self.sense is NO_SENSE and self.attention is not None:
            self.sense, self.attention = self.attention, None
        sense, self.sense = self.sense, NO_SENSE
        return Reply(sense.fixed(), command[4])

    def _inquiry(self, command: bytes) -> Task:
        """SPC-4 §6.4.2; exactly the 36 bytes that every host can take."""
        allocation = int.from_bytes(command[3:5])
        if command[1] & 1:
            return Reply(self._vital_product_data(command[2]), allocation)
        if command[1] & 3 or command[2]:
            raise CheckCondition(INVALID_FIELD)
        # removable medium; SPC-3; response data format 2; 31 bytes follow
        head = bytes((self.device_type, 0x80, 5, 2, 31, 0, 0, 0))
        return Reply(head + _padded("USB", 8) + _padded(self.product, 16) + _padded("1.0", 4), allocation)

    def _vital_product_data(self, page: int) -> bytes:
        pages = self.vital_product_pages()
        pages[0x00] = bytes(sorted({0x00, *pages}))
        if page not in pages:
            raise CheckCondition(INVALID_FIELD)
        body = pages[page]
        return bytes((self.device_type, page)) + len(body).to_bytes(2) + body

    def vital_product_pages(self) -> dict[int, bytes]:
        """Bodies of the vital product data pages (SPC-4 §7.8) beside page 0: unit serial number, identification."""
        return {0x80: self.serial.encode("ascii"), 0x83: self._identification()}

    def _identification(self) -> bytes:
        """Two names of the unit (SPC-4 §7.8.6): by vendor id, and an NAA locally assigned number."""
        text = _padded("USB", 8) + _padded(self.product, 16) + self.serial.encode("ascii")
        number = (3 << 60 | int(self.serial, 16) & (1 << 60) - 1).to_bytes(8)
        return bytes((0x02, 0x01, 0, len(text))) + text + bytes((0x01, 0x03, 0, len(number))) + number

    def _report_luns(self, command: bytes) -> Task:
        """SPC-4 §6.33: LUN 0 is all there is; well-known units (SELECT REPORT 1) there are none."""
        if command[2] > 2:
            raise CheckCondition(INVALID_FIELD)
        units = b"" if command[2] == 1 else bytes(8)
        return Reply(len(units).to_bytes(4) + bytes(4) + units, int.from_bytes(command[6:10]))

    def mode_pages(self, *, changeable: bool) -> dict[int, bytes]:
        """Mode pages by number, without their two header bytes; `changeable`: masks of what MODE SELECT may change."""
        raise NotImplementedError

    def mode_parameter(self) -> int:
        """The device-specific parameter of the mode parameter header."""
        return 0

    def _mode_body(self, command: bytes) -> bytes:
        control, page, subpage = command[2] >> 6, command[2] & 0x3F, command[3]
        if control == 3:
            raise CheckCondition(SAVING_NOT_SUPPORTED)
        pages = self.mode_pages(changeable=control == 1)
        if page != 0x3F:
            if page not in pages or subpage not in (0, 0xFF):
                raise CheckCondition(INVALID_FIELD)
            pages = {page: pages[page]}
        return b"".join(bytes((number, len(body))) + body for number, body in sorted(pages.items()))

    def _mode_sense_6(self, command: bytes) -> Task:
        """No block descriptors: READ CAPACITY says the same and more."""
        body = self._mode_body(command)
        return Reply(bytes((3 + len(body), 0, self.mode_parameter(), 0)) + body, command[4])

    def _mode_sense_10(self, command: bytes) -> Task:
        body = self._mode_body(command)
        head = (6 + len(body)).to_bytes(2) + bytes((0, self.mode_parameter(), 0, 0, 0, 0))
        return Reply(head + body, int.from_bytes(command[7:9]))

    def _start_stop_unit(self, command: bytes) -> Task:
        """SBC-3 §5.25. Ejecting is final for the data written: it is synced first. A load brings the medium back."""
        load_eject, start = command[4] & 2, command[4] & 1
        if command[4] >> 4:  # power conditions: there is nothing to spin down
            return NOTHING
        if not start:
            if load_eject and self.locked:
                raise CheckCondition(REMOVAL_PREVENTED)
            self.sync()
            self.ejected = self.ejected or bool(load_eject)
        elif load_eject and self.ejected:
            self.ejected, self.attention = False, MEDIUM_CHANGED
        else:
            self.need_medium()
        return NOTHING

    def _prevent_allow_removal(self, command: bytes) -> Task:
        """SBC-3 §5.12. Hosts allow removal when they unmount: the moment at which the data must be safe."""
        locked = bool(command[4] & 1)
        if self.locked and not locked:
            self.sync()
        self.locked = locked
        return NOTHING


def _padded(text: str, size: int) -> bytes:
    """Left-aligned ASCII, padded with spaces (SPC-4 §4.3.1)."""
    return text.encode("ascii")[:size].ljust(size)


def _medium_sense(error: MediumError, lba: int | None) -> Sense:
    """Sense data for an operating system's error."""
    if error.is_no_space:
        return Sense(SPACE_EXHAUSTED.key, SPACE_EXHAUSTED.code, SPACE_EXHAUSTED.qualifier, lba)
    if error.is_read_only:
        return WRITE_PROTECTED
    if error.is_gone:
        return NO_MEDIUM
    return Sense(MEDIUM_ERROR, 0x0C if error.writing else 0x11, 0, lba)
