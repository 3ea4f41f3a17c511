"""The guest that plays a script: says what it says, and writes down what it hears, step by step."""

import select
import socket
import time
import zlib
from collections.abc import Callable, Mapping

from tests.fakes.guest import Ear
from tests.integration.parity.script import ALL_OF, Act, Raw, Said, Script, Step
from usbbridge.errors import LocalProtocolError, RemoteProtocolError
from usbbridge.usbredir import packets as p
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.proto import EndpointType, PacketType, Role

SECONDS = 10.0
"How long an answer is waited for that does not come. Only differences cost that, and only those that are not listed."
PATIENCE = 30.0
"How long what must come is waited for: on a busy machine a device is attached in seconds."
STEADY = 10
"How many times in a row an answer has to be the same: each takes longer than the service interval of a frame."
FENCES = range(0x7F00_0000, 0x7FFF_FFFF)
"Ids of the guest's own questions, whose answers are not written down."
LONG = 24
"Bytes of data that are written down as they are; more by their CRC."


Heard = dict[str, list[str]]
"What was heard in each step, by its label."


class Guest:
    """One run of one script against one host. `act` does what is not said on the wire. `expected` is, for some steps,
    how many packets the host is known to answer with, flowing data aside, if that differs from what the script says."""

    def __init__(
        self, sock: socket.socket, script: Script, act: Callable[[Act], None], expected: Mapping[str, int]
    ) -> None:
        self._sock, self._script, self._act, self._expected = sock, script, act, expected
        self._ear = Ear()
        self._codec = Codec(Role.GUEST, script.caps, "parity", self._ear)
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)
        self._wire = bytearray()
        self._refused = ""
        self._unsaid: list[str] = []
        self._ended = False
        self._fences = FENCES.start

    def play(self) -> Heard:
        """Say it all."""
        heard: Heard = {}
        for step in self._script.steps:
            if self._ended:
                break
            assert step.label not in heard, f"two steps of {self._script.name} are called {step.label}"
            heard[step.label] = self._play(step)
        return heard

    def _play(self, step: Step) -> list[str]:
        del self._wire[:]
        self._unsaid.clear()
        self._say(step)
        deadline = time.monotonic() + (SECONDS if self._codec.peer_caps is not None else PATIENCE)
        while not self._enough(step) and not self._ended and time.monotonic() < deadline:
            self._listen(deadline)
        wire = self._wire.hex()
        if step.fence:
            self._fence()
        found = self._ear.take()
        lines = self._unsaid + [show(number, packet) for number, packet in self._kept(step, found)]
        if step.bytes:
            lines.append(f"bytes {wire}")
        if step.unordered:
            lines.sort()
        return lines + [self._refused] * bool(self._refused) + ["end of the connection"] * self._ended

    def _say(self, step: Step) -> None:
        for thing in step.things:
            if thing is Act.SETTLE:
                self._settle(step)
            elif isinstance(thing, Act):
                self._act(thing)
            elif isinstance(thing, Raw):
                self._send(thing.data)
            elif thing.packet.type is PacketType.HELLO:
                self._send(self._codec.hello())
            elif not self._ended:
                self._say_packet(thing)

    def _say_packet(self, said: Said) -> None:
        try:
            self._send(encoded(self._codec, said))
        except LocalProtocolError as error:  # both hosts' words decide what their guest may say
            self._unsaid.append(f"the guest may not say {said.packet.type.name.lower()}: {error}")

    def _settle(self, step: Step) -> None:
        """Ask the step's question until the answer stays the same: what is under way has arrived, then."""
        question = next(each.packet for each in step.things if isinstance(each, Said))
        answers: list[p.Packet] = []
        deadline = time.monotonic() + PATIENCE
        while len(answers) < STEADY or len(set(answers[-STEADY:])) > 1:
            self._fences += 1
            self._send(encoded(self._codec, Said(self._fences, question)))
            while not self._fence_heard() and not self._ended and time.monotonic() < deadline:
                self._listen(deadline)
            if self._ended or time.monotonic() > deadline:
                break
            answers.append(self._ear.heard[-1][1])

    def _send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError:
            self._ended = True

    def _listen(self, deadline: float) -> None:
        if not self._poller.poll(max(deadline - time.monotonic(), 0) * 1000):
            return
        try:
            data = self._sock.recv(1 << 18)
        except OSError:
            data = b""
        if not data:
            self._ended = True
        self._wire += data
        if self._refused:
            return
        try:
            self._codec.feed(data)
        except RemoteProtocolError as error:
            self._refused = f"the guest can't take it: {error}"

    # ---- when a step is over

    def _enough(self, step: Step) -> bool:
        heard = [packet for number, packet in self._ear.heard if number not in FENCES]
        flowing = sum(packet.type in FLOWS for packet in heard)
        replies = self._expected.get(step.label, step.replies)
        return len(heard) - flowing >= replies and flowing >= step.flow

    def _fence(self) -> None:
        """Ask what is answered at once: what was to be answered at once before it has been, then."""
        if self._ended or self._refused or self._codec.peer_caps is None:
            return
        self._fences += 1
        self._send(self._codec.encode(p.GetConfiguration(), self._fences))
        deadline = time.monotonic() + PATIENCE
        while not self._fence_heard() and not self._ended and time.monotonic() < deadline:
            self._listen(deadline)

    def _fence_heard(self) -> bool:
        return any(number == self._fences for number, _ in reversed(self._ear.heard))

    def _kept(self, step: Step, found: list[tuple[int, p.Packet]]) -> list[tuple[int, p.Packet]]:
        """What is written down: of data that flows by itself no more than the step waits for."""
        left, kept = step.flow, []
        for number, packet in found:
            if number in FENCES:
                continue
            if packet.type in FLOWS and step.flow != ALL_OF:
                left -= 1
                if left < 0:
                    continue
            kept.append((number, packet))
        return kept


FLOWS = (PacketType.ISO_PACKET, PacketType.BUFFERED_BULK_PACKET)


def encoded(codec: Codec, said: Said) -> bytes:
    """A packet as its guest sends it, which may also be what it may not: then by hand."""
    packet, number = said.packet, said.id
    if isinstance(packet, p.ControlPacket):
        fields = (packet.endpoint, packet.request, packet.requesttype, 0, packet.value, packet.index, packet.length)
        return codec.control_header(number, *fields, len(packet.data)) + packet.data
    if isinstance(packet, p.BulkPacket):
        fields = (packet.endpoint, 0, packet.length, packet.stream_id, len(packet.data))
        return codec.bulk_header(number, *fields) + packet.data
    if isinstance(packet, p.InterruptPacket):
        return codec.interrupt_header(number, packet.endpoint, 0, packet.length, len(packet.data)) + packet.data
    if isinstance(packet, p.IsoPacket):
        return codec.iso_header(number, packet.endpoint, 0, packet.length, len(packet.data)) + packet.data
    return codec.encode(packet, number)


# ---- how a packet is written down


def show(number: int, packet: p.Packet) -> str:
    """One line that says everything the packet says."""
    name = packet.type.name.lower()
    if isinstance(packet, p.EpInfo):
        return " ".join((name, ", ".join(_endpoint(at, e) for at, e in enumerate(packet.endpoints) if _exists(e))))
    if isinstance(packet, p.InterfaceInfo):
        each = (f"{i.interface}:{i.class_:02x}/{i.subclass:02x}/{i.protocol:02x}" for i in packet.interfaces)
        return " ".join((name, *[", ".join(each)] * bool(packet.interfaces)))
    fields = {field: getattr(packet, field) for field in packet.__slots__}
    if isinstance(packet, p.Hello):
        fields["caps"] = f"{int(packet.caps):#x}"
    if "data" in fields:
        fields["data"] = _data(fields["data"])
    words = (f"{field.rstrip('_')}={value}" for field, value in fields.items() if value != "")
    return " ".join((f"#{number}", name, *words))


def _exists(endpoint: p.EndpointEntry) -> bool:
    return endpoint != p.EndpointEntry()


def _endpoint(at: int, e: p.EndpointEntry) -> str:
    address = (at & 0x10) << 3 | at & 0x0F
    kind = EndpointType(e.type).name.lower()
    return f"{address:02x}:{kind}/{e.interval}/if{e.interface}/{e.max_packet_size}/{e.max_streams}"


def _data(data: bytes) -> str:
    return data.hex() if len(data) <= LONG else f"{len(data)}*{zlib.crc32(data):08x}"
