"""`acm[,serial=X]`: a serial port by the book (USB CDC 1.2, PSTN 1.2 "Abstract Control Model") with a loopback plug.

What it is sent comes back. Its DTR goes to its own carrier detect, its RTS to data set ready, and a break that it is
told to send is one that it receives; each change is notified on the interrupt endpoint.
"""

import struct
from collections import deque
from typing import Final

from tools.lab.devices.cdc import (
    ACM,
    CALL_MANAGEMENT,
    control_interface,
    data_interface,
    notification,
    union,
)
from tools.lab.devices.describe import VENDOR, association, configuration, cs_interface, device, model
from tools.lab.devices.fifo import Fifo
from tools.lab.devices.options import check, check_speed
from usbbridge.backend.emulated.function import BABBLE, NAK, STALL, Function, Model
from usbbridge.usb.ch9 import ClassCode, RequestType, SetupPacket, Speed

PRODUCT: Final = 0x0110
IN, OUT, NOTIFY = 0x81, 0x02, 0x83
SUBCLASS, AT_COMMANDS = 0x02, 0x01
"bInterfaceSubClass and bInterfaceProtocol (CDC 1.2 tables 4 and 5)."
CAPABILITIES: Final = 0x02 | 0x04
"bmCapabilities (PSTN 1.2 table 4): line coding and serial state; SEND_BREAK."

SET_LINE_CODING, GET_LINE_CODING, SET_CONTROL_LINE_STATE, SEND_BREAK = 0x20, 0x21, 0x22, 0x23
SERIAL_STATE: Final = 0x20
LINE_CODING: Final = struct.Struct("<IBBB")
"dwDTERate, bCharFormat, bParityType, bDataBits (PSTN 1.2 table 17)."
DTR, RTS = 0x01, 0x02
CARRIER, READY, BREAK = 0x01, 0x02, 0x04
"Bits of SERIAL_STATE (PSTN 1.2 table 31): bRxCarrier (DCD), bTxCarrier (DSR), bBreak."
ENDLESS: Final = 0xFFFF
"wValue of SEND_BREAK: until it is ended. Any other, in milliseconds, is over at once here: nobody measures it."
MAX_NOTIFICATIONS: Final = 32
"States that wait for the host; should it not look, the oldest are forgotten."


class Acm(Function):
    """The port; see the module's text. `coding` and `lines` are what the host has set."""

    def __init__(self, speed: Speed, serial: str = "ACM1", product: int = PRODUCT) -> None:
        self.model = _model(speed, serial, product)
        self._line = Fifo()
        self._notifications: deque[bytes] = deque(maxlen=MAX_NOTIFICATIONS)
        self.restart()

    def restart(self) -> None:
        self.coding = LINE_CODING.pack(9600, 0, 0, 8)
        self.lines = 0
        "DTR and RTS."
        self._line.clear()
        self._notifications.clear()

    def select(self, number: int, alternate: int) -> None:
        """There is one setting only."""

    def close(self) -> None:
        """Nothing is held."""

    @property
    def baud_rate(self) -> int:
        """Bits a second."""
        return int.from_bytes(self.coding[:4], "little")

    # ---- endpoint 0

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.kind is not RequestType.CLASS or setup.index != 0:
            return STALL
        if setup.request == GET_LINE_CODING and setup.is_in:
            size = min(len(data), LINE_CODING.size)
            data[:size] = self.coding[:size]
            return size
        if setup.request == SET_LINE_CODING and len(data) == LINE_CODING.size and not setup.is_in:
            self.coding = bytes(data)
            return LINE_CODING.size
        if setup.request == SET_CONTROL_LINE_STATE:
            self.set_lines(setup.value & (DTR | RTS))
            return 0
        if setup.request == SEND_BREAK:
            self._break(setup.value)
            return 0
        return STALL

    def set_lines(self, lines: int) -> None:
        """SET_CONTROL_LINE_STATE."""
        changed, self.lines = lines != self.lines, lines
        if changed:
            self._notify()

    def _break(self, duration: int) -> None:
        if duration:
            self._notify(BREAK)
        if duration != ENDLESS:
            self._notify()

    def _notify(self, extra: int = 0) -> None:
        state = (CARRIER if self.lines & DTR else 0) | (READY if self.lines & RTS else 0) | extra
        self._notifications.append(notification(SERIAL_STATE, 0, 0, struct.pack("<H", state)))
        self.wake()

    # ---- the line

    def receive(self, endpoint: int, data: memoryview) -> int:
        return self._line.put(data)

    def send(self, endpoint: int, data: memoryview) -> int:
        if endpoint == NOTIFY:
            return self._send_notification(data)
        return self._line.take(data) or NAK

    def _send_notification(self, data: memoryview) -> int:
        if not self._notifications:
            return NAK
        if len(data) < len(self._notifications[0]):
            return BABBLE
        message = self._notifications.popleft()
        data[: len(message)] = message
        return len(message)


def interfaces(first: int, speed: Speed) -> bytes:
    """The two interfaces and what binds them together, in any configuration."""
    management = cs_interface(CALL_MANAGEMENT, bytes((0, first + 1)))
    functional = union(first, management, cs_interface(ACM, bytes((CAPABILITIES,))))
    return (
        association(first, 2, ClassCode.COMMUNICATIONS, SUBCLASS, AT_COMMANDS)
        + control_interface(first, SUBCLASS, AT_COMMANDS, NOTIFY, speed, functional)
        + data_interface(first + 1, (IN, OUT), speed)
    )


def _model(speed: Speed, serial: str, product: int) -> Model:
    return model(
        device(VENDOR, product, class_=ClassCode.MISCELLANEOUS, subclass=2, protocol=1),
        configuration(interfaces(0, speed)),
        strings=("usbbridge", "Serial port", serial),
        speed=speed,
    )


def create(speed: Speed, options: dict[str, str]) -> Function:
    """Options: serial. Raises UsageError."""
    check("serial port", options, "serial")
    check_speed("serial port", speed, Speed.FULL, Speed.HIGH)
    return Acm(speed, options.get("serial", "ACM1"))
