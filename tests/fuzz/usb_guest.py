"""The guest of the redirection target: it sends whatever an input says, and believes nothing that it is told.

What it is told goes through our own decoder in the guest's role, which refuses every illegal packet, and is held
against what a decoder of the host's role has made of the same input: each request is answered once, and nothing is sent
that was not asked for.
"""

from collections import Counter
from typing import Final

from usbbridge.redirect.limits import MAX_TRANSFER
from usbbridge.usbredir import packets
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.proto import ALL_CAPS, REQUIRED_CAP, Cap, PacketType, Role, Status
from usbbridge.usbredir.state import State

_T = PacketType

ANSWERS: Final = {
    _T.SET_CONFIGURATION: _T.CONFIGURATION_STATUS,
    _T.GET_CONFIGURATION: _T.CONFIGURATION_STATUS,
    _T.SET_ALT_SETTING: _T.ALT_SETTING_STATUS,
    _T.GET_ALT_SETTING: _T.ALT_SETTING_STATUS,
    _T.CONTROL_PACKET: _T.CONTROL_PACKET,
    _T.BULK_PACKET: _T.BULK_PACKET,
    _T.ALLOC_BULK_STREAMS: _T.BULK_STREAMS_STATUS,
    _T.FREE_BULK_STREAMS: _T.BULK_STREAMS_STATUS,
    _T.INTERRUPT_PACKET: _T.INTERRUPT_PACKET,
}
"What has exactly one answer, of the same id; interrupt packets of OUT endpoints only."

STARTS: Final = {
    _T.START_ISO_STREAM: _T.ISO_STREAM_STATUS,
    _T.START_INTERRUPT_RECEIVING: _T.INTERRUPT_RECEIVING_STATUS,
    _T.START_BULK_RECEIVING: _T.BULK_RECEIVING_STATUS,
}
"What has an answer for the endpoint, besides which there may be others that nobody has asked for."

STREAM_DATA: Final = {
    _T.ISO_PACKET: _T.ISO_STREAM_STATUS,
    _T.INTERRUPT_PACKET: _T.INTERRUPT_RECEIVING_STATUS,
    _T.BUFFERED_BULK_PACKET: _T.BULK_RECEIVING_STATUS,
}
"Data that comes only while its endpoint is said to be started."

STATUSES: Final = (packets.IsoStreamStatus, packets.InterruptReceivingStatus, packets.BulkReceivingStatus)

HELLO_BYTES: Final = 80
"A hello with one word of capabilities, its header included."


class _Ear:
    """A codec's sink that counts what comes: by (type, id) and, for streams, by (type, endpoint)."""

    def __init__(self) -> None:
        self.heard: Counter[tuple[PacketType, int]] = Counter()
        self.endpoints: Counter[tuple[PacketType, int]] = Counter()

    def packet(self, packet_id: int, packet: packets.Packet) -> None:
        self.heard[packet.type, packet_id] += 1
        endpoint = getattr(packet, "endpoint", None)
        if endpoint is not None:
            self.endpoints[packet.type, endpoint] += 1

    def control(self, packet_id: int, *fields: int | memoryview) -> None:
        self.heard[_T.CONTROL_PACKET, packet_id] += 1

    def bulk(self, packet_id: int, *fields: int | memoryview) -> None:
        self.heard[_T.BULK_PACKET, packet_id] += 1

    def interrupt(self, packet_id: int, endpoint: int, *fields: int | memoryview) -> None:
        if endpoint & 0x80:
            self.stream(_T.INTERRUPT_PACKET, endpoint)
        else:
            self.heard[_T.INTERRUPT_PACKET, packet_id] += 1

    def iso(self, packet_id: int, endpoint: int, *fields: int | memoryview) -> None:
        if endpoint & 0x80:
            self.stream(_T.ISO_PACKET, endpoint)

    def buffered_bulk(self, packet_id: int, stream_id: int, length: int, endpoint: int, *fields: object) -> None:
        self.stream(_T.BUFFERED_BULK_PACKET, endpoint)

    def stream(self, kind: PacketType, endpoint: int) -> None:
        self.endpoints[kind, endpoint] += 1

    def data_area(self, kind: PacketType, endpoint: int, length: int) -> memoryview | None:
        return None


class _GuestEar(_Ear):
    """Hears the host, and objects to stream data of an endpoint that does not run."""

    def __init__(self, requests: _Ear) -> None:
        super().__init__()
        self._requests = requests
        self._running: set[tuple[PacketType, int]] = set()
        "Kind of status and endpoint."

    def packet(self, packet_id: int, packet: packets.Packet) -> None:
        super().packet(packet_id, packet)
        if isinstance(packet, packets.DeviceDisconnect):
            self._running.clear()
        elif packet.type in STARTS.values():
            self._told(packet_id, packet)

    def _told(self, packet_id: int, packet: packets.Packet) -> None:
        """How it stands with a stream. A start and a stop are both answered by a success: the id tells which it was.
        What is stalled does not run, whether that was asked for or not."""
        start = next(start for start, status in STARTS.items() if status is packet.type)
        assert isinstance(packet, STATUSES)
        stream, asked = (packet.type, packet.endpoint), self._requests.heard[start, packet_id] > 0
        if packet.status == Status.SUCCESS and asked:
            self._running.add(stream)
        elif packet.status == Status.STALL or (packet.status == Status.SUCCESS and not asked):
            self._running.discard(stream)

    def stream(self, kind: PacketType, endpoint: int) -> None:
        assert (STREAM_DATA[kind], endpoint) in self._running, f"{kind.name} of {endpoint:#04x}, which does not run"


class Guest:
    """Speaks with `caps`. A `raw` one says its hello itself, and has the capabilities that are in that."""

    def __init__(self, caps: Cap, *, raw: bool = False) -> None:
        self._raw = raw
        self._unheard = b""
        self._requests = _Ear()
        self._answers = _GuestEar(self._requests)
        self.codec = Codec(Role.GUEST, caps, "guest", self._answers)
        self._listener = Codec(Role.HOST, ALL_CAPS, "listener", self._requests, max_payload=MAX_TRANSFER)
        self._listener.hello()
        self.hello = self.codec.hello()

    def says(self, data: bytes, host: State) -> None:
        """These bytes go to the host, which is in this state. Raises RemoteProtocolError, as the host then does."""
        if host is State.WAIT_ACK and self._listener.state is not host:
            self._listener.encode(packets.DeviceDisconnect())  # only after that a guest may acknowledge it
        self._listener.feed(data)

    def hears(self, data: bytes) -> None:
        """These bytes came from the host: all legal, and nothing that was not asked for."""
        self._unheard += data
        if self._raw and not self._agreed():
            assert len(self._unheard) == HELLO_BYTES, "more than a hello is sent before the guest's has come"
            return
        heard, self._unheard = self._unheard, b""
        self.codec.feed(heard)
        unasked = self._told() - self._expected()
        assert not unasked, f"answers that nobody asked for: {unasked}"

    def _agreed(self) -> bool:
        """Take the capabilities from the hello that was said, once there is one."""
        caps = self._listener.peer_caps
        if caps is not None:
            self._raw = False
            self.codec = Codec(Role.GUEST, caps, "guest", self._answers)
            self.codec.hello()
        return caps is not None

    def has_all_answers(self) -> None:
        """Nothing that was asked is without an answer."""
        missing = self._expected() - self._told()
        assert not missing, f"requests without an answer: {missing}"
        for (kind, endpoint), count in self._requests.endpoints.items():
            if kind in STARTS and self._may_be_answered(kind):
                told = self._answers.endpoints[STARTS[kind], endpoint]
                assert told >= count, f"{kind.name} of endpoint {endpoint:#04x}: {count} asked, {told} answered"

    def _may_be_answered(self, kind: PacketType) -> bool:
        """A guest that asks for what it has not said it can do has no answer that it would understand."""
        return REQUIRED_CAP.get(kind, Cap(0)) in self._listener.negotiated

    def _expected(self) -> Counter[tuple[PacketType, int]]:
        expected: Counter[tuple[PacketType, int]] = Counter()
        for (kind, packet_id), count in self._requests.heard.items():
            if kind in ANSWERS and self._may_be_answered(kind):
                expected[ANSWERS[kind], packet_id] += count
        return expected

    def _told(self) -> Counter[tuple[PacketType, int]]:
        kinds = set(ANSWERS.values())
        return Counter({key: count for key, count in self._answers.heard.items() if key[0] in kinds})
