"""`composite[,serial=X][,parts=NAME+NAME...]`: several of the factory's devices in one.

Each part is made as it is for itself and keeps its own numbers for interfaces, endpoints and strings. The composite
gives them numbers of the whole device, in the descriptors and in every request and transfer, and each part of several
interfaces an interface association (USB 2.0 ECN "Interface Association Descriptors"), if it has none of its own.

What can't be translated: numbers in the data of a transfer (a communications device's notification says which interface
it is from, which hosts don't read), and names in class-specific descriptors other than a network adapter's address.
The part `disk` is a flash drive with `disk_content()` on it, in an unnamed file.
"""

import importlib
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from tools.lab.devices.describe import VENDOR, configuration, device, model
from tools.lab.devices.options import check, check_speed
from tools.lab.devices.renumbering import Numbers, renumber
from usbbridge.backend.emulated.disk import open_disk
from usbbridge.backend.emulated.function import STALL, Function
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import ClassCode, Recipient, RequestType, SetupPacket, Speed, request_type
from usbbridge.usb.descriptors import DeviceDescriptor

PRODUCT: Final = 0x0113
DEFAULT_PARTS: Final = "acm+disk+printer+fido"
"All of kinds that usbbridge's rules allow as they are shipped; they don't allow keyboards and network adapters."
OWN_STRINGS: Final = 3
DISK_BYTES: Final = 4 << 20
MILLIAMPERES: Final = 500
GET_DEVICE_ID: Final = (request_type(RequestType.CLASS, Recipient.INTERFACE, is_in=True), 0)
"A printer's request that has the interface in the high byte of wIndex (Printing Devices 1.1 §4.2.1)."


class Composite(Function):
    """A device made of functions, which see only themselves."""

    def __init__(self, parts: Sequence[Function], described: DeviceDescriptor, names: tuple[str, str, str]) -> None:
        """`names` are manufacturer, product and serial number. The parts' speed is the composite's. Raises UsageError
        when they need more endpoints than a device has."""
        self._parts = tuple(parts)
        self._numbers: list[Numbers] = []
        bodies, strings, numbers = [], [*names], Numbers()
        for part in self._parts:
            numbers = numbers.after(part.model.configurations[0], len(strings))
            self._numbers.append(numbers)
            bodies.append(renumber(part.model.configurations[0], numbers))
            strings += part.model.strings
            part.wake, part.leave = self._wake, self._leave
        self.model = model(
            described,
            configuration(*bodies, milliamperes=MILLIAMPERES),
            strings=tuple(strings),
            speed=self._parts[0].model.speed,
        )

    @property
    def parts(self) -> tuple[Function, ...]:
        """What it is made of."""
        return self._parts

    def _wake(self) -> None:
        self.wake()  # what the engine has set by the time it is called

    def _leave(self) -> None:
        self.leave()

    def reset(self) -> None:
        for part in self._parts:
            part.reset()

    def restart(self) -> None:
        for part in self._parts:
            part.restart()

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def select(self, number: int, alternate: int) -> None:
        for part, numbers in zip(self._parts, self._numbers, strict=True):
            if numbers.has_interface(number):
                part.select(number - numbers.first_interface, alternate)

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        """To the part whose interface or endpoint it names; a request to the device to the first that knows it."""
        answer = STALL
        for part, numbers in zip(self._parts, self._numbers, strict=True):
            own = _own_setup(setup, numbers)
            if answer == STALL and own is not None:
                answer = part.control(own, data)
        return answer

    def receive(self, endpoint: int, data: memoryview) -> int:
        part, own = self._at(endpoint)
        return part.receive(own, data)

    def send(self, endpoint: int, data: memoryview) -> int:
        part, own = self._at(endpoint)
        return part.send(own, data)

    def send_packet(self, endpoint: int, data: memoryview) -> int:
        part, own = self._at(endpoint)
        return part.send_packet(own, data)

    def receive_packet(self, endpoint: int, data: memoryview) -> int:
        part, own = self._at(endpoint)
        return part.receive_packet(own, data)

    def _at(self, address: int) -> tuple[Function, int]:
        """The part that has an endpoint, and its own number for it; the engine asks for none that isn't there."""
        for part, numbers in zip(self._parts, self._numbers, strict=True):
            if address in numbers.own_endpoints:
                return part, numbers.own_endpoints[address]
        raise KeyError(address)


def _own_setup(setup: SetupPacket, numbers: Numbers) -> SetupPacket | None:
    """The request with the part's own numbers; None if it is for another part."""
    if (setup.request_type, setup.request) == GET_DEVICE_ID:
        mine = numbers.has_interface(setup.index >> 8)
        return replace(setup, index=setup.index - (numbers.first_interface << 8)) if mine else None
    if setup.recipient == Recipient.INTERFACE:
        if not numbers.has_interface(setup.index & 0xFF):
            return None
        return replace(setup, index=setup.index - numbers.first_interface)
    if setup.recipient == Recipient.ENDPOINT:
        own = numbers.own_endpoints.get(setup.index & 0xFF)
        return None if own is None else replace(setup, index=own)
    return setup


def disk_content() -> bytes:
    """What the part `disk` holds at first."""
    return random.Random(PRODUCT).randbytes(DISK_BYTES)


def _disk(speed: Speed, options: dict[str, str]) -> Function:
    with tempfile.NamedTemporaryFile(prefix="usbbridge-composite-") as file:
        file.write(disk_content())
        file.flush()
        return open_disk(f"disk:{file.name}").function  # its file stays open, and is gone when it is closed


def _maker(name: str) -> Callable[[Speed, dict[str, str]], Function]:
    if name == "disk":
        return _disk
    try:
        found: Callable[[Speed, dict[str, str]], Function] = importlib.import_module(f"tools.lab.devices.{name}").create
    except (ModuleNotFoundError, AttributeError) as error:
        raise UsageError(f"there is no device {name!r} to be a part of a composite one") from error
    return found


def create(speed: Speed, options: dict[str, str]) -> Function:
    """Options: serial, parts. Raises UsageError."""
    check("composite device", options, "serial", "parts")
    check_speed("composite device", speed, Speed.FULL, Speed.HIGH)
    parts = [_maker(name)(speed, {}) for name in options.get("parts", DEFAULT_PARTS).split("+")]
    described = device(VENDOR, PRODUCT, class_=ClassCode.MISCELLANEOUS, subclass=2, protocol=1)
    return Composite(parts, described, ("usbbridge", "Composite device", options.get("serial", "COMPOSITE1")))
