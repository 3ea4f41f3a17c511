"""A machine as its agent shows it: processes, files, uevents and disks of a Linux that runs somewhere else."""

import dataclasses
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tools.lab.host import LabError
from tools.lab.link import AgentLink
from tools.lab.process import PATIENCE, Completed, Process

T = TypeVar("T")

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "linux"}


@dataclasses.dataclass(frozen=True, slots=True)
class Clock:
    """How a machine's monotonic clock stands to this host's."""

    offset: float
    "To be added to the machine's time, in seconds."
    error: float
    "By how much that may be wrong at most."

    def on_host(self, time_there: float) -> float:
        """The host's time (`time.monotonic`) of a time in the machine."""
        return time_there + self.offset


class Driven:
    """What can be asked of any machine with an agent in it. A subclass starts the machine, and gives `_link`."""

    _link: AgentLink

    def __init__(self, name: str) -> None:
        self.name = name
        self.environment = dict(ENVIRONMENT)
        self._booting = time.monotonic()

    def wait_ready(self, timeout: float = PATIENCE) -> float:
        """Wait until the machine is up; the seconds since it was started. LabError with what it said when it is not."""
        try:
            self._link.wait_ready(timeout)
        except LabError as error:
            raise LabError(f"{error}:\n{self.last_words()}") from error
        return time.monotonic() - self._booting

    def last_words(self) -> str:
        """What the machine, and what carries it, have written last."""
        raise NotImplementedError

    # Processes

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        env: dict[str, str] | None = None,
        cwd: str = "/",
        timeout: float = PATIENCE,
        check: bool = True,
    ) -> Completed:
        """Run a command to its end. LabError, with what it wrote, when its status is not 0 and `check` is set."""
        with self.start(argv, env=env, cwd=cwd) as process:
            process.write(input)
            process.close_stdin()
            done = process.wait(timeout)
        if check and done.status:
            raise LabError(f"{self.name}: {shlex.join(argv)}: status {done.status}: {done.text}\n{done.error}")
        return done

    def shell(self, script: str, *, timeout: float = PATIENCE, check: bool = True) -> Completed:
        """Run a line of shell that fails at the first failing command."""
        return self.run(["/bin/bash", "-euo", "pipefail", "-c", script], timeout=timeout, check=check)

    def start(
        self,
        argv: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        cwd: str = "/",
        tty: tuple[int, int] | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Process:
        """Start a process: on a terminal of `tty` (rows, columns) if given; its output to `on_output` if given."""
        self.wait_ready()
        return self._link.start(argv, env=self.environment | (env or {}), cwd=cwd, tty=tty, on_output=on_output)

    # Files and events

    def glob(self, pattern: str) -> list[str]:
        """Paths in the machine that match."""
        _, found = self._link.query("glob", pattern)
        return list(found)

    def read_text(self, path: str) -> str:
        """A file's text without white space around it; OSError when it cannot be read."""
        _, text = self._link.query("read", path)
        return str(text).strip()

    def links(self, pattern: str) -> dict[str, str]:
        """The symbolic links that match, and what each points to."""
        _, found = self._link.query("links", pattern)
        return dict(found)

    def now(self) -> float:
        """Seconds of the machine's monotonic clock."""
        time_there, _ = self._link.query("glob", "/")
        return time_there

    def clock(self, rounds: int = 10) -> Clock:
        """Its clock against the host's, by the quickest of some questions. It drifts: ask near the event."""
        best = Clock(0.0, float("inf"))
        for _ in range(rounds):
            asked = time.monotonic()
            there = self.now()
            half = (time.monotonic() - asked) / 2
            best = min(best, Clock(asked + half - there, half), key=lambda clock: clock.error)
        return best

    def put(self, path: str, data: bytes) -> None:
        """Write a file in the machine."""
        self.run(["/bin/sh", "-c", 'cat > "$1"', "put", path], input=data)

    def wait_until(self, look: Callable[[], T], what: str, timeout: float = PATIENCE) -> T:
        """The first true result of `look`, called again after each uevent and each process that ends in the machine."""
        self.wait_ready()
        return self._link.wait_until(look, what, timeout)

    def uevents(self, **fields: str) -> list[tuple[float, dict[str, str]]]:
        """The kernel's uevents so far that have these fields, each with the machine's time of it."""
        return [(at, event) for at, event in self._link.uevents if fields.items() <= event.items()]

    # Disks

    def block_devices(self) -> list[str]:
        """The SCSI disks and CD-ROMs that are ready for use, as device nodes."""
        return [f"/dev/{Path(path).name}" for path in self.glob("/sys/block/s[dr]*") if self._block_is_ready(path)]

    def wait_block_device(self, timeout: float = PATIENCE) -> str:
        """Wait for a disk or a CD-ROM; its device node."""
        return self.wait_until(lambda: next(iter(self.block_devices()), ""), "block device", timeout)

    def wait_no_block_device(self, timeout: float = PATIENCE) -> None:
        """Wait until no disk and no CD-ROM is left."""
        self.wait_until(lambda: not self.glob("/sys/block/s[dr]*"), "end of the block devices", timeout)

    def _block_is_ready(self, path: str) -> bool:
        """A disk is announced, by an event of its own, only after the kernel has read its size and partitions."""
        name = Path(path).name
        announced = [event for _, event in self.uevents(SUBSYSTEM="block", DEVNAME=name)]
        return bool(announced) and announced[-1]["ACTION"] != "remove" and bool(self.glob(f"/dev/{name}"))
