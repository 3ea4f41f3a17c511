"""What the emulated player tells about itself: the datasets of MTP 1.1 §5.1, §5.2 and §5.3 that don't change."""

import struct
from collections.abc import Iterable
from typing import Final

from tools.lab.devices.mtp_store import CAPACITY, STORAGE, OperationError, Store
from tools.lab.devices.ptp import (
    STRING,
    UINT16,
    UINT32,
    UINT64,
    UINT128,
    Format,
    Property,
    Result,
    array,
    string,
    value,
)

RELEASE: Final = 100
"Standard version and MTP version, in hundredths."
MICROSOFT: Final = 6
"MTPVendorExtensionID: Microsoft, whose extension MTP is."
REMOVABLE_MEMORY, HIERARCHICAL, READ_WRITE = 4, 2, 0
TYPES: Final = {
    Property.STORAGE: UINT32,
    Property.FORMAT: UINT16,
    Property.SIZE: UINT64,
    Property.FILE_NAME: STRING,
    Property.PARENT: UINT32,
    Property.UNIQUE_ID: UINT128,
    Property.NAME: STRING,
}
READ_ONLY, NO_FORM = 0, 0
"GetSet and Form flag of a property's description."


def device_info(serial: str, operations: Iterable[int]) -> bytes:
    """The DeviceInfo dataset."""
    head = struct.pack("<HIH", RELEASE, MICROSOFT, RELEASE) + string("microsoft.com: 1.0;") + bytes(2)
    no_events = no_properties = no_captures = array(())
    texts = ("usbbridge", "Media player", "1.0", serial)
    lists = array(sorted(operations)) + no_events + no_properties + no_captures + array(Format)
    return head + lists + b"".join(map(string, texts))


def storage_info(store: Store, storage: int) -> bytes:
    """The StorageInfo dataset. Raises OperationError."""
    if storage != STORAGE:
        raise OperationError(Result.INVALID_STORAGE)
    numbers = (REMOVABLE_MEMORY, HIERARCHICAL, READ_WRITE, CAPACITY, store.free, 0xFFFF_FFFF)
    return struct.pack("<HHHQQI", *numbers) + string("Memory") + string("LAB")


def property_description(code: int) -> bytes:
    """The ObjectPropDesc dataset, the same for all formats. Raises OperationError."""
    if code not in TYPES:
        raise OperationError(Result.INVALID_PROP_CODE)
    kind = TYPES[Property(code)]
    default = value(kind, "" if kind == STRING else 0)
    return struct.pack("<HHB", code, kind, READ_ONLY) + default + struct.pack("<IB", 0, NO_FORM)
