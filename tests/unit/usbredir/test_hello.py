"""Hello: what it looks like, what of it is believed, and what it changes."""

import struct

import pytest

from tests.unit.usbredir.support import End, connected
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.errors import IllegalPacketError, PeerViolationError, Rule
from usbbridge.usbredir.packets import ConfigurationStatus, Hello, Reset
from usbbridge.usbredir.proto import ALL_CAPS, Cap, PacketType, Role
from usbbridge.usbredir.state import State

QEMU_VERSION = b"qemu usb-redir guest 7.2.22"
QEMU_HELLO = bytes.fromhex("00000000 44000000 00000000") + QEMU_VERSION.ljust(64, b"\0") + b"\xff\0\0\0"


def hello(version: bytes = b"peer", caps: bytes = b"\xff\0\0\0", *, packet_id: int = 0) -> bytes:
    return struct.pack("<III64s", 0, 64 + len(caps), packet_id, version) + caps


def host_after(data: bytes, caps: Cap = ALL_CAPS) -> End:
    host = End(Role.HOST, caps)
    host.codec.hello()
    host.codec.feed(data)
    return host


def test_our_hello_is_as_qemu_writes_its_own() -> None:
    codec = Codec(Role.GUEST, ALL_CAPS, "qemu usb-redir guest 7.2.22", End(Role.GUEST).sink)
    assert codec.hello() == QEMU_HELLO


def test_the_peers_hello_is_told() -> None:
    host = host_after(QEMU_HELLO)
    assert host.packets == [(0, Hello("qemu usb-redir guest 7.2.22", ALL_CAPS))]
    assert host.codec.peer_caps == host.codec.negotiated == ALL_CAPS
    assert host.codec.state is State.READY


def test_hello_always_has_32_bits_of_id() -> None:
    host, _ = connected()
    assert len(End(Role.HOST).codec.hello()) == 80
    assert len(host.codec.encode(ConfigurationStatus(0, 1))) == 16 + 2


def test_ids_are_narrow_unless_both_have_wide_ones() -> None:
    host, _ = connected(guest_caps=ALL_CAPS & ~Cap.IDS_64BIT)
    assert len(host.codec.encode(ConfigurationStatus(0, 1))) == 12 + 2
    with pytest.raises(IllegalPacketError) as caught:
        host.codec.encode(ConfigurationStatus(0, 1), 1 << 32)
    assert caught.value.field == "id"


def test_nothing_is_encoded_before_the_peers_hello() -> None:
    host = End(Role.HOST)
    host.codec.hello()
    with pytest.raises(IllegalPacketError) as caught:
        host.codec.encode(ConfigurationStatus(0, 1))
    assert caught.value.rule is Rule.STATE
    with pytest.raises(IllegalPacketError):
        host.codec.bulk_header(1, 0x81, 0, 0, 0, 0)


def test_anything_but_hello_first_is_a_violation() -> None:
    with pytest.raises(PeerViolationError) as caught:
        host_after(struct.pack("<III", PacketType.RESET, 0, 0))
    assert (caught.value.packet, caught.value.rule) == (PacketType.RESET, Rule.STATE)


def test_hello_is_not_sent_by_encode() -> None:
    host, _ = connected()
    with pytest.raises(IllegalPacketError):
        host.codec.encode(Hello("again", ALL_CAPS))


@pytest.mark.parametrize("words", [2, 3, 32])
def test_further_capability_words_are_ignored(words: int) -> None:
    host = host_after(hello(caps=b"\x24\0\0\0" + b"\xff" * 4 * (words - 1)))
    assert host.codec.peer_caps == Cap.FILTER | Cap.IDS_64BIT


def test_unknown_capability_bits_are_ignored() -> None:
    assert host_after(hello(caps=b"\x04\xff\xff\xff")).codec.peer_caps == Cap.FILTER


@pytest.mark.parametrize("caps", [b"", b"\xff\xff"])
def test_a_hello_without_a_capability_word_has_none(caps: bytes) -> None:
    assert host_after(hello(caps=caps)).codec.peer_caps == Cap(0)


def test_bulk_streams_without_its_prerequisite_is_not_announced_nor_believed() -> None:
    host = host_after(hello(caps=b"\x01\0\0\0"), caps=Cap.BULK_STREAMS | Cap.FILTER)
    assert host.codec.peer_caps == Cap(0)
    assert End(Role.HOST, Cap.BULK_STREAMS | Cap.FILTER).codec.hello()[-4:] == b"\x04\0\0\0"


@pytest.mark.parametrize("length", [63, 64 + 33 * 4, 0xFFFFFFFF])
def test_a_hello_of_impossible_length_is_a_violation(length: int) -> None:
    with pytest.raises(PeerViolationError) as caught:
        host_after(struct.pack("<III", 0, length, 0))
    assert (caught.value.rule, caught.value.value) == (Rule.LENGTH, length)


def test_a_second_hello_is_ignored_in_the_form_now_agreed_on() -> None:
    host = host_after(hello())
    second = hello(version=b"other", caps=b"\0\0\0\0")
    host.packets.clear()
    host.codec.feed(second[:8] + bytes(8) + second[12:])
    host.codec.feed(struct.pack("<IIQ", PacketType.RESET, 0, 5))
    assert host.packets == [(5, Reset())]
    assert host.codec.negotiated == ALL_CAPS


@pytest.mark.parametrize(
    ("version", "shown"),
    [
        (b"a\0garbage behind the end", "a"),
        (b"\x1b[2Jevil\n\xff\x7f", "?[2Jevil???"),
        (b"x" * 64, "x" * 63),
        (b"", ""),
    ],
)
def test_the_peers_version_is_made_printable(version: bytes, shown: str) -> None:
    assert host_after(hello(version)).packets == [(0, Hello(shown, ALL_CAPS))]


@pytest.mark.parametrize("version", ["x" * 64, "new\nline", "ä", "nul\0"])
def test_our_version_must_be_short_and_printable(version: str) -> None:
    with pytest.raises(IllegalPacketError) as caught:
        Codec(Role.HOST, ALL_CAPS, version, End(Role.HOST).sink)
    assert caught.value.field == "version"


def test_hello_may_come_byte_by_byte() -> None:
    host = End(Role.HOST)
    for byte in QEMU_HELLO:
        host.codec.feed(bytes([byte]))
    assert host.codec.peer_caps == ALL_CAPS
