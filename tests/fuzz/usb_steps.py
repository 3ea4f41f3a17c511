"""What can happen between a guest, a host and a device: each takes what it needs from the input."""

from collections.abc import Callable
from typing import Final, TypeGuard

from tests.fakes.device import FakeDevice, FakeTransfer
from tests.fuzz.source import Source
from tests.fuzz.usb_session import Session
from usbbridge.backend.base import Device, Status
from usbbridge.errors import DeviceError, DeviceLostError, RefusedError
from usbbridge.usbredir.proto import DATA_TYPES, DIRECTIONS, ENDPOINT_IN, Direction, PacketType
from usbbridge.usbredir.wire import wire

_T = PacketType

KINDS: Final = tuple(sorted(kind for kind, ways in DIRECTIONS.items() if Direction.TO_HOST in ways))
"Packet types that a guest may send; others come as raw bytes."
MAX_DATA: Final = 600
"Bytes of data that one step gives to a packet or a transfer: more than a packet of any endpoint here."
MAX_WHOLE: Final = 20_000
"Bytes with which a transfer ends that is to end well: also such as are not copied any more on their way to the guest."
METHODS: Final = ("claim", "reset", "set_configuration", "set_interface", "clear_halt", "alloc_streams", "free_streams")
ERRORS: Final = (DeviceError("fails"), DeviceLostError("gone"), RefusedError("busy"))
ENDINGS: Final = tuple(status for status in Status if status is not Status.NO_DEVICE)


def packet(session: Session, source: Source) -> None:
    """A packet of any type with any fields, its length and data as it should have them."""
    kind, packet_id = source.pick(KINDS), source.number()
    layouts = wire(session.guest.codec.negotiated)
    fields = bytearray(source.exactly(layouts.bodies[kind].size))
    payload = b""
    if kind in DATA_TYPES:
        payload = _with_data(kind, fields, source)
    elif kind is _T.FILTER_FILTER:
        payload = source.take(source.number()) + b"\0"
    elif kind is _T.HELLO:
        return  # a second one is passed over; in its full length it would eat up the input
    session.said += layouts.header.pack(kind, len(fields) + len(payload), packet_id) + fields + payload


def _with_data(kind: PacketType, fields: bytearray, source: Source) -> bytes:
    """Data for a packet that has to have some, and its length field set by that."""
    layout = _LENGTH_AT[kind]
    if fields[0] & ENDPOINT_IN:
        return b""
    size = source.number(2) % MAX_DATA
    fields[layout : layout + 2] = size.to_bytes(2, "little")
    if kind is _T.BULK_PACKET and len(fields) == 10:
        fields[8:10] = bytes(2)
    return source.take(8).ljust(size, b"\xa5")[:size]


_LENGTH_AT: Final = {_T.CONTROL_PACKET: 8, _T.BULK_PACKET: 2, _T.ISO_PACKET: 2, _T.INTERRUPT_PACKET: 2}


def any_bytes(session: Session, source: Source) -> None:
    """What may be no packet."""
    session.said += source.take(source.number())


def receive(session: Session, source: Source) -> None:
    session.receive()


def cut(session: Session, source: Source) -> None:
    """A read that ends in the middle of what was said."""
    at = source.number(2)
    rest = session.said[at:]
    del session.said[at:]
    session.receive()
    session.said += rest


def write(session: Session, source: Source) -> None:
    session.write()


def write_slowly(session: Session, source: Source) -> None:
    session.write(slowly=True)


def finish(session: Session, source: Source) -> None:
    """A transfer ends, if any is in flight."""
    which, status, size = source.number(), source.pick(ENDINGS), source.number(2)
    device = session.device
    if isinstance(device, FakeDevice) and device.flying:
        end_transfer(device, device.flying[which % len(device.flying)], status, size % (MAX_DATA + 1))
    session.work()


def end_transfer(device: FakeDevice, transfer: FakeTransfer, status: Status, size: int) -> None:
    """End a transfer with at most `size` bytes of data."""
    is_in = transfer.setup[0] & 0x80 if transfer.kind == "control" else transfer.endpoint & 0x80
    n = min(size, transfer.length)
    if is_in or transfer.kind == "iso":
        device.finish(transfer, status, b"\x5a" * n)
    else:
        device.finish(transfer, status, actual=n)


def finish_all(session: Session, source: Source) -> None:
    """Everything in flight ends well."""
    if isinstance(session.device, FakeDevice):
        for transfer in list(session.device.flying):
            end_transfer(session.device, transfer, Status.COMPLETED, MAX_WHOLE)
    session.work()


def finish_packets(session: Session, source: Source) -> None:
    """An isochronous transfer ends, its packets each in a way of its own."""
    device = session.device
    flying = [t for t in device.flying if t.kind == "iso"] if isinstance(device, FakeDevice) else []
    ends = list(source.take(source.below(33)))
    if flying:
        transfer = flying[source.number() % len(flying)]
        ways = [Status(end & 7) if end < 7 else bytes(end & 0x7F) for end in ends]
        fitting = zip(ways, transfer.lengths, strict=False)
        device.finish_iso(transfer, [w[:n] if isinstance(w, bytes) else w for w, n in fitting])
    session.work()


def time_passes(session: Session, source: Source) -> None:
    session.time_passes()


def _is_there(device: Device) -> TypeGuard[FakeDevice]:
    """A device that has been unplugged does not come back."""
    return isinstance(device, FakeDevice) and device.refuse is not Status.NO_DEVICE


def fail(session: Session, source: Source) -> None:
    """A method of the device fails from now on, or does no more."""
    method, error = source.pick(METHODS), source.pick(ERRORS)
    if _is_there(session.device):
        if source.flag():
            session.device.failures[method] = error
        else:
            session.device.failures.pop(method, None)


def refuse(session: Session, source: Source) -> None:
    """Nothing can be submitted any more, or again."""
    if _is_there(session.device):
        session.device.refuse = source.pick((Status.COMPLETED, Status.ERROR, Status.STALL))


def unplug(session: Session, source: Source) -> None:
    if isinstance(session.device, FakeDevice) or hasattr(session.device, "unplug"):
        session.device.unplug()
    session.work()


def nudge(session: Session, source: Source) -> None:
    session.host.nudge()


def disconnect(session: Session, source: Source) -> None:
    """The device is taken away, and the guest goes on."""
    session.host.disconnect()


def command_block(session: Session, source: Source) -> None:
    """A Bulk-Only command block wrapper (Bulk-Only Transport 1.0 §5.1) to a disk, and a request for what it asks."""
    flags, size, block = source.number(), source.number(2), source.exactly(16)
    wrapper = b"USBC" + bytes(4) + size.to_bytes(4, "little") + bytes((flags & 0x80, 0, 16)) + block
    codec = session.guest.codec
    session.said += codec.bulk_header(1, 0x02, 0, len(wrapper), 0, len(wrapper)) + wrapper
    session.said += codec.bulk_header(2, 0x81, 0, min(size, 4096), 0, 0) + codec.bulk_header(3, 0x81, 0, 13, 0, 0)


def commands(session: Session, source: Source) -> None:
    """A guest that uses a drive as drivers do: commands, their data and their status, each when the one before has been
    answered. Of the last command, as much as the input says."""
    count, size, last = source.number() % 16, source.number(2) % 1025, source.number() % 4
    codec = session.guest.codec
    wrapper = b"USBC" + bytes(4) + size.to_bytes(4, "little") + b"\x80\0\6\x12\0\0\0\x24" + bytes(11)
    packets = [codec.bulk_header(1, 0x02, 0, len(wrapper), 0, len(wrapper)) + wrapper]
    packets += [codec.bulk_header(2, 0x81, 0, size, 0, 0)] if size else []
    packets += [codec.bulk_header(3, 0x81, 0, 13, 0, 0)]
    for said in packets * count + packets[:last]:
        session.said += said
        session.receive()
        if not session.over:
            finish_all(session, source)
        if session.over:
            return
        session.write()


Step = Callable[[Session, Source], None]
MOST_STEPS: Final = 32

STEPS: Final[tuple[Step, ...]] = (
    receive,
    packet,
    packet,
    packet,
    write,
    finish,
    finish_all,
    finish,
    cut,
    any_bytes,
    time_passes,
    fail,
    refuse,
    nudge,
    command_block,
    unplug,
    disconnect,
    finish_packets,
    write_slowly,
    commands,
)
"Often-used ones more than once. The corpus knows them by their numbers: new ones go to the end."


def step(source: Source) -> Step:
    """What is done next. Numbers without a step of their own are there for further ones, which change no input then."""
    number = source.below(MOST_STEPS)
    return STEPS[number] if number < len(STEPS) else packet
