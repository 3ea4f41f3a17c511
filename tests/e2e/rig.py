"""The command under test, as the e2e tests use it in the client machine."""

import hashlib
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.lab import REPOSITORY, Completed, Process, UsbView

# Where the SPICE server's CA certificate and ticket are in the client machine.
CA_FILE = "/tmp/vm-ca.pem"
TICKET_FILE = "/tmp/vm-ticket"

MIB = 1 << 20

# From an unplugged device or a dead VM to the end of the command, and to the device's return, in seconds: a person who
# pulls a stick out must not wonder whether the program has noticed.
SOON = 2.0

# Notes a time for the summary: what it is of, and the seconds.
Measured = Callable[[str, float], None]


def command() -> tuple[list[str], dict[str, str]]:
    """The command and its environment: $USBBRIDGE_COMMAND, else what is installed in .venv, else this tree."""
    given = os.environ.get("USBBRIDGE_COMMAND")
    if given:
        return shlex.split(given), {}
    installed = REPOSITORY / ".venv/bin/usbbridge"
    if installed.exists():
        return [str(installed)], {}
    return [sys.executable, "-m", "usbbridge"], {"PYTHONPATH": str(REPOSITORY)}


@dataclass(frozen=True)
class Usbbridge:
    """Runs the command in the client machine."""

    client: UsbView

    def start(self, device: str, target: str, *options: str) -> Process:
        """`usbbridge attach --foreground`, started."""
        argv, env = command()
        return self.client.start([*argv, "attach", "--foreground", device, "--vm", target, *options], env=env)

    def attach(self, device: str, target: str, *options: str) -> Process:
        """The same, once it has said that the device is attached; to be used as a context manager."""
        process = self.start(device, target, *options)
        process.wait_output(r"\battached\b")
        return process

    def fail(self, device: str, target: str, *options: str) -> Completed:
        """The same, run to an end that is no success."""
        with self.start(device, target, *options) as process:
            done = process.wait()
        assert done.status != 0, done.text
        return done


def with_ticket(path: str = TICKET_FILE) -> list[str]:
    """Options for a SPICE server with a ticket."""
    return ["--password-file", path]


def detach(process: Process) -> Completed:
    """End an attachment as Ctrl-C does, cleanly."""
    process.interrupt()
    done = process.wait()
    assert (done.status, done.error) == (0, ""), done
    assert "detached" in done.text
    return done


def complaint(done: Completed) -> str:
    """The one line in which a command says what went wrong."""
    first, *hints = done.error.splitlines()
    assert first.startswith("usbbridge: "), done.error
    assert all(line.startswith("  ") for line in hints), done.error
    return first.removeprefix("usbbridge: ")


def sha256(path: Path, offset: int = 0, count: int | None = None) -> str:
    """The hash of a file of this host, or of `count` MiB of it from `offset` MiB."""
    with path.open("rb") as stream:
        stream.seek(offset * MIB)
        return hashlib.sha256(stream.read(-1 if count is None else count * MIB)).hexdigest()
