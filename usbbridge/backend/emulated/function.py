"""The seam between the engine that emulates a USB device and the function that gives it a purpose.

The engine queues transfers and hands them to the function one at a time, the oldest of each endpoint first. A function
answers with the number of bytes it moved, or with what a real device answers on the bus when it moves none.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from usbbridge.usb.ch9 import SetupPacket, Speed
from usbbridge.usb.descriptors import DeviceDescriptor

NAK: Final = -1
"Nothing to say yet: the transfer keeps waiting (USB 2.0 §8.4.5)."
STALL: Final = -2
"The endpoint halts; this and all waiting transfers end with a STALL until the host clears the halt."
BABBLE: Final = -3
"The device has a packet that the transfer can't hold: the host's controller sees an overflow."
ERROR: Final = -4
"The packet is damaged, or missing: isochronous packets, which nobody acknowledges, only."


@dataclass(frozen=True, slots=True)
class Model:
    """What a device tells about itself at one speed."""

    speed: Speed
    device: DeviceDescriptor
    configurations: tuple[bytes, ...]
    "Whole configurations as on the wire, class-specific descriptors included."
    strings: tuple[str, ...] = ()
    "String descriptors from index 1 on, in US English."
    bos: bytes = b""
    "Binary device object store (USB 3.2 §9.6.2), which a host asks for when bcdUSB is above 2.00; empty: none."
    other_speed: tuple[bytes, ...] = ()
    "Configurations at full speed, for a high-speed device (USB 2.0 §9.6.2, §9.6.4)."


class Function(ABC):
    """What a device does beyond chapter 9. No method may block for long or raise: STALL is how a device refuses."""

    model: Model

    wake: Callable[[], None] = staticmethod(lambda: None)
    "Set by the engine. To be called, on the device's own thread, when a waiting transfer may have become servable."

    leave: Callable[[], None] = staticmethod(lambda: None)
    "Set by the engine. To be called, on the device's own thread, to go from the bus as if somebody had pulled it out."

    @abstractmethod
    def control(self, setup: SetupPacket, data: memoryview) -> int:
        """A class or vendor request, or a standard one to an interface that chapter 9 leaves to it.

        `data` is the whole data stage: to be read when the request goes to the device, to be filled when it goes to
        the host. Answer: bytes of `data` used, STALL, or NAK: it is asked again when it has called `wake`.
        """

    @abstractmethod
    def receive(self, endpoint: int, data: memoryview) -> int:
        """An OUT transfer. Answer: bytes accepted, NAK or STALL."""

    @abstractmethod
    def send(self, endpoint: int, data: memoryview) -> int:
        """An IN transfer, at least one byte long. Answer: bytes put into `data`, NAK, STALL or BABBLE."""

    def send_packet(self, endpoint: int, data: memoryview) -> int:
        """The packet of one service interval on an isochronous IN endpoint. Answer: bytes put into `data`, which may be
        0, ERROR or BABBLE."""
        return 0

    def receive_packet(self, endpoint: int, data: memoryview) -> int:
        """The packet of one service interval on an isochronous OUT endpoint. Answer: bytes accepted, or ERROR."""
        return len(data)

    def receive_stream(self, endpoint: int, stream: int, data: memoryview) -> int:
        """An OUT transfer on one of a SuperSpeed endpoint's streams (USB 3.2 §8.12.1.4); answer as of `receive`."""
        return STALL

    def send_stream(self, endpoint: int, stream: int, data: memoryview) -> int:
        """An IN transfer on one of a SuperSpeed endpoint's streams; answer as of `send`."""
        return STALL

    def standard(self, setup: SetupPacket, data: memoryview) -> int | None:
        """A standard request that the device answers in a way of its own, as `control`; None for the engine's."""
        return None

    def reset(self) -> None:
        """The port was reset; its configuration is restored, its interfaces are in their first settings."""
        self.restart()

    @abstractmethod
    def restart(self) -> None:
        """The port was reset, or a configuration set: forget what was under way."""

    @abstractmethod
    def select(self, number: int, alternate: int) -> None:
        """SET_INTERFACE; the alternate setting exists."""

    @abstractmethod
    def close(self) -> None:
        """The device is being closed: release files and the like. May be called again."""
