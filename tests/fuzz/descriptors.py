"""A device that lies about what it is: its descriptors are read within limits or refused, and what is announced of it
to a guest is legal.

An input is a byte that chooses what is read, one for the speed, and the descriptors as they come, or as pieces of
right length whose fields follow.
"""

from collections.abc import Iterator
from functools import cache
from typing import Final

from tests.fakes.device import FakeDevice
from tests.fuzz.source import Source
from tests.fuzz.usb_guest import Guest
from tests.unit.usb import samples
from usbbridge.compat.ruleset import RuleSet
from usbbridge.compat.saved import from_descriptors
from usbbridge.compat.source import read, shipped_rules
from usbbridge.errors import UsageError
from usbbridge.ipc.codec import decode, encode
from usbbridge.ipc.monitoring import ANSWERS, MAX_DESCRIPTORS, Plugged, PluggedDevice
from usbbridge.monitor.hid import MAX_USAGES, application_usages
from usbbridge.redirect.host import Host
from usbbridge.usb.ch9 import DescriptorType, Speed
from usbbridge.usb.descriptors import (
    MAX_ENDPOINTS,
    MAX_INTERFACES,
    MAX_SETTINGS,
    Configuration,
    DescriptorError,
    DeviceDescriptor,
    configuration_bytes,
    device_bytes,
    parse_all,
    parse_configuration,
    parse_device,
    parse_string,
    string_descriptor,
)
from usbbridge.usb.identity import MAX_WORDS, clean_words
from usbbridge.usbredir.packets import (
    AllocBulkStreams,
    Packet,
    SetAltSetting,
    SetConfiguration,
    StartInterruptReceiving,
    StartIsoStream,
)
from usbbridge.usbredir.proto import ALL_CAPS, Cap

SPEEDS: Final = tuple(Speed)
KINDS: Final = (
    (DescriptorType.INTERFACE, 9),
    (DescriptorType.ENDPOINT, 7),
    (DescriptorType.SUPERSPEED_ENDPOINT_COMPANION, 6),
    (DescriptorType.CONFIGURATION, 9),
    (0x24, 5),
    (0x0B, 8),
)
"Descriptors that pieces are made of, and their lengths; an interface association is 0x0b, a class's own 0x24."

ALL_ENDPOINTS: Final = 0xFFFEFFFE
"As a mask of ep_info's entries; without endpoint 0."


def one(data: bytes) -> None:
    """Run an input."""
    source = Source(data)
    how, speed = source.number(), source.pick(SPEEDS)
    match how % 5:
        case 0:
            whole(source.rest(), speed)
        case 1:
            whole(pieces(source), speed)
        case 2:
            words(source.rest())
        case 3:
            usages(source.rest())
        case _:
            saved(source.rest())


def pieces(source: Source) -> bytes:
    """A device and one configuration of descriptors that have the length they claim, and any content."""
    device = b"\x12\x01" + source.exactly(15) + b"\x01"
    body = b""
    while source and len(body) < 0xFF00:
        kind, length = source.pick(KINDS)
        body += bytes((length, kind)) + source.exactly(length - 2)
    return device + b"\x09\x02" + (9 + len(body)).to_bytes(2, "little") + b"\x01\x01\x00\x80\x32" + body


def whole(data: bytes, speed: Speed) -> None:
    """What sysfs and a usbfs node hold."""
    try:
        device, configurations = parse_all(data)
    except DescriptorError:
        return
    assert parse_device(device_bytes(device)) == device
    for configuration in configurations:
        assert len(configuration.interfaces) <= MAX_SETTINGS
        assert len(configuration.numbers) <= MAX_INTERFACES
        assert all(len(setting.endpoints) <= MAX_ENDPOINTS for setting in configuration.interfaces)
        for setting in configuration.interfaces:
            assert len({endpoint.address for endpoint in setting.endpoints}) == len(setting.endpoints)
        packed = configuration_bytes(configuration)
        if len(packed) <= 0xFFFF:
            assert parse_configuration(packed) == configuration
    if configurations:
        announced(device, configurations, speed, ALL_CAPS)
        announced(device, configurations, speed, Cap.FILTER)
    saved(data)


def announced(device: DeviceDescriptor, configurations: tuple[Configuration, ...], speed: Speed, caps: Cap) -> None:
    """A guest is told of the device, in its configurations and alternate settings."""
    fake = FakeDevice(*configurations, descriptor=device, speed=speed)
    host = Host(fake, version="fuzz", on_progress=lambda step: None, clock=lambda: 0.0)
    guest = Guest(caps)
    host.start()
    deliver(host, guest, guest.hello)
    for number, packet in enumerate(changes(configurations, streams=bool(caps & Cap.BULK_STREAMS))):
        deliver(host, guest, guest.codec.encode(packet, number))
    host.disconnect()
    tell(host, guest)
    host.close()
    guest.has_all_answers()


def changes(configurations: tuple[Configuration, ...], *, streams: bool) -> Iterator[Packet]:
    """What a guest would try: every configuration, some settings of it, and every kind of stream on its endpoints."""
    for configuration in configurations[:3]:
        yield SetConfiguration(configuration.value)
        for setting in configuration.interfaces[:20]:
            yield SetAltSetting(setting.number, setting.alternate)
            for endpoint in setting.endpoints[:4]:
                yield StartIsoStream(endpoint.address, 8, 4)
                if endpoint.is_in:
                    yield StartInterruptReceiving(endpoint.address)
            if streams:
                yield AllocBulkStreams(ALL_ENDPOINTS, 4)


def deliver(host: Host, guest: Guest, said: bytes) -> None:
    guest.says(said, host.codec.state)
    host.codec.feed(said)
    while host.due:
        host.service()
    tell(host, guest)


def tell(host: Host, guest: Guest) -> None:
    """What waits goes to the guest, which refuses whatever is illegal."""
    outbox = host.outbox
    data, held = b"".join(outbox.parts), outbox.held
    outbox.parts, outbox.held, outbox.size = [], [], 0
    guest.hears(data)
    host.sent(held)


def words(data: bytes) -> None:
    """A string descriptor, and what is made of it for people."""
    try:
        text = parse_string(data)
    except DescriptorError:
        return
    clean = clean_words(text)
    assert len(clean) <= MAX_WORDS
    assert clean.isprintable()
    assert clean_words(clean) == clean
    assert parse_string(string_descriptor(clean)) == clean


def usages(data: bytes) -> None:
    """A HID report descriptor."""
    found = application_usages(data)
    assert len(found) <= MAX_USAGES
    assert all(0 <= usage <= 0xFFFF_FFFF for usage in found)


@cache
def rules() -> RuleSet:
    """Those that are shipped."""
    found = read([shipped_rules()])
    return RuleSet(found.rules, found.identities)


def saved(data: bytes) -> None:
    """Descriptors in a file, or in hexadecimal: judged by the rules, and told by the monitor."""
    try:
        entry = from_descriptors(data)
    except UsageError:
        return
    decision = rules().judge(entry)
    told = data.hex() if len(data) <= MAX_DESCRIPTORS else ""
    plugged = Plugged(PluggedDevice("1-1#2", entry, told, decision.verdict, decision.because, decision.rule))
    assert decode(encode(plugged), ANSWERS) == plugged


# ---- seeds


def seeds() -> Iterator[bytes]:
    """Real devices at several speeds, their strings, and report descriptors."""
    for real in (samples.FLASH_DRIVE, samples.KEYBOARD, samples.UAS_DISK, samples.WEBCAM):
        data = samples.FLASH_DRIVE_DEVICE + real
        for speed in range(len(SPEEDS)):
            yield bytes((0, speed)) + data
        yield bytes((4, 0)) + data.hex(" ").encode()
        yield bytes((4, 0)) + data
    several = samples.FLASH_DRIVE_DEVICE[:-1] + b"\x03"
    yield bytes((0, 2)) + several + samples.FLASH_DRIVE + samples.KEYBOARD + samples.WEBCAM
    yield bytes((1, 2)) + bytes(15) + b"\0\0\0\2\x08\6\x50\0" + b"\1\x81\2\0\2\0" + b"\1\2\2\0\2\0"
    yield bytes((1, 3)) + bytes(15) + b"\0\0\0\1\3\1\1\0" + b"\1\x81\3\x08\0\0" + b"\2\0\3\0\0"
    many = [bytes((0, number, 0, 0, 8, 6, 0x50, 0)) for number in range(33)]  # one more than there may be
    yield bytes((1, 2)) + bytes(15) + b"".join(many)
    yield bytes((1, 2)) + bytes(15) + b"".join(many[1:])
    yield bytes((1, 2)) + bytes(15) + b"\0\0\0\2\x08\6\x50\0" + b"\1\x81\2\0\2\0" * 2
    for text in ("USB DISK", "\u202eRight\x1b[2J", "\U0001f600" * 40):
        yield bytes((2, 0)) + string_descriptor(text)
    for report in REPORTS:
        yield bytes((3, 0)) + bytes.fromhex(report)


REPORTS: Final = (
    "05010906a101050719e029e715002501750195088102950875018101c0",
    "06d0f10901a1010920150026ff007508954081020921150026ff00750895409102c0",
    "a4050cb40501a40509b40906a101c0",
    "fe03f00102030501a10b0600010009a1",
)

DICTIONARY: Final[tuple[bytes, ...]] = (
    b"\x12\x01",
    b"\x09\x02",
    b"\x09\x04",
    b"\x07\x05",
    b"\x06\x30",
    b"\x02\x03",
    b"\x08\x0b",
)
