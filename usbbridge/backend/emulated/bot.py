"""USB Mass Storage Class, Bulk-Only Transport 1.0: the device's side, around one SCSI logical unit.

A command is a 31-byte wrapper (CBW) on the OUT endpoint, an optional data stage either way, and a 13-byte status (CSW)
on the IN endpoint. Host and device may disagree on the data stage; §6.7 lists the 13 cases. What this device does in
each, with H the host's length and D its own (n none, i in, o out):

    1  Hn = Dn    status                            8  Hi <> Do   STALL IN, phase error
    2  Hn < Di    phase error                       9  Ho > Dn    discard, status with residue
    3  Hn < Do    phase error                      10  Ho <> Di   discard, phase error
    4  Hi > Dn    STALL IN, status with residue    11  Ho > Do    discard what is too much, status with residue
    5  Hi > Di    data, STALL IN, status           12  Ho = Do    status
    6  Hi = Di    status                           13  Ho < Do    discard, phase error
    7  Hi < Di    data up to H, phase error

A command whose data stage is refused is not carried out: nothing is written in case 13. A command that fails in its
data stage ends it like a command with less data (cases 4, 5, 11). What should be a CBW and is not makes both endpoints
STALL until reset recovery (§6.6.1): a Mass Storage Reset *and then* cleared halts.
"""

from enum import Enum, auto
from struct import Struct
from typing import Final

from usbbridge.backend.emulated.function import BABBLE, NAK, STALL, Function, Model
from usbbridge.backend.emulated.scsi import NOTHING, LogicalUnit, Task
from usbbridge.usb.ch9 import DIR_IN, Recipient, RequestType, SetupPacket, request_type

CBW: Final = Struct("<IIIBBB16s")
CSW: Final = Struct("<IIIB")
CBW_SIGNATURE: Final = 0x43425355
CSW_SIGNATURE: Final = 0x53425355
PASSED, FAILED, PHASE_ERROR = range(3)
"bCSWStatus (§5.2)."

FLAG_IN: Final = 0x80
"bmCBWFlags bit 7: the host expects to receive data; the other bits are reserved."
MAX_COMMAND: Final = 16
"bCBWCBLength: 1 to 16."

RESET: Final = (request_type(RequestType.CLASS, Recipient.INTERFACE), 0xFF)
GET_MAX_LUN: Final = (request_type(RequestType.CLASS, Recipient.INTERFACE, is_in=True), 0xFE)
"bmRequestType and bRequest of the two class requests (§3.1, §3.2)."


class Stage(Enum):
    """What the device is waiting for."""

    COMMAND = auto()
    DATA_OUT = auto()
    DATA_IN = auto()
    END_IN = auto()
    "The IN data stage was shorter than the host expects: one STALL says so."
    STATUS = auto()
    BROKEN = auto()
    "An invalid CBW came: nothing but a reset helps."


class BulkOnly(Function):
    """The mass-storage function: one interface, number 0, with one bulk endpoint each way."""

    def __init__(self, model: Model, unit: LogicalUnit) -> None:
        self.model, self.unit = model, unit
        self._stage = Stage.COMMAND
        self._tag = 0
        self._task: Task = NOTHING
        self._task_left = 0
        "Bytes that the command still wants to move."
        self._host_left = 0
        "Bytes that the host will still send in an OUT data stage."
        self._residue = 0
        self._phase_error = False

    @property
    def stage(self) -> Stage:
        """Where in a command the device is."""
        return self._stage

    def restart(self) -> None:
        """Also resets the unit: whoever resets the port is a new user of the disk."""
        self._abandon()
        self.unit.reset()

    def _abandon(self) -> None:
        self._stage, self._task = Stage.COMMAND, NOTHING

    def select(self, number: int, alternate: int) -> None:
        """The one alternate setting chosen again: what was under way is over."""
        self._abandon()

    def close(self) -> None:
        self.unit.close()

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        request = (setup.request_type, setup.request)
        if setup.value != 0 or setup.index != 0:
            return STALL
        if request == RESET and setup.length == 0:
            self._abandon()  # halts stay: the host clears them itself (§3.1)
            return 0
        if request == GET_MAX_LUN and setup.length:
            data[0] = 0
            return 1
        return STALL

    # ---- OUT endpoint

    def receive(self, endpoint: int, data: memoryview) -> int:
        if self._stage is Stage.COMMAND:
            return self._command(data)
        if self._stage is Stage.DATA_OUT:
            return self._data_out(data)
        return STALL if self._stage is Stage.BROKEN else NAK

    def _command(self, data: memoryview) -> int:
        if len(data) != CBW.size:
            return self._break()
        signature, tag, length, flags, lun, size, command = CBW.unpack(data)
        # §6.2.1 valid, §6.2.2 meaningful: what isn't either has no answer but this
        if signature != CBW_SIGNATURE or flags & 0x7F or lun or not 1 <= size <= MAX_COMMAND:
            return self._break()
        self._tag, self._residue, self._phase_error = tag, length, False
        task = self._task = self.unit.start(command[:size])
        self._task_left = task.length
        if not length:
            self._no_data(task)
        elif flags & FLAG_IN:
            self._start_in(task, length)
        else:
            self._start_out(task, length)
        return CBW.size

    def _break(self) -> int:
        self._stage = Stage.BROKEN
        return STALL

    def _no_data(self, task: Task) -> None:
        """Cases 1 to 3."""
        if task.length:
            self._refuse()
        self._stage = Stage.STATUS

    def _start_in(self, task: Task, length: int) -> None:
        """Cases 4 to 8."""
        if task.length and not task.to_host:
            self._refuse()
        elif task.length > length:
            self._phase_error, self._task_left = True, length
        self._stage = Stage.DATA_IN if self._task_left else Stage.END_IN

    def _start_out(self, task: Task, length: int) -> None:
        """Cases 9 to 13."""
        if task.length and (task.to_host or task.length > length):
            self._refuse()
        self._host_left, self._stage = length, Stage.DATA_OUT

    def _refuse(self) -> None:
        """The data stage can't be: the command is dropped before anything was moved."""
        self._phase_error, self._task, self._task_left = True, NOTHING, 0

    def _data_out(self, data: memoryview) -> int:
        size = len(data)
        if size > self._host_left:  # more than was announced: whatever follows would be taken for a CBW
            return self._break()
        wanted = min(size, self._task_left)
        if wanted:
            taken = self._task.write(data[:wanted])
            self._residue -= taken
            self._task_left = self._task_left - taken if taken == wanted else 0
        self._host_left -= size
        if not self._host_left:
            self._stage = Stage.STATUS
        return size

    # ---- IN endpoint

    def send(self, endpoint: int, data: memoryview) -> int:
        if self._stage is Stage.DATA_IN:
            return self._data_in(data)
        if self._stage is Stage.STATUS:
            return self._status(data)
        if self._stage is Stage.END_IN:
            self._stage = Stage.STATUS
            return STALL
        return STALL if self._stage is Stage.BROKEN else NAK

    def _data_in(self, data: memoryview) -> int:
        wanted = min(len(data), self._task_left)
        moved = self._task.read(data[:wanted])
        self._residue -= moved
        self._task_left = self._task_left - moved if moved == wanted else 0
        if not self._task_left:
            self._stage = Stage.END_IN if self._residue else Stage.STATUS
        return moved if moved else self.send(DIR_IN, data)  # nothing at all to send: the STALL comes right now

    def _status(self, data: memoryview) -> int:
        if len(data) < CSW.size:
            return BABBLE
        passed = self._task.finish()
        status = PHASE_ERROR if self._phase_error else PASSED if passed else FAILED
        CSW.pack_into(data, 0, CSW_SIGNATURE, self._tag, self._residue, status)
        self._abandon()
        return CSW.size
