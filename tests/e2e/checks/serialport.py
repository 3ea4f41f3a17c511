"""A terminal device used raw, as a program that drives a machine over a serial line does."""

import array
import contextlib
import fcntl
import os
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator

from tests.e2e.checks.common import PATIENCE, fail

RATES = {
    1200: termios.B1200,
    9600: termios.B9600,
    115200: termios.B115200,
    921600: termios.B921600,
    3000000: termios.B3000000,
}
TIOCMIWAIT, TIOCGICOUNT = 0x545C, 0x545D
COUNTERS = ("cts", "dsr", "rng", "dcd", "rx", "tx", "frame", "overrun", "parity", "brk", "buf_overrun")
"Fields of struct serial_icounter_struct (Linux, include/uapi/linux/serial.h)."
LINES = {
    "DTR": termios.TIOCM_DTR,
    "RTS": termios.TIOCM_RTS,
    "CTS": termios.TIOCM_CTS,
    "DSR": termios.TIOCM_DSR,
    "DCD": termios.TIOCM_CAR,
}
INPUTS = termios.TIOCM_CTS | termios.TIOCM_DSR | termios.TIOCM_CAR
"Lines whose changes a driver tells of."
CHUNK = 4096
RELOOK = 1.0
"Seconds to wait for a change that may have been before: drivers miss one that comes as they begin to wait."


@contextlib.contextmanager
def interrupted(seconds: float) -> Iterator[None]:
    """What waits in the kernel is interrupted (EINTR) each time when so much time has gone by."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class SerialPort:
    """An open serial port."""

    def __init__(self, node: str, rate: int = 115200) -> None:
        self.fd = os.open(node, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self.configure(rate)

    def __enter__(self) -> "SerialPort":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def configure(self, rate: int) -> None:
        """Raw, eight bits, no flow control, at this many bits a second."""
        settings = termios.tcgetattr(self.fd)
        settings[0] = settings[1] = settings[3] = 0
        settings[2] = termios.CS8 | termios.CREAD | termios.CLOCAL
        settings[4] = settings[5] = RATES[rate]
        settings[6][termios.VMIN], settings[6][termios.VTIME] = 0, 0
        termios.tcsetattr(self.fd, termios.TCSADRAIN, settings)

    def exchange(self, data: bytes, *, wanted: int | None = None, seconds: float = PATIENCE) -> bytes:
        """Send `data` while receiving; what came, once it is `wanted` bytes (by default as many as were sent)."""
        count, received, rest = len(data) if wanted is None else wanted, bytearray(), memoryview(data)
        end = time.monotonic() + seconds
        while len(received) < count:
            left = end - time.monotonic()
            readable, writable, _ = select.select([self.fd], [self.fd] if rest else [], [], max(0.0, left))
            if not readable and not writable:
                fail(f"{len(received)} of {count} bytes came in {seconds:.0f} s")
            if writable:
                rest = rest[os.write(self.fd, rest[:CHUNK]) :]
            if readable:
                received += os.read(self.fd, CHUNK)
        return bytes(received)

    def lines(self) -> set[str]:
        """The modem lines that are on."""
        state = struct.unpack("I", fcntl.ioctl(self.fd, termios.TIOCMGET, bytes(4)))[0]
        return {name for name, bit in LINES.items() if state & bit}

    def set_lines(self, *names: str) -> None:
        """DTR and RTS: on if named, off otherwise."""
        bits = sum(LINES[name] for name in names)
        fcntl.ioctl(self.fd, termios.TIOCMSET, struct.pack("I", bits))

    def wait_lines(self, look: Callable[[], bool], what: str) -> None:
        """Until it is true of the modem lines, looked at after each of their changes (TIOCMIWAIT in ioctl_tty(2))."""
        end = time.monotonic() + PATIENCE
        with interrupted(RELOOK):
            while not look():
                if time.monotonic() > end:
                    fail(f"no {what} within {PATIENCE:.0f} s")
                with contextlib.suppress(InterruptedError):
                    fcntl.ioctl(self.fd, TIOCMIWAIT, INPUTS)

    def counters(self) -> dict[str, int]:
        """What the driver has counted: changes of lines, bytes, errors."""
        found = array.array("i", bytes(4 * 20))
        fcntl.ioctl(self.fd, TIOCGICOUNT, found)
        return dict(zip(COUNTERS, found, strict=False))
