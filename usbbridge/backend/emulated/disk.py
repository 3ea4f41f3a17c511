"""`disk:PATH[,ro]`: an image file or block device as a USB flash drive or, if it is called *.iso, as a CD-ROM drive."""

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from usbbridge.backend.emulated import scsi_cd, scsi_disk
from usbbridge.backend.emulated.bot import BulkOnly
from usbbridge.backend.emulated.device import EmulatedDevice
from usbbridge.backend.emulated.function import Model
from usbbridge.backend.emulated.medium import open_medium
from usbbridge.backend.emulated.scsi import LogicalUnit
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import DIR_IN, ClassCode, Speed, TransferType
from usbbridge.usb.descriptors import (
    Configuration,
    DeviceDescriptor,
    Endpoint,
    Interface,
    SuperSpeedCompanion,
    configuration_bytes,
)

PREFIX: Final = "disk:"
READ_ONLY: Final = ",ro"

VENDOR: Final = 0x1D6B
PRODUCT: Final = 0x0104
"""Linux Foundation, "Multifunction Composite Gadget": what home-made gadgets of every kind bear. Operating systems know
it from those and have no quirk for it, so that only the class decides on the driver."""
BCD_DEVICE: Final = 0x0100

ENDPOINT_IN: Final = DIR_IN | 1
ENDPOINT_OUT: Final = 2
SCSI_TRANSPARENT: Final = 0x06
BULK_ONLY: Final = 0x50
"bInterfaceSubClass and bInterfaceProtocol (Mass Storage Class Specification Overview 1.4, tables 1 and 2)."

_BULK_PACKET: Final = {Speed.FULL: 64, Speed.HIGH: 512, Speed.SUPER: 1024}
_BCD_USB: Final = {Speed.HIGH: 0x0200, Speed.SUPER: 0x0300}
_PACKET_0: Final = {Speed.HIGH: 64, Speed.SUPER: 9}
"bMaxPacketSize0; at SuperSpeed the exponent of 512 bytes (USB 3.2 §9.6.1)."
_MAX_BURST: Final = 15
_ATTRIBUTES: Final = 0x80
_MAX_POWER: Final = {Speed.FULL: 50, Speed.HIGH: 50, Speed.SUPER: 13}
"100 mA in units of 2 mA, at SuperSpeed of 8 mA."

_BOS: Final = bytes.fromhex(
    "050f160002"  # two capabilities, 22 bytes in all
    "07100200000000"  # USB 2.0 extension, without link power management
    "0a1003000e00020a2000"  # SuperSpeed: full, high and super speed; all functions from high speed on; U1 10, U2 32 us
)


def parse_spec(spec: str) -> tuple[str, bool]:
    """Path and whether to open it read-only, of `disk:PATH[,ro]` (the prefix may be missing). Raises UsageError."""
    rest = spec.removeprefix(PREFIX)
    path = rest.removesuffix(READ_ONLY)
    if not path:
        raise UsageError(f"{spec!r} names no disk image", hint="write disk:PATH or disk:PATH,ro")
    if "\0" in path:
        raise UsageError(f"{spec!r} holds a character that no path can")
    return path, path != rest


def open_disk(spec: str, *, speed: Speed = Speed.HIGH) -> EmulatedDevice:
    """Open `disk:PATH[,ro]` as a USB device.

    A PATH that ends in `.iso`, in whatever case, becomes a CD-ROM drive, which is always read-only. `speed` is HIGH or
    SUPER; high speed is the default because every virtual USB controller takes it (a SuperSpeed disk does not enumerate
    on EHCI), while super speed lets Linux guests move 1 MiB a command instead of 120 KiB.

    Raises UsageError, NotFoundError, NotPermittedError, RefusedError or DeviceError, with what to do about it.
    """
    if speed not in _BCD_USB:
        raise UsageError(f"an emulated disk runs at high or super speed, not at {speed.name.lower()} speed")
    path, read_only = parse_spec(spec)
    unit = _open_cd(path) if path.lower().endswith(".iso") else _open_flash_drive(path, read_only=read_only)
    return EmulatedDevice(BulkOnly(disk_model(unit.product, unit.serial, speed), unit), f"{PREFIX}{path}")


def _open_cd(path: str) -> LogicalUnit:
    medium = open_medium(path, scsi_cd.BLOCK_SIZE, writable=False)
    if medium.blocks > scsi_cd.MAX_BLOCKS:
        medium.close()
        raise UsageError(
            f"{path} is larger than 8 TiB, which no CD-ROM drive can address", hint="rename it to make it a disk"
        )
    return scsi_cd.CdUnit(medium, serial_number(path))


def _open_flash_drive(path: str, *, read_only: bool) -> LogicalUnit:
    return scsi_disk.DiskUnit(open_medium(path, scsi_disk.BLOCK_SIZE, writable=not read_only), serial_number(path))


def serial_number(path: str) -> str:
    """A serial number by which a guest knows the disk again: from its path, and for a file from its inode.

    The inode tells files of one path on two machines apart; a device's inode changes at each start of the system.
    24 digits of upper-case hexadecimal: Bulk-Only Transport §4.1.1 wants 12 or more such.
    """
    real = Path(path).resolve()
    status = real.stat()
    inode = "" if stat.S_ISBLK(status.st_mode) else str(status.st_ino)
    return hashlib.sha256(os.fsencode(f"{real}\0{inode}")).hexdigest()[:24].upper()


def disk_model(product: str, serial: str, speed: Speed) -> Model:
    """Descriptors of a Bulk-Only mass-storage device at high or super speed."""
    return Model(
        speed=speed,
        device=DeviceDescriptor(
            bcd_usb=_BCD_USB[speed],
            class_=ClassCode.PER_INTERFACE,
            subclass=0,
            protocol=0,
            max_packet_size0=_PACKET_0[speed],
            vendor=VENDOR,
            product=PRODUCT,
            bcd_device=BCD_DEVICE,
            i_manufacturer=1,
            i_product=2,
            i_serial=3,
        ),
        configurations=(_configuration(speed),),
        strings=("usbbridge", product, serial),
        bos=_BOS if speed is Speed.SUPER else b"",
        other_speed=(_configuration(Speed.FULL),) if speed is Speed.HIGH else (),
    )


def _configuration(speed: Speed) -> bytes:
    companion = SuperSpeedCompanion(_MAX_BURST, 0, 0) if speed is Speed.SUPER else None
    endpoints = tuple(
        Endpoint(address, TransferType.BULK, _BULK_PACKET[speed], 0, companion)
        for address in (ENDPOINT_IN, ENDPOINT_OUT)
    )
    interface = Interface(0, 0, ClassCode.MASS_STORAGE, SCSI_TRANSPARENT, BULK_ONLY, 0, endpoints)
    return configuration_bytes(Configuration(1, _ATTRIBUTES, _MAX_POWER[speed], 0, (interface,)))
