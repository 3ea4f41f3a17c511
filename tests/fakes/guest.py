"""The other end of `redirect.Host`: a usbredir guest of which the test decides every packet, and the two joined."""

from usbbridge.backend.base import Device, Transfer
from usbbridge.redirect.host import Host, Progress
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.packets import (
    BufferedBulkPacket,
    BulkPacket,
    ControlPacket,
    Hello,
    InterruptPacket,
    IsoPacket,
    Packet,
)
from usbbridge.usbredir.proto import ALL_CAPS, Cap, PacketType, Role


class Ear:
    """A codec's sink that writes everything down, as (id, packet)."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, Packet]] = []

    def take(self) -> list[tuple[int, Packet]]:
        heard, self.heard = self.heard, []
        return heard

    def packet(self, packet_id: int, packet: Packet) -> None:
        self.heard.append((packet_id, packet))

    def control(self, packet_id: int, *fields: int | memoryview) -> None:
        *numbers, data = fields
        self.heard.append((packet_id, ControlPacket(*numbers, bytes(data))))

    def bulk(self, packet_id: int, *fields: int | memoryview) -> None:
        *numbers, data = fields
        self.heard.append((packet_id, BulkPacket(*numbers, bytes(data))))

    def interrupt(self, packet_id: int, *fields: int | memoryview) -> None:
        *numbers, data = fields
        self.heard.append((packet_id, InterruptPacket(*numbers, bytes(data))))

    def iso(self, packet_id: int, *fields: int | memoryview) -> None:
        *numbers, data = fields
        self.heard.append((packet_id, IsoPacket(*numbers, bytes(data))))

    def buffered_bulk(self, packet_id: int, *fields: int | memoryview) -> None:
        *numbers, data = fields
        self.heard.append((packet_id, BufferedBulkPacket(*numbers, bytes(data))))

    def data_area(self, kind: PacketType, endpoint: int, length: int) -> memoryview | None:
        return None


class FakeGuest:
    """What it says waits in `out`; what it hears is in `ear`."""

    def __init__(self, caps: Cap = ALL_CAPS) -> None:
        self.ear = Ear()
        self.codec = Codec(Role.GUEST, caps, "guest", self.ear)
        self.out = bytearray(self.codec.hello())

    def say(self, packet: Packet, packet_id: int = 0) -> None:
        self.out += self.codec.encode(packet, packet_id)

    def control(
        self, packet_id: int, requesttype: int, request: int, value: int, index: int, length: int, data: bytes = b""
    ) -> None:
        """`data` is sent if the request goes to the device; `length` is wLength."""
        fields = (requesttype & 0x80, request, requesttype, 0, value, index, length, len(data))
        self.out += self.codec.control_header(packet_id, *fields) + data

    def bulk(self, packet_id: int, endpoint: int, length: int = 0, data: bytes = b"", stream_id: int = 0) -> None:
        """IN: ask for `length` bytes; OUT: send `data`."""
        self.out += self.codec.bulk_header(packet_id, endpoint, 0, length or len(data), stream_id, len(data)) + data

    def interrupt(self, packet_id: int, endpoint: int, data: bytes) -> None:
        self.out += self.codec.interrupt_header(packet_id, endpoint, 0, len(data), len(data)) + data

    def iso(self, packet_id: int, endpoint: int, data: bytes) -> None:
        self.out += self.codec.iso_header(packet_id, endpoint, 0, len(data), len(data)) + data

    def take_out(self) -> bytes:
        out = bytes(self.out)
        self.out.clear()
        return out


class Rig:
    """A host with its device and a guest, joined by hand: bytes go `step` at a time, in both directions."""

    def __init__(
        self, device: Device, *, caps: Cap = ALL_CAPS, step: int = 1 << 30, quirks: tuple[str, ...] = ()
    ) -> None:
        self.device, self.step = device, step
        self.progress: list[Progress] = []
        self.now = 1000.0
        self.host = Host(
            device,
            version="usbbridge test",
            on_progress=self.progress.append,
            clock=lambda: self.now,
            quirks=quirks,
        )
        self.guest = FakeGuest(caps)
        self.unwritten: list[tuple[list[bytes | memoryview], list[Transfer]]] = []

    def attach(self) -> "Rig":
        """Both hellos and the announcement, of which the guest forgets."""
        self.host.start()
        self.settle()
        self.guest.ear.take()
        return self

    def settle(self) -> None:
        """Carry bytes both ways and let host and device work until nothing happens any more."""
        while self.to_host() | self.work() | self.to_guest():
            pass

    def work(self) -> bool:
        reaped = self.device.reap()
        while self.host.due:
            self.host.service()
        self.host.read_ahead()
        return bool(reaped)

    def to_host(self) -> bool:
        data = self.guest.take_out()
        for start in range(0, len(data), self.step):
            self.receive(data[start : start + self.step])
        return bool(data)

    def receive(self, data: bytes) -> None:
        """Give these bytes to the host as a socket does: into its own buffer."""
        rest = memoryview(data)
        while rest:
            target = self.host.codec.buffer()
            n = min(len(target), len(rest))
            target[:n] = rest[:n]
            self.host.codec.received(n)
            rest = rest[n:]

    def take_outbox(self) -> tuple[list[bytes | memoryview], list[Transfer]]:
        """What a writer would take: the parts, and the transfers to be released once they are written."""
        outbox = self.host.outbox
        taken = outbox.parts, outbox.held
        outbox.parts, outbox.held = [], []
        assert outbox.size == sum(map(len, taken[0])), "the outbox counts wrong"
        outbox.size = 0
        return taken

    def to_guest(self) -> bool:
        parts, held = self.take_outbox()
        data = b"".join(parts)
        for start in range(0, len(data), self.step):
            self.guest.codec.feed(data[start : start + self.step])
        self.host.sent(held)
        return bool(data)

    def ask(self, packet: Packet, packet_id: int = 0) -> list[tuple[int, Packet]]:
        """Let the guest say a packet; everything it hears until all is quiet."""
        self.guest.say(packet, packet_id)
        return self.answers()

    def answers(self) -> list[tuple[int, Packet]]:
        """Everything the guest hears until all is quiet, hellos aside."""
        self.settle()
        return [(packet_id, packet) for packet_id, packet in self.guest.ear.take() if not isinstance(packet, Hello)]

    def settle_quietly(self) -> None:
        """`settle` after the host has failed: as the encoder does when it says goodbye, `service` is left out."""
        while self.to_host() | bool(self.device.reap()) | self.to_guest():
            pass
