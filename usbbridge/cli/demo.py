"""`usbbridge demo`: the main job with nothing but this program: no USB device, no virtual machine, no root.

A flash drive made of random bytes is attached, by the command a user would type, to a VM that lives inside this
process. It is real from end to end: SPICE with a ticket over TCP, usbredir, and a guest that enumerates the drive,
reads all of it and compares hashes, then writes to a second one and reads that back.
"""

import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import click

from usbbridge.cli.main import INTERRUPTED
from usbbridge.errors import ConnectionLostError, UsbBridgeError
from usbbridge.loopback.storage import DATA_PROTECT, Drive, ScsiError
from usbbridge.loopback.vm import LoopbackVm, ReadResult

MIB: Final = 1 << 20
MAX_MIB: Final = 4096
"The image lies in the temporary folder, which may be memory."
SCRATCH_MIB: Final = 4
"The drive that is written to; a sixteenth of the usual one shows as much."
STEP_SECONDS: Final = 20.0
"No step takes more than a second or two; a machine ten times slower still gets through."
POLL_SECONDS: Final = 0.1
REDRAW_SECONDS: Final = 0.1

T = TypeVar("T")


class DemoError(UsbBridgeError):
    """Something in the demonstration was not as it should be."""


class Narrator:
    """Tells what happens, as it happens: a line a step, and on a terminal a line that moves while reading."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._moving = not quiet and sys.stdout.isatty()
        self._drawn = 0.0
        self._quarter = 0
        self._began = time.monotonic()
        self._lock = threading.Lock()  # the VM and the attach command are heard on threads of their own
        self.steps: list[dict[str, Any]] = []

    def step(self, name: str, detail: str) -> None:
        """Something has happened."""
        self.steps.append({"step": name, "detail": detail, "seconds": round(time.monotonic() - self._began, 3)})
        self._line(f"  {name:<12}{detail}")

    def heading(self, text: str) -> None:
        """A new part begins."""
        self._line(text)
        self._quarter = 0

    def heard(self, line: str) -> None:
        """The attach command has said something."""
        self._line(f"  {'client':<12}{line}")

    def reading(self, done: int, total: int) -> None:
        """`done` of `total` bytes have been read."""
        now = time.monotonic()
        if self._moving and (now - self._drawn > REDRAW_SECONDS or done == total):
            self._drawn = now
            with self._lock:
                click.echo(f"\r  {'reading':<12}{_progress(done, total)}\x1b[K", nl=False)
        elif not self._moving and done * 4 // total > self._quarter:
            self._quarter = done * 4 // total
            self._line(f"  {'reading':<12}{_progress(done, total)}")

    def _line(self, text: str) -> None:
        if not self._quiet:
            with self._lock:
                click.echo(f"\r\x1b[K{text}" if self._moving else text)


class Attachment:
    """`usbbridge attach`, run as a user would, from its start to its Ctrl-C."""

    def __init__(self, device: str, vm: LoopbackVm, password_file: Path, narrator: Narrator) -> None:
        self._vm = vm
        self._narrator = narrator
        self._last = "it said nothing"
        arguments = ["attach", "--foreground", device, "--vm", vm.target, "--password-file", str(password_file)]
        narrator.step("command", "usbbridge " + " ".join(arguments))
        self._process = subprocess.Popen(  # noqa: S603 - our own program; no shell
            [sys.executable, "-P", "-m", "usbbridge", *arguments],  # -P: import nothing from the current folder
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gone = self._process.poll() is not None
        if not gone:
            self._process.kill()
        self._process.wait()
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        if gone and isinstance(error, ConnectionLostError):
            raise self._ended(str(error)) from error

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._last = line.strip()
            self._narrator.heard(line.rstrip())

    def wait(self, step: Callable[[float], T], what: str) -> T:
        """What `step` returns, a function that waits for as long as it is told; meanwhile the command has to live."""
        deadline = time.monotonic() + STEP_SECONDS
        while True:
            try:
                return step(POLL_SECONDS)
            except TimeoutError:
                if self._process.poll() is not None:
                    raise self._ended(f"no {what}") from None
                if time.monotonic() > deadline:
                    raise DemoError(f"after {STEP_SECONDS:g} s still no {what}") from None

    def _ended(self, what: str) -> DemoError:
        self._listener.join()
        return DemoError(f"{what}: the attach command ended with status {self._process.returncode}: {self._last}")

    def detach(self) -> float:
        """Ctrl-C: the guest has to be told, and the command to end well. Returns the seconds it took."""
        begin = time.monotonic()
        self._process.send_signal(signal.SIGINT)
        try:
            self._vm.wait_for_detach(timeout=STEP_SECONDS)
            status = self._process.wait(STEP_SECONDS)
        except (TimeoutError, subprocess.TimeoutExpired):
            raise DemoError(f"{STEP_SECONDS:g} s after Ctrl-C the device was still attached") from None
        if status not in (0, INTERRUPTED):
            raise DemoError(f"after Ctrl-C the attach command ended with status {status}")
        return time.monotonic() - begin


class Demo:
    """The demonstration, step by step. Raises `UsbBridgeError` subclasses as soon as something is not right."""

    def __init__(self, size: int, folder: Path, narrator: Narrator) -> None:
        self._size = size
        self._narrator = narrator
        self._image, self._scratch = folder / "drive.img", folder / "scratch.img"
        self._password_file = folder / "ticket"
        self._ticket = secrets.token_urlsafe(12)
        self._password_file.touch(0o600)
        self._password_file.write_text(self._ticket + "\n")

    def run(self) -> ReadResult:
        """All of it; what reading the big drive came to."""
        with LoopbackVm(password=self._ticket, on_event=self._happened) as vm:
            self._narrator.heading("A virtual machine, in this process:")
            self._narrator.step("VM", f"listens on {vm.target}, with a ticket")
            read = self._read_only(vm)
            self._writable(vm)
            if vm.violations:
                raise DemoError(f"the VM objects: {'; '.join(vm.violations)}")
        return read

    def _happened(self, line: str) -> None:
        if line.startswith("linked: "):
            self._narrator.step("linked", f"{line.removeprefix('linked: ')}, ticket accepted")

    def _read_only(self, vm: LoopbackVm) -> ReadResult:
        self._narrator.heading("A read-only drive, read from end to end:")
        expected = make_image(self._image, self._size)
        self._narrator.step("image", f"{_size(self._size)} of random bytes, sha256 {expected[:16]}...")
        with Attachment(f"disk:{self._image},ro", vm, self._password_file, self._narrator) as attachment:
            drive = self._mount(vm, attachment)
            read = vm.read_all(self._narrator.reading, timeout=STEP_SECONDS + self._size / MIB)
            self._narrator.step("read", f"{_size(read.size)} in {read.seconds:.2f} s, {_rate(read.rate)}")
            if (drive.size, read.sha256) != (self._size, expected):
                raise DemoError(f"{drive.size} bytes with sha256 {read.sha256} were read, expected {expected}")
            self._narrator.step("sha256", "equal")
            self._refuses_writes(vm, drive)
            self._narrator.step("detached", f"cleanly, in {attachment.detach() * 1000:.0f} ms")
        return read

    def _refuses_writes(self, vm: LoopbackVm, drive: Drive) -> None:
        if not drive.write_protected:
            raise DemoError("the drive was attached read-only, but doesn't say that it is write-protected")
        try:
            vm.write(0, bytes(drive.block_size))
        except ScsiError as error:
            if error.key != DATA_PROTECT:
                raise
            self._narrator.step("protected", "a write is refused (DATA PROTECT)")
        else:
            raise DemoError("the drive was attached read-only, but took a write")

    def _writable(self, vm: LoopbackVm) -> None:
        self._narrator.heading("A second drive, written to:")
        make_image(self._scratch, SCRATCH_MIB * MIB)
        before = self._scratch.read_bytes()
        data = secrets.token_bytes(MIB)
        with Attachment(f"disk:{self._scratch}", vm, self._password_file, self._narrator) as attachment:
            drive = self._mount(vm, attachment)
            block = MIB // drive.block_size
            vm.write(block, data)
            self._narrator.step("written", f"{_size(len(data))} at {_size(MIB)}, cache synchronized")
            if vm.read(block, len(data) // drive.block_size) != data:
                raise DemoError("what was read back is not what was written")
            self._narrator.step("read back", "equal")
            self._narrator.step("detached", f"cleanly, in {attachment.detach() * 1000:.0f} ms")
        if self._scratch.read_bytes() != before[:MIB] + data + before[2 * MIB :]:
            raise DemoError("the image file doesn't hold what was written, or lost what was not")
        self._narrator.step("image file", "holds what was written, and the rest as it was")

    def _mount(self, vm: LoopbackVm, attachment: Attachment) -> Drive:
        device = attachment.wait(lambda timeout: vm.wait_for_device(timeout=timeout), "device in the VM")
        announcement = vm.ports[0].announcement
        assert announcement is not None
        self._narrator.step("device", f"{device.name}, {announcement.speed} speed")
        drive = vm.mount(timeout=STEP_SECONDS)
        protected = ", write-protected" if drive.write_protected else ""
        self._narrator.step("capacity", f"{drive.blocks} blocks of {drive.block_size} bytes{protected}")
        return drive


def make_image(path: Path, size: int) -> str:
    """Write `size` random bytes, a multiple of 1 MiB, to a file and return their sha256."""
    sha256 = hashlib.sha256()
    with path.open("wb") as image:
        for _ in range(size // MIB):
            data = os.urandom(MIB)
            sha256.update(data)
            image.write(data)
    return sha256.hexdigest()


def _size(size: int) -> str:
    return f"{size / MIB:g} MiB"


def _rate(rate: float) -> str:
    return f"{rate / 1e6:.0f} MB/s"


def _progress(done: int, total: int) -> str:
    return f"{done * 100 // total:3d} %  {done // MIB} of {_size(total)}"


@click.command("demo")
@click.option(
    "--size",
    type=click.IntRange(1, MAX_MIB),
    default=64,
    show_default=True,
    metavar="MIB",
    help="How large the drive is; as much room is taken in the temporary folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end instead (see usbbridge(1)).")
def command(size: int, as_json: bool) -> int:
    """Attach an emulated flash drive to a virtual machine made for the occasion, and check that all arrives.

    Nothing is needed for it: no USB device, no virtual machine, no root. The exit status is 0 only if all was right.
    """
    begin = time.monotonic()
    narrator = Narrator(quiet=as_json)
    error: UsbBridgeError | None = None
    read: ReadResult | None = None
    try:
        with TemporaryDirectory(prefix="usbbridge-demo-") as folder:
            read = Demo(size * MIB, Path(folder), narrator).run()
    except UsbBridgeError as raised:
        error = raised
    except TimeoutError:
        error = DemoError("the VM waited in vain for an answer of the device")
    except OSError as raised:  # of the temporary folder: the sockets' are the VM's and the attach command's
        error = DemoError(f"the drive's image could not be made: {raised}")
    if error is not None and not as_json:
        raise error
    seconds = time.monotonic() - begin
    if as_json:
        click.echo(json.dumps(as_object(narrator, read, error, seconds), indent=2, ensure_ascii=False))
    elif read is not None:
        click.echo(f"Everything was right: {_size(read.size)} at {_rate(read.rate)}, {seconds:.1f} s in all.")
    return 0 if error is None else error.exit_status


def as_object(
    narrator: Narrator, read: ReadResult | None, error: UsbBridgeError | None, seconds: float
) -> dict[str, Any]:
    """What `--json` prints. Its keys and their meaning are listed in usbbridge(1); keys may be added, never changed."""
    return {
        "ok": error is None,
        "error": None if error is None else error.message,
        "bytes": None if read is None else read.size,
        "sha256": None if read is None else read.sha256,
        "bytes_per_second": None if read is None else round(read.rate),
        "seconds": round(seconds, 3),
        "steps": narrator.steps,
    }
