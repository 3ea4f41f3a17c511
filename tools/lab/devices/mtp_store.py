"""The storage of the emulated player: objects in memory, one sample file among them."""

import random
import struct
from dataclasses import dataclass
from typing import Final

from tools.lab.devices.ptp import (
    ANY,
    OBJECT_INFO,
    UINT16,
    UINT32,
    UINT64,
    UINT128,
    Format,
    Property,
    Result,
    parse_string,
    string,
)
from tools.lab.devices.ptp import STRING as STRING_TYPE
from usbbridge.errors import UsbBridgeError

STORAGE: Final = 0x0001_0001
"StorageID: the first logical storage of the first physical one (MTP 1.1 §5.2.1)."
CAPACITY: Final = 16 << 20
"Bytes that all objects together may have, a name counting NAME_COST: it is this process's memory."
NAME_COST: Final = 4096
SAMPLE_NAME: Final = "sample.bin"
README: Final = b"No pictures have been taken yet.\n"
DATE: Final = "20260101T120000"


class OperationError(UsbBridgeError):
    """The operation has failed for the reason that the response will carry."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.name)
        self.result = result


@dataclass(slots=True)
class Object:
    """A file or a folder."""

    handle: int
    name: str
    format: int
    parent: int
    "Handle of the folder it is in; 0: the root."
    data: bytes = b""
    size: int = 0
    "As announced; the data's once there is any."

    def info(self) -> bytes:
        """The ObjectInfo dataset."""
        association = 1 if self.format == Format.FOLDER else 0  # generic folder
        numbers = (STORAGE, self.format, 0, self.size, *(0,) * 7, self.parent, association, 0, 0)
        return OBJECT_INFO.pack(*numbers) + string(self.name) + string(DATE) * 2 + string("")

    def property(self, code: Property) -> tuple[int, int | str]:
        """Data type and value of a property."""
        found: dict[Property, tuple[int, int | str]] = {
            Property.STORAGE: (UINT32, STORAGE),
            Property.FORMAT: (UINT16, self.format),
            Property.SIZE: (UINT64, self.size),
            Property.FILE_NAME: (STRING_TYPE, self.name),
            Property.PARENT: (UINT32, self.parent),
            Property.UNIQUE_ID: (UINT128, self.handle),
            Property.NAME: (STRING_TYPE, self.name),
        }
        return found[code]


def sample(size: int) -> bytes:
    """The content of the sample file."""
    return random.Random(STORAGE).randbytes(size)


class Store:
    """All objects, by handle. Methods raise OperationError."""

    def __init__(self, sample_size: int) -> None:
        self._objects: dict[int, Object] = {}
        self._next = 1
        folder = self._add("Pictures", Format.FOLDER, 0, 0)
        self.fill(self._add("readme.txt", Format.TEXT, folder.handle, 0), README)
        self.fill(self._add(SAMPLE_NAME, Format.UNDEFINED, 0, sample_size), sample(sample_size))

    @property
    def free(self) -> int:
        """Bytes left."""
        return CAPACITY - sum(NAME_COST + each.size for each in self._objects.values())

    def get(self, handle: int) -> Object:
        """The object with that handle."""
        if handle not in self._objects:
            raise OperationError(Result.INVALID_HANDLE)
        return self._objects[handle]

    def handles(self, storage: int, form: int = 0, parent: int = 0) -> list[int]:
        """Of the objects of a format (0: of any), directly in a folder (0: anywhere, ANY: in the root)."""
        if storage not in (STORAGE, ANY):
            raise OperationError(Result.INVALID_STORAGE)
        if parent not in (0, ANY) and self.get(parent).format != Format.FOLDER:
            raise OperationError(Result.INVALID_PARENT)
        found = (each for each in self._objects.values() if not form or each.format == form)
        inside = 0 if parent == ANY else parent
        return [each.handle for each in found if not parent or each.parent == inside]

    def announce(self, parent: int, dataset: bytes) -> Object:
        """Make the object that an ObjectInfo dataset describes; its data is to follow."""
        inside = 0 if parent == ANY else parent
        if inside and self.get(inside).format != Format.FOLDER:
            raise OperationError(Result.INVALID_PARENT)
        try:
            fields, name = OBJECT_INFO.unpack_from(dataset), parse_string(dataset[OBJECT_INFO.size :])
        except (ValueError, struct.error) as error:
            raise OperationError(Result.INVALID_DATASET) from error
        form, size = fields[1], fields[3]
        if NAME_COST + size > self.free:
            raise OperationError(Result.STORE_FULL)
        return self._add(name, form, inside, 0 if form == Format.FOLDER else size)

    def _add(self, name: str, form: int, parent: int, size: int) -> Object:
        made = Object(self._next, name, form, parent, size=size)
        self._objects[made.handle] = made
        self._next += 1
        return made

    def fill(self, target: Object, data: bytes) -> None:
        """The data of an announced object."""
        if len(data) > target.size + self.free:
            raise OperationError(Result.STORE_FULL)
        target.data, target.size = data, len(data)

    def delete(self, handle: int) -> None:
        """An object, with all in it; ANY: every one."""
        doomed = [*self._objects] if handle == ANY else [self.get(handle).handle]
        for each in doomed:
            doomed += [other.handle for other in self._objects.values() if other.parent == each and handle != ANY]
        for each in doomed:
            self._objects.pop(each, None)
