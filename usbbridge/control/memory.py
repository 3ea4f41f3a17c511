"""What people chose, on disk: choices.json, which is either what it was or what it is to be, never half of it.

{"version": 1, "choices": [{"vendor": 2385, "product": 5734, "serial": "…", "port": "", "vm": "desk", "name": "…"}]}
"""

import asyncio
import contextlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from usbbridge.control.session import in_thread
from usbbridge.errors import RemoteProtocolError
from usbbridge.ipc.api import Choice
from usbbridge.ipc.codec import from_json, to_json

log = logging.getLogger(__name__)

VERSION: Final = 1
MAX_CHOICES: Final = 500
"A household has dozens of devices, and an office's thin client as many; a status shows them all in one line."
MAX_BYTES: Final = 512 << 10
"Of the file: a choice has three strings a device may have chosen, of at most 126 characters (USB 2.0 §9.6.7) each."


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was remembered, and what there is to say about it."""

    choices: tuple[Choice, ...] = ()
    notice: str = ""


class Memory:
    """The file, as control uses it: what is to be kept is written beside everything else, the latest only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wanted: tuple[Choice, ...] | None = None
        self._task: asyncio.Task[None] | None = None

    def load(self) -> tuple[Choice, ...]:
        """What was remembered."""
        loaded = load(self._path)
        if loaded.notice:
            log.error("%s", loaded.notice)
        return loaded.choices

    def save(self, choices: tuple[Choice, ...]) -> None:
        """Keep these. A disk that can't be written is complained about, and nothing else stops for it."""
        self._wanted = choices
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._write())

    async def settled(self) -> None:
        """Wait until everything is written, or has failed."""
        if self._task is not None:
            await self._task

    async def _write(self) -> None:
        while (choices := self._wanted) is not None:
            self._wanted = None
            try:
                await in_thread(lambda: save(self._path, choices))
            except OSError as error:
                log.error("what was chosen can't be kept: %s: %s", self._path, error.strerror or error)


def load(path: Path) -> Loaded:
    """The choices in `path`; none if there is no such file. One that can't be understood is set aside, and said so."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Loaded()
    except OSError as error:
        return Loaded(notice=f"what was remembered can't be read: {path}: {error.strerror}")
    try:
        return Loaded(_parse(data))
    except (ValueError, RecursionError, RemoteProtocolError) as error:
        return Loaded(notice=f"what was remembered is lost: {path} is damaged ({error}); {_set_aside(path)}")


def save(path: Path, choices: tuple[Choice, ...]) -> None:
    """Replace what `path` holds; after a crash or a power cut it has the old or the new. Raises OSError."""
    data = json.dumps({"version": VERSION, "choices": [to_json(choice) for choice in choices[-MAX_CHOICES:]]}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123  # a descriptor
        file.write(data)
        file.flush()
        os.fsync(fd)
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the new name is on disk only after this
    finally:
        os.close(folder)


def _parse(data: bytes) -> tuple[Choice, ...]:
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 10} KiB")
    found: Any = json.loads(data)
    if not isinstance(found, dict) or found.get("version") != VERSION or not isinstance(found.get("choices"), list):
        raise ValueError("it is not a list of choices of a version that is known")
    if len(found["choices"]) > MAX_CHOICES:
        raise ValueError(f"it has more than {MAX_CHOICES} choices")
    return tuple(from_json(Choice, item, "a choice") for item in found["choices"])


def _set_aside(path: Path) -> str:
    aside = path.with_name(f"{path.name}.damaged")
    with contextlib.suppress(OSError):
        path.replace(aside)
        return f"it is kept as {aside}"
    return "it could not be set aside"
