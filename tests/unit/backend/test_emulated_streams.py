"""Bulk streams of the engine: a device whose streams each echo what they were sent."""

from collections import deque
from collections.abc import Iterator

import pytest

from tools.lab.devices.describe import BULK, configuration, device, endpoint, interface, model
from usbbridge.backend.base import Status
from usbbridge.backend.emulated.device import EmulatedDevice
from usbbridge.backend.emulated.function import NAK, STALL, Function
from usbbridge.backend.emulated.pool import EmulatedTransfer
from usbbridge.errors import DeviceError
from usbbridge.usb.ch9 import SetupPacket, Speed

IN, OUT, PLAIN = 0x81, 0x02, 0x83
COMPANION = (0, 4, 0)
"bmAttributes of the companion: 2^4 streams."


class Echo(Function):
    """Sends on each stream what came on that stream; the message STALLING is answered with a STALL."""

    STALLING = b"stall"

    def __init__(self) -> None:
        ends = [endpoint(address, BULK, 1024, companion=COMPANION) for address in (IN, OUT)]
        ends.append(endpoint(PLAIN, BULK, 1024, companion=(0, 0, 0)))
        parts = configuration(interface(0, 0xFF, endpoints=ends))
        self.model = model(device(1, 2, bcd_usb=0x0300, max_packet_size0=9), parts, speed=Speed.SUPER)
        self.waiting: dict[int, deque[bytes]] = {}

    def send_stream(self, endpoint: int, stream: int, data: memoryview) -> int:
        waiting = self.waiting.get(stream)
        if not waiting:
            return NAK
        message = waiting.popleft()
        if message == self.STALLING:
            return STALL
        data[: len(message)] = message
        return len(message)

    def receive_stream(self, endpoint: int, stream: int, data: memoryview) -> int:
        self.waiting.setdefault(stream, deque()).append(bytes(data))
        return len(data)

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        return STALL

    def send(self, endpoint: int, data: memoryview) -> int:
        return NAK

    def receive(self, endpoint: int, data: memoryview) -> int:
        return STALL

    def restart(self) -> None:
        """Nothing is under way."""

    def select(self, number: int, alternate: int) -> None:
        """There is one setting."""

    def close(self) -> None:
        """There is nothing to let go."""


class Owner:
    """Submits on streams, and notes what ends."""

    def __init__(self) -> None:
        self.device = EmulatedDevice(Echo(), "echo")
        self.ended: list[tuple[int, Status, bytes]] = []

    def submit(self, endpoint: int, stream: int, data: bytes = b"") -> tuple[Status, EmulatedTransfer]:
        size = len(data) or 64
        transfer = self.device.take(size)
        transfer.data[: len(data)] = data
        transfer.on_done = self._done
        return self.device.submit_bulk_stream(transfer, endpoint, size, stream), transfer

    def _done(self, transfer: EmulatedTransfer) -> None:
        data = bytes(transfer.data[: transfer.actual]) if transfer.endpoint == IN else b""
        self.ended.append((transfer.stream, Status(transfer.status), data))
        self.device.give_back(transfer)

    def reap(self) -> list[tuple[int, Status, bytes]]:
        self.device.reap()
        ended, self.ended = self.ended, []
        return ended


@pytest.fixture
def owner() -> Iterator[Owner]:
    made = Owner()
    yield made
    made.device.close()


def test_streams_end_in_the_order_in_which_the_device_serves_them(owner: Owner) -> None:
    assert owner.device.alloc_streams(4, [IN, OUT]) == 4
    for stream in (1, 2, 3):
        assert owner.submit(IN, stream)[0] is Status.COMPLETED
    owner.submit(OUT, 3, b"three")
    owner.submit(OUT, 1, b"one")
    ended = [(stream, data) for stream, status, data in owner.reap() if data and not status]
    assert ended == [(3, b"three"), (1, b"one")]
    assert owner.device.in_flight() == 1


def test_there_are_as_many_as_the_device_offers(owner: Owner) -> None:
    assert owner.device.alloc_streams(1000, [IN, OUT]) == 16
    assert owner.submit(IN, 16)[0] is Status.COMPLETED
    assert owner.submit(IN, 17)[0] is Status.ERROR
    assert owner.submit(IN, 0)[0] is Status.ERROR


def test_an_endpoint_without_streams_has_none_made(owner: Owner) -> None:
    with pytest.raises(DeviceError, match="no bulk streams on endpoints 0x81, 0x83"):
        owner.device.alloc_streams(4, [IN, PLAIN])
    assert owner.submit(IN, 1)[0] is Status.ERROR


def test_an_endpoint_takes_streams_or_transfers_without_one(owner: Owner) -> None:
    transfer = owner.device.take(64)
    transfer.on_done = owner._done
    owner.device.alloc_streams(4, [IN, OUT])
    assert owner.device.submit_bulk(transfer, IN, 64) is Status.ERROR
    owner.device.free_streams([IN, OUT])
    assert owner.submit(IN, 1)[0] is Status.ERROR
    assert owner.device.submit_bulk(transfer, IN, 64) is Status.COMPLETED


def test_a_halt_is_the_endpoints_whatever_stream_it_comes_from(owner: Owner) -> None:
    owner.device.alloc_streams(4, [IN, OUT])
    owner.submit(IN, 1)
    owner.submit(IN, 2)
    owner.submit(OUT, 2, Echo.STALLING)
    owner.reap()
    assert owner.submit(IN, 3)[0] is Status.COMPLETED
    assert (3, Status.STALL, b"") in owner.reap()
    owner.device.clear_halt(IN)
    owner.submit(IN, 3)
    owner.submit(OUT, 3, b"again")
    assert (3, Status.COMPLETED, b"again") in owner.reap()


def test_a_cancelled_transfer_of_a_stream_ends_alone(owner: Owner) -> None:
    owner.device.alloc_streams(4, [IN, OUT])
    owner.submit(IN, 1)
    _, second = owner.submit(IN, 2)
    owner.device.cancel(second)
    assert owner.reap() == [(2, Status.CANCELLED, b"")]
    assert owner.device.in_flight() == 1


def test_a_new_configuration_has_no_streams(owner: Owner) -> None:
    owner.device.alloc_streams(4, [IN, OUT])
    owner.submit(IN, 2)
    owner.device.set_configuration(1)
    assert owner.reap() == [(2, Status.CANCELLED, b"")]
    assert owner.submit(IN, 2)[0] is Status.ERROR
