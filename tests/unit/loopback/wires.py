"""What the tests of the guest's side join it to, without sockets."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from usbbridge.backend.base import Device
from usbbridge.errors import UsbBridgeError
from usbbridge.loopback.admission import Announcement
from usbbridge.loopback.guest import Guest
from usbbridge.loopback.tasks import Job, Reply, Request, Task
from usbbridge.redirect.host import Host
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.packets import DeviceConnect, EndpointEntry, EpInfo, InterfaceEntry, InterfaceInfo, Packet
from usbbridge.usbredir.proto import ALL_CAPS, Cap, EndpointType, PacketType, Role

T = TypeVar("T")

CONNECT = DeviceConnect(2, 0, 0, 0, 0x46F4, 1, 0x100)
INTERFACES = InterfaceInfo((InterfaceEntry(0, 8, 6, 0x50),))
BULK = EndpointEntry(EndpointType.BULK, 0, 0, 512)
ENDPOINTS = EpInfo(tuple(BULK if index in (0x02, 0x11) else EndpointEntry() for index in range(32)))


class Recorder:
    """A guest's watcher that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def announced(self, device: Announcement) -> None:
        self.told.append("announced")

    def rejected(self, reason: str) -> None:
        self.told.append(f"rejected: {reason}")

    def detached(self) -> None:
        self.told.append("detached")


class Scripted:
    """A usb-host whose every packet the test decides on; it takes down what the guest sends."""

    def __init__(self, *, caps: Cap = ALL_CAPS, guest_caps: Cap = ALL_CAPS, rules: str = "") -> None:
        self.watcher = Recorder()
        self.guest = Guest(self.watcher, caps=guest_caps, rules=rules)
        self.codec = Codec(Role.HOST, caps, "scripted", self)
        self.packets: list[tuple[int, Packet]] = []
        "(id, packet) the guest has sent, data packets aside."
        self.transfers: list[tuple[int, int, int, bytes]] = []
        "(id, endpoint, length, data) of bulk, interrupt and control packets."
        self.guest.feed(self.codec.hello())
        self.carry()

    def carry(self) -> None:
        """Bring what the guest has sent."""
        for part in self.guest.take_output():
            self.codec.feed(part)

    def say(self, packet: Packet, packet_id: int = 0) -> None:
        """Send the guest a packet and bring what it answers."""
        self.guest.feed(self.codec.encode(packet, packet_id))
        self.carry()

    def attach(self, connect: DeviceConnect = CONNECT) -> None:
        """Announce a device in the usual order."""
        self.say(INTERFACES)
        self.say(ENDPOINTS)
        self.say(connect)

    def submit(self, request: Request) -> tuple[int, list[Reply | UsbBridgeError]]:
        """Submit a request as a driver would: its id, and where its reply will be."""
        ends: list[Reply | UsbBridgeError] = []
        request_id = self.guest.submit(request, ends.append, ends.append)
        self.carry()
        return request_id, ends

    def kinds(self) -> list[PacketType]:
        return [packet.type for _, packet in self.packets]

    def packet(self, packet_id: int, packet: Packet) -> None:
        self.packets.append((packet_id, packet))

    def control(
        self,
        packet_id: int,
        endpoint: int,
        request: int,
        requesttype: int,
        status: int,
        value: int,
        index: int,
        length: int,
        data: memoryview,
    ) -> None:
        self.transfers.append((packet_id, endpoint, length, bytes(data)))

    def bulk(self, packet_id: int, endpoint: int, status: int, length: int, stream_id: int, data: memoryview) -> None:
        self.transfers.append((packet_id, endpoint, length, bytes(data)))

    def interrupt(self, packet_id: int, endpoint: int, status: int, length: int, data: memoryview) -> None:
        self.transfers.append((packet_id, endpoint, length, bytes(data)))

    def iso(self, packet_id: int, endpoint: int, status: int, length: int, data: memoryview) -> None:
        raise AssertionError("the guest starts no isochronous stream")

    def buffered_bulk(
        self, packet_id: int, stream_id: int, length: int, endpoint: int, status: int, data: memoryview
    ) -> None:
        raise AssertionError("a guest sends no buffered bulk packets")

    def data_area(self, kind: PacketType, endpoint: int, length: int) -> memoryview | None:
        return None


class Wire:
    """The guest joined to the real usb-host (`redirect`) with a device; bytes are carried `step` at a time."""

    def __init__(self, device: Device, *, step: int = 1 << 20, caps: Cap = ALL_CAPS, rules: str = "") -> None:
        self._step = step
        self.device = device
        self.watcher = Recorder()
        self.guest = Guest(self.watcher, caps=caps, rules=rules)
        self.host = Host(device, version="test", on_progress=lambda progress: None, clock=time.monotonic)
        self.host.start()
        self.pump()

    def pump(self) -> None:
        """Carry bytes both ways and let the device work, until nothing happens any more."""
        while self._to_host() | self._work() | self._to_guest():
            pass

    def run(self, task: Task[T]) -> T:
        """Run a driver's task to its end."""
        finished: list[Job[T]] = []
        Job(self.guest, task, finished.append).start()
        self.pump()
        assert finished, "the task waits for a reply that doesn't come"
        return finished[0].result()

    def _work(self) -> bool:
        reaped = self.device.reap()
        self.host.service()
        self.host.read_ahead()
        return bool(reaped)

    def _to_host(self) -> bool:
        return self._carry(self.guest.take_output(), self.host.codec.feed)

    def _to_guest(self) -> bool:
        outbox = self.host.outbox
        parts, held = list(outbox.parts), list(outbox.held)
        outbox.parts.clear()
        outbox.held.clear()
        outbox.size = 0
        carried = self._carry(parts, self.guest.feed)
        self.host.sent(held)
        return carried

    def _carry(self, parts: Sequence[bytes | bytearray | memoryview], feed: Callable[[bytes], None]) -> bool:
        data = b"".join(parts)
        for start in range(0, len(data), self._step):
            feed(data[start : start + self._step])
        return bool(data)
