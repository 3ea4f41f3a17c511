"""A process in a machine, seen from outside."""

import dataclasses
import functools
import re
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Self, TypeVar

from tools.lab.host import LabError

T = TypeVar("T")

# How long to wait for something that will surely happen; on a busy host the emulated machines are slow.
PATIENCE = 120.0


@dataclasses.dataclass(frozen=True, slots=True)
class Completed:
    """A process that has ended."""

    argv: Sequence[str]
    status: int
    "Exit status, or minus the number of the signal that ended it."
    stdout: bytes
    stderr: bytes
    ended: float
    "When, in seconds of the machine's own monotonic clock."

    @property
    def text(self) -> str:
        """Standard output as text, without white space around it."""
        return self.stdout.decode(errors="replace").strip()

    @property
    def error(self) -> str:
        """Standard error as text, without white space around it."""
        return self.stderr.decode(errors="replace").strip()


class Process:
    """A process in a machine. As a context manager it is killed, with its process group, at the end of the block."""

    def __init__(self, argv: Sequence[str], request: Callable[[str, object], None]) -> None:
        self.argv = argv
        self.pid = 0
        self.began = 0.0
        "When it was started, in seconds of the machine's own monotonic clock."
        self._request = request
        self._changed = threading.Condition()
        self._output = {"stdout": bytearray(), "stderr": bytearray()}
        self._status: int | None = None
        self._ended = 0.0
        self._lost: str | None = None
        self.on_output: Callable[[bytes], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet, as far as is known."""
        with self._changed:
            return self._status is None and self._lost is None

    @property
    def stdout(self) -> bytes:
        """What it has written to standard output so far."""
        with self._changed:
            return bytes(self._output["stdout"])

    @property
    def stderr(self) -> bytes:
        """What it has written to standard error so far."""
        with self._changed:
            return bytes(self._output["stderr"])

    def write(self, data: bytes) -> None:
        """Send to its standard input."""
        if data:
            self._request("stdin", data)

    def close_stdin(self) -> None:
        """End its standard input."""
        self._request("stdin", b"")

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to it and its whole process group."""
        self._request("signal", int(signum))

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self.signal(signal.SIGINT)

    def kill(self) -> None:
        """End it by SIGKILL and wait until it is gone; nothing if it has already ended."""
        if self.running:
            self.signal(signal.SIGKILL)
            self._wait(lambda: not self.running, PATIENCE, "end after SIGKILL")

    def wait(self, timeout: float = PATIENCE) -> Completed:
        """Wait for its end. Raises LabError when that does not come in `timeout` seconds, or the machine has died."""
        self._wait(lambda: self._status is not None, timeout, "end")
        assert self._status is not None
        return Completed(self.argv, self._status, self.stdout, self.stderr, self._ended)

    def wait_end(self) -> None:
        """Wait for its end however long that takes."""
        with self._changed:
            self._changed.wait_for(lambda: self._status is not None or self._lost is not None)

    def wait_output(self, pattern: str, timeout: float = PATIENCE) -> re.Match[bytes]:
        """Wait for standard output to hold a match of the regular expression; LabError if it ends without one."""
        match = self.wait_until(functools.partial(_search, pattern), f"write {pattern!r}", timeout)
        assert match is not None
        return match

    def wait_bytes(self, count: int, timeout: float = PATIENCE) -> bytes:
        """Wait for at least `count` bytes on standard output; LabError if it ends with fewer."""
        written = self._output["stdout"]
        self._wait(lambda: len(written) >= count or not self.running, timeout, f"write {count} bytes")
        if len(written) < count:
            raise LabError(f"{self._says()} and wrote only {len(written)} bytes")
        return self.stdout

    def wait_until(self, look: Callable[[bytes], T], what: str, timeout: float = PATIENCE) -> T:
        """The first true result of `look` on its standard output so far; LabError if it ends without one."""
        self._wait(lambda: bool(look(self.stdout)) or not self.running, timeout, what)
        result = look(self.stdout)
        if not result:
            raise LabError(f"{self._says()} and did not {what}")
        return result

    def _wait(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        with self._changed:
            done = self._changed.wait_for(lambda: condition() or self._lost is not None, timeout)
        if not done or not condition():
            raise LabError(f"{self._says()}: it did not {what} in {timeout:.0f} s")

    def _says(self) -> str:
        state = self._lost or ("runs" if self._status is None else f"ended with status {self._status}")
        written = b"".join(self._output.values()).decode(errors="replace")[-2000:]
        return f"{' '.join(self.argv)}: {state}" + (f", having written:\n{written}\n" if written else "")

    # What the machine reports about it; called on the receiving thread.

    def spawned(self, pid: int, at: float) -> None:
        """It runs."""
        with self._changed:
            self.pid, self.began = pid, at
            self._changed.notify_all()

    def wrote(self, stream: str, data: bytes) -> None:
        """It wrote to "stdout" or "stderr"."""
        if self.on_output is not None:
            self.on_output(data)
            return
        with self._changed:
            self._output[stream] += data
            self._changed.notify_all()

    def ended(self, status: int, at: float) -> None:
        """It has ended."""
        with self._changed:
            self._status, self._ended = status, at
            self._changed.notify_all()

    def lost(self, reason: str) -> None:
        """It could not be started, or its machine is gone."""
        with self._changed:
            if self._status is None:
                self._lost = reason
            self._changed.notify_all()

    def wait_spawned(self) -> None:
        """Wait until it runs; LabError if it cannot be started."""
        self._wait(lambda: self.pid != 0, PATIENCE, "start")


def _search(pattern: str, data: bytes) -> re.Match[bytes] | None:
    return re.search(pattern.encode(), data, re.MULTILINE)
