"""A guest, a device and the host between them: whatever either does, all that the guest is sent is legal.

An input is three bytes that choose the guest's capabilities, the device, and how its stream comes (raw, or as what
follows); then steps, each a byte and what it takes: packets with any fields, bytes that are none, ends of transfers,
failures of the device, time.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

from tests.fakes.device import BULK_ONLY, EVERYTHING, UAS, FakeDevice
from tests.fuzz.source import Source
from tests.fuzz.usb_guest import Guest
from tests.fuzz.usb_session import FAILS, KEEPS_CANCELLED, RAW, Session
from tests.fuzz.usb_steps import ENDINGS, ERRORS, KINDS, METHODS, STEPS, step
from usbbridge.backend.base import Device, Status
from usbbridge.backend.emulated.disk import open_disk
from usbbridge.usb.ch9 import Speed
from usbbridge.usbredir import packets
from usbbridge.usbredir.proto import ALL_CAPS, DATA_TYPES, ENDPOINT_IN, Cap, PacketType
from usbbridge.usbredir.wire import HELLO_HEADER, wire

_T = PacketType

BLOCKS: Final = 128


@cache
def _image() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="usbbridge-fuzz-")
    path = Path(folder.name) / "image"
    path.write_bytes(bytes(range(256)) * (2 * BLOCKS))
    _FOLDERS.append(folder)
    return path


_FOLDERS: Final[list[tempfile.TemporaryDirectory[str]]] = []
"Removed at exit."

DEVICES: Final[tuple[Callable[[], Device], ...]] = (
    FakeDevice,
    lambda: FakeDevice(EVERYTHING, BULK_ONLY, speed=Speed.FULL),
    lambda: FakeDevice(UAS, EVERYTHING, speed=Speed.SUPER),
    lambda: open_disk(f"disk:{_image()},ro"),
)


def one(data: bytes) -> None:
    """Run an input."""
    source = Source(data)
    caps, device, how = Cap(source.number()), source.pick(DEVICES)(), source.number()
    session = Session(caps, device, how)
    if isinstance(device, FakeDevice):
        device.keeps_cancelled = bool(how & KEEPS_CANCELLED)
        if how & FAILS:
            device.failures[source.pick(METHODS)] = source.pick(ERRORS)
    if how & RAW:
        raw(session, source)
    else:
        session.said += session.guest.hello
        session.receive()
        session.write()
        while source and not session.over:
            step(source)(session, source)
    session.end()


def raw(session: Session, source: Source) -> None:
    """The guest's stream as it stands in the input, in pieces of one size."""
    size = source.number() + 1
    while source and not session.over:
        session.said += source.take(size * size)
        session.receive()
        session.write()


# ---- seeds


def seeds() -> Iterator[bytes]:
    """An input for each packet type and each device, sequences that get somewhere, and a stream of bytes."""
    for device in range(len(DEVICES)):
        all_kinds = b"".join(_say(kind) + _AFTER for kind in KINDS)
        yield from (bytes((0xFF, device, 0)) + _say(kind) + _AFTER for kind in KINDS)
        yield bytes((0xFF, device, 0)) + all_kinds
        yield bytes((0x00, device, KEEPS_CANCELLED)) + all_kinds
        yield from (bytes((0xFF, device, 0)) + b"".join(sequence) for sequence in _sequences())
    yield bytes((0xFF, 3, 0)) + (_STEP["command_block"] + b"\x80\x24\x00\x12\0\0\0\x24" + bytes(11) + _AFTER) * 2
    for caps in (ALL_CAPS, Cap(0)):
        yield bytes((caps, 0, RAW, 200)) + stream(caps)


_STEP: Final = {step.__name__: bytes((number,)) for number, step in reversed(list(enumerate(STEPS)))}
_AFTER: Final = _STEP["receive"] + _STEP["write"] + _STEP["finish_all"] + _STEP["write"]
_STALLED: Final = _STEP["receive"] + _STEP["finish"] + bytes((0, ENDINGS.index(Status.STALL), 0, 0)) + _STEP["write"]
_DAMAGED: Final = _STEP["finish_packets"] + b"\4\x10\1\6\x10\0" + _STEP["write"]
"Four packets of an isochronous transfer: good, ended by an error, babble, good."


def _say(kind: PacketType, fields: bytes | None = None, data: bytes = b"datadata", packet_id: int = 7) -> bytes:
    """The step that has the guest say a packet."""
    fields = _FIELDS.get(kind, bytes(wire(ALL_CAPS).bodies[kind].size)) if fields is None else fields
    tail = b""
    if kind in DATA_TYPES and not fields[0] & ENDPOINT_IN:
        tail = len(data).to_bytes(2, "little") + data[:8]
    elif kind is _T.FILTER_FILTER:
        tail = bytes((len(data),)) + data
    return _STEP["packet"] + bytes((KINDS.index(kind), packet_id)) + fields + tail


def _sequences() -> Iterator[tuple[bytes, ...]]:
    """What a guest does with a disk that has streams, a sound card, a serial adapter, a keyboard, and at the end."""
    alloc, free = (_say(kind, b"\4\0\x0a\0" + more) for kind, more in _STREAM_CALLS)
    in_, out = b"\x81\0\0\2\1\0\0\0\0\0", b"\2\0\x08\0\2\0\0\0\0\0"
    streamed = (_say(_T.BULK_PACKET, in_), _say(_T.BULK_PACKET, out, packet_id=8), _say(_T.CANCEL_DATA_PACKET))
    yield _say(_T.SET_ALT_SETTING, b"\0\1"), alloc, *streamed, _AFTER, _say(_T.BULK_PACKET, in_), free, _AFTER
    yield _say(_T.SET_ALT_SETTING, b"\0\1"), alloc, *streamed, _say(_T.RESET), _AFTER, _say(_T.SET_CONFIGURATION)
    play, said = _say(_T.START_ISO_STREAM, b"\6\2\4"), _say(_T.ISO_PACKET)
    yield play, *[said] * 12, _AFTER, _DAMAGED, *[said] * 3, _AFTER, _AFTER, _say(_T.STOP_ISO_STREAM, b"\6"), _AFTER
    record = _say(_T.START_ISO_STREAM, b"\x85\4\3")
    yield record, _STEP["receive"], _DAMAGED, _AFTER, _STALLED, _AFTER, _say(_T.STOP_ISO_STREAM), _AFTER
    receive = _say(_T.START_BULK_RECEIVING)
    yield receive, _AFTER, _AFTER, _STALLED, _AFTER, _say(_T.BULK_PACKET), _say(_T.STOP_BULK_RECEIVING), _AFTER
    much, more = b"\x81\0\0\x40\0\0\0\0\0\0", b"\0\0\0\0\0\x40\0\0\x81\2"
    late = _STEP["receive"] + _STEP["finish_all"] + _STEP["write_slowly"]
    yield _say(_T.BULK_PACKET, much), late, _say(_T.START_BULK_RECEIVING, more), late, late, _say(_T.RESET), _AFTER
    flood = _say(_T.START_BULK_RECEIVING, more[:-1] + b"\x10"), _STEP["receive"], _STEP["finish_all"] * 8
    yield *flood, _STEP["write_slowly"], _STEP["finish_all"], _STEP["write"], _STEP["finish_all"] * 6, _AFTER
    yield *flood, _STEP["write_slowly"], _say(_T.STOP_BULK_RECEIVING), _AFTER, _say(_T.BULK_PACKET, much), late
    yield _say(_T.BULK_PACKET, out, data=bytes(200)), _STEP["cut"] + b"\x40\0", _AFTER
    listen = _say(_T.START_INTERRUPT_RECEIVING)
    yield listen, _AFTER, _STALLED, _AFTER, listen, _say(_T.SET_ALT_SETTING), _AFTER, _say(_T.STOP_INTERRUPT_RECEIVING)
    halt, configure, select = (_say(_T.CONTROL_PACKET, bytes(fields)) for fields in _KERNELS)
    yield halt, _AFTER, configure, _AFTER, select, _AFTER, _say(_T.RESET), _STEP["time_passes"] * 2, _AFTER
    yield _say(_T.CONTROL_PACKET), _STEP["receive"], _STEP["time_passes"] * 2, _STEP["write"], _AFTER
    yield _say(_T.FILTER_FILTER, data=b"3,-1,-1,-1,0|-1,-1,-1,-1,1"), _AFTER, _say(_T.FILTER_REJECT), _AFTER
    used = _STEP["commands"] + b"\x0c\x24\0"
    for last in range(4):
        for then in (_say(_T.BULK_PACKET, in_), _say(_T.RESET), _say(_T.SET_ALT_SETTING, b"\0\0"), _STEP["unplug"]):
            yield used + bytes((last,)), then, _STEP["receive"], _say(_T.CANCEL_DATA_PACKET), _AFTER, _AFTER
    piece = _say(_T.BULK_PACKET, b"\x81\0\x10\0\0\0\0\0\0\0")
    yield used + b"\1", piece, _AFTER, piece, piece, _AFTER, used + b"\2", halt, _AFTER, _STALLED, _AFTER
    yield used + b"\1", piece, piece, _STEP["receive"], _say(_T.CANCEL_DATA_PACKET), _AFTER, _STEP["disconnect"]
    transport = _say(_T.CONTROL_PACKET, bytes((0, 0xFF, 0x21, 0, 0, 0, 0, 0, 0, 0)))
    yield used + b"\1", transport, _AFTER, used + b"\1", _STEP["refuse"] + b"\1", _AFTER
    yield _STEP["disconnect"], _STEP["write"], _say(_T.DEVICE_DISCONNECT_ACK), _say(_T.CONTROL_PACKET), _AFTER


_STREAM_CALLS: Final = ((_T.ALLOC_BULK_STREAMS, b"\4\0\0\0"), (_T.FREE_BULK_STREAMS, b""))
_KERNELS: Final = ((0, 1, 2, 0, 0, 0, 0x81, 0, 0, 0), (0, 9, 0, 0, 2, 0, 0, 0, 0, 0), (0, 11, 1, 0, 1, 0, 1, 0, 0, 0))
"Control requests that the kernel has to know of: CLEAR_FEATURE(ENDPOINT_HALT), SET_CONFIGURATION, SET_INTERFACE."

_FIELDS: Final = {
    _T.SET_CONFIGURATION: b"\2",
    _T.SET_ALT_SETTING: b"\1\1",
    _T.GET_ALT_SETTING: b"\1",
    _T.START_ISO_STREAM: b"\x85\x08\x04",
    _T.STOP_ISO_STREAM: b"\x85",
    _T.START_INTERRUPT_RECEIVING: b"\x83",
    _T.STOP_INTERRUPT_RECEIVING: b"\x83",
    _T.ALLOC_BULK_STREAMS: b"\4\0\2\0\4\0\0\0",
    _T.FREE_BULK_STREAMS: b"\4\0\2\0",
    _T.START_BULK_RECEIVING: b"\0\0\0\0\0\2\0\0\x81\4",
    _T.STOP_BULK_RECEIVING: b"\0\0\0\0\x81",
    _T.CONTROL_PACKET: b"\x80\6\x80\0\0\1\0\0\x12\0",
    _T.BULK_PACKET: b"\x81\0\0\2\0\0\0\0\0\0",
    _T.ISO_PACKET: b"\6\0\xc0\0",
    _T.INTERRUPT_PACKET: b"\4\0\x08\0",
}


def stream(caps: Cap) -> bytes:
    """What a guest sends at the start of its life, as bytes."""
    guest = Guest(caps)
    guest.codec.feed(_host_hello())
    codec = guest.codec
    return b"".join(
        (
            guest.hello,
            codec.encode(packets.Reset(), 0),
            codec.control_header(1, 0x80, 6, 0x80, 0, 0x100, 0, 18, 0),
            codec.encode(packets.SetConfiguration(1), 2),
            codec.encode(packets.StartInterruptReceiving(0x83), 0),
            codec.bulk_header(4, 0x02, 0, 31, 0, 31) + bytes(31),
            codec.bulk_header(5, 0x81, 0, 512, 0, 0),
            codec.encode(packets.CancelDataPacket(), 5),
            codec.interrupt_header(6, 0x04, 0, 8, 8) + bytes(8),
        )
    )


def _host_hello() -> bytes:
    body = b"host".ljust(64, b"\0") + int(ALL_CAPS).to_bytes(4, "little")
    return HELLO_HEADER.pack(_T.HELLO, len(body), 0) + body


DICTIONARY: Final[tuple[bytes, ...]] = (
    *(int(kind).to_bytes(4, "little") for kind in KINDS),
    *(bytes((address,)) for address in (0x81, 0x02, 0x83, 0x04, 0x85, 0x06)),
    b"USBC",
    b"\0\0\0\x01",
)
"What the fuzzer may put into an input whole."


