"""The network adapter, and the host at the other end of its cable."""

import socket
import struct

import pytest

from tests.unit.lab.usb_host import Host
from tools.lab.devices import ethernet, peer
from tools.lab.devices.ethernet import IN, MAX_FRAMES, NOTIFY, OUT
from tools.lab.devices.peer import checksum
from usbbridge.backend.base import Status
from usbbridge.usb.ch9 import Speed

OURS, THEIRS = socket.inet_aton(peer.OTHER_ADDRESS), socket.inet_aton(peer.ADDRESS)


@pytest.fixture
def host():
    made = Host(ethernet.create(Speed.HIGH, {}))
    made.device.set_interface(1, 1)
    yield made
    made.device.close()


def frame(kind: int, body: bytes, to: bytes = peer.MAC) -> bytes:
    return peer.ETHERNET.pack(to, ethernet.MAC, kind) + body


def arp(target: bytes = THEIRS) -> bytes:
    body = peer.ARP.pack(1, peer.TYPE_IPV4, 6, 4, peer.REQUEST, ethernet.MAC, OURS, bytes(6), target)
    return frame(peer.TYPE_ARP, body, peer.BROADCAST)


def packet(protocol: int, data: bytes, *, target: bytes = THEIRS, fragment: int = 0) -> bytes:
    fields = [0x45, 0, 20 + len(data), 99, fragment, 64, protocol, 0, OURS, target]
    fields[7] = checksum(peer.IPV4.pack(*fields))
    return frame(peer.TYPE_IPV4, peer.IPV4.pack(*fields) + data)


def echo(payload: bytes) -> bytes:
    head = struct.pack(">BBHHH", peer.ECHO, 0, 0, 5, 6)
    return head[:2] + checksum(head + payload).to_bytes(2, "big") + head[4:] + payload


def datagram(payload: bytes) -> bytes:
    head = struct.pack(">HHHH", 1000, 7, 8 + len(payload), 0)
    pseudo = OURS + THEIRS + struct.pack(">HH", peer.UDP_PROTOCOL, 8 + len(payload))
    return head[:6] + (checksum(pseudo + head + payload) or 0xFFFF).to_bytes(2, "big") + payload


def test_the_checksum_is_that_of_rfc_1071():
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D  # the RFC's own example, §3


def test_it_notifies_that_the_cable_is_in_once_it_is_used(host):
    assert host.read(NOTIFY, 16) == struct.pack("<BBHHH", 0xA1, ethernet.NETWORK_CONNECTION, 1, 0, 0)
    assert host.read(NOTIFY, 16)[8:] == struct.pack("<II", *[ethernet.BITS_A_SECOND] * 2)
    assert host.read(NOTIFY, 16) is None


def test_the_host_answers_who_has_its_address(host):
    assert host.write(OUT, arp()) is Status.COMPLETED
    found = host.read(IN, 1514)
    assert found[:14] == ethernet.MAC + peer.MAC + b"\x08\x06"
    assert found[20:22] == b"\0\2"
    assert (found[22:28], found[28:32], found[38:42]) == (peer.MAC, THEIRS, OURS)


@pytest.mark.parametrize("size", [0, 1, 56, 1472])
def test_a_ping_comes_back_with_what_it_had(host, size):
    payload = bytes(i % 256 for i in range(size))
    host.write(OUT, packet(peer.ICMP, echo(payload)))
    found = host.read(IN, 1514)
    assert (found[26:30], found[30:34]) == (THEIRS, OURS)
    assert checksum(found[14:34]) == 0
    assert checksum(found[34:]) == 0
    assert (found[34], found[38:]) == (peer.ECHO_REPLY, struct.pack(">HH", 5, 6) + payload)


@pytest.mark.parametrize("size", [0, 1, 18, 1472])
def test_a_datagram_comes_back_from_the_port_it_went_to(host, size):
    payload = bytes(i % 256 for i in range(size))
    host.write(OUT, packet(peer.UDP_PROTOCOL, datagram(payload)) + b"\0")  # padded, as drivers pad full packets
    found = host.read(IN, 1514)
    assert struct.unpack(">HHH", found[34:40]) == (7, 1000, 8 + size)
    assert found[42:] == payload
    assert checksum(THEIRS + OURS + struct.pack(">HH", peer.UDP_PROTOCOL, 8 + size) + found[34:]) == 0


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"short",
        arp(target=OURS),
        frame(peer.TYPE_IPV4, b"E"),
        frame(0x86DD, bytes(40)),
        packet(peer.ICMP, echo(b"x"), target=OURS),
        packet(peer.ICMP, echo(b"x"), fragment=0x2000),
        packet(peer.ICMP, echo(b"x")[:-1] + b"y"),
        packet(peer.ICMP, b"\x08\x00\xf7"),
        packet(peer.UDP_PROTOCOL, datagram(b"x")[:-1] + b"y"),
        packet(peer.UDP_PROTOCOL, b"short"),
        packet(6, bytes(20)),
        packet(peer.ICMP, echo(b"x"))[:-1],
    ],
    ids=range(13),
)
def test_what_is_not_for_the_host_or_is_broken_gets_no_answer(host, sent):
    host.write(OUT, sent)
    assert host.read(IN, 1514) is None


def test_what_nobody_fetches_is_dropped(host):
    for _ in range(MAX_FRAMES + 3):
        assert host.write(OUT, arp()) is Status.COMPLETED
    assert host.device.function.dropped == 3


def test_a_setting_chosen_again_forgets_old_frames(host):
    host.write(OUT, arp())
    host.device.set_interface(1, 0)
    host.device.set_interface(1, 1)
    assert host.read(IN, 1514) is None


def test_the_packet_filter_is_taken_and_nothing_else(host):
    assert host.control(0x21, ethernet.SET_ETHERNET_PACKET_FILTER, 0x0E).status is Status.COMPLETED
    assert host.device.function.filter == 0x0E
    assert host.control(0x21, 0x44).status is Status.STALL
