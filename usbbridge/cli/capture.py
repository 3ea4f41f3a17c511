"""`usbbridge capture`: what a device and its VM say to each other, in a file that Wireshark reads."""

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

import click

from usbbridge.cli import capture_file
from usbbridge.cli.capture_file import CHUNK, STDOUT, CaptureFile
from usbbridge.cli.completion import complete_attached, complete_serial
from usbbridge.cli.tables import count, print_json, size_text
from usbbridge.errors import ConnectionLostError, UsageError
from usbbridge.ipc.api import DeviceStatus
from usbbridge.ipc.client import ServiceClient, read

EXAMPLES: Final = """\b
Examples:
  usbbridge capture 1-2 -o stick.pcapng
  usbbridge capture 1-2 -o - | wireshark -k -i -
  usbbridge capture datatraveler -o stick.pcapng --headers-only --limit 50M
"""
REDRAW_SECONDS: Final = 0.25
END_SECONDS: Final = 2.0
"How long each bit of the rest of a capture is waited for that was told to end: an encoder sends it at once."

WHY: Final = {
    "interrupted": "",
    "limit": "it is as large as --limit allows",
    "count": "it has as many packets as --count wants",
    "closed": "nobody reads it any more",
    "detached": "the device is no longer at its VM",
}
"How a capture has ended → in words."


@click.command("capture", epilog=EXAMPLES)
@click.argument("device", required=False, shell_complete=complete_attached)
@click.option("--serial", metavar="SERIAL", shell_complete=complete_serial, help="The device with this serial number.")
@click.option("-o", "--output", metavar="FILE", required=True, help="Where to write it; - is the standard output.")
@click.option("--headers-only", is_flag=True, help="Leave out the data of transfers; setup packets stay.")
@click.option(
    "--limit",
    default="1G",
    show_default=True,
    metavar="SIZE",
    callback=capture_file.parse_size,
    help="End when the file has this size, for instance 500M or 2G.",
)
@click.option("--count", "packets", type=click.IntRange(min=1), metavar="N", help="End after so many packets.")
@click.option("--force", is_flag=True, help="Overwrite the file if it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object at the end (see usbbridge(1)).")
def command(
    device: str | None,
    serial: str | None,
    output: str,
    headers_only: bool,
    limit: int,
    packets: int | None,
    force: bool,
    as_json: bool,
) -> int:
    """Write what DEVICE and its virtual machine say to each other to a file, until Ctrl-C.

    The device has to be attached. The file is for Wireshark and tshark (pcapng, as Linux's usbmon captures USB). What
    is typed and read stands in it: it is readable for you alone.

    The redirection does not wait for the capture: what can't be written fast enough is left out, and counted.
    """
    if not device and not serial:
        raise UsageError("no device was named", hint="`usbbridge list` shows what is attached")
    if as_json and output == STDOUT:
        raise UsageError("--json and -o - both want the standard output")
    capture_file.check(output, force=force)
    with ServiceClient.connect() as service:
        parameters = {"device": device or "", "serial": serial or "", "headers_only": headers_only}
        status = read(DeviceStatus, service.call("capture", **parameters))
        connection, beginning = service.take_over()
    with connection:
        file = CaptureFile(capture_file.open_output(output, force=force), limit=limit, count=packets)
        begin, display = time.monotonic(), Display(status, output, quiet=as_json)
        with contextlib.closing(file), _signals() as signalled, display:
            ended = _Capture(connection, file, display, signalled).run(beginning)
    _conclude(status, file, ended, output)
    if as_json:
        print_json(as_object(status, file, ended, output, time.monotonic() - begin))
    else:
        display.end(file, ended)
    return 0


def _conclude(status: DeviceStatus, file: CaptureFile, ended: str, output: str) -> None:
    """Raises ConnectionLostError if the capture did not end as captures do."""
    if ended == "broken":
        if not file.begun and output != STDOUT:
            capture_file.remove(output)
        there = f"; what came before is in {output}" if file.packets and output != STDOUT else ""
        raise ConnectionLostError(
            f"the capture of {status.device.entry} broke off{there}",
            hint="its encoder has died, or has as many captures as it takes: `usbbridge status` tells",
        )


def as_object(status: DeviceStatus, file: CaptureFile, ended: str, output: str, seconds: float) -> dict[str, Any]:
    """What `--json` prints."""
    counts = {"packets": file.packets, "dropped": file.dropped, "bytes": file.size}
    return {"file": output, "device": status.device.id, **counts, "seconds": round(seconds, 3), "ended": ended}


class _Capture:
    """One capture, from its first byte to its end."""

    def __init__(self, connection: socket.socket, file: CaptureFile, display: "Display", signalled: int) -> None:
        """`signalled` is a descriptor that becomes readable when it is to end."""
        self._connection, self._file, self._display, self._signalled = connection, file, display, signalled
        self._poll = select.poll()
        for wanted in (connection, signalled):
            self._poll.register(wanted, select.POLLIN)
        self._poll.register(file, 0)  # of a pipe, errors are told unasked: its reader has gone (poll(2))
        self._deadline: float | None = None

    def run(self, beginning: bytes) -> str:
        """How it has ended: a key of WHY, or `broken`. Raises OSError, RemoteProtocolError, and KeyboardInterrupt at a
        second signal."""
        try:
            return self._follow(beginning)
        except BrokenPipeError:
            return "closed"

    def _follow(self, data: bytes) -> str:
        connection, signalled, file = self._connection.fileno(), self._signalled, self._file
        while True:
            file.take(data)
            self._display.show(file)
            if file.full:
                return file.full
            ready = self._wait()
            if signalled in ready:
                self._poll.unregister(signalled)
                self._tell_end()
            if ready.keys() - {connection, signalled}:
                raise BrokenPipeError
            if self._deadline is not None and time.monotonic() >= self._deadline:
                return "interrupted"
            data = b""
            if connection in ready:
                data = self._receive()
                if not data:
                    return self._over()

    def _wait(self) -> dict[int, int]:
        """What there is to do; nothing if it is time to show how far things are, or to give up."""
        until = [self._display.due, self._deadline]
        left = [max(when - time.monotonic(), 0) for when in until if when is not None]
        return dict(self._poll.poll(min(left) * 1000 if left else None))

    def _receive(self) -> bytes:
        if self._deadline is not None:  # what waited for us is on its way
            self._deadline = time.monotonic() + END_SECONDS
        try:
            return self._connection.recv(CHUNK)
        except ConnectionError:
            return b""

    def _tell_end(self) -> None:
        self._deadline = time.monotonic() + END_SECONDS
        with contextlib.suppress(OSError):  # it has just ended by itself
            self._connection.shutdown(socket.SHUT_WR)

    def _over(self) -> str:
        if not self._file.whole:
            return "broken"
        return "detached" if self._deadline is None else "interrupted"


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """A descriptor that becomes readable at the first signal that is to end us; the second is a KeyboardInterrupt."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    seen: list[int] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        seen.append(signum)
        if len(seen) > 1:
            raise KeyboardInterrupt
        os.write(writer, b"\0")

    before = {each: signal.signal(each, handle) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield reader
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        os.close(reader)
        os.close(writer)


class Display:
    """Tells people how far it is, on standard error: a line that changes on a terminal, else only what matters."""

    def __init__(self, status: DeviceStatus, output: str, *, quiet: bool) -> None:
        self._entry, self._output, self._quiet = status.device.entry, output, quiet
        self._moving = not quiet and sys.stderr.isatty()
        self._drawn, self._begun = 0.0, False
        self.due: float | None = None
        "When `show` is to be called at the latest."

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *error: object) -> None:
        if self._moving:
            click.echo("\r\x1b[K", err=True, nl=False)

    def show(self, file: CaptureFile) -> None:
        """So far it is."""
        if file.begun and not self._begun:
            self._begin()
        now = time.monotonic()
        self.due = self._drawn + REDRAW_SECONDS if self._moving and now < self._drawn + REDRAW_SECONDS else None
        if self._moving and self.due is None:
            self._drawn = now
            click.echo(f"\r{_so_far(file)}\x1b[K", err=True, nl=False)

    def _begin(self) -> None:
        """The first bytes have come: from now on, nothing is missed."""
        self._begun = True
        if not self._quiet:
            where = "the standard output" if self._output == STDOUT else self._output
            click.echo(f"{self._entry} is captured to {where}; Ctrl-C ends it", err=True)

    def end(self, file: CaptureFile, ended: str) -> None:
        """That it came to."""
        why = f" (ended: {WHY[ended]})" if WHY[ended] else ""
        where = "" if self._output == STDOUT else f" in {self._output}"
        click.echo(f"{self._entry}: {_so_far(file)}{where}{why}", err=self._output == STDOUT)


def _so_far(file: CaptureFile) -> str:
    missing = f", {file.dropped} missing, as they could not be written fast enough" if file.dropped else ""
    return f"{count(file.packets, 'packet')}{missing}, {size_text(file.size)}"
