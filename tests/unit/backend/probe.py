"""A function made to try the engine with, and the owner of a device that has it."""

from usbbridge.backend.base import Device, Status
from usbbridge.backend.emulated.function import BABBLE, NAK, STALL, Function, Model
from usbbridge.usb.ch9 import SetupPacket, Speed, TransferType
from usbbridge.usb.descriptors import Configuration, DeviceDescriptor, Endpoint, Interface, configuration_bytes

BULK_IN, BULK_OUT, INTERRUPT_IN = 0x81, 0x02, 0x83
STALLING = b"stall"


class Probe(Function):
    """Sends messages it was given; the message STALLING is a STALL."""

    def __init__(self, speed: Speed = Speed.HIGH) -> None:
        main = Interface(0, 0, 0xFF, 0, 0, 0, (_endpoint(BULK_IN), _endpoint(BULK_OUT)))
        other = Interface(0, 1, 0xFF, 0, 0, 0, (_endpoint(INTERRUPT_IN, TransferType.INTERRUPT),))
        configurations = [Configuration(v, 0xE0, 50, 0, (main, other)) for v in (1, 3)]
        self.model = Model(
            speed=speed,
            device=DeviceDescriptor(0x0200, 0, 0, 0, 64, 0x1234, 0x5678, 0x0100, 1, 2, 0, 2),
            configurations=tuple(map(configuration_bytes, configurations)),
            strings=("maker", "probe ☂"),
            bos=b"\x05\x0f\x05\x00\x00" if speed is Speed.SUPER else b"",
            other_speed=(configuration_bytes(configurations[0]),) if speed is Speed.HIGH else (),
        )
        self.messages: list[bytes] = []
        self.received: list[bytes] = []
        self.requests: list[SetupPacket] = []
        self.events: list[object] = []

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        self.requests.append(setup)
        if setup.request != 0x42:
            return STALL
        if setup.is_in:
            data[:] = bytes(len(data))
        return len(data)

    def receive(self, endpoint: int, data: memoryview) -> int:
        self.received.append(bytes(data))
        return len(data)

    def send(self, endpoint: int, data: memoryview) -> int:
        if not self.messages:
            return NAK
        if self.messages[0] != STALLING and len(self.messages[0]) > len(data):
            return BABBLE
        message = self.messages.pop(0)
        if message == STALLING:
            return STALL
        data[: len(message)] = message
        return len(message)

    def restart(self) -> None:
        self.events.append("restart")

    def select(self, number: int, alternate: int) -> None:
        self.events.append((number, alternate))

    def close(self) -> None:
        self.events.append("close")


def _endpoint(address: int, kind: TransferType = TransferType.BULK) -> Endpoint:
    return Endpoint(address, kind, 512, 1)


class Owner:
    """Submits, and notes what ends."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.ended: list[tuple[object, Status, bytes]] = []

    def submit(self, endpoint: int, data: bytes | int, name: object = None, kind: str = "bulk"):
        size = data if isinstance(data, int) else len(data)
        transfer = self.device.take(size)
        if not isinstance(data, int):
            transfer.data[:size] = data
        transfer.header, transfer.on_done = name, self._done
        submit = self.device.submit_bulk if kind == "bulk" else self.device.submit_interrupt
        assert submit(transfer, endpoint, size) is Status.COMPLETED
        return transfer

    def _done(self, transfer) -> None:
        self.ended.append((transfer.header, Status(transfer.status), bytes(transfer.data[: transfer.actual])))
        self.device.give_back(transfer)

    def control(self, kind: int, request: int, value: int = 0, index: int = 0, data: bytes | int = 0):
        """(status, data) of a control transfer."""
        size = data if isinstance(data, int) else len(data)
        transfer = self.device.take(size)
        transfer.setup[:] = SetupPacket(kind, request, value, index, size).pack()
        if not isinstance(data, int):
            transfer.data[:size] = data
        transfer.header, transfer.on_done = "control", self._done
        assert self.device.submit_control(transfer, size) is Status.COMPLETED
        self.device.reap()
        return self.ended.pop([name for name, _, _ in self.ended].index("control"))[1:]
