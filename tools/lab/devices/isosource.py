"""A device for isochronous transfers: one endpoint that counts, one that checks the counting of the host.

Interface 0, vendor-specific. Setting 0 has no endpoints, as USB 2.0 §5.6.3 wants it; settings 1 and 2 have 0x81 (IN)
and 0x02 (OUT), with packets of `size` bytes and of a quarter of that. Each packet begins with its number, 4 bytes,
lowest first, counted for each endpoint from 0 on since the setting was selected; the rest are the number's lowest byte.

Options: `size=BYTES` and `interval=N` (bInterval), `errors=N`: every Nth IN packet is damaged, `babble=N`: every Nth is
longer than it may be, `short=N`: every Nth holds only its number.

Vendor requests to the device: 1 (IN) reads `COUNTS`: packets sent, packets received, of these out of order or damaged.
"""

import struct
from typing import Final

from tools.lab.devices.describe import ISO, VENDOR, configuration, device, endpoint, interface, model
from usbbridge.backend.emulated.function import BABBLE, ERROR, STALL, Function
from usbbridge.usb.ch9 import DIR_IN, ClassCode, RequestType, SetupPacket, Speed

PRODUCT: Final = 0x1500
SOURCE: Final = DIR_IN | 1
SINK: Final = 2
GET_COUNTS: Final = 1
NUMBER: Final = struct.Struct("<I")
COUNTS: Final = struct.Struct("<III")

SIZES: Final = {Speed.FULL: 256, Speed.HIGH: 512, Speed.SUPER: 1024}
"Bytes of a packet where no option says otherwise. Low speed has no isochronous transfers (USB 2.0 §5.6.3)."


def packet(number: int, size: int) -> bytes:
    """The packet of that number, `size` bytes long."""
    return NUMBER.pack(number) + bytes((number & 0xFF,)) * (size - NUMBER.size)


class IsoSource(Function):
    """See the module."""

    def __init__(self, speed: Speed, options: dict[str, str]) -> None:
        size = int(options.get("size", SIZES[speed]))
        self._sizes = {1: size, 2: size // 4}
        self._size = 0
        self._every = {what: int(options.get(what, 0)) for what in ("errors", "babble", "short")}
        self._sent = self._received = self._wrong = 0
        settings = [self._setting(speed, alternate, int(options.get("interval", 1))) for alternate in (0, 1, 2)]
        is_super = speed is Speed.SUPER
        described = device(
            VENDOR, PRODUCT, bcd_usb=0x0300 if is_super else 0x0200, max_packet_size0=9 if is_super else 64
        )
        strings = ("usbbridge", "Iso source", "1")
        self.model = model(described, configuration(*settings, speed=speed), strings=strings, speed=speed)

    def _setting(self, speed: Speed, alternate: int, interval: int) -> bytes:
        size = self._sizes.get(alternate, 0)
        companion = (0, 0, size) if speed is Speed.SUPER else None
        ends = [endpoint(address, ISO, size, interval, companion=companion) for address in (SOURCE, SINK)]
        return interface(0, ClassCode.VENDOR_SPECIFIC, alternate=alternate, endpoints=ends if alternate else ())

    def _is(self, what: str) -> bool:
        """Whether it is this packet's turn."""
        every = self._every[what]
        return bool(every) and self._sent % every == 0

    def send_packet(self, endpoint: int, data: memoryview) -> int:
        number, self._sent = self._sent, self._sent + 1
        if self._is("errors"):
            return ERROR
        size = NUMBER.size if self._is("short") else self._size
        if self._is("babble") or size > len(data):
            return BABBLE
        data[:size] = packet(number, size)
        return size

    def receive_packet(self, endpoint: int, data: memoryview) -> int:
        self._wrong += bytes(data) != packet(self._received, len(data))
        self._received += 1
        return len(data)

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.kind is not RequestType.VENDOR or setup.request != GET_COUNTS or len(data) != COUNTS.size:
            return STALL
        COUNTS.pack_into(data, 0, self._sent, self._received, self._wrong)
        return COUNTS.size

    def receive(self, endpoint: int, data: memoryview) -> int:
        return STALL

    def send(self, endpoint: int, data: memoryview) -> int:
        return STALL

    def restart(self) -> None:
        self.select(0, 0)

    def select(self, number: int, alternate: int) -> None:
        self._size = self._sizes.get(alternate, 0)
        self._sent = self._received = self._wrong = 0

    def close(self) -> None:
        """There is nothing to let go."""


def create(speed: Speed, options: dict[str, str]) -> IsoSource:
    """See the module."""
    return IsoSource(speed, options)
