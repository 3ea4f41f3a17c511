"""`ethernet[,serial=X]`: a network adapter (USB CDC ECM 1.2) with one host at the other end of its cable, `peer.py`.

Its data interface has no endpoints until the alternate setting 1 is chosen; then it notifies that the cable is in and
how fast it is, and each transfer is a frame. Like any network it drops what nobody fetches.
"""

import struct
from collections import deque
from typing import Final

from tools.lab.devices import peer
from tools.lab.devices.cdc import ETHERNET, control_interface, data_interface, notification, union
from tools.lab.devices.describe import VENDOR, association, configuration, cs_interface, device, model
from tools.lab.devices.options import check, check_speed
from usbbridge.backend.emulated.function import BABBLE, NAK, STALL, Function, Model
from usbbridge.usb.ch9 import ClassCode, RequestType, SetupPacket, Speed

PRODUCT: Final = 0x0112
IN, OUT, NOTIFY = 0x81, 0x02, 0x83
SUBCLASS: Final = 0x06
"Ethernet Networking Control Model (CDC 1.2 table 4)."
MAC: Final = bytes.fromhex("0246f4000002")
"The adapter's own address; the host takes it from string 4."
MAX_SEGMENT: Final = 1514
"wMaxSegmentSize: a frame without its checksum."
SET_ETHERNET_PACKET_FILTER: Final = 0x43
NETWORK_CONNECTION, CONNECTION_SPEED_CHANGE = 0x00, 0x2A
BITS_A_SECOND: Final = 100_000_000
MAX_FRAMES: Final = 64
"Frames that wait for the host: a tenth of a second of full ones at full speed. What comes then is dropped."


class Ethernet(Function):
    """The adapter; see the module's text."""

    def __init__(self, speed: Speed, serial: str = "ETHERNET1") -> None:
        self.model = _model(speed, serial)
        self._frames: deque[bytes] = deque()
        self._notifications: deque[bytes] = deque()
        self.restart()

    def restart(self) -> None:
        self.filter = 0
        "What SET_ETHERNET_PACKET_FILTER has set; everything for this adapter is let through all the same."
        self.dropped = 0
        "Frames that the host didn't fetch in time."
        self._frames.clear()
        self._notifications.clear()

    def select(self, number: int, alternate: int) -> None:
        self._frames.clear()
        self._notifications.clear()
        if number == 1 and alternate == 1:
            self._notifications.append(notification(NETWORK_CONNECTION, 1, 0))
            speeds = struct.pack("<II", BITS_A_SECOND, BITS_A_SECOND)
            self._notifications.append(notification(CONNECTION_SPEED_CHANGE, 0, 0, speeds))
            self.wake()

    def close(self) -> None:
        """Nothing is held."""

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        known = setup.kind is RequestType.CLASS and setup.request == SET_ETHERNET_PACKET_FILTER
        if not known or setup.index != 0:
            return STALL
        self.filter = setup.value
        return 0

    def receive(self, endpoint: int, data: memoryview) -> int:
        frame = bytes(data[:MAX_SEGMENT])
        found = peer.answer(frame)
        if found and len(self._frames) < MAX_FRAMES:
            self._frames.append(found)
        elif found:
            self.dropped += 1
        return len(data)

    def send(self, endpoint: int, data: memoryview) -> int:
        queue = self._notifications if endpoint == NOTIFY else self._frames
        if not queue:
            return NAK
        if len(queue[0]) > len(data):
            return BABBLE
        found = queue.popleft()
        data[: len(found)] = found
        return len(found)


def _model(speed: Speed, serial: str) -> Model:
    network = cs_interface(ETHERNET, struct.pack("<BIHHB", 4, 0, MAX_SEGMENT, 0, 0))
    return model(
        device(VENDOR, PRODUCT, class_=ClassCode.MISCELLANEOUS, subclass=2, protocol=1),
        configuration(
            association(0, 2, ClassCode.COMMUNICATIONS, SUBCLASS),
            control_interface(0, SUBCLASS, 0, NOTIFY, speed, union(0, network)),
            data_interface(1, (), speed),
            data_interface(1, (IN, OUT), speed, alternate=1),
        ),
        strings=("usbbridge", "Network adapter", serial, MAC.hex().upper()),
        speed=speed,
    )


def create(speed: Speed, options: dict[str, str]) -> Function:
    """Options: serial. Raises UsageError."""
    check("network adapter", options, "serial")
    check_speed("network adapter", speed, Speed.FULL, Speed.HIGH)
    return Ethernet(speed, options.get("serial", "ETHERNET1"))
