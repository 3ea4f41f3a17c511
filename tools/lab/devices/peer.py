"""The one host at the other end of the emulated network adapter's cable: answers ARP, pings and UDP with what it got.

Frames in, frames out (Ethernet II; ARP RFC 826, IPv4 RFC 791, ICMP RFC 792, UDP RFC 768). What isn't for it, is broken
or is a fragment is dropped, as by any host with nothing more to say.
"""

import struct
from typing import Final

MAC: Final = bytes.fromhex("0246f4000001")
"Locally administered."
ADDRESS: Final = "10.77.0.1"
NETWORK: Final = "10.77.0.0/24"
OTHER_ADDRESS: Final = "10.77.0.2"
"For the adapter's owner to take."
BROADCAST: Final = b"\xff" * 6

ETHERNET: Final = struct.Struct(">6s6sH")
ARP: Final = struct.Struct(">HHBBH6s4s6s4s")
IPV4: Final = struct.Struct(">BBHHHBBH4s4s")
UDP: Final = struct.Struct(">HHHH")
TYPE_IPV4, TYPE_ARP = 0x0800, 0x0806
REQUEST, REPLY = 1, 2
ICMP, UDP_PROTOCOL = 1, 17
ECHO, ECHO_REPLY = 8, 0
MORE_FRAGMENTS_AND_OFFSET: Final = 0x3FFF
TIME_TO_LIVE: Final = 64

_ADDRESS: Final = bytes(map(int, ADDRESS.split(".")))


def answer(frame: bytes) -> bytes | None:
    """What the host sends back on a frame, padding after the packet ignored; None for nothing."""
    if len(frame) < ETHERNET.size:
        return None
    to, sender, kind = ETHERNET.unpack_from(frame)
    if to not in (MAC, BROADCAST):
        return None
    body = frame[ETHERNET.size :]
    found = _arp(body) if kind == TYPE_ARP else _ipv4(body) if kind == TYPE_IPV4 else None
    return ETHERNET.pack(sender, MAC, kind) + found if found else None


def _arp(body: bytes) -> bytes | None:
    if len(body) < ARP.size:
        return None
    hardware, protocol, *lengths, operation, sender, source, _, target = ARP.unpack_from(body)
    if (hardware, protocol, *lengths) != (1, TYPE_IPV4, 6, 4) or operation != REQUEST or target != _ADDRESS:
        return None
    return ARP.pack(1, TYPE_IPV4, 6, 4, REPLY, MAC, _ADDRESS, sender, source)


def _ipv4(body: bytes) -> bytes | None:
    if len(body) < IPV4.size:
        return None
    version, _, total, identity, fragment, _, protocol, _, source, target = IPV4.unpack_from(body)
    header = 4 * (version & 0x0F)
    whole = version >> 4 == 4 and IPV4.size <= header <= total <= len(body) and not checksum(body[:header])
    if not whole or target != _ADDRESS or fragment & MORE_FRAGMENTS_AND_OFFSET:
        return None
    data = body[header:total]
    found = _icmp(data) if protocol == ICMP else _udp(data, source) if protocol == UDP_PROTOCOL else None
    return _packet(identity, protocol, source, found) if found else None


def _packet(identity: int, protocol: int, to: bytes, data: bytes) -> bytes:
    fields = [0x45, 0, IPV4.size + len(data), identity, 0, TIME_TO_LIVE, protocol, 0, _ADDRESS, to]
    fields[7] = checksum(IPV4.pack(*fields))
    return IPV4.pack(*fields) + data


def _icmp(data: bytes) -> bytes | None:
    if len(data) < 8 or data[0] != ECHO or checksum(data):
        return None
    rest = bytes(2) + data[4:]
    return bytes((ECHO_REPLY, 0)) + checksum(bytes(2) + rest).to_bytes(2, "big") + rest[2:]


def _udp(data: bytes, source: bytes) -> bytes | None:
    if len(data) < UDP.size:
        return None
    port, own, length, claimed = UDP.unpack_from(data)
    if not UDP.size <= length <= len(data):
        return None
    pseudo = source + _ADDRESS + struct.pack(">HH", UDP_PROTOCOL, length)
    if claimed and checksum(pseudo + data[:length]):
        return None
    turned = UDP.pack(own, port, length, 0) + data[UDP.size : length]
    return turned[:6] + (checksum(pseudo + turned) or 0xFFFF).to_bytes(2, "big") + turned[8:]  # 0 would mean none


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of data; 0 for data that holds its own."""
    words = struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))
    total: int = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
