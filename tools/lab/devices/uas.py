"""`uas,image=PATH`: a SuperSpeed disk that offers USB Attached SCSI beside Bulk-Only Transport, as SATA bridges do.

It is for controllers without bulk streams, such as Linux's virtual one, where no host can use the UAS setting: only
Bulk-Only is carried out, and in the other setting every endpoint halts. (QEMU's usb-uas is a disk that has only that.)
"""

from dataclasses import replace
from typing import Final

from tools.lab.devices.describe import BULK, configuration, descriptor, endpoint, interface
from tools.lab.devices.options import check, check_speed
from usbbridge.backend.emulated.bot import BulkOnly
from usbbridge.backend.emulated.disk import BULK_ONLY, ENDPOINT_IN, ENDPOINT_OUT, SCSI_TRANSPARENT, open_disk
from usbbridge.backend.emulated.function import STALL, Function
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import DIR_IN, ClassCode, Speed

UAS: Final = 0x62
"bInterfaceProtocol (Mass Storage Class Specification Overview 1.4, table 4)."
COMMAND, STATUS, DATA_IN, DATA_OUT = 1, 2, 3, 4
"bPipeID (UAS, T10/2095-D, §5.3.3)."
PIPES: Final = {COMMAND: 4, STATUS: DIR_IN | 3, DATA_IN: ENDPOINT_IN, DATA_OUT: ENDPOINT_OUT}
"Their endpoints; those for data are Bulk-Only's."
PIPE_USAGE: Final = 0x24
"bDescriptorType."
STREAMS: Final = 5
"Of every pipe but the commands', as an exponent of two (USB 3.2 table 9-27)."
BURST, PACKET = 15, 1024
MILLIAMPERES: Final = 500


class TwoTransports(BulkOnly):
    """The disk, with a setting that nobody can use."""

    _halted = False

    def restart(self) -> None:
        super().restart()
        self._halted = False

    def select(self, number: int, alternate: int) -> None:
        super().select(number, alternate)
        self._halted = bool(alternate)

    def receive(self, endpoint: int, data: memoryview) -> int:
        return STALL if self._halted else super().receive(endpoint, data)

    def send(self, endpoint: int, data: memoryview) -> int:
        return STALL if self._halted else super().send(endpoint, data)


def describe() -> bytes:
    """Its configuration."""
    bulk_only = [endpoint(each, BULK, PACKET, companion=(BURST, 0, 0)) for each in (ENDPOINT_IN, ENDPOINT_OUT)]
    return configuration(
        interface(0, ClassCode.MASS_STORAGE, SCSI_TRANSPARENT, BULK_ONLY, endpoints=bulk_only),
        interface(0, ClassCode.MASS_STORAGE, SCSI_TRANSPARENT, UAS, alternate=1, endpoints=map(_pipe, PIPES)),
        milliamperes=MILLIAMPERES,
        speed=Speed.SUPER,
    )


def _pipe(pipe: int) -> bytes:
    companion = (0, 0, 0) if pipe == COMMAND else (BURST, STREAMS, 0)
    return endpoint(PIPES[pipe], BULK, PACKET, companion=companion, extra=descriptor(PIPE_USAGE, bytes((pipe, 0))))


def create(speed: Speed, options: dict[str, str]) -> Function:
    """Options: image, the file that is its content. Raises UsageError, and what `open_disk` raises."""
    check("UAS disk", options, "image")
    check_speed("UAS disk", speed, Speed.SUPER)
    if "image" not in options:
        raise UsageError("a UAS disk needs an image", hint="uas,image=PATH")
    disk = open_disk(options["image"], speed=speed).function
    assert isinstance(disk, BulkOnly)
    return TwoTransports(replace(disk.model, configurations=(describe(),)), disk.unit)
