"""`ftdi[,serial=X][,generate=BYTES]`: a serial adapter as FTDI makes them, with a loopback plug on its line.

At full speed it is an FT232R, at high speed an FT232H. What it is sent comes back; its RTS goes to its own CTS, its DTR
to DSR and DCD, which is what a loopback plug on a nine-pin connector does. With `generate`, what is sent goes nowhere,
and each opening of the port (a SIO reset) is answered with that many bytes, those of `generated`.

The protocol is the vendor's own; it is described in FTDI's application note AN_232B-05 (baud rates), in the data
sheets, and, request by request, in Linux's drivers/usb/serial/ftdi_sio.h. Each packet to the host begins with two bytes
of modem and line status. The chip sends a packet without data when its latency timer runs out (16 ms); this one sends
one only when the modem status has changed, and otherwise answers NAK, as the chip does between two such packets.
"""

import random
import struct
from enum import IntEnum
from typing import Final

from tools.lab.devices.describe import BULK, configuration, device, endpoint, interface, model
from tools.lab.devices.fifo import Fifo
from tools.lab.devices.options import check, check_speed
from usbbridge.backend.emulated.function import BABBLE, NAK, STALL, Function, Model
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import ClassCode, RequestType, SetupPacket, Speed

FTDI: Final = 0x0403
IN, OUT = 0x81, 0x02
STATUS_BYTES: Final = 2
MAX_GENERATED: Final = 1 << 20
"Of `generate`: nobody compares more."
MAX_LATENCY: Final = 255
DEFAULT_LATENCY: Final = 16
"Milliseconds of the latency timer; it is one byte."
DEFAULT_DIVISOR: Final = 0x4138
"9600 baud."
CLOCK, FAST_CLOCK = 3_000_000, 12_000_000
"Hertz that the divisor divides; the second only in chips for high speed, when bit 17 of the divisor is set."
EIGHTHS: Final = (0, 4, 2, 1, 3, 5, 6, 7)
"The divisor's fraction, by bits 14 to 16."
EEPROM_WORDS: Final = 64

PRODUCTS: Final = {Speed.FULL: (0x6001, 0x0600, 64, "FT232R USB UART"), Speed.HIGH: (0x6014, 0x0900, 512, "FT232H")}
"idProduct, bcdDevice (which tells drivers the type of chip), wMaxPacketSize and name."

DATA_READY, EMPTY = 0x01, 0x60
"Line status: data; transmitter holding register and shift register empty."
CTS, DSR, DCD = 0x10, 0x20, 0x80
"Modem status; its low bits say which packet size the chip has."
PACKET_BIT: Final = {64: 0x01, 512: 0x02}


class Sio(IntEnum):
    """bRequest."""

    RESET = 0x00
    MODEM_CTRL = 0x01
    SET_FLOW_CTRL = 0x02
    SET_BAUD_RATE = 0x03
    SET_DATA = 0x04
    GET_MODEM_STATUS = 0x05
    SET_EVENT_CHAR = 0x06
    SET_ERROR_CHAR = 0x07
    SET_LATENCY_TIMER = 0x09
    GET_LATENCY_TIMER = 0x0A
    SET_BITMODE = 0x0B
    READ_PINS = 0x0C
    READ_EEPROM = 0x90


RESET_ALL, PURGE_RX, PURGE_TX = range(3)
"wValue of RESET. The line has one buffer: what has been sent and not yet received counts as received."


class Ftdi(Function):
    """The adapter; see the module's text. Public attributes are what the host has set."""

    def __init__(self, speed: Speed, serial: str = "FTLAB001", generate: int = 0) -> None:
        self.model = _model(speed, serial)
        self._packet = PRODUCTS[speed][2]
        self._index_shift = 8 if speed is Speed.HIGH else 0  # the low byte of wIndex names the port of such a chip
        self._generate = generate
        self._eeprom = eeprom(speed)
        self._line = Fifo()
        self.restart()

    def restart(self) -> None:
        self.divisor = DEFAULT_DIVISOR
        self.data_format = self.flow = 0
        "As sent by SET_BAUD_RATE (18 bits), SET_DATA and SET_FLOW_CTRL (the high byte of wIndex)."
        self.latency = DEFAULT_LATENCY
        self.dtr = self.rts = False
        self._line.clear()
        self._reported = self._modem_status()

    def select(self, number: int, alternate: int) -> None:
        """There is one setting only."""

    def close(self) -> None:
        """Nothing is held."""

    @property
    def baud_rate(self) -> int:
        """Bits a second that the divisor stands for (AN_232B-05)."""
        clock = FAST_CLOCK if self.divisor & 1 << 17 else CLOCK
        whole, eighths = self.divisor & 0x3FFF, EIGHTHS[self.divisor >> 14 & 7]
        if whole < 2:
            return clock * 2 // (whole + 2)  # the two rates that the formula doesn't reach
        return round(clock * 8 / (whole * 8 + eighths))

    def _modem_status(self) -> int:
        plugged = (CTS if self.rts else 0) | (DSR | DCD if self.dtr else 0)
        return plugged | PACKET_BIT[self._packet]

    def _status(self) -> bytes:
        return bytes((self._modem_status(), EMPTY | (DATA_READY if len(self._line) else 0)))

    # ---- endpoint 0

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.kind is not RequestType.VENDOR:
            return STALL
        return self._tell(setup, data) if setup.is_in else self._obey(setup.request, setup.value, setup.index)

    def _tell(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.request == Sio.GET_MODEM_STATUS:
            found = self._status()
        elif setup.request == Sio.GET_LATENCY_TIMER:
            found = bytes((self.latency,))
        elif setup.request == Sio.READ_PINS:
            found = bytes(1)
        elif setup.request == Sio.READ_EEPROM and setup.index < EEPROM_WORDS:
            found = self._eeprom[2 * setup.index : 2 * setup.index + 2]
        else:
            return STALL
        size = min(len(found), len(data))
        data[:size] = found[:size]
        return size

    def _obey(self, request: int, value: int, index: int) -> int:
        if request == Sio.RESET:
            self._reset(value)
        elif request == Sio.MODEM_CTRL:
            self._set_modem(value)
        elif request == Sio.SET_FLOW_CTRL:
            self.flow = index >> 8
        elif request == Sio.SET_BAUD_RATE:
            self.divisor = value | (index >> self._index_shift & 3) << 16
        elif request == Sio.SET_DATA:
            self.data_format = value
        elif request == Sio.SET_LATENCY_TIMER and 1 <= value <= MAX_LATENCY:
            self.latency = value
        elif request not in (Sio.SET_EVENT_CHAR, Sio.SET_ERROR_CHAR, Sio.SET_BITMODE):
            return STALL
        return 0

    def _reset(self, what: int) -> None:
        if what in (RESET_ALL, PURGE_RX):
            self._line.clear()
        if what == RESET_ALL and self._generate:
            self._line.put(generated(self._generate))
            self.wake()

    def _set_modem(self, value: int) -> None:
        """Bits 0 and 1 are DTR and RTS, each taken only if its bit 8 or 9 is set."""
        if value & 0x100:
            self.dtr = bool(value & 0x01)
        if value & 0x200:
            self.rts = bool(value & 0x02)
        self.wake()

    # ---- the line

    def receive(self, endpoint: int, data: memoryview) -> int:
        return len(data) if self._generate else self._line.put(data)

    def send(self, endpoint: int, data: memoryview) -> int:
        """As many packets as fit, up to the first that isn't full: that one ends the transfer."""
        if not len(self._line) and self._reported == self._modem_status():
            return NAK
        if len(data) % self._packet:  # the chip has one idea of the size of a packet
            return BABBLE
        at, size = 0, self._packet
        while at < len(data) and size == self._packet:
            data[at : at + STATUS_BYTES] = self._status()
            size = STATUS_BYTES + self._line.take(data[at + STATUS_BYTES : at + self._packet])
            at += size
        self._reported = self._modem_status()
        return at


def generated(count: int) -> bytes:
    """The bytes that `generate` makes."""
    return random.Random(FTDI).randbytes(count)


def eeprom(speed: Speed) -> bytes:
    """What tools read of the configuration memory: identity, power, pins' uses, and the checksum at the end."""
    product, release, _, _ = PRODUCTS[speed]
    words = [0x4000, FTDI, product, release, 45 << 8 | 0xA0] + [0] * (EEPROM_WORDS - 5)
    words[10] = 0x1023  # pins CBUS0 to 3 as they leave the factory: two lamps, transmit enable, power enable
    checksum = 0xAAAA
    for word in words[:-1]:
        checksum ^= word
        checksum = (checksum << 1 | checksum >> 15) & 0xFFFF
    words[-1] = checksum
    return struct.pack("<64H", *words)


def _model(speed: Speed, serial: str) -> Model:
    product, release, size, name = PRODUCTS[speed]
    ends = [endpoint(IN, BULK, size), endpoint(OUT, BULK, size)]
    return model(
        device(FTDI, product, bcd_device=release, max_packet_size0=8 if speed is Speed.FULL else 64),
        configuration(
            interface(0, ClassCode.VENDOR_SPECIFIC, 0xFF, 0xFF, endpoints=ends, i_interface=2),
            attributes=0xA0,
            milliamperes=90,
        ),
        strings=("FTDI", name, serial),
        speed=speed,
    )


def create(speed: Speed, options: dict[str, str]) -> Function:
    """Options: serial, generate. Raises UsageError."""
    check("serial adapter", options, "serial", "generate")
    check_speed("serial adapter", speed, *PRODUCTS)
    text = options.get("generate", "0")
    if not text.isdecimal() or int(text) > MAX_GENERATED:
        raise UsageError(f"generate={text}: a number of bytes up to {MAX_GENERATED} is wanted")
    return Ftdi(speed, options.get("serial", "FTLAB001"), int(text))
