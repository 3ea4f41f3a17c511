"""`keyboard[,serial=X][,boot=yes]`: a keyboard that types a word when its Caps Lock lamp is lit.

A plain HID 1.11 keyboard with the report of the boot protocol (appendix B.1) and, unless `boot=yes`, no claim to that
protocol: policies tell a keyboard that can work a machine's firmware from one more input device by it.
"""

from collections import deque
from typing import Final

from tools.lab.devices.describe import INTERRUPT, VENDOR, configuration, descriptor, device, endpoint, interface, model
from tools.lab.devices.options import check, check_speed, choice
from usbbridge.backend.emulated.function import BABBLE, NAK, STALL, Function, Model
from usbbridge.usb.ch9 import ClassCode, Request, RequestType, SetupPacket, Speed

PRODUCT: Final = 0x0116
IN: Final = 0x81
BOOT, KEYBOARD = 1, 1
"bInterfaceSubClass and bInterfaceProtocol (HID 1.11 §4.2, §4.3)."
HID, REPORT = 0x21, 0x22
"bDescriptorType (HID 1.11 §7.1)."
GET_REPORT, GET_IDLE, GET_PROTOCOL, SET_REPORT, SET_IDLE, SET_PROTOCOL = 0x01, 0x02, 0x03, 0x09, 0x0A, 0x0B
CAPS_LOCK: Final = 0x02
REPORT_BYTES: Final = 8
WORD: Final = "usbbridge"
"What it types."
MAX_REPORTS: Final = 256
"Reports that wait for the host; what is typed when they are that many is lost."

# HID 1.11 appendix E.6, in its short form: eight modifiers, five lamps, six keys.
REPORT_DESCRIPTOR: Final = bytes.fromhex(
    "05010906a101"  # generic desktop, keyboard, application collection
    "050719e029e7150025017501950881 02"  # modifiers: keys e0 to e7, a bit each
    "950175088101"  # a reserved byte
    "95057501050819012905 9102"  # lamps: 1 to 5, a bit each, output
    "950175039101"  # and their padding
    "95067508150025650507190029658100"  # six keys, 0 to 65
    "c0"
)
HID_DESCRIPTOR: Final = descriptor(HID, bytes((0x11, 0x01, 0, 1, REPORT, len(REPORT_DESCRIPTOR), 0)))


class Keyboard(Function):
    """The keyboard; see the module's text."""

    def __init__(self, speed: Speed, serial: str = "KEYBOARD1", *, boot: bool = False) -> None:
        self.model = _model(speed, serial, boot=boot)
        self._reports: deque[bytes] = deque()
        self.restart()

    def restart(self) -> None:
        self.lamps = 0
        "What the host has lit: bits of the output report."
        self._idle, self._protocol = 0, 1
        self._reports.clear()

    def select(self, number: int, alternate: int) -> None:
        """There is one setting only."""

    def close(self) -> None:
        """Nothing is held."""

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.index != 0:
            return STALL
        if setup.kind is RequestType.STANDARD:
            return self._describe(setup, data)
        if setup.is_in:
            answers = {GET_REPORT: bytes(REPORT_BYTES), GET_IDLE: bytes((self._idle,))}
            found = (answers | {GET_PROTOCOL: bytes((self._protocol,))}).get(setup.request)
            return _put(data, found) if found else STALL
        return self._set(setup, data)

    def _describe(self, setup: SetupPacket, data: memoryview) -> int:
        found = {HID: HID_DESCRIPTOR, REPORT: REPORT_DESCRIPTOR}.get(setup.value >> 8)
        return _put(data, found) if found and setup.request == Request.GET_DESCRIPTOR else STALL

    def _set(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.request == SET_REPORT and len(data) == 1:
            self._light(data[0])
        elif setup.request == SET_IDLE:
            self._idle = setup.value >> 8
        elif setup.request == SET_PROTOCOL and setup.value in (0, 1):
            self._protocol = setup.value
        else:
            return STALL
        return len(data)

    def _light(self, lamps: int) -> None:
        lit, self.lamps = lamps & ~self.lamps, lamps
        if lit & CAPS_LOCK and len(self._reports) + 2 * len(WORD) <= MAX_REPORTS:
            for letter in WORD:
                usage = ord(letter) - ord("a") + 4  # HID usage tables §10: a is 4
                self._reports += (bytes((0, 0, usage, 0, 0, 0, 0, 0)), bytes(REPORT_BYTES))
            self.wake()

    def receive(self, endpoint: int, data: memoryview) -> int:
        """There is no OUT endpoint: lamps are set by SET_REPORT."""
        return STALL

    def send(self, endpoint: int, data: memoryview) -> int:
        if not self._reports:
            return NAK
        return _put(data, self._reports.popleft()) if len(data) >= REPORT_BYTES else BABBLE


def _put(data: memoryview, found: bytes) -> int:
    size = min(len(found), len(data))
    data[:size] = found[:size]
    return size


def _model(speed: Speed, serial: str, *, boot: bool) -> Model:
    claim = (BOOT, KEYBOARD) if boot else (0, 0)
    ends = [endpoint(IN, INTERRUPT, REPORT_BYTES, 7 if speed is Speed.HIGH else 10)]
    return model(
        device(VENDOR, PRODUCT, max_packet_size0=8 if speed is Speed.LOW else 64),
        configuration(interface(0, ClassCode.HID, *claim, endpoints=ends, extra=HID_DESCRIPTOR)),
        strings=("usbbridge", "Keyboard", serial),
        speed=speed,
    )


def create(speed: Speed, options: dict[str, str]) -> Function:
    """Options: serial, boot. Raises UsageError."""
    check("keyboard", options, "serial", "boot")
    check_speed("keyboard", speed, Speed.LOW, Speed.FULL, Speed.HIGH)
    boot = choice("keyboard", options, "boot", "no", "yes") == "yes"
    return Keyboard(speed, options.get("serial", "KEYBOARD1"), boot=boot)
