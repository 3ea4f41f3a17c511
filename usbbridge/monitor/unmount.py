"""Unmounting the file systems of a device, by whoever is best at it, without keeping anybody waiting.

udisks2 forgets what it had mounted and tidies the mount point up. The service manager's mount unit works from within a
service that has a mount namespace of its own, where umount(8) would unmount only there. Otherwise umount(8) does it.
Each is a process of its own: writing what is still in memory to a slow stick may take minutes.
"""

import os
import string
from collections.abc import Callable
from pathlib import Path
from typing import Final

from usbbridge.monitor.blockuse import BlockUse, Mount
from usbbridge.monitor.loop import Loop
from usbbridge.usb.identity import clean_words

SECONDS: Final = 60.0
"""Until whoever asked is told that it takes longer. It is not broken off: what is being written is wanted there."""

MAX_COMMANDS: Final = 64
"Commands for one device: some dozens of mounts, or a few that refuse three ways."

MAX_REASONS: Final = 4
"Told of why it did not work: one for each way, and one more. They have to fit a message, and a reader's patience."

SEARCH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT: Final = {"PATH": SEARCH, "LC_ALL": "C.UTF-8"}
_MAX_WORDS: Final = 4096
"Bytes of what a command says that are looked at."

Commands = Callable[[Mount], list[list[str]]]
OnDone = Callable[[str], None]
"Told why it did not work; nothing if it did."


def commands(mount: Mount) -> list[list[str]]:
    """The commands to try, the best first."""
    found = []
    if udisks := _program("udisksctl"):
        device = "/dev/" + mount.device.replace("!", "/")
        found.append([udisks, "unmount", "--no-user-interaction", "--block-device", device])
    if Path("/run/systemd/system").is_dir() and (systemctl := _program("systemctl")):
        found.append([systemctl, "stop", mount_unit(mount.place)])
    found.append([_program("umount") or "umount", "--", mount.place])
    return found


def _program(name: str) -> str:
    """Its path; empty if it is not installed. shutil.which would bring three compression libraries along."""
    paths = (f"{folder}/{name}" for folder in SEARCH.split(":"))
    return next((path for path in paths if os.access(path, os.X_OK)), "")


def mount_unit(place: str) -> str:
    """Name of the unit for a mount point (systemd.unit(5), "string escaping for inclusion in unit names")."""
    path = "/".join(part for part in place.split("/") if part)
    if not path:
        return "-.mount"
    plain = string.ascii_letters + string.digits + ":_."
    escaped = "".join(
        "-" if byte == ord("/") else chr(byte) if chr(byte) in plain else f"\\x{byte:02x}" for byte in os.fsencode(path)
    )
    return (f"\\x2e{escaped[1:]}" if escaped.startswith(".") else escaped) + ".mount"


class Unmounting:
    """Unmounts everything of the device at the sysfs path `folder`, and calls `on_done` once."""

    def __init__(
        self,
        loop: Loop,
        root: Path,
        folder: Path,
        on_done: OnDone,
        commands: Commands = commands,
        seconds: float = SECONDS,
    ) -> None:
        self._loop, self._root, self._folder = loop, root, folder
        self._on_done: OnDone | None = on_done
        self._commands, self._count = commands, 0
        self._tried: dict[Mount, int] = {}
        self._why: dict[str, None] = {}
        "Reasons given, each once: what stops one of them, such as a missing right, need not be what stops the best."
        self._timer = loop.after(seconds, self._too_long)
        self.is_busy = False
        "Whether a command runs, be it that nobody waits for it any more."

    def begin(self) -> None:
        """Start. `on_done` may be called before this returns."""
        self._next()

    def _next(self) -> None:
        """The next command, if there is something left to unmount."""
        if self._on_done is None:
            return
        mounts = BlockUse(self._root).mounts(self._folder)
        if not mounts:
            self._done("")
            return
        mount = mounts[0]
        ways, tried = self._commands(mount), self._tried.get(mount, 0)
        if tried >= len(ways) or self._count >= MAX_COMMANDS:
            why = "; ".join(list(self._why)[:MAX_REASONS])
            self._done(f"{mount.device} can't be unmounted{f': {why}' if why else ''}")
            return
        self._tried[mount] = tried + 1
        self._count += 1
        self._run(ways[tried])

    def _run(self, command: list[str]) -> None:
        import subprocess  # only when something is unmounted

        try:
            process = subprocess.Popen(  # noqa: S603  # nothing of it goes through a shell
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_ENVIRONMENT
            )
        except OSError as error:
            self._why[f"{command[0]}: {error.strerror}"] = None
            self._next()
            return
        assert process.stderr is not None
        pipe, said = process.stderr.fileno(), bytearray()
        self.is_busy = True

        def heard() -> None:
            data = os.read(pipe, _MAX_WORDS)
            said.extend(data[: _MAX_WORDS - len(said)])
            if not data:  # it has ended, or is about to
                self._loop.unwatch(pipe)
                process.communicate()
                self.is_busy = False
                if process.returncode and (why := _last_line(said)):
                    self._why[why] = None
                self._next()

        self._loop.watch(pipe, heard)

    def _too_long(self) -> None:
        self._done("it is still being unmounted: what was written to it takes its time; try again")

    def _done(self, why: str) -> None:
        self._timer.cancel()
        if self._on_done is not None:
            on_done, self._on_done = self._on_done, None
            on_done(why)


def _last_line(said: bytes | bytearray) -> str:
    lines = bytes(said).decode(errors="replace").split("\n")
    return next((words for line in reversed(lines) if (words := clean_words(line))), "")
