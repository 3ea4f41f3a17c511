"""Constants and the setup packet of USB 2.0 and 3.2 chapter 9, "USB Device Framework", under the names it uses."""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final, Self

DIR_IN: Final = 0x80
"Bit 7 of an endpoint address and of bmRequestType: device to host."
ENDPOINT_NUMBER_MASK: Final = 0x0F
ENDPOINT_ADDRESS_MASK: Final = DIR_IN | ENDPOINT_NUMBER_MASK
"Bits 6..4 of bEndpointAddress are reserved (USB 2.0 §9.6.6)."

REQUEST_TYPE_MASK: Final = 0x60
RECIPIENT_MASK: Final = 0x1F

LANGUAGE_ENGLISH_US: Final = 0x0409
"The one LANGID (USB 2.0 §9.6.7) that every host asks for."


class Speed(IntEnum):
    """Signalling rate of a device; the numbers are those that usbredir's device_connect carries."""

    LOW = 0
    FULL = 1
    HIGH = 2
    SUPER = 3
    SUPER_PLUS = 4
    UNKNOWN = 255

    @classmethod
    def from_mbps(cls, mbps: float) -> "Speed":
        """The speed that Linux writes in sysfs as megabits per second: `1.5`, `12`, `480`, `5000`, `10000`, `20000`."""
        return _BY_MBPS.get(mbps, cls.UNKNOWN)


_BY_MBPS: Final = {
    1.5: Speed.LOW,
    12.0: Speed.FULL,
    480.0: Speed.HIGH,
    5000.0: Speed.SUPER,
    10000.0: Speed.SUPER_PLUS,
    20000.0: Speed.SUPER_PLUS,
}


class Request(IntEnum):
    """bRequest of standard requests (USB 2.0 table 9-4, USB 3.2 table 9-5)."""

    GET_STATUS = 0
    CLEAR_FEATURE = 1
    SET_FEATURE = 3
    SET_ADDRESS = 5
    GET_DESCRIPTOR = 6
    SET_DESCRIPTOR = 7
    GET_CONFIGURATION = 8
    SET_CONFIGURATION = 9
    GET_INTERFACE = 10
    SET_INTERFACE = 11
    SYNCH_FRAME = 12
    SET_SEL = 48
    SET_ISOCH_DELAY = 49


class RequestType(IntEnum):
    """Bits 6..5 of bmRequestType (USB 2.0 table 9-2), in place."""

    STANDARD = 0x00
    CLASS = 0x20
    VENDOR = 0x40
    RESERVED = 0x60


class Recipient(IntEnum):
    """Bits 4..0 of bmRequestType (USB 2.0 table 9-2)."""

    DEVICE = 0
    INTERFACE = 1
    ENDPOINT = 2
    OTHER = 3


def request_type(kind: RequestType, recipient: Recipient, *, is_in: bool = False) -> int:
    """bmRequestType from its three parts (USB 2.0 §9.3.1)."""
    return (DIR_IN if is_in else 0) | kind | recipient


class Feature(IntEnum):
    """wValue of CLEAR_FEATURE and SET_FEATURE (USB 2.0 table 9-6, USB 3.2 table 9-7)."""

    ENDPOINT_HALT = 0
    DEVICE_REMOTE_WAKEUP = 1
    TEST_MODE = 2
    U1_ENABLE = 48
    U2_ENABLE = 49
    LTM_ENABLE = 50


FEATURE_ENDPOINT_HALT: Final = Feature.ENDPOINT_HALT


class DescriptorType(IntEnum):
    """bDescriptorType (USB 2.0 table 9-5, USB 3.2 table 9-6)."""

    DEVICE = 1
    CONFIGURATION = 2
    STRING = 3
    INTERFACE = 4
    ENDPOINT = 5
    DEVICE_QUALIFIER = 6
    OTHER_SPEED_CONFIGURATION = 7
    INTERFACE_POWER = 8
    OTG = 9
    DEBUG = 10
    INTERFACE_ASSOCIATION = 11
    BOS = 15
    DEVICE_CAPABILITY = 16
    CS_INTERFACE = 0x24
    CS_ENDPOINT = 0x25
    SUPERSPEED_ENDPOINT_COMPANION = 48
    SUPERSPEEDPLUS_ISO_ENDPOINT_COMPANION = 49


class TransferType(IntEnum):
    """Bits 1..0 of an endpoint's bmAttributes (USB 2.0 table 9-13)."""

    CONTROL = 0
    ISO = 1
    BULK = 2
    INTERRUPT = 3


class ClassCode(IntEnum):
    """Base class codes that USB-IF has assigned (usb.org, "Defined Class Codes"). Devices may bear others."""

    PER_INTERFACE = 0x00
    AUDIO = 0x01
    COMMUNICATIONS = 0x02
    HID = 0x03
    PHYSICAL = 0x05
    IMAGE = 0x06
    PRINTER = 0x07
    MASS_STORAGE = 0x08
    HUB = 0x09
    CDC_DATA = 0x0A
    SMART_CARD = 0x0B
    CONTENT_SECURITY = 0x0D
    VIDEO = 0x0E
    PERSONAL_HEALTHCARE = 0x0F
    AUDIO_VIDEO = 0x10
    BILLBOARD = 0x11
    TYPE_C_BRIDGE = 0x12
    DIAGNOSTIC = 0xDC
    WIRELESS = 0xE0
    MISCELLANEOUS = 0xEF
    APPLICATION_SPECIFIC = 0xFE
    VENDOR_SPECIFIC = 0xFF


SETUP_SIZE: Final = 8
SETUP_STRUCT: Final = Struct("<BBHHH")


@dataclass(frozen=True, slots=True)
class SetupPacket:
    """The eight bytes that open a control transfer (USB 2.0 §9.3)."""

    request_type: int
    request: int
    value: int
    index: int
    length: int

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Self:
        """The setup packet in the first eight bytes of `data`, which must be that long."""
        return cls(*SETUP_STRUCT.unpack_from(data))

    def pack(self) -> bytes:
        """The eight bytes on the wire."""
        return SETUP_STRUCT.pack(self.request_type, self.request, self.value, self.index, self.length)

    @property
    def is_in(self) -> bool:
        """Whether the data stage goes from the device to the host."""
        return bool(self.request_type & DIR_IN)

    @property
    def kind(self) -> RequestType:
        """Who defined the request: the USB specification, a class, or the vendor."""
        return RequestType(self.request_type & REQUEST_TYPE_MASK)

    @property
    def recipient(self) -> int:
        """A `Recipient`, or a reserved value above 3."""
        return self.request_type & RECIPIENT_MASK
