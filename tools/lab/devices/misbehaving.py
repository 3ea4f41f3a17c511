"""`misbehaving,kind=KIND`: a device that lies about itself or behaves as none should; `KINDS` has all of them.

Beneath the lie there is a working device (46f4:0666): one vendor-specific interface with bulk IN 0x81, which sends as
many zeros as it is asked for, bulk OUT 0x02, which takes everything, and interrupt IN 0x83, which sends its 8 bytes.
The lies are in `tools.lab.devices.lies`, the behaviour is here:

    stalls      all requests beside chapter 9's, and all endpoints
    babbles     IN endpoints send more than they were asked for
    hangs       nothing is answered once it is configured, requests for descriptors neither
    vanishes    it leaves the bus in the middle of its twentieth transfer
    other-ids, other-configuration
                a reset of the port makes another product of it, or gives it other endpoints
"""

from collections.abc import Callable
from typing import Final

from tools.lab.devices import lies
from tools.lab.devices.describe import BULK, INTERRUPT, VENDOR, configuration, device, endpoint, interface, model
from tools.lab.devices.options import check, check_speed, choice
from usbbridge.backend.emulated.function import BABBLE, NAK, STALL, Function
from usbbridge.usb.ch9 import ClassCode, DescriptorType, Request, SetupPacket, Speed
from usbbridge.usb.descriptors import device_bytes

PRODUCT, OTHER_PRODUCT = 0x0666, 0x0667
IN, OUT, REPORTS = 0x81, 0x02, 0x83
REPORT_SIZE: Final = 8
TRANSFERS_BEFORE_IT_VANISHES: Final = 20

BEHAVIOURS: Final = ("stalls", "babbles", "hangs", "vanishes", "other-ids", "other-configuration")
KINDS: Final = ("none", *BEHAVIOURS, *lies.LIES)


def ends(speed: Speed) -> list[bytes]:
    """The three endpoints."""
    size = 512 if speed is Speed.HIGH else 64
    return [endpoint(IN, BULK, size), endpoint(OUT, BULK, size), endpoint(REPORTS, INTERRUPT, REPORT_SIZE, 4)]


class Misbehaving(Function):
    """The working device, and the ways in which it does not work."""

    def __init__(self, kind: str, speed: Speed) -> None:
        self._kind = kind
        described = device(VENDOR, PRODUCT, bcd_device=KINDS.index(kind))
        honest = configuration(interface(0, ClassCode.VENDOR_SPECIFIC, endpoints=ends(speed)))
        self.model = model(described, honest, strings=("usbbridge", f"Misbehaving: {kind}", "BAD1"), speed=speed)
        truth = {DescriptorType.DEVICE: device_bytes(described), DescriptorType.CONFIGURATION: honest}
        self._said: dict[tuple[int, int], bytes] = lies.LIES.get(kind, _truth)(truth, speed)
        self._restarts = 0
        self._configured = False
        self._transfers = 0

    # ---- lies

    def standard(self, setup: SetupPacket, data: memoryview) -> int | None:
        if self._kind == "hangs" and self._configured:
            return NAK
        if setup.request != Request.GET_DESCRIPTOR:
            return None
        key = setup.value >> 8, setup.value & 0xFF
        said = self._said.get(key, self._said.get((key[0], lies.ANY)))
        if said is None:
            return None
        data[: len(said)] = said[: len(data)]
        return min(len(said), len(data)) or STALL

    # ---- behaviour

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        return NAK if self._kind == "hangs" else STALL

    def receive(self, endpoint: int, data: memoryview) -> int:
        return self._moved(lambda: len(data))

    def send(self, endpoint: int, data: memoryview) -> int:
        def send() -> int:
            size = min(len(data), REPORT_SIZE) if endpoint == REPORTS else len(data)
            data[:size] = bytes(size)
            return size

        return self._moved(lambda: BABBLE) if self._kind == "babbles" else self._moved(send)

    def _moved(self, move: Callable[[], int]) -> int:
        """The answer to one transfer on an endpoint, which `move` would have carried out."""
        self._transfers += 1
        if self._kind == "vanishes" and self._transfers >= TRANSFERS_BEFORE_IT_VANISHES:
            self.leave()
            return NAK
        return {"stalls": STALL, "hangs": NAK}.get(self._kind) or move()

    def reset(self) -> None:
        """A kernel resets the port before it reads the first descriptor, too: only a later one counts."""
        if self._configured and self._kind == "other-ids":
            self._said = lies.other_product(self.model, OTHER_PRODUCT)
        if self._configured and self._kind == "other-configuration":
            self._said = lies.other_endpoints()
        self._configured = False

    def restart(self) -> None:
        """A configuration was set: first by the engine, which stands for no host, and then by one."""
        self._restarts += 1
        self._configured = self._restarts > 1

    def select(self, number: int, alternate: int) -> None:
        """There is one setting."""

    def close(self) -> None:
        """There is nothing to let go."""


def _truth(truth: dict[DescriptorType, bytes], speed: Speed) -> dict[tuple[int, int], bytes]:
    return {}


def create(speed: Speed, options: dict[str, str]) -> Misbehaving:
    """Options: kind. Raises UsageError."""
    check("misbehaving device", options, "kind")
    check_speed("misbehaving device", speed, Speed.FULL, Speed.HIGH)
    return Misbehaving(choice("misbehaving device", options, "kind", *KINDS), speed)
