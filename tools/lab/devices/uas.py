"""`uas,image=PATH`: a SuperSpeed disk that offers USB Attached SCSI beside Bulk-Only Transport, as SATA bridges do.

It is for controllers without bulk streams, such as Linux's virtual one, where no host can use the UAS setting: only
Bulk-Only is carried out, and in the other setting every endpoint halts. (QEMU's usb-uas is a disk with the other alone.)
"""

import struct
from dataclasses import replace
from typing import Final

from tools.lab.devices.describe import BULK, BULK_PACKET, SUPER_SPEED_BOS, configuration, descriptor, endpoint, interface
from tools.lab.devices.options import check, check_speed
from usbbridge.backend.emulated.bot import BulkOnly
from usbbridge.backend.emulated.disk import BULK_ONLY, ENDPOINT_IN, ENDPOINT_OUT, SCSI_TRANSPARENT, open_disk
from usbbridge.backend.emulated.function import STALL, Function
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import DIR_IN, ClassCode, Speed

UAS: Final = 0x62
"bInterfaceProtocol (Mass Storage Class Specification Overview 1.4, table 4)."
COMMAND, STATUS, DATA_IN, DATA_OUT = 1, 2, 3, 4
"bPipeID (UAS, T10/2095-D, table 8)."
PIPE_USAGE: Final = 0x24
PIPES: Final = {COMMAND: 4, STATUS: DIR_IN | 3, DATA_IN: ENDPOINT_IN, DATA_OUT: ENDPOINT_OUT}
STREAMS_EXPONENT: Final = 5
BURST: Final = 15
IMAGE: Final = "image"


class TwoTransports(Function):
    """The disk, with a setting that nobody can use."""

    def __init__(self, disk: BulkOnly) -> None:
        self._disk = disk
        self._halted = False
        self.model = replace(disk.model, configurations=(describe(),), bos=SUPER_SPEED_BOS)

    def control(self, setup, data):
        return self._disk.control(setup, data)
