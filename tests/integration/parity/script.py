"""The language of the scripts: what a guest says, step by step.

A script is a list of steps, a step what is said at once and how many answers are waited for. What has no answer of its
own is fenced off by a question that has (`Step.fence`), so that nothing needs time to be waited for.

The ids of packets count from 1 in each script where they don't matter.
"""

from dataclasses import dataclass
from enum import Enum
from itertools import count

from tools.lab.devices.paragon import Manner, Order
from usbbridge.usb.ch9 import Request, Speed
from usbbridge.usbredir import packets as p
from usbbridge.usbredir.proto import ALL_CAPS, Cap

ALL_OF = -1
"For `Step.flow`: whatever flows is written down."


@dataclass(frozen=True)
class Said:
    """A packet of the guest."""

    id: int
    packet: p.Packet


@dataclass(frozen=True)
class Raw:
    """Bytes of the guest, as they are."""

    data: bytes


class Act(Enum):
    """What happens beside the wire."""

    UNPLUG = "the device is unplugged"
    SETTLE = "what is under way to the device arrives"


@dataclass(frozen=True)
class Step:
    """What is said at once, and what is waited for."""

    label: str
    things: tuple[Said | Raw | Act, ...]
    replies: int
    "Packets to wait for."
    flow: int = 0
    "Isochronous and buffered bulk packets to wait for. More than these are not written down."
    fence: bool = True
    unordered: bool = False
    "Several endpoints answer, each in its own time: the answers are sorted."
    bytes: bool = False
    "What came is written down also as it came."


@dataclass(frozen=True)
class Script:
    """A guest."""

    name: str
    steps: tuple[Step, ...]
    caps: Cap = ALL_CAPS
    speed: Speed = Speed.HIGH
    resets: bool = False
    "Needs a device that bears resets; all others are faster without."


ONE_ANSWER = (
    *(p.SetConfiguration, p.GetConfiguration, p.SetAltSetting, p.GetAltSetting),
    *(p.StartInterruptReceiving, p.StopInterruptReceiving, p.StartIsoStream, p.StopIsoStream),
    *(p.StartBulkReceiving, p.StopBulkReceiving, p.AllocBulkStreams, p.FreeBulkStreams),
    *(p.ControlPacket, p.BulkPacket, p.InterruptPacket),
)
"Packets that are answered with exactly one of their own kind."


class Writer:
    """Makes a script: each call is a step, and says what its things are said with."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._ids = count(1)

    def say(self, label: str, *packets: p.Packet | Said | Raw | Act, more: int = 0, **how: int) -> None:
        """`more`: answers beside one to each packet that has one."""
        things = tuple(Said(next(self._ids), each) if isinstance(each, p.Packet) else each for each in packets)
        replies = sum(isinstance(each, Said) and isinstance(each.packet, ONE_ANSWER) for each in things) + more
        self.steps.append(Step(label, things, replies, **how))

    def attach(self, **how: int) -> None:
        """Hello, and the announcement: hello, interface_info, ep_info, device_connect."""
        self.say("attach", HELLO, more=4, **how)


HELLO = p.Hello("", Cap(0))
"What is really said is the guest's own."


# ---- packets by what they are for


def control(requesttype: int, request: int, value: int = 0, index: int = 0, data: bytes | int = 0) -> p.ControlPacket:
    """`data`: what is sent, or how much is asked for."""
    endpoint = requesttype & 0x80
    length, payload = (data, b"") if isinstance(data, int) else (len(data), data)
    return p.ControlPacket(endpoint, request, requesttype, 0, value, index, length, payload)


def order(request: Order, value: int = 0, index: int = 0, data: bytes = b"") -> p.ControlPacket:
    return control(0x40, request, value, index, data)


def asked(request: Order, index: int = 0, length: int = 64) -> p.ControlPacket:
    return control(0xC0, request, 0, index, length)


def behave(endpoint: int, manner: Manner) -> p.ControlPacket:
    return order(Order.BEHAVE, manner, endpoint)


def sum_of(endpoint: int) -> p.ControlPacket:
    return asked(Order.SUM, endpoint)


def read(endpoint: int, length: int, stream: int = 0) -> p.BulkPacket:
    return p.BulkPacket(endpoint, 0, length, stream)


def write(endpoint: int, data: bytes, stream: int = 0) -> p.BulkPacket:
    return p.BulkPacket(endpoint, 0, len(data), stream, data)


def report(endpoint: int, data: bytes) -> p.InterruptPacket:
    return p.InterruptPacket(endpoint, 0, len(data), data)


def iso(endpoint: int, data: bytes) -> p.IsoPacket:
    return p.IsoPacket(endpoint, 0, len(data), data)


def descriptor(kind: int, index: int = 0, length: int = 255, language: int = 0) -> p.ControlPacket:
    return control(0x80, Request.GET_DESCRIPTOR, kind << 8 | index, language, length)
