"""What communications devices have in common: functional descriptors and notifications (USB CDC 1.2 §5.2.3, §6.3)."""

import struct
from collections.abc import Iterable
from typing import Final

from tools.lab.devices.describe import BULK, BULK_PACKET, INTERRUPT, cs_interface, endpoint, interface
from usbbridge.usb.ch9 import ClassCode, Recipient, RequestType, Speed, request_type

HEADER, CALL_MANAGEMENT, ACM, UNION, ETHERNET = 0x00, 0x01, 0x02, 0x06, 0x0F
"bDescriptorSubtype (table 13)."
CDC_RELEASE: Final = 0x0110
NOTIFICATION: Final = request_type(RequestType.CLASS, Recipient.INTERFACE, is_in=True)
NOTIFICATION_BYTES: Final = 16
"wMaxPacketSize of the endpoint: the longest notification, CONNECTION_SPEED_CHANGE, takes 16 bytes."


def union(first: int, *functional: bytes) -> bytes:
    """Header, the function's own descriptors, and the union of interfaces `first`, which controls, and the next."""
    header = cs_interface(HEADER, struct.pack("<H", CDC_RELEASE))
    return header + b"".join(functional) + cs_interface(UNION, bytes((first, first + 1)))


def control_interface(number: int, subclass: int, protocol: int, address: int, speed: Speed, extra: bytes) -> bytes:
    """The communications interface with its notification endpoint, polled each 16 ms or so."""
    notify = endpoint(address, INTERRUPT, NOTIFICATION_BYTES, 8 if speed is Speed.HIGH else 16)
    return interface(number, ClassCode.COMMUNICATIONS, subclass, protocol, endpoints=[notify], extra=extra)


def data_interface(number: int, addresses: Iterable[int], speed: Speed, *, alternate: int = 0) -> bytes:
    """The data interface with bulk endpoints; none for a setting without traffic."""
    ends = [endpoint(address, BULK, BULK_PACKET[speed]) for address in addresses]
    return interface(number, ClassCode.CDC_DATA, alternate=alternate, endpoints=ends)


def notification(code: int, value: int, number: int, data: bytes = b"") -> bytes:
    """A notification from interface `number`."""
    return struct.pack("<BBHHH", NOTIFICATION, code, value, number, len(data)) + data
