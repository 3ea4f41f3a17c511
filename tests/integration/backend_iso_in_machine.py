"""Runs inside a machine with vhci-hcd, as root: isochronous transfers of the libusb backend on a real kernel's usbfs.
Prints what happened, as JSON by name; `test_backend_iso.py` judges it."""

import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.machine.usb import DEVICES, holders, node
from tests.machine.waiting import reap_until
from tools.lab.devices.isosource import COUNTS, GET_COUNTS, NUMBER, SINK, SIZES, SOURCE, packet
from usbbridge.backend import libusb
from usbbridge.backend.base import ISO_FIELDS, Status, Transfer
from usbbridge.errors import UsbBridgeError
from usbbridge.usb.ch9 import DIR_IN, SETUP_STRUCT, Speed

PATIENCE = 30.0
"Seconds for what takes one: the machine may be slow."
URBS = 8
PACKETS = 32
SIZE = SIZES[Speed.HIGH]


@contextlib.contextmanager
def plugged(spec: str, port: int = 0) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """An emulated device: its folder in sysfs, and the process that it is."""
    command = [sys.executable, "-m", "tools.lab.plug", str(port), spec]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as exporter:
        assert exporter.stdout is not None
        try:
            assert select.select([exporter.stdout], [], [], PATIENCE)[0], f"the kernel does not take {spec}"
            yield DEVICES / exporter.stdout.readline().split()[1], exporter
        finally:
            exporter.terminate()


def open_device(folder: Path, alternate: int = 1) -> libusb.LibusbDevice:
    device = libusb.open_fd(os.open(node(folder), os.O_RDWR), "iso source")
    device.claim()
    device.set_interface(0, alternate)
    return device


class Stream:
    """Transfers of one endpoint, each submitted again when it ends until there were enough."""

    def __init__(self, device: libusb.LibusbDevice, endpoint: int, size: int = SIZE, packets: int = PACKETS) -> None:
        self.device, self.endpoint, self.size, self.per_transfer = device, endpoint, size, packets
        self.wanted = 0
        self.submitted = 0
        self.packets: list[tuple[int, int, int]] = []
        "Number, bytes and status of each packet that came."
        self.statuses: list[int] = []

    def start(self, wanted: int = 0, urbs: int = URBS) -> None:
        self.wanted = wanted
        for _ in range(urbs):
            transfer = self.device.take_iso(self.per_transfer, self.size)
            transfer.on_done = self._done
            status = self._submit(transfer)
            assert status == Status.COMPLETED, status

    def _submit(self, transfer: Transfer) -> Status:
        for i in range(self.per_transfer):
            transfer.iso[i * ISO_FIELDS] = self.size
            if not self.endpoint & DIR_IN:
                data = packet(self.submitted + i, self.size)
                transfer.data[i * self.size : (i + 1) * self.size] = data
        self.submitted += self.per_transfer
        return self.device.submit_iso(transfer, self.endpoint, self.per_transfer)

    def _done(self, transfer: Transfer) -> None:
        self.statuses.append(transfer.status)
        for i in range(self.per_transfer):
            _, actual, status = transfer.iso[i * ISO_FIELDS : (i + 1) * ISO_FIELDS]
            whole = actual >= NUMBER.size and self.endpoint & DIR_IN
            number = NUMBER.unpack_from(transfer.data, i * self.size)[0] if whole else -1
            data = bytes(transfer.data[i * self.size : i * self.size + actual])
            assert not whole or data == packet(number, actual)
            self.packets.append((number, actual, status))
        more = transfer.status == Status.COMPLETED and self.submitted < self.wanted
        if not more or self._submit(transfer) != Status.COMPLETED:
            self.device.give_back(transfer)

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Reap, waiting for the device, until nothing is in flight or `until` is true."""
        done = reap_until(lambda: not self.device.in_flight() or (until and until()), self.device, PATIENCE)
        assert done, "timed out"


def counts(device: libusb.LibusbDevice) -> list[int]:
    """What the device has sent, received, and found wrong."""
    transfer = device.take(COUNTS.size)
    transfer.setup[:] = SETUP_STRUCT.pack(0xC0, GET_COUNTS, 0, 0, COUNTS.size)
    ended: list[Transfer] = []
    transfer.on_done = ended.append
    assert device.submit_control(transfer, COUNTS.size) == Status.COMPLETED
    assert reap_until(lambda: ended, device, PATIENCE), "timed out"
    return [*COUNTS.unpack(transfer.data[: COUNTS.size])]


def inwards(spec: str, speed: Speed, wanted: int, packets: int = PACKETS) -> dict[str, object]:
    with plugged(spec, port=8 if speed is Speed.SUPER else 0) as (folder, _):
        device = open_device(folder)
        stream = Stream(device, SOURCE, SIZES[speed], packets)
        stream.start(wanted)
        stream.run()
        sent, _, _ = counts(device)
        facts = {"speed": device.speed.name, "sent": sent, "packets": len(stream.packets)}
        facts["as sent"] = stream.packets == [(i, SIZES[speed], 0) for i in range(len(stream.packets))]
        device.close()
        return facts | {"holders": holders()}


def outwards() -> dict[str, object]:
    with plugged("isosource") as (folder, _):
        device = open_device(folder)
        stream = Stream(device, SINK)
        stream.start(wanted=4000)
        stream.run()
        facts = {"sent": stream.submitted, "counts": counts(device)}
        facts["all"] = {(actual, status) for _, actual, status in stream.packets} == {(SIZE, 0)}
        device.close()
        return facts


def both_ways() -> dict[str, object]:
    """A headset's traffic: both directions at once."""
    with plugged("isosource") as (folder, _):
        device = open_device(folder)
        streams = [Stream(device, endpoint, packets=8) for endpoint in (SOURCE, SINK)]
        for stream in streams:
            stream.start(wanted=1000)
        streams[0].run()
        facts = {"counts": counts(device), "numbered": [n for n, _, _ in streams[0].packets]}
        facts["numbered"] = facts["numbered"] == list(range(len(streams[0].packets)))
        facts["sent"] = [stream.submitted for stream in streams]
        device.close()
        return facts


def damaged() -> dict[str, object]:
    with plugged("isosource,errors=10,babble=7,short=4") as (folder, _):
        device = open_device(folder)
        stream = Stream(device, SOURCE)
        stream.start(urbs=1)
        stream.run()
        device.close()
        return {"transfer": stream.statuses, "packets": stream.packets}


def many_packets() -> dict[str, object]:
    """More than usbfs takes in one URB: libusb cuts the transfer up."""
    with plugged("isosource") as (folder, _):
        device = open_device(folder)
        stream = Stream(device, SOURCE, packets=300)
        stream.start(urbs=2)
        stream.run()
        facts = {"numbered": [n for n, _, _ in stream.packets] == list(range(600))}
        few = device.take_iso(300, SIZE)
        few.on_done = stream.device.give_back
        few.iso[:] = memoryview(struct.pack("iii", SIZE, 0, 0) * 300).cast("i")
        facts["few"] = device.submit_iso(few, SOURCE, 3)
        stream.run()
        facts["few came"] = [few.iso[i * ISO_FIELDS + 1] for i in range(4)]
        device.close()
        return facts


def refused() -> dict[str, object]:
    with plugged("isosource") as (folder, _):
        device = open_device(folder)
        transfer = device.take_iso(8, 1 << 15)
        transfer.iso[:] = memoryview(struct.pack("iii", 1 << 15, 0, 0) * 8).cast("i")
        facts = {"too large": device.submit_iso(transfer, SOURCE, 8)}
        transfer.iso[:] = memoryview(struct.pack("iii", 16, 0, 0) * 8).cast("i")
        facts["too many"] = device.submit_iso(transfer, SOURCE, 9)
        facts["none"] = device.submit_iso(transfer, SOURCE, 0)
        facts["unknown endpoint"] = device.submit_iso(transfer, 0x8F, 8)
        device.set_interface(0, 0)
        facts["no endpoint in this setting"] = device.submit_iso(transfer, SOURCE, 8)
        facts["in flight"] = device.in_flight()
        device.close()
        return facts


def cancelled() -> dict[str, object]:
    with plugged("isosource") as (folder, _):
        device = open_device(folder)
        stream = Stream(device, SOURCE)
        flying: list[Transfer] = []
        take = device.take_iso
        device.take_iso = lambda packets, size: flying.append(take(packets, size)) or flying[-1]
        stream.start()
        for transfer in flying:
            device.cancel(transfer)
        facts: dict[str, object] = {"drained": device.drain(PATIENCE), "in flight": device.in_flight()}
        facts["ended"] = len(stream.statuses)
        facts["some cancelled"] = Status.CANCELLED in stream.statuses
        stream.start(wanted=URBS * PACKETS)
        stream.run()
        facts["again"] = stream.statuses[URBS:] == [Status.COMPLETED] * URBS
        device.close()
        return facts


def closed() -> dict[str, object]:
    """Closed and opened again while its transfers are in flight."""
    with plugged("isosource") as (folder, _):
        rounds = []
        for _ in range(3):
            device = open_device(folder)
            stream = Stream(device, SOURCE)
            stream.start(wanted=1 << 30)
            stream.run(until=lambda stream=stream: len(stream.packets) > 500)
            device.close()
            numbers = [number for number, _, status in stream.packets if not status]
            rounds.append(numbers[:500] == list(range(500)))
        return {"rounds": rounds, "holders": holders()}


def settings() -> dict[str, object]:
    """From one alternate setting to another and back."""
    with plugged("isosource") as (folder, _):
        device = open_device(folder)
        sizes = []
        for alternate in (2, 1, 2):
            device.set_interface(0, alternate)
            stream = Stream(device, SOURCE, size=SIZE // 4 if alternate == 2 else SIZE)
            stream.start(wanted=URBS * PACKETS)
            stream.run()
            sizes.append(sorted({actual for _, actual, _ in stream.packets}))
        device.close()
        return {"sizes": sizes}


def unplugged() -> dict[str, object]:
    with plugged("isosource") as (folder, exporter):
        device = open_device(folder)
        stream = Stream(device, SOURCE)
        stream.start(wanted=1 << 30)
        stream.run(until=lambda: len(stream.packets) > 500)
        exporter.terminate()
        stream.run()
        facts: dict[str, object] = {"in flight": device.in_flight(), "last": Status(stream.statuses[-1]).name}
        device.close()
        return facts | {"exporter": exporter.wait(PATIENCE), "holders": holders()}


def streams() -> dict[str, object]:
    """What is said where there are no bulk streams."""
    facts: dict[str, object] = {}
    image = Path("/dev/shm/image")
    image.write_bytes(bytes(1 << 20))
    for name, spec, port, endpoints in (
        ("high speed", "isosource", 0, [SOURCE]),
        ("no streams", f"disk:{image}", 8, [0x81, 0x02]),
    ):
        with plugged(spec, port) as (folder, _):
            device = libusb.open_fd(os.open(node(folder), os.O_RDWR), "1-1 device")
            device.claim()
            try:
                device.alloc_streams(16, endpoints)
            except UsbBridgeError as error:
                facts[name] = [type(error).__name__, str(error)]
            device.close()
    return facts


STEPS: dict[str, Callable[[], object]] = {
    "in at high speed": lambda: inwards("isosource", Speed.HIGH, 8000),
    "in at full speed": lambda: inwards("isosource,speed=full", Speed.FULL, 600, packets=8),
    "in at super speed": lambda: inwards("isosource", Speed.SUPER, 4000),
    "every eighth microframe": lambda: inwards("isosource,interval=4", Speed.HIGH, 500, packets=8),
    "out": outwards,
    "both ways": both_ways,
    "damaged": damaged,
    "many packets": many_packets,
    "refused": refused,
    "cancelled": cancelled,
    "closed": closed,
    "settings": settings,
    "unplugged": unplugged,
    "streams": streams,
}


def main() -> None:
    """All steps, or those named."""
    facts: dict[str, object] = {}
    for name in sys.argv[1:] or STEPS:
        try:
            facts[name] = STEPS[name]()
        except BaseException:
            facts[name] = traceback.format_exc()
        print(name, facts[name], file=sys.stderr, flush=True)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
