"""Runs inside a machine with dummy_hcd and vhci-hcd, as root: the same thing a thousand times over, on real devices of
a real kernel, through the libusb backend and a host with a guest of ours.

    storms_in_machine.py ROUNDS [NAME ...]

Prints what each storm left behind, as JSON by name; `test_storms.py` judges it. One process for all of them, so that
what one leaks the next ones show.
"""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.fakes.guest import Rig
from tests.machine.gadgets import IMAGE, gadget
from tests.machine.usb import DEVICES, node
from tests.machine.waiting import reap_until, wait
from usbbridge.backend import libusb
from usbbridge.redirect.quirks import NO_RESET
from usbbridge.usb.ch9 import TransferType
from usbbridge.usb.descriptors import Endpoint
from usbbridge.usbredir import packets
from usbbridge.usbredir.packets import Packet
from usbbridge.usbredir.proto import Status

WARM_UP: Final = 5
"Rounds before the first count: what is made once and kept is there by then."
COLLECT_EVERY: Final = 20
"Rounds. What is only waiting for the collector would make the memory grow for hundreds of rounds, and is no leak."
SECONDS: Final = 30.0
"For one answer; the machine may be slow."
SIZE: Final = 1 << 20

PLUGGED: Final = ("fido", "acm", "ftdi", "camera", "headset", "isosource")
"Devices of `tools.lab.devices`, at high speed, on the ports of the kernel's virtual controller in this order."


class Session:
    """A device of this machine, attached to a guest."""

    def __init__(self, bus_port: str, quirks: tuple[str, ...] = ()) -> None:
        self.device = libusb.open_fd(os.open(node(DEVICES / bus_port), os.O_RDWR), bus_port)
        self.rig = Rig(self.device, quirks=quirks)
        self.said = 0

    def say(self, packet: Packet) -> int:
        """Send a packet; its id."""
        self.said += 1
        self.rig.guest.say(packet, self.said)
        return self.said

    def ask(self, packet: Packet, answer: type[Packet]) -> Packet:
        """The answer to a packet that has one."""
        self.say(packet)
        return self.hear(answer)

    def hear(self, kind: type[Packet], count: int = 1) -> Packet:
        """The last of `count` packets of a kind, once they are there; all others are forgotten."""
        heard: list[Packet] = []

        def there() -> bool:
            self.rig.settle()
            heard.extend(packet for _, packet in self.rig.guest.ear.take() if type(packet) is kind)
            return len(heard) >= count

        self.until(there)
        return heard[-1]

    def until(self, there: Callable[[], bool]) -> None:
        """Work until it is true, waiting for the device in between."""
        assert reap_until(there, self.device, SECONDS), "timed out"

    def works(self) -> None:
        """The device answers."""
        self.said += 1
        self.rig.guest.control(self.said, 0x80, 6, 0x0100, 0, 18)
        answer = self.hear(packets.ControlPacket)
        assert isinstance(answer, packets.ControlPacket)
        assert (answer.status, len(answer.data)) == (Status.SUCCESS, 18), answer

    def endpoint(self, kind: TransferType, *, is_in: bool) -> tuple[int, int, Endpoint]:
        """The first such endpoint, with its interface and alternate setting."""
        configuration = self.device.configuration()
        assert configuration is not None
        for setting in configuration.interfaces:
            for endpoint in setting.endpoints:
                if endpoint.transfer_type is kind and endpoint.is_in is is_in:
                    return setting.number, setting.alternate, endpoint
        raise AssertionError(f"no {kind.name} endpoint")

    def quiet(self) -> None:
        """Nothing of the guest's is left over."""
        self.until(lambda: not (self.rig.settle() or self.rig.host.pending or self.device.in_flight()))
        assert self.rig.host.pending_bytes == 0

    def end(self) -> None:
        """Give the device back."""
        self.rig.host.disconnect()
        self.rig.to_guest()
        self.rig.host.close()
        assert self.device.in_flight() == 0


@contextlib.contextmanager
def attached(bus_port: str, *quirks: str) -> Iterator[Session]:
    """A session from its start to its end."""
    session = Session(bus_port, quirks)
    try:
        session.rig.attach()
        yield session
        session.end()
    finally:
        session.device.close()


# ---- what is done over and over


def attach(bus_port: str) -> None:
    """The device goes to the guest, does something, and comes back; without the resets that go with that, in which the
    kernel waits for most of a second: they are a storm of their own."""
    with attached(bus_port, NO_RESET) as session:
        session.works()


Round = Callable[[Any], None]
"Takes the session with the device; `attach`, which makes its own, the device's place."


def reset(session: Session) -> None:
    """The guest resets the device that it has just used."""
    before = session.rig.host.resets
    session.works()
    session.say(packets.Reset())
    session.rig.settle()
    assert session.rig.host.resets == before + 1
    session.works()


def set_alternate(session: Session) -> None:
    """Every alternate setting of every interface."""
    configuration = session.device.configuration()
    assert configuration is not None
    first = dict.fromkeys(configuration.numbers, 0)
    settings = [(s.number, s.alternate) for s in configuration.interfaces if s.alternate] + [*first.items()]
    for number, alternate in settings:
        answer = session.ask(packets.SetAltSetting(number, alternate), packets.AltSettingStatus)
        assert answer == packets.AltSettingStatus(Status.SUCCESS, number, alternate)


def set_configuration(session: Session) -> None:
    """None, and again the one there is."""
    for value in (0, 1):
        answer = session.ask(packets.SetConfiguration(value), packets.ConfigurationStatus)
        assert answer == packets.ConfigurationStatus(Status.SUCCESS, value)


def cancel(session: Session) -> None:
    """Requests for data that does not come, the last first."""
    _, _, endpoint = session.endpoint(TransferType.BULK, is_in=True)
    ids = []
    for _ in range(4):
        session.said += 1
        session.rig.guest.bulk(session.said, endpoint.address, 4096)
        ids.append(session.said)
    session.rig.settle()
    for number in reversed(ids):
        session.rig.guest.say(packets.CancelDataPacket(), number)
    answer = session.hear(packets.BulkPacket, len(ids))
    assert isinstance(answer, packets.BulkPacket)
    assert answer.status == Status.CANCELLED
    session.quiet()


def interrupt(session: Session) -> None:
    """Receiving from an interrupt endpoint begins and ends."""
    _, _, endpoint = session.endpoint(TransferType.INTERRUPT, is_in=True)
    for packet in (packets.StartInterruptReceiving, packets.StopInterruptReceiving):
        answer = session.ask(packet(endpoint.address), packets.InterruptReceivingStatus)
        assert answer == packets.InterruptReceivingStatus(Status.SUCCESS, endpoint.address)
    session.quiet()


def receiving(session: Session) -> None:
    """Buffered receiving from a bulk endpoint begins and ends."""
    _, _, endpoint = session.endpoint(TransferType.BULK, is_in=True)
    size = 4 * endpoint.max_packet_size
    for packet in (
        packets.StartBulkReceiving(0, size, endpoint.address, 4),
        packets.StopBulkReceiving(0, endpoint.address),
    ):
        answer = session.ask(packet, packets.BulkReceivingStatus)
        assert answer == packets.BulkReceivingStatus(0, endpoint.address, Status.SUCCESS)
    session.quiet()


def iso_in(session: Session) -> None:
    """An isochronous stream in begins, brings some packets, and ends."""
    number, alternate, endpoint = session.endpoint(TransferType.ISO, is_in=True)
    session.ask(packets.SetAltSetting(number, alternate), packets.AltSettingStatus)
    answer = session.ask(packets.StartIsoStream(endpoint.address, 8, 4), packets.IsoStreamStatus)
    assert answer == packets.IsoStreamStatus(Status.SUCCESS, endpoint.address)
    session.hear(packets.IsoPacket, 16)
    answer = session.ask(packets.StopIsoStream(endpoint.address), packets.IsoStreamStatus)
    assert answer == packets.IsoStreamStatus(Status.SUCCESS, endpoint.address)
    session.ask(packets.SetAltSetting(number, 0), packets.AltSettingStatus)
    session.quiet()


def iso_out(session: Session) -> None:
    """An isochronous stream out begins, takes some packets, and ends."""
    number, alternate, endpoint = session.endpoint(TransferType.ISO, is_in=False)
    session.ask(packets.SetAltSetting(number, alternate), packets.AltSettingStatus)
    answer = session.ask(packets.StartIsoStream(endpoint.address, 8, 4), packets.IsoStreamStatus)
    assert answer == packets.IsoStreamStatus(Status.SUCCESS, endpoint.address)
    for count in range(32):
        session.rig.guest.say(packets.IsoPacket(endpoint.address, 0, 4, count.to_bytes(4, "little")))
    session.rig.settle()
    session.ask(packets.StopIsoStream(endpoint.address), packets.IsoStreamStatus)
    session.ask(packets.SetAltSetting(number, 0), packets.AltSettingStatus)
    session.quiet()


DEVICES_OF: Final[dict[Round, tuple[str, ...]]] = {
    attach: ("stick", *PLUGGED[:2], "camera", "headset", "isosource"),
    reset: ("stick", "fido", "acm", "isosource"),
    set_alternate: ("camera", "headset", "isosource"),
    set_configuration: ("stick", "fido", "acm"),
    cancel: ("stick", "acm"),
    interrupt: ("fido", "acm"),
    receiving: ("ftdi", "acm"),
    iso_in: ("isosource",),
    iso_out: ("isosource",),
}
"Two dozen storms: what is done, and to which devices."
STORMS: Final = {f"{do.__name__} {name}": (do, name) for do, names in DEVICES_OF.items() for name in names}


# ---- and what it leaves


def count() -> dict[str, int]:
    """What there is of everything that could leak; KiB where it is memory."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    memory = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return {
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "objects": len(gc.get_objects()),
        "resident": int(status["VmRSS"].split()[0]),
        "kernel": int(memory["SUnreclaim"].split()[0]),
    }


def storm(do: Round, bus_port: str, rounds: int) -> dict[str, object]:
    """Do it so often; how much more there is of everything after that."""
    with contextlib.ExitStack() as stack:
        quirks = () if do is reset else (NO_RESET,)
        subject = bus_port if do is attach else stack.enter_context(attached(bus_port, *quirks))
        for _ in range(WARM_UP):
            do(subject)
        before, began = count(), time.monotonic()
        for number in range(rounds):
            do(subject)
            if not number % COLLECT_EVERY:
                gc.collect()
        after, seconds = count(), time.monotonic() - began
        if isinstance(subject, Session):
            subject.works()
            subject.quiet()
    with attached(bus_port) as session:
        session.works()
    grown = {name: after[name] - before[name] for name in before}
    return grown | {"rounds": rounds, "seconds": round(seconds, 1), "working": True}


def main() -> dict[str, object]:
    rounds, *names = int(sys.argv[1]), *sys.argv[2:]
    wanted = {name: STORMS[name] for name in names or STORMS}
    IMAGE.write_bytes(os.urandom(SIZE))
    places = {"stick": "1-1"}
    stick = gadget("stick", "mass_storage.0", {"lun.0/file": str(IMAGE)})
    (stick / "UDC").write_text("dummy_udc.0")
    wait((DEVICES / "1-1:1.0").exists)
    facts: dict[str, object] = {}
    with plugged() as found:
        places |= found
        for name, (do, device) in wanted.items():
            try:
                facts[name] = storm(do, places[device], rounds)
            except BaseException:
                facts[name] = traceback.format_exc()
            print(name, facts[name], file=sys.stderr, flush=True)
    return facts


@contextlib.contextmanager
def plugged():
    """The emulated devices, in a process of their own; where each is."""
    words = [word for number, name in enumerate(PLUGGED) for word in (str(number), name)]
    process = subprocess.Popen([sys.executable, "-m", "tools.lab.plug", *words], stdout=subprocess.PIPE, text=True)
    places = sorted(process.stdout.readline().split()[1] for _ in PLUGGED)
    try:
        yield dict(zip(PLUGGED, places, strict=True))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=SECONDS)


if __name__ == "__main__":
    print(json.dumps(main()))
