"""A FIDO2 security key: a HID device of usage page 0xF1D0 with one interrupt endpoint each way.

    fido[,serial=KEY1][,touch=at-once|never]

`serial` is also the seed of its secret: a key with the same serial number knows its credentials again. With
`touch=never` its user is away, and commands that need a touch wait until the host cancels them.
"""

import struct
import time
from typing import Final

from tools.lab.devices import options as given
from tools.lab.devices.ctap2 import Authenticator
from tools.lab.devices.ctaphid import MAX_REPORTS, REPORT_SIZE, Channels
from tools.lab.devices.describe import INTERRUPT, VENDOR, configuration, descriptor, device, endpoint, interface, model
from usbbridge.backend.emulated.function import BABBLE, NAK, STALL, Function, Model
from usbbridge.usb.ch9 import (
    DIR_IN,
    ClassCode,
    Recipient,
    Request,
    RequestType,
    SetupPacket,
    Speed,
    request_type,
)

PRODUCT: Final = 0xF1D0
ENDPOINT_IN: Final = DIR_IN | 1
ENDPOINT_OUT: Final = 1

HID: Final = 0x21
REPORT: Final = 0x22
"Types of class descriptors (HID 1.11 §7.1)."
REPORT_DESCRIPTOR: Final = bytes.fromhex(
    "06d0f1 0901 a101"  # usage page FIDO, usage CTAPHID, application collection
    "0920 1500 26ff00 7508 9540 8102"  # 64 bytes in
    "0921 1500 26ff00 7508 9540 9102"  # 64 bytes out
    "c0"
)

GET_REPORT_DESCRIPTOR: Final = (
    request_type(RequestType.STANDARD, Recipient.INTERFACE, is_in=True),
    Request.GET_DESCRIPTOR,
)
SET_IDLE: Final = (request_type(RequestType.CLASS, Recipient.INTERFACE), 0x0A)
SET_REPORT: Final = (request_type(RequestType.CLASS, Recipient.INTERFACE), 0x09)
"bmRequestType and bRequest (HID 1.11 §7.2)."
OUTPUT_REPORT: Final = 0x0200
"wValue of SET_REPORT: type output, report id 0."

_INTERVAL: Final = {Speed.FULL: 2, Speed.HIGH: 5}
"bInterval for a poll each 2 ms: in frames, and at high speed as a power of two of microframes."


def create(speed: Speed, options: dict[str, str]) -> "SecurityKey":
    """A key. Raises UsageError for options it doesn't have."""
    given.check("security key", options, "serial", "touch")
    given.check_speed("security key", speed, *_INTERVAL)
    touch = given.choice("security key", options, "touch", "at-once", "never")
    return SecurityKey(speed, options.get("serial", "KEY1"), touched=touch == "at-once")


def key_model(speed: Speed, serial: str) -> Model:
    """Descriptors of the key."""
    hid = descriptor(HID, struct.pack("<HBBBH", 0x0111, 0, 1, REPORT, len(REPORT_DESCRIPTOR)))
    ends = [endpoint(address, INTERRUPT, REPORT_SIZE, _INTERVAL[speed]) for address in (ENDPOINT_IN, ENDPOINT_OUT)]
    return model(
        device(VENDOR, PRODUCT),
        configuration(interface(0, ClassCode.HID, extra=hid, endpoints=ends)),
        strings=("usbbridge", "Security Key", serial),
        speed=speed,
    )


class SecurityKey(Function):
    """The key's USB side."""

    def __init__(self, speed: Speed, serial: str, *, touched: bool = True) -> None:
        self.model = key_model(speed, serial)
        self.authenticator = Authenticator(serial)
        self.channels = Channels(self.authenticator.answer, time.monotonic, touched=touched)

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        request = (setup.request_type, setup.request)
        if setup.index != 0:
            return STALL
        if request == GET_REPORT_DESCRIPTOR and setup.value >> 8 == REPORT:
            size = min(len(data), len(REPORT_DESCRIPTOR))
            data[:size] = REPORT_DESCRIPTOR[:size]
            return size
        if request == SET_IDLE:
            return 0
        if request == SET_REPORT and setup.value == OUTPUT_REPORT:
            return STALL if (taken := self.receive(ENDPOINT_OUT, data)) == NAK else taken
        return STALL

    def receive(self, endpoint: int, data: memoryview) -> int:
        if len(data) > REPORT_SIZE:
            return STALL  # HID 1.11 §8.4: reports of one id have one length
        if len(self.channels.reports) > MAX_REPORTS:
            return NAK
        self.channels.receive(bytes(data).ljust(REPORT_SIZE, b"\0"))
        return len(data)

    def send(self, endpoint: int, data: memoryview) -> int:
        if not self.channels.reports:
            return NAK
        if len(data) < REPORT_SIZE:
            return BABBLE
        data[:REPORT_SIZE] = self.channels.reports.popleft()
        return REPORT_SIZE

    def restart(self) -> None:
        self.channels.restart()

    def select(self, number: int, alternate: int) -> None:
        """The one alternate setting chosen again: nothing changes."""

    def close(self) -> None:
        """Nothing is held."""
