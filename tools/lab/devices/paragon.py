"""A device that does on request all that devices can do, and the same each time: to compare hosts with.

    configuration 1   interface 0      bulk 0x81 and 0x02, interrupt 0x83 and 0x04
                      interface 1      setting 0: nothing; 1: isochronous 0x85 and 0x06, a packet of 192 bytes a frame;
                                       2: the same with 64 bytes; 3: bulk 0x85
                      interface 2      setting 0: bulk 0x87; 1: interrupt 0x87
    configuration 2   interface 0      bulk 0x81 and 0x02

Endpoints that are read count: byte i of all that a bulk endpoint has sent since the device was restarted is i modulo
251, and isochronous packet n consists of the byte n modulo 256. Interrupt endpoints and the bulk endpoint 0x87 have
nothing to say until a message is ordered. What comes in is only summed up. Everything else is ordered by vendor
requests to the device (bmRequestType 0x40 and 0xC0); see `Order`.
"""

import struct
import zlib
from collections import Counter, deque
from enum import IntEnum
from typing import Final

from tools.lab.devices.describe import BULK, INTERRUPT, ISO, VENDOR, configuration, device, endpoint, interface, model
from usbbridge.backend.emulated.function import BABBLE, ERROR, NAK, STALL, Function, Model
from usbbridge.usb.ch9 import ClassCode, RequestType, SetupPacket, Speed, TransferType

PRODUCT: Final = 0x9A9A
BULK_IN, BULK_OUT, INTERRUPT_IN, INTERRUPT_OUT, ISO_IN, ISO_OUT, MESSAGES_IN = 0x81, 0x02, 0x83, 0x04, 0x85, 0x06, 0x87
INTERRUPT_BYTES: Final = 64
ISO_BYTES: Final = (192, 64)
"wMaxPacketSize of the isochronous endpoints in settings 1 and 2."
STREAMS: Final = 4
"As a power of two, what the bulk endpoints of interface 0 offer at SuperSpeed (USB 3.2 table 9-27)."
MESSAGE_BYTES: Final = 8
MAX_STORED: Final = 4096
"Bytes that STORE keeps, and messages that can be ordered: nobody needs more."


class Order(IntEnum):
    """bRequest of the vendor requests."""

    STORE = 1
    "OUT: keep the data. IN: the data kept last; less than asked for if it is shorter."
    BEHAVE = 2
    "OUT: what endpoint wIndex does from now on, wValue being a `Manner`."
    SAY = 3
    "OUT: let endpoint wIndex, which has nothing to say by itself, have wValue messages more."
    SUM = 4
    "IN: transfers (or packets), bytes and CRC-32 of all that endpoint wIndex has received, 4 bytes each."


class Manner(IntEnum):
    """How an endpoint behaves."""

    WELL = 0
    STALL = 1
    "Halts, once."
    SHORT = 2
    "Sends 5 bytes only, whatever was asked for, once."
    WAIT = 3
    "Answers nothing (NAK) until it is told to behave otherwise."
    BABBLE = 4
    "Sends more than was asked for, once; isochronous packets: each fourth."
    FAIL = 5
    "Isochronous packets only: each fourth is damaged."


SHORT_BYTES: Final = 5
ONCE: Final = (Manner.STALL, Manner.SHORT, Manner.BABBLE)
PATTERN: Final = bytes(range(251)) * 2
EACH: Final = 4


class Paragon(Function):
    """See the module's text."""

    def __init__(self, speed: Speed = Speed.HIGH, vendor: int = VENDOR, product: int = PRODUCT) -> None:
        self.model = _model(speed, vendor, product)
        self._stored = b""
        self.restart()

    def restart(self) -> None:
        """What was stored is kept, as a flash memory would."""
        self._manners: dict[int, Manner] = {}
        self._position: Counter[int] = Counter()
        self._messages: dict[int, deque[bytes]] = {INTERRUPT_IN: deque(), MESSAGES_IN: deque()}
        self._said: Counter[int] = Counter()
        self._sums: dict[int, tuple[int, int, int]] = {}

    def select(self, number: int, alternate: int) -> None:
        """A new setting of an isochronous endpoint counts from 0."""
        if number == 1:
            self._position[ISO_IN] = 0

    def close(self) -> None:
        """Nothing is held."""

    # ---- endpoint 0

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.kind is not RequestType.VENDOR:
            return STALL
        if setup.is_in:
            return self._tell(setup, data)
        return self._obey(setup, data)

    def _tell(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.request == Order.STORE:
            found = self._stored
        elif setup.request == Order.SUM:
            found = struct.pack("<3I", *self._sums.get(setup.index, (0, 0, 0)))
        else:
            return STALL
        size = min(len(found), len(data))
        data[:size] = found[:size]
        return size

    def _obey(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.request == Order.STORE and len(data) <= MAX_STORED:
            self._stored = bytes(data)
            return len(data)
        if setup.request == Order.BEHAVE and setup.value in set(Manner):
            self._manners[setup.index] = Manner(setup.value)
        elif setup.request == Order.SAY and setup.index in self._messages and setup.value <= MAX_STORED:
            self._order_messages(setup.index, setup.value)
        else:
            return STALL
        self.wake()
        return 0

    def _order_messages(self, address: int, count: int) -> None:
        for _ in range(count):
            self._said[address] += 1
            self._messages[address].append(bytes((self._said[address] & 0xFF,)) * MESSAGE_BYTES)

    # ---- the other endpoints

    def _manner(self, address: int) -> Manner:
        manner = self._manners.get(address, Manner.WELL)
        if manner in ONCE and address not in (ISO_IN, ISO_OUT):
            self._manners[address] = Manner.WELL
        return manner

    def receive(self, endpoint: int, data: memoryview) -> int:
        manner = self._manner(endpoint)
        if manner in (Manner.WAIT, Manner.STALL):
            return NAK if manner is Manner.WAIT else STALL
        self._sum_up(endpoint, data)
        return len(data)

    def _sum_up(self, address: int, data: memoryview) -> None:
        count, size, crc = self._sums.get(address, (0, 0, 0))
        self._sums[address] = count + 1, size + len(data) & 0xFFFF_FFFF, zlib.crc32(data, crc)

    def send(self, endpoint: int, data: memoryview) -> int:
        manner = self._manner(endpoint)
        if manner in (Manner.WAIT, Manner.STALL, Manner.BABBLE):
            return {Manner.WAIT: NAK, Manner.STALL: STALL}.get(manner, BABBLE)
        messages = self._messages.get(endpoint)
        if messages is not None:
            return _put(data, messages.popleft()) if messages else NAK
        return self._count_out(endpoint, data[:SHORT_BYTES] if manner is Manner.SHORT else data)

    def _count_out(self, address: int, data: memoryview) -> int:
        at, left = self._position[address], data
        while left:
            begin = at % 251
            piece = PATTERN[begin : begin + min(len(left), 251)]
            left[: len(piece)] = piece
            at, left = at + len(piece), left[len(piece) :]
        self._position[address] = at
        return len(data)

    def send_packet(self, endpoint: int, data: memoryview) -> int:
        number = self._position[endpoint]
        self._position[endpoint] += 1
        manner = self._manners.get(endpoint, Manner.WELL)
        if manner in (Manner.BABBLE, Manner.FAIL) and number % EACH == EACH - 1:
            return BABBLE if manner is Manner.BABBLE else ERROR
        size = min(SHORT_BYTES, len(data)) if manner is Manner.SHORT else len(data)
        data[:size] = bytes((number & 0xFF,)) * size
        return size

    def receive_packet(self, endpoint: int, data: memoryview) -> int:
        self._sum_up(endpoint, data)
        return len(data)


def _put(data: memoryview, message: bytes) -> int:
    """A message that is too long for the transfer is more than was asked for."""
    if len(message) > len(data):
        return BABBLE
    data[: len(message)] = message
    return len(message)


def _pair(size_in: int, size_out: int, *, fast: bool) -> list[bytes]:
    companion = (0, STREAMS, 0) if fast else None
    return [
        endpoint(BULK_IN, BULK, size_in, companion=companion),
        endpoint(BULK_OUT, BULK, size_out, companion=companion),
    ]


def _model(speed: Speed, vendor: int, product: int) -> Model:
    fast = speed in (Speed.SUPER, Speed.SUPER_PLUS)
    bulk = 1024 if fast else 512 if speed is Speed.HIGH else 64
    frame = 4 if speed is not Speed.FULL else 1  # bInterval of one packet a millisecond
    none = (0, 0, 0) if fast else None

    def periodic(address: int, kind: TransferType, size: int, interval: int) -> bytes:
        return endpoint(address, kind, size, interval, companion=(0, 0, size) if fast else None)

    first = [
        *_pair(bulk, bulk, fast=fast),
        periodic(INTERRUPT_IN, INTERRUPT, INTERRUPT_BYTES, 4),
        periodic(INTERRUPT_OUT, INTERRUPT, INTERRUPT_BYTES, 4),
    ]
    settings = [
        interface(1, ClassCode.VENDOR_SPECIFIC, 2),
        *(
            interface(
                1,
                ClassCode.VENDOR_SPECIFIC,
                2,
                alternate=alternate,
                endpoints=[periodic(ISO_IN, ISO, size, frame), periodic(ISO_OUT, ISO, size, frame)],
            )
            for alternate, size in enumerate(ISO_BYTES, 1)
        ),
        interface(
            1, ClassCode.VENDOR_SPECIFIC, 2, alternate=3, endpoints=[endpoint(ISO_IN, BULK, bulk, companion=none)]
        ),
    ]
    return model(
        device(
            vendor,
            product,
            bcd_usb=0x0300 if fast else 0x0200,
            max_packet_size0=9 if fast else 64,
            configurations=2,
        ),
        configuration(
            interface(0, ClassCode.VENDOR_SPECIFIC, 1, endpoints=first),
            *settings,
            interface(2, ClassCode.VENDOR_SPECIFIC, 3, endpoints=[endpoint(MESSAGES_IN, BULK, bulk, companion=none)]),
            interface(
                2, ClassCode.VENDOR_SPECIFIC, 3, alternate=1, endpoints=[periodic(MESSAGES_IN, INTERRUPT, 64, 4)]
            ),
            speed=speed,
        ),
        configuration(
            interface(0, ClassCode.VENDOR_SPECIFIC, 9, endpoints=_pair(bulk, bulk, fast=fast)), value=2, speed=speed
        ),
        strings=("usbbridge", "Paragon", "PARAGON1"),
        speed=speed,
    )


def create(speed: Speed, options: dict[str, str]) -> Function:
    """Options: `ids=VENDOR:PRODUCT`, hexadecimal, to stand for a product that hosts treat in their own way."""
    vendor, product = (int(word, 16) for word in options.get("ids", f"{VENDOR:x}:{PRODUCT:x}").split(":"))
    return Paragon(speed, vendor, product)
