"""A printer, used through usblp: /dev/usb/lp0 is written to and read, and asked for its id and its status.

python -m tests.e2e.checks.printer
"""

import array
import fcntl
import hashlib
import os
import select
import time
from pathlib import Path

from tests.e2e.checks.common import PATIENCE, control_in, control_out, expect, fail, load, report, usb_device, wait_for
from tests.machine.waiting import poll_for
from tools.lab.devices.describe import VENDOR
from tools.lab.devices.printer import (
    ENDLESS,
    EXIT_LANGUAGE,
    GET_JOB,
    JOB,
    NO_ERROR,
    PAPER_EMPTY,
    PRODUCT,
    SELECTED,
    SET_PAPER,
)

# Linux, drivers/usb/class/usblp.c and include/linux/lp.h.
LPGETSTATUS = 0x060B
LPIOC_GET_DEVICE_ID = 2 << 30 | 1024 << 16 | ord("P") << 8 | 1
LPIOC_SOFT_RESET = ord("P") << 8 | 7
BIDIRECTIONAL = 1
"The alternate setting that usblp prefers."

JOB_SIZE = 300_000
WAITING_SIZE = 60_000
PAPER_KIB = 4


class Line:
    """The open device node."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def write(self, data: bytes) -> None:
        """Write all of it, waiting for the printer where need be."""
        view = memoryview(data)
        while view:
            view = view[self.write_some(view) :]

    def write_some(self, view: memoryview) -> int:
        self.wait(select.POLLOUT, "take data")
        return os.write(self.fd, view)

    def try_write(self, view: memoryview) -> int:
        """What it takes without waiting."""
        try:
            return os.write(self.fd, view)
        except BlockingIOError:
            return 0

    def read_line(self) -> str:
        """What the printer has to say, up to the end of a line."""
        found = b""
        while not found.endswith(b"\n"):
            self.wait(select.POLLIN, "say anything")
            found += os.read(self.fd, 1024)
        return found.decode().strip()

    def wait(self, event: int, what: str) -> None:
        """Wait until the line is ready for this."""
        poll = select.poll()
        poll.register(self.fd, event)
        if not poll.poll(PATIENCE * 1000):
            fail(f"the printer does not {what}")

    def status(self) -> int:
        """The port status."""
        found = array.array("i", [0])
        fcntl.ioctl(self.fd, LPGETSTATUS, found)
        return found[0]

    def device_id(self) -> str:
        """The IEEE 1284 device id."""
        found = bytearray(1024)
        fcntl.ioctl(self.fd, LPIOC_GET_DEVICE_ID, found)
        return found[2 : int.from_bytes(found[:2])].decode()

    def soft_reset(self) -> None:
        fcntl.ioctl(self.fd, LPIOC_SOFT_RESET)


def find_printer(folder: Path) -> Path:
    """Its device node, made by usblp."""

    def look() -> Path | None:
        names = [path.name for path in folder.glob("*:*/usbmisc/lp*")]
        nodes = [node for name in names if (node := Path("/dev/usb", name)).is_char_device()]
        return nodes[0] if nodes else None

    found = wait_for(look, "usblp device")
    assert found is not None
    return found


def check_job(folder: Path, said: str, number: int, data: bytes) -> None:
    """Both what the printer says of itself and what it answers are of the data that were sent."""
    expected = f"JOB {number} LENGTH {len(data)} SHA256 {hashlib.sha256(data).hexdigest()}"
    expect(said == expected, f"the printer says {said!r}, not {expected!r}")
    found = JOB.unpack(control_in(folder, *GET_JOB, length=JOB.size))
    expect(found == (number, len(data), hashlib.sha256(data).digest()), f"the printer's last job is {found}")


def print_job(line: Line, folder: Path, number: int) -> float:
    """A job of random bytes. Seconds until the printer has confirmed it."""
    data, begun = os.urandom(JOB_SIZE).replace(b"\x1b", b"."), time.monotonic()
    line.write(data + EXIT_LANGUAGE)
    said = line.read_line()
    seconds = time.monotonic() - begun
    check_job(folder, said, number, data)
    return seconds


def run_out_of_paper(line: Line, folder: Path, number: int) -> None:
    """Without paper the data wait while the status says so; with new paper nothing of them is lost."""
    data = os.urandom(WAITING_SIZE).replace(b"\x1b", b".")
    control_out(folder, *SET_PAPER, value=PAPER_KIB)
    rest = memoryview(data + EXIT_LANGUAGE)
    rest = rest[line.write_some(rest) :]

    def starved() -> bool:
        nonlocal rest
        rest = rest[line.try_write(rest) :]
        return line.status() == SELECTED | PAPER_EMPTY

    try:
        poll_for(starved, PATIENCE)  # a printer tells its port status only if it is asked: there is no notification
    except TimeoutError:
        fail(f"the port status is {line.status():#x} without paper")
    expect(len(rest) > len(EXIT_LANGUAGE), "all was taken without paper")
    control_out(folder, *SET_PAPER, value=ENDLESS)
    line.write(bytes(rest))
    check_job(folder, line.read_line(), number, data)
    expect(line.status() == SELECTED | NO_ERROR, f"the port status is {line.status():#x} with paper")


def reset(line: Line, folder: Path, number: int) -> None:
    """After a soft reset, what was not finished is not part of the next job."""
    line.write(b"never to be printed")
    line.wait(select.POLLOUT, "take data")  # until then the reset might overtake them
    line.soft_reset()
    line.write(b"printed" + EXIT_LANGUAGE)
    check_job(folder, line.read_line(), number, b"printed")


def main() -> None:
    """See the top."""
    load("usblp")
    folder = usb_device(VENDOR, PRODUCT)
    path = find_printer(folder)
    [setting] = folder.glob("*:*/bAlternateSetting")
    expect(int(setting.read_text()) == BIDIRECTIONAL, "usblp has not chosen the bidirectional setting")
    line = Line(path)
    serial = (folder / "serial").read_text().strip()
    expect(f"SN:{serial};" in line.device_id(), f"the device id is {line.device_id()!r}")
    expect(line.status() == SELECTED | NO_ERROR, f"the port status is {line.status():#x}")
    (before, _, _) = JOB.unpack(control_in(folder, *GET_JOB, length=JOB.size))
    seconds = print_job(line, folder, before + 1)
    run_out_of_paper(line, folder, before + 2)
    reset(line, folder, before + 3)
    os.close(line.fd)
    report(check="printer", path=str(path), device_id=serial, job_bytes=JOB_SIZE, job_seconds=round(seconds, 3), jobs=3)


if __name__ == "__main__":
    main()
