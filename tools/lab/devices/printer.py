"""A printer (USB Printing Devices 1.1) for text, with one interface: alternate setting 0 takes data, 1 answers as well.

    printer[,serial=PRINTER1]

It keeps length and SHA-256 of what it was given to print, by job. A job ends with the Universal Exit Language sequence
(HP, Printer Job Language §3); then the printer says on its IN endpoint what it has printed, and a vendor request gives
the same in binary. Another vendor request takes its paper away, or brings some: without it, data have to wait.

Section numbers are those of the USB Device Class Definition for Printing Devices, version 1.1.
"""

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

from tools.lab.devices import options as given
from tools.lab.devices.describe import BULK, VENDOR, configuration, device, endpoint, interface, model
from usbbridge.backend.emulated.function import NAK, STALL, Function, Model
from usbbridge.usb.ch9 import DIR_IN, ClassCode, Recipient, RequestType, SetupPacket, Speed, request_type

PRODUCT: Final = 0x1284
ENDPOINT_OUT: Final = 1
ENDPOINT_IN: Final = DIR_IN | 2

_BULK_PACKET: Final = {Speed.FULL: 64, Speed.HIGH: 512}
PRINTERS: Final = 1
"bInterfaceSubClass, the only one (§4.5)."
UNIDIRECTIONAL, BIDIRECTIONAL = 1, 2
"bInterfaceProtocol, which is a matter of the alternate setting."

GET_DEVICE_ID: Final = (request_type(RequestType.CLASS, Recipient.INTERFACE, is_in=True), 0)
GET_PORT_STATUS: Final = (request_type(RequestType.CLASS, Recipient.INTERFACE, is_in=True), 1)
SOFT_RESET: Final = (request_type(RequestType.CLASS, Recipient.INTERFACE), 2)
SOFT_RESET_1_0: Final = (request_type(RequestType.CLASS, Recipient.OTHER), 2)
"bmRequestType and bRequest (§4.2); the last as version 1.0 had it by mistake, which hosts still send."
NO_ERROR, SELECTED, PAPER_EMPTY = 0x08, 0x10, 0x20
"Bits of the port status (§4.2.2)."

GET_JOB: Final = (request_type(RequestType.VENDOR, Recipient.DEVICE, is_in=True), 1)
"The last finished job, as in `JOB`."
SET_PAPER: Final = (request_type(RequestType.VENDOR, Recipient.DEVICE), 2)
"wValue: for how many KiB there is paper; ENDLESS."
ENDLESS: Final = 0xFFFF
JOB: Final = Struct("<IQ32s")
"How many jobs have been finished; of the last: its length in bytes and its SHA-256."

EXIT_LANGUAGE: Final = b"\x1b%-12345X"
MAX_LINES: Final = 64
"Lines that wait for a host to read them. A host that never does loses the oldest."


@dataclass(frozen=True, slots=True)
class Job:
    """A finished job."""

    number: int
    length: int
    digest: bytes

    def line(self) -> bytes:
        """What the printer tells of it."""
        return f"JOB {self.number} LENGTH {self.length} SHA256 {self.digest.hex()}\r\n".encode()


class Jobs:
    """Takes jobs apart as their bytes come in."""

    def __init__(self) -> None:
        self.last = Job(0, 0, bytes(32))
        self._start(b"")

    def _start(self, rest: bytes) -> None:
        self._hash, self._length, self._rest = hashlib.sha256(), 0, rest

    def forget(self) -> None:
        """Drop the job that is not finished."""
        self._start(b"")

    def feed(self, data: bytes) -> Iterator[Job]:
        """Add data; the jobs that end in them. Nothing between two sequences is no job."""
        self._rest += data
        while (at := self._rest.find(EXIT_LANGUAGE)) >= 0:
            self._print(at)
            rest = self._rest[len(EXIT_LANGUAGE) :]
            if self._length:
                self.last = Job(self.last.number + 1, self._length, self._hash.digest())
                yield self.last
            self._start(rest)
        self._print(len(self._rest) - self._begun())

    def _print(self, size: int) -> None:
        self._hash.update(self._rest[:size])
        self._length += size
        self._rest = self._rest[size:]

    def _begun(self) -> int:
        """How many bytes at the end may be the beginning of the sequence."""
        sizes = range(min(len(self._rest), len(EXIT_LANGUAGE) - 1), 0, -1)
        return next((size for size in sizes if self._rest.endswith(EXIT_LANGUAGE[:size])), 0)


def create(speed: Speed, options: dict[str, str]) -> "Printer":
    """A printer. Raises UsageError for options it doesn't have."""
    given.check("printer", options, "serial")
    given.check_speed("printer", speed, *_BULK_PACKET)
    return Printer(speed, options.get("serial", "PRINTER1"))


def printer_model(speed: Speed, serial: str) -> Model:
    """Descriptors of the printer."""
    out = endpoint(ENDPOINT_OUT, BULK, _BULK_PACKET[speed])
    back = endpoint(ENDPOINT_IN, BULK, _BULK_PACKET[speed])
    return model(
        device(VENDOR, PRODUCT),
        configuration(
            interface(0, ClassCode.PRINTER, PRINTERS, UNIDIRECTIONAL, endpoints=[out]),
            interface(0, ClassCode.PRINTER, PRINTERS, BIDIRECTIONAL, alternate=1, endpoints=[out, back]),
        ),
        strings=("usbbridge", "Printer", serial),
        speed=speed,
    )


class Printer(Function):
    """The printer."""

    def __init__(self, speed: Speed, serial: str) -> None:
        self.model = printer_model(speed, serial)
        text = f"MFG:usbbridge;MDL:Printer;CMD:TEXT,PJL;CLS:PRINTER;SN:{serial};".encode()
        self._device_id = (2 + len(text)).to_bytes(2) + text  # IEEE 1284 §7.6: the length counts itself
        self.jobs = Jobs()
        self._lines: deque[bytes] = deque(maxlen=MAX_LINES)
        self._paper = ENDLESS * 1024
        self._starved = False
        "Whether data wait for paper."

    @property
    def port_status(self) -> int:
        """§4.2.2."""
        return SELECTED | (PAPER_EMPTY if self._starved else NO_ERROR)

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        request = (setup.request_type, setup.request)
        if request == SET_PAPER and not setup.length:
            self._paper, self._starved = setup.value * 1024, False  # what waits is offered again at once
            return 0
        if request in (SOFT_RESET, SOFT_RESET_1_0) and not setup.length:
            self.restart()
            return 0
        return _reply(data, self._answer(request))

    def _answer(self, request: tuple[int, int]) -> bytes:
        if request == GET_DEVICE_ID:
            return self._device_id
        if request == GET_PORT_STATUS:
            return bytes((self.port_status,))
        if request == GET_JOB:
            job = self.jobs.last
            return JOB.pack(job.number, job.length, job.digest)
        return b""

    def receive(self, endpoint: int, data: memoryview) -> int:
        if self._paper < len(data):
            self._starved = True
            return NAK
        if self._paper < ENDLESS * 1024:
            self._paper -= len(data)
        self._lines += [job.line() for job in self.jobs.feed(bytes(data))]
        return len(data)

    def send(self, endpoint: int, data: memoryview) -> int:
        if not self._lines:
            return NAK
        line = self._lines.popleft()
        size = min(len(data), len(line))
        data[:size] = line[:size]
        if line[size:]:
            self._lines.appendleft(line[size:])
        return size

    def restart(self) -> None:
        """§4.2.3, SOFT_RESET, and any other reset: what is not printed yet never will be; the paper stays."""
        self.jobs.forget()
        self._lines.clear()
        self._starved = False

    def select(self, number: int, alternate: int) -> None:
        self.restart()

    def close(self) -> None:
        """Nothing is held."""


def _reply(data: memoryview, answer: bytes) -> int:
    """As much of the answer as there is room for; a request that has none is refused."""
    size = min(len(data), len(answer))
    data[:size] = answer[:size]
    return size if answer else STALL
