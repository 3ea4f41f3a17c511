"""A hostile guest: whatever bytes come, the host ends with a documented error or goes on, answers each request once,
and holds no more than its limits say."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.device import BULK_IN, BULK_OUT, INTERRUPT_IN, INTERRUPT_OUT, ISO_IN, ISO_OUT, UAS, FakeDevice
from tests.fakes.guest import Ear, FakeGuest, Rig
from usbbridge.backend.base import Device, Status
from usbbridge.backend.emulated.disk import open_disk
from usbbridge.errors import DeviceError, DeviceLostError, LocalProtocolError, RefusedError, RemoteProtocolError
from usbbridge.redirect.limits import (
    BULK_BACKLOG,
    ISO_BACKLOG,
    MAX_PENDING,
    MAX_PENDING_BYTES,
    MAX_REPORT_BYTES,
    MAX_REPORT_TRANSFERS,
    MAX_STREAM_BYTES,
    MAX_STREAM_TRANSFERS,
    MAX_TRANSFER,
    OUTBOX_HIGH,
    STREAM_DROP,
)
from usbbridge.usb.ch9 import Speed
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.packets import (
    AllocBulkStreams,
    AltSettingStatus,
    BulkPacket,
    BulkStreamsStatus,
    CancelDataPacket,
    ConfigurationStatus,
    ControlPacket,
    DeviceDisconnect,
    FilterFilter,
    FilterReject,
    FreeBulkStreams,
    GetAltSetting,
    GetConfiguration,
    InterruptPacket,
    Packet,
    Reset,
    SetAltSetting,
    SetConfiguration,
    StartBulkReceiving,
    StartInterruptReceiving,
    StartIsoStream,
    StopBulkReceiving,
    StopInterruptReceiving,
    StopIsoStream,
)
from usbbridge.usbredir.proto import ALL_CAPS, Cap, Role

ANSWER: dict[type[Packet], type[Packet]] = {
    SetConfiguration: ConfigurationStatus,
    GetConfiguration: ConfigurationStatus,
    SetAltSetting: AltSettingStatus,
    GetAltSetting: AltSettingStatus,
    ControlPacket: ControlPacket,
    BulkPacket: BulkPacket,
    AllocBulkStreams: BulkStreamsStatus,
    FreeBulkStreams: BulkStreamsStatus,
}
"What has exactly one answer, of the same id. (Interrupt packets, too, but those of IN endpoints are unasked.)"

SIZES = st.sampled_from([0, 1, 31, 512, 4096, 20_000])
IDS = st.integers(1, 6)
SMALL = st.integers(0, 3)
REQUEST_TYPES = st.sampled_from([0x00, 0x80, 0x01, 0x81, 0x02, 0x82, 0x21, 0xA1, 0x40, 0xC0])
ENDPOINTS_IN = st.sampled_from([BULK_IN, INTERRUPT_IN, ISO_IN, 0x80, 0x8E])
ENDPOINTS_OUT = st.sampled_from([BULK_OUT, INTERRUPT_OUT, ISO_OUT, 0x00, 0x0E])
COUNTS = st.sampled_from([0, 1, 1, 2, 3, 16, 17, 32, 33, 255])
MASKS = st.sampled_from([0x000A_0004, 0x0002_0000, 0x0000_0004, 0, 0xFFFF_FFFF])
"Of endpoints: those with streams of a UAS disk; one of them; none; all."

Say = Callable[[FakeGuest], None]


def control(packet_id: int, requesttype: int, request: int, value: int, index: int, size: int) -> Say:
    length = min(size, 0xFFFF)
    return lambda guest: guest.control(
        packet_id, requesttype, request, value, index, length, b"" if requesttype & 0x80 else bytes(length)
    )


def bulk_out(packet_id: int, endpoint: int, size: int, stream: int) -> Say:
    return lambda guest: guest.bulk(packet_id, endpoint, 0, bytes(size), stream)


def bulk_in(packet_id: int, endpoint: int, size: int, stream: int) -> Say:
    return lambda guest: guest.bulk(packet_id, endpoint, size, b"", stream)


def iso_out(packet_id: int, endpoint: int, size: int, count: int) -> Say:
    def say(guest: FakeGuest) -> None:
        for _ in range(count):
            guest.iso(packet_id, endpoint, bytes(size))

    return say


def playing(packets: int, urbs: int, count: int) -> Say:
    """An isochronous stream with packets for it."""

    def say(guest: FakeGuest) -> None:
        guest.say(StartIsoStream(ISO_OUT, packets, urbs))
        iso_out(1, ISO_OUT, 100, count)(guest)

    return say


def on_streams(packet_id: int, mask: int, count: int) -> Say:
    """A disk's setting with streams, and transfers on them."""

    def say(guest: FakeGuest) -> None:
        guest.say(SetAltSetting(0, 1), packet_id)
        guest.say(AllocBulkStreams(mask, count), packet_id)
        guest.bulk(packet_id, BULK_OUT, 0, bytes(20_000), count)
        guest.bulk(packet_id, BULK_IN, 512, b"", 1)

    return say


def command(packet_id: int, packet: Packet) -> Say:
    return lambda guest: guest.say(packet, packet_id)


COMMANDS = st.one_of(
    st.builds(SetConfiguration, SMALL),
    st.just(GetConfiguration()),
    st.builds(SetAltSetting, SMALL, SMALL),
    st.builds(GetAltSetting, SMALL),
    st.builds(StartInterruptReceiving, ENDPOINTS_IN),
    st.builds(StopInterruptReceiving, ENDPOINTS_IN),
    st.builds(StartIsoStream, ENDPOINTS_IN | ENDPOINTS_OUT, COUNTS, COUNTS),
    st.builds(StopIsoStream, ENDPOINTS_IN | ENDPOINTS_OUT),
    st.builds(StartBulkReceiving, SMALL, st.sampled_from([0, 512, 513, 1024, 65536, 65537]), ENDPOINTS_IN, COUNTS),
    st.builds(StopBulkReceiving, SMALL, ENDPOINTS_IN),
    st.builds(AllocBulkStreams, MASKS, COUNTS),
    st.builds(FreeBulkStreams, MASKS),
    st.just(CancelDataPacket()),
    st.just(Reset()),
)
SAYINGS = st.one_of(
    st.builds(control, IDS, REQUEST_TYPES, st.sampled_from([0, 1, 5, 6, 9, 11, 0xFE, 0xFF]), SMALL, SMALL, SIZES),
    st.builds(bulk_out, IDS, ENDPOINTS_OUT, SIZES, st.sampled_from([0, 0, 0, 1])),
    st.builds(bulk_in, IDS, ENDPOINTS_IN, SIZES | st.just(MAX_TRANSFER + 1), SMALL),
    st.builds(lambda i, e, n: lambda guest: guest.interrupt(i, e, bytes(n)), IDS, ENDPOINTS_OUT, st.integers(0, 100)),
    st.builds(iso_out, IDS, ENDPOINTS_OUT, st.sampled_from([0, 1, 192, 193]), st.sampled_from([1, 1, 2, 300])),
    st.builds(command, IDS, COMMANDS),
    st.builds(playing, COUNTS, COUNTS, st.sampled_from([1, 5, 300])),
    st.builds(on_streams, IDS, MASKS, COUNTS),
)
RARE = st.sampled_from([FilterReject(), FilterFilter("-1,-1,-1,-1,0"), FilterFilter("-1,-1,-1,-1,1")])

# what is done to a recorded stream; positions are fractions of it, so that they shrink well
FRACTION = st.floats(0, 1, exclude_max=True)
MUTATIONS = st.one_of(
    st.tuples(st.just("flip"), FRACTION, st.integers(0, 255)),
    st.tuples(st.just("cut"), FRACTION, st.integers(1, 64)),
    st.tuples(st.just("insert"), FRACTION, st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("repeat"), FRACTION, st.integers(1, 200)),
    st.tuples(st.just("end"), FRACTION, st.none()),
)


def mutated(stream: bytes, mutations: Sequence[tuple[str, float, object]]) -> bytes:
    data = bytearray(stream)
    for kind, fraction, what in mutations:
        at = int(fraction * len(data))
        if kind == "flip" and data:
            data[at] = what
        elif kind == "cut":
            del data[at : at + what]
        elif kind == "insert":
            data[at:at] = what
        elif kind == "repeat":
            data[at:at] = data[at : at + what]
        elif kind == "end":
            del data[at:]
    return bytes(data)


class Listener(Ear):
    """What a faultless decoder makes of the same bytes: the requests that the host has to answer."""

    def __init__(self) -> None:
        super().__init__()
        self.codec = Codec(Role.HOST, ALL_CAPS, "listener", self)
        self.codec.hello()


class Session:
    """A host on which bytes are loosed in pieces, with its device working in between."""

    def __init__(self, device: Device, caps: Cap) -> None:
        self.rig = Rig(device, caps=caps)
        self.listener = Listener()
        self.error: Exception | None = None
        self.rig.host.start()
        self.feed(self.rig.guest.take_out())
        self.rig.settle()

    def feed(self, data: bytes) -> None:
        """One read from the socket and what follows it; documented errors end the session."""
        if self.error is not None:
            return
        with suppress(RemoteProtocolError):  # the host stops there, too
            self.listener.codec.feed(data)
        try:
            self.rig.receive(data)
            self.rig.work()
        except (RemoteProtocolError, RefusedError, DeviceError) as error:
            self.error = error
        self.check()

    def check(self) -> None:
        host = self.rig.host
        assert host.pending_bytes <= MAX_PENDING_BYTES + MAX_TRANSFER
        assert host.outbox.size <= OUTBOX_HIGH + MAX_PENDING_BYTES + STREAM_DROP + ISO_BACKLOG + BULK_BACKLOG
        assert host.outbox.size == sum(map(len, host.outbox.parts))

    def end(self) -> None:
        """As the encoder ends it, after an error or without one."""
        rig = self.rig
        if not isinstance(self.error, RemoteProtocolError):
            rig.host.disconnect()
        rig.to_guest()
        rig.host.close()

    def check_answers(self) -> None:
        """Each request was answered once, unless nothing may be said any more."""
        streams = Cap.BULK_STREAMS in self.listener.codec.negotiated
        asked = Counter((i, ANSWER[type(p)]) for i, p in self.listener.heard if type(p) in ANSWER)
        asked = Counter({key: n for key, n in asked.items() if streams or key[1] is not BulkStreamsStatus})
        asked += Counter((i, InterruptPacket) for i, p in self.listener.heard if type(p) is InterruptPacket)
        told = Counter((i, type(p)) for i, p in self.rig.guest.ear.heard if type(p) in ANSWER.values())
        told += Counter(
            (i, InterruptPacket)
            for i, p in self.rig.guest.ear.heard
            if type(p) is InterruptPacket and not p.endpoint & 0x80
        )
        assert not told - asked, "answers that nobody asked for"
        assert told == asked or isinstance(self.error, RemoteProtocolError)


def recorded(session: Session, sayings: Sequence[Say]) -> bytes:
    for say in sayings:
        with suppress(LocalProtocolError):  # more than this guest's capabilities can say
            say(session.rig.guest)
    return session.rig.guest.take_out()


def pieces(data: bytes, cuts: Sequence[float]) -> list[bytes]:
    places = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


def let_work(device: FakeDevice, choices: Sequence[tuple[int, Status]]) -> None:
    """End some of the transfers in flight, in any order and way."""
    for which, status in choices:
        if device.flying:
            transfer = device.flying[which % len(device.flying)]
            is_in = transfer.setup[0] & 0x80 if transfer.kind == "control" else transfer.endpoint & 0x80
            if transfer.kind == "iso" and which % 2:
                device.finish_iso(transfer, [bytes(is_in and transfer.lengths[0]), status])
            else:
                device.finish(transfer, status, bytes(transfer.length) if is_in and status is Status.COMPLETED else b"")


CAPS = st.sampled_from([ALL_CAPS, ALL_CAPS & ~Cap.IDS_64BIT, Cap.FILTER, Cap(0)])
CUTS = st.lists(FRACTION, max_size=6)
ENDINGS = st.sampled_from([status for status in Status if status is not Status.NO_DEVICE])
ENDS = st.lists(st.lists(st.tuples(st.integers(0, 30), ENDINGS), max_size=4), max_size=6)
BROKEN_CALLS = st.dictionaries(
    st.sampled_from(["claim", "reset", "set_configuration", "set_interface", "clear_halt", "alloc_streams"]),
    st.sampled_from([DeviceError("fails"), DeviceLostError("gone"), RefusedError("busy")]),
    max_size=1,
)


def run(session: Session, stream: bytes, cuts: Sequence[float], work: Callable[[int], None]) -> None:
    for number, piece in enumerate(pieces(stream, cuts)):
        session.feed(piece)
        work(number)
        if number % 2:
            session.rig.to_guest()
    session.feed(b"")
    session.end()


@given(
    sayings=st.lists(SAYINGS, min_size=1, max_size=20),
    mutations=st.lists(MUTATIONS, max_size=3),
    rare=st.lists(RARE, max_size=1),
    cuts=CUTS,
    ends=ENDS,
    caps=CAPS,
    broken=BROKEN_CALLS,
    keeps=st.booleans(),
    uas=st.booleans(),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_no_bytes_upset_a_host_with_an_unruly_device(
    sayings: list[Say],
    mutations: list[tuple[str, float, object]],
    rare: list[Packet],
    cuts: list[float],
    ends: list[list[tuple[int, Status]]],
    caps: Cap,
    broken: dict[str, Exception],
    keeps: bool,
    uas: bool,
) -> None:
    device = FakeDevice(UAS, speed=Speed.SUPER) if uas else FakeDevice()
    session = Session(device, caps)
    sayings = [*sayings, *(command(0, packet) for packet in rare if Cap.FILTER in session.rig.guest.codec.negotiated)]
    device.failures |= broken
    device.keeps_cancelled = keeps

    def work(number: int) -> None:
        let_work(device, ends[number] if number < len(ends) else [])
        assert device.outstanding <= MAX_PENDING + MAX_STREAM_TRANSFERS + MAX_REPORT_TRANSFERS + 1
        most = MAX_PENDING_BYTES + MAX_TRANSFER + 2 * (MAX_STREAM_BYTES + MAX_REPORT_BYTES)  # rounded up
        assert device.outstanding_bytes <= most

    stream = recorded(session, sayings)
    run(session, mutated(stream, mutations), cuts, work)
    session.check_answers()
    assert device.flying == []
    half_received = session.rig.host._transfers._reserved
    assert device.outstanding == bool(half_received)
    if not keeps:  # what a device keeps until it is closed is not told of any more
        assert session.rig.host.pending_bytes == (half_received.capacity if half_received else 0)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "image"
    path.write_bytes(bytes(range(256)) * 4096)
    return path


def command_block(packet_id: int, operation: int, block: int, count: int, size: int, flags: int) -> Say:
    """A Bulk-Only command block wrapper with a READ(10), WRITE(10) or other command of that form."""
    cdb = bytes((operation, 0)) + block.to_bytes(4, "big") + b"\0" + count.to_bytes(2, "big") + b"\0"
    wrapper = b"USBC" + bytes(4) + size.to_bytes(4, "little") + bytes((flags, 0, 10)) + cdb.ljust(16, b"\0")
    return lambda guest: guest.bulk(packet_id, BULK_OUT, 0, wrapper)


DISK_SAYINGS = st.one_of(
    SAYINGS,
    st.builds(
        command_block,
        IDS,
        st.sampled_from([0x28, 0x2A, 0x12, 0x25, 0x00]),
        st.sampled_from([0, 1, 2047, 2048, 0xFFFFFFFF]),
        st.sampled_from([0, 1, 8, 0xFFFF]),
        st.sampled_from([0, 36, 512, 4096, 0xFFFFFFFF]),
        st.sampled_from([0x00, 0x80]),
    ),
    st.builds(lambda i, n: lambda guest: guest.bulk(i, BULK_IN, n), IDS, st.sampled_from([13, 36, 512, 4096])),
)


@given(
    sayings=st.lists(DISK_SAYINGS, min_size=1, max_size=20),
    mutations=st.lists(MUTATIONS, max_size=3),
    cuts=CUTS,
    caps=CAPS,
    unplug=st.none() | st.integers(0, 5),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_no_bytes_upset_a_host_with_an_emulated_disk(
    image: Path,
    sayings: list[Say],
    mutations: list[tuple[str, float, object]],
    cuts: list[float],
    caps: Cap,
    unplug: int | None,
) -> None:
    device = open_disk(f"disk:{image},ro")
    session = Session(device, caps)

    def work(number: int) -> None:
        if number == unplug:
            device.unplug()

    run(session, mutated(recorded(session, sayings), mutations), cuts, work)
    device.close()
    session.check_answers()


@given(text=st.binary(max_size=300), caps=CAPS)
@settings(max_examples=100)
def test_no_first_bytes_upset_a_host(text: bytes, caps: Cap) -> None:
    device = FakeDevice()
    rig = Rig(device, caps=caps)
    rig.host.start()
    for data in (text, rig.guest.take_out() + text):
        try:
            rig.receive(data)
            rig.work()
        except RemoteProtocolError:
            break
    rig.host.close()
    assert device.flying == []


def test_an_unplugged_device_ends_a_session_whose_guest_goes_on() -> None:
    device = FakeDevice()
    session = Session(device, ALL_CAPS)
    stream = recorded(session, [control(1, 0x80, 6, 0x100, 0, 18), bulk_out(2, BULK_OUT, 20_000, 0)])
    session.feed(stream[:100])
    device.unplug()
    session.feed(stream[100:])
    assert isinstance(session.error, DeviceLostError)
    session.end()
    session.check_answers()
    assert DeviceDisconnect() in [packet for _, packet in session.rig.guest.ear.heard]
