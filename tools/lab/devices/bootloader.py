"""`bootloader[,serial=X]`: a device with two faces, which leaves the bus as one and comes back as the other.

    BootLoader   46f4:0114   DFU mode: firmware is downloaded and, after that, a reset starts it; so does the vendor
                             request START, without any reset, as a telephone's boot loader obeys its `continue`
    Application  46f4:0115   a serial port, and the DFU interface of a running device: DETACH and a reset lead back; so
                             does opening the port at 1200 baud and closing it, which is how Arduino's boards do it

Both have the same serial number. Whoever plugs the device looks at `becomes` whenever it has done something: once that
is another function, the device has left the bus, and that function is what comes back.
"""

from typing import Final

from tools.lab.devices.acm import DTR, Acm
from tools.lab.devices.composite import Composite
from tools.lab.devices.describe import VENDOR, device
from tools.lab.devices.dfu import DfuMode, Runtime
from tools.lab.devices.options import check, check_speed
from usbbridge.backend.emulated.function import Function
from usbbridge.usb.ch9 import ClassCode, Recipient, RequestType, SetupPacket, Speed, request_type

BOOT_LOADER, APPLICATION = 0x0114, 0x0115
"idProduct of the two."
START: Final = (request_type(RequestType.VENDOR, Recipient.DEVICE), 0x01)
"bmRequestType and bRequest."
TOUCH: Final = 1200


class BootLoader(DfuMode):
    """The boot loader; `firmware` outlives it."""

    def __init__(self, speed: Speed, serial: str, firmware: bytearray) -> None:
        super().__init__(BOOT_LOADER, "Boot loader", serial, firmware, speed)
        self._speed, self._serial = speed, serial
        self.becomes: Function | None = None
        "What comes back instead of this device; None as long as it stays."

    def reset(self) -> None:
        super().reset()
        if self.detached:
            self._leave()

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        if (setup.request_type, setup.request) == START:
            self._leave()
            return 0
        return super().control(setup, data)

    def _leave(self) -> None:
        self.becomes = self.becomes or Application(self._speed, self._serial, self.firmware)


class Touchable(Acm):
    """A serial port that notices the 1200-baud touch: DTR falls while that rate is set."""

    touched = False

    def set_lines(self, lines: int) -> None:
        falls = self.lines & ~lines & DTR
        super().set_lines(lines)
        self.touched = self.touched or bool(falls and self.baud_rate == TOUCH)


class Application(Composite):
    """The application; its firmware is what its boot loader will find."""

    def __init__(self, speed: Speed, serial: str, firmware: bytearray) -> None:
        self._line, self._dfu = Touchable(speed), Runtime(speed)
        described = device(VENDOR, APPLICATION, class_=ClassCode.MISCELLANEOUS, subclass=2, protocol=1)
        super().__init__((self._line, self._dfu), described, ("usbbridge", "Application", serial))
        self._speed, self._serial, self._firmware = speed, serial, firmware
        self._successor: BootLoader | None = None

    @property
    def becomes(self) -> Function | None:
        """What comes back instead of this device; None as long as it stays."""
        if self._successor is None and (self._line.touched or self._dfu.detached):
            self._successor = BootLoader(self._speed, self._serial, self._firmware)
        return self._successor


def create(speed: Speed, options: dict[str, str]) -> Function:
    """Options: serial. Raises UsageError."""
    check("boot loader", options, "serial")
    check_speed("boot loader", speed, Speed.FULL, Speed.HIGH)
    return BootLoader(speed, options.get("serial", "BOOT1"), bytearray())
