"""Runs inside a machine, as root: has the kernel tell of its USB devices many times a second, and counts what is heard.

    hotplug_storm.py RATE SECONDS [INTERFACE]

What is written into a device's file `uevent` the kernel sends to everybody who listens, as if it had happened, by the
way on which it sends everything (Linux, lib/kobject_uevent.c, kobject_synth_uevent). If an INTERFACE is named, every
other event is one that did happen: its driver is taken from it, and bound to it again.

Prints `listening`, then `sent` when all are, and, when standard input has ended, what was sent and heard, as JSON.
"""

import contextlib
import errno
import itertools
import json
import os
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.machine.usb import DEVICES
from tests.machine.waiting import KERNEL_EVENTS, NETLINK_KOBJECT_UEVENT
from usbbridge.monitor.hotplug import KernelSource, Source, UdevSource

ACTIONS: Final = ("remove", "add", "unbind", "bind", "change")
"All lies: what is removed is still there."
ROOM: Final = 32 << 20
"Bytes of events that may wait for who counts them: none is lost there."
SO_RCVBUFFORCE: Final = 33
"asm-generic/socket.h; Python has no name for it."
EVENT_SIZE: Final = 8 << 10


class Truth:
    """Everything that the kernel has told of USB, by a socket of our own."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        self.sock.bind((0, KERNEL_EVENTS))
        self.heard: Counter[str] = Counter()
        "Of each action at each place how many."
        self.lies = 0
        "Those that were only written."
        self.came: list[str] = []
        self.went: list[str] = []
        "Devices, as BUS-PORT#DEVNUM."

    def drain(self) -> None:
        """Hear what there is."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._hear(self.sock.recv(EVENT_SIZE))

    def _hear(self, data: bytes) -> None:
        header, *variables = data.decode().split("\0")
        fields = dict(variable.split("=", 1) for variable in variables if variable)
        if fields["SUBSYSTEM"] not in ("usb", "block"):
            return
        action, _, path = header.partition("@")
        name = path.rpartition("/")[2]
        self.heard[f"{action} {name}"] += 1
        if "SYNTH_UUID" in fields:
            self.lies += 1
        elif fields.get("DEVTYPE") == "usb_device" and action in ("add", "remove"):
            (self.came if action == "add" else self.went).append(f"{name}#{int(fields['DEVNUM'])}")


def drain(source: Source, heard: Counter[str]) -> None:
    """Hear what there is."""
    more = True
    while more:
        more = False
        for event in source.events():
            heard[f"{event.action} {event.name}"] += 1
            more = True


def places() -> Iterator[Path]:
    """All devices and interfaces that are there, again and again."""
    while True:
        yield from sorted(DEVICES.iterdir())


def lies() -> Iterator[None]:
    """Each step sends one event about something that is still as it was."""
    told: Counter[str] = Counter()
    for place in places():
        action = ACTIONS[told[place.name] % len(ACTIONS)]
        told[place.name] += 1
        try:
            (place / "uevent").write_text(action)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # it has gone since it was listed
                raise
        else:
            yield


def flood(count: int) -> None:
    """As many as that about devices that are there, as fast as they can be written."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((place / "uevent").open("wb", buffering=0)) for place in DEVICES.iterdir()]
        for number in range(count):
            files[number % len(files)].write(b"change")


def changes(interface: str) -> Iterator[None]:
    """Each step takes the interface's driver from it, or has it bound again, which the kernel tells by an event."""
    driver = (DEVICES / interface / "driver").resolve()
    for action in itertools.cycle(("unbind", "bind")):
        (driver / action).write_text(interface)
        yield


def both(one: Iterator[None], other: Iterator[None]) -> Iterator[None]:
    """In turn."""
    while True:
        yield next(one)
        yield next(other)


def main() -> None:
    """See the top."""
    rate, seconds, *interface = sys.argv[1:]
    steps = both(lies(), changes(interface[0])) if interface else lies()
    count = int(rate) * int(seconds)
    truth = Truth()
    sources: dict[str, Source] = {"libudev": UdevSource("kernel"), "netlink": KernelSource()}
    heard: dict[str, Counter[str]] = {name: Counter() for name in sources}

    def hear() -> None:
        truth.drain()
        for name, source in sources.items():
            drain(source, heard[name])

    ears = [truth.sock.fileno(), *(source.fileno() for source in sources.values())]
    os.write(sys.stdout.fileno(), b"listening\n")
    began = time.monotonic()
    for number in range(count):
        hear()
        while (left := began + number / int(rate) - time.monotonic()) > 0:
            if select.select(ears, [], [], left)[0]:
                hear()
        next(steps)
    took = time.monotonic() - began
    os.write(sys.stdout.fileno(), b"sent\n")
    while sys.stdin.fileno() not in select.select([sys.stdin.fileno(), *ears], [], [])[0]:
        hear()
    hear()
    same = {name: found == truth.heard for name, found in heard.items()}
    facts = {"sent": count, "seconds": round(took, 2), "rate": round(count / took), "lies": truth.lies, "heard": same}
    facts |= {"all": truth.heard.total(), "came": truth.came, "went": truth.went}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
