"""Linux's gadget zero, the peer of the kernel's test suite usbtest, with endpoints of every type.

Interface 0, vendor-specific. All it sends is zeros, and all it is sent has to be zeros, which is the suite's pattern 0.
Setting 0 has a bulk endpoint in each direction, as the gadget's (f_sourcesink.c); setting 1 adds isochronous ones, as
the gadget's setting 1, and interrupt ones, which the gadget had in times past and the suite still has tests for. The
suite takes the first setting with endpoints that it knows: its module parameter `alt=1` is how to test them all.

An endpoint that gets anything else than zeros halts, as the gadget's. As an isochronous one can't, all OUT endpoints do
from then on, until the device is configured anew: some later test says what none of the isochronous tests sees.

Vendor requests to the device, as the gadget's (zero.c): 0x5b (OUT) stores up to `STORED` bytes, 0x5c (IN) reads them.
"""

from typing import Final

from tools.lab.devices.describe import (
    BULK,
    BULK_PACKET,
    INTERRUPT,
    ISO,
    configuration,
    device,
    endpoint,
    interface,
    model,
)
from usbbridge.backend.emulated.function import ERROR, STALL, Function, Model
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import DIR_IN, ClassCode, RequestType, SetupPacket, Speed, TransferType

VENDOR, PRODUCT = 0x0525, 0xA4A0
"NetChip's, given to Linux for this."
BULK_NUMBER, ISO_NUMBER, INTERRUPT_NUMBER = 1, 2, 3
"Of the endpoints, one in each direction."

STORE, READ_BACK = 0x5B, 0x5C
STORED: Final = 4096
"Bytes of the gadget's buffer for endpoint 0 (USB_COMP_EP0_BUFSIZ, which zero.c's requests are bounded by)."

ISO_PACKET: Final = 256
"Bytes: so the suite's transfers, of 1 KiB, have several packets each. (The gadget's own default is one.)"
INTERRUPT_PACKET: Final = 64
"Bytes: what full speed allows at most (USB 2.0 §5.7.3)."
MILLISECOND: Final = {Speed.FULL: 1, Speed.HIGH: 4}
"bInterval of an isochronous or interrupt endpoint that is served once in a millisecond (USB 2.0 table 9-13)."


def describe(speed: Speed) -> Model:
    """What the device tells about itself."""
    bulk = both_ways(BULK_NUMBER, BULK, BULK_PACKET[speed])
    iso = both_ways(ISO_NUMBER, ISO, ISO_PACKET, MILLISECOND[speed])
    interrupt = both_ways(INTERRUPT_NUMBER, INTERRUPT, INTERRUPT_PACKET, MILLISECOND[speed])
    return model(
        device(VENDOR, PRODUCT, class_=ClassCode.VENDOR_SPECIFIC),
        configuration(
            interface(0, ClassCode.VENDOR_SPECIFIC, endpoints=bulk),
            interface(0, ClassCode.VENDOR_SPECIFIC, alternate=1, endpoints=[*bulk, *iso, *interrupt]),
        ),
        strings=("usbbridge", "Gadget Zero", "ZERO"),
        speed=speed,
    )


def both_ways(number: int, kind: TransferType, size: int, interval: int = 0) -> list[bytes]:
    """Two endpoints of that number, alike but for the direction."""
    return [endpoint(number | direction, kind, size, interval) for direction in (DIR_IN, 0)]


def only_zeros(data: memoryview) -> bool:
    """Whether nothing else is in there."""
    return data.tobytes().count(0) == len(data)


class Zero(Function):
    """See the module."""

    def __init__(self, speed: Speed) -> None:
        self.model = describe(speed)
        self._stored = b""
        self._wrong = False

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.kind is not RequestType.VENDOR or setup.value or setup.index or len(data) > STORED:
            return STALL
        if setup.request == STORE and not setup.is_in:
            self._stored = data.tobytes()
            return len(data)
        if setup.request == READ_BACK and setup.is_in:
            size = min(len(data), len(self._stored))
            data[:size] = self._stored[:size]
            return size
        return STALL

    def send(self, endpoint: int, data: memoryview) -> int:
        data[:] = bytes(len(data))
        return len(data)

    def receive(self, endpoint: int, data: memoryview) -> int:
        self._wrong = self._wrong or not only_zeros(data)
        return STALL if self._wrong else len(data)

    def send_packet(self, endpoint: int, data: memoryview) -> int:
        size = min(len(data), ISO_PACKET)
        data[:size] = bytes(size)
        return size

    def receive_packet(self, endpoint: int, data: memoryview) -> int:
        self._wrong = self._wrong or not only_zeros(data)
        return ERROR if self._wrong else len(data)

    def restart(self) -> None:
        self._wrong = False

    def select(self, number: int, alternate: int) -> None:
        """The suite selects before each test: what was wrong in one is for the next to say."""

    def close(self) -> None:
        """There is nothing to let go."""


def create(speed: Speed, options: dict[str, str]) -> Zero:
    """See the module; there are no options. UsageError for a speed without bulk endpoints, or with companions."""
    if speed not in MILLISECOND:
        raise UsageError(f"the gadget zero has no {speed.name.lower()} speed")
    return Zero(speed)
