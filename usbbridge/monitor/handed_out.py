"""Which devices are handed out, in a file: a monitor that was killed has nobody else to tell its successor.

The file is written before a device leaves, and again when it is back. It lies where a reboot clears it; one that can't
be read is taken for empty, and said.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usbbridge.errors import RemoteProtocolError
from usbbridge.ipc.codec import from_json, to_json
from usbbridge.monitor.log import Level, say
from usbbridge.monitor.table import id_of
from usbbridge.usb.entry import DeviceEntry

MAX_FILE: Final = 1 << 20
"Bytes: the devices of a full bus, 127, with 8 KiB each."


@dataclass(frozen=True, slots=True)
class _File:
    version: int
    devices: tuple[DeviceEntry, ...]
    "As they were before they were handed out."


_VERSION: Final = 1


class HandedOut:
    """Devices that are handed out, by id, as they were before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._devices = {id_of(entry): entry for entry in self._read()}

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._devices))

    def __contains__(self, device_id: object) -> bool:
        return device_id in self._devices

    def get(self, device_id: str) -> DeviceEntry | None:
        """The device as it was; None if it is not handed out."""
        return self._devices.get(device_id)

    def add(self, entry: DeviceEntry) -> None:
        """It is about to be handed out."""
        self._devices[id_of(entry)] = entry
        self._write()

    def remove(self, device_id: str) -> None:
        """It is back, or gone."""
        if self._devices.pop(device_id, None) is not None:
            self._write()

    def _read(self) -> tuple[DeviceEntry, ...]:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_FILE)
            content: _File = from_json(_File, json.loads(data), "the list of devices handed out")
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, RecursionError, RemoteProtocolError) as error:
            say(Level.WARNING, f"{self._path} can't be read, what was handed out is not known: {error}")
            return ()
        return content.devices if content.version == _VERSION else ()

    def _write(self) -> None:
        """A file of its own, then renamed: whoever dies in between leaves the old one whole."""
        new = self._path.with_name(self._path.name + ".new")
        data = json.dumps(to_json(_File(_VERSION, tuple(self._devices.values())))).encode()
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            new.replace(self._path)
        except OSError as error:
            say(Level.WARNING, f"{self._path} can't be written: {error.strerror}; a restart may lose devices")
