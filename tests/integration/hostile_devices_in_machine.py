"""Runs inside a machine with vhci-hcd, as root: devices that lie and misbehave, through a real kernel to everything of
ours that meets them. Prints what happened, as JSON by kind; `test_hostile_devices.py` judges it."""

import contextlib
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.machine.usb import DEVICES, holders, node
from tests.machine.waiting import reap_until
from tools.lab.devices.misbehaving import IN, KINDS, OUT, REPORTS
from tools.lab.plug import Port
from usbbridge.backend import libusb
from usbbridge.backend.base import Status, Transfer
from usbbridge.errors import UsbBridgeError
from usbbridge.loopback.vm import LoopbackVm
from usbbridge.monitor import inventory
from usbbridge.usb.descriptors import parse_all

TOGETHER = 8
"Devices that are plugged in at once: the high-speed ports of the virtual controller."
PATIENCE = 60.0
CHUNK = 8192
"Bytes: more than a line of the kernel's log can have."
HANGING = 2.0
"Seconds after which a transfer that does not end is cancelled."
GET_DESCRIPTOR = bytes.fromhex("8006000100001200")


@contextlib.contextmanager
def plugged(kinds: Sequence[str]) -> Iterator[dict[str, Path]]:
    """These devices, those that the kernel has taken, by kind: each one's folder in sysfs."""
    ports = {Port(number).bus_port: kind for number, kind in enumerate(kinds)}
    words = [word for n, kind in enumerate(kinds) for word in (str(n), f"misbehaving,kind={kind}")]
    command = [sys.executable, "-m", "tools.lab.plug", *words]
    with open_log() as log, subprocess.Popen(command, stdout=subprocess.PIPE) as exporter:
        try:
            yield {ports[name]: DEVICES / name for name in _taken(exporter, log, set(ports))}
        finally:
            exporter.terminate()
            assert exporter.wait(PATIENCE) == 0


@contextlib.contextmanager
def open_log() -> Iterator[int]:
    """The kernel's log from here on: in what it says of a port before, that was another device's."""
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(fd, 0, os.SEEK_END)
    try:
        yield fd
    finally:
        os.close(fd)


def _taken(exporter: subprocess.Popen[bytes], log: int, waiting: set[str]) -> list[str]:
    """Wait until the kernel has taken each device, or given it up, of which only its log tells; BUS-PORT of those that
    it has taken."""
    assert exporter.stdout is not None
    deadline, said, taken, given_up = time.monotonic() + PATIENCE, b"", [], set()
    while waiting - {*taken} - given_up:
        left = deadline - time.monotonic()
        assert left > 0, f"of {waiting} the kernel has taken {taken} and given up {given_up}"
        ready = select.select([exporter.stdout, log], [], [], left)[0]
        if exporter.stdout in ready:
            read = os.read(exporter.stdout.fileno(), CHUNK)
            assert read, "the exporter has ended"
            said += read
            taken = re.findall(r"plugged (\S+)\n", said.decode())
        if log in ready:
            given_up |= _given_up(log)
    return taken


def _given_up(log: int) -> set[str]:
    """BUS-PORT of the device that the next line of the log says the kernel has given up, if it does."""
    try:
        line = os.read(log, CHUNK).decode()
    except BrokenPipeError:  # what came next has been overwritten; the next call reads what is left
        return set()
    return {f"{bus}-{port}" for bus, port in re.findall(r"usb usb(\d+)-port(\d+): unable to enumerate USB", line)}


# ---- the monitor's view


def seen(folder: Path) -> dict[str, object]:
    """What the inventory and the descriptors' parser make of it."""
    entry = next(entry for entry in inventory.devices() if entry.bus_port == folder.name)
    try:
        device, configurations = parse_all(inventory.descriptors(inventory.ROOT, folder.name))
        parsed: object = [device.product, sum(len(each.interfaces) for each in configurations)]
    except UsbBridgeError as error:
        parsed = str(error)
    return {"name": entry.name, "interfaces": len(entry.interfaces), "parsed": parsed}


# ---- the backend


def used(folder: Path) -> dict[str, object]:
    """Open, claim, a transfer of each kind, reset, close: how each ended, up to the first error."""
    facts: dict[str, object] = {}
    began = time.monotonic()
    try:
        device = libusb.open_fd(os.open(node(folder), os.O_RDWR), folder.name)
    except UsbBridgeError as error:
        return {"error": [type(error).__name__, str(error)]}
    try:
        device.claim()
        facts["claimed"] = True
        for name, start in (
            ("control", lambda t: device.submit_control(t, 18)),
            ("in", lambda t: device.submit_bulk(t, IN, 512)),
            ("out", lambda t: device.submit_bulk(t, OUT, 512)),
            ("interrupt", lambda t: device.submit_interrupt(t, REPORTS, 8)),
        ):
            facts[name] = transfer(device, start)
        if facts["in"] == Status.COMPLETED.name:
            facts["many"] = [transfer(device, lambda t: device.submit_bulk(t, IN, 512)) for _ in range(30)][-1]
        device.reset()
        facts["reset"] = True
    except UsbBridgeError as error:
        facts["error"] = [type(error).__name__, str(error)]
    device.close()
    return facts | {"seconds": time.monotonic() - began}


def transfer(device: libusb.LibusbDevice, start: Callable[[Transfer], Status]) -> str:
    """The name of its status; "hung" for one that had to be cancelled."""
    t = device.take(512)
    ended: list[Transfer] = []
    t.on_done, t.setup[:] = ended.append, GET_DESCRIPTOR
    status = start(t)
    if status is not Status.COMPLETED:
        device.give_back(t)
        return f"refused: {status.name}"
    if not reap_until(lambda: ended, device, HANGING):
        device.cancel(t)
        assert reap_until(lambda: ended, device, PATIENCE), "a cancelled transfer did not come back"
        device.give_back(t)
        return "hung"
    device.give_back(t)
    return Status(t.status).name


# ---- the command


class Attaching:
    """`usbbridge attach --foreground` with a device, to a VM of its own."""

    def __init__(self, folder: Path) -> None:
        self.vm = LoopbackVm(transport="raw")
        self.vm.__enter__()
        command = [sys.executable, "-m", "usbbridge", "attach", "--foreground", folder.name, "--vm", self.vm.target]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.output = b""

    def end(self) -> dict[str, object]:
        """Wait until it is attached or has given up, then end it."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        while b"attached:" not in self.output:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            read = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            self.output += read
            if not read:
                break
        attached = b"attached:" in self.output
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=PATIENCE)
        self.vm.__exit__(None, None, None)
        lines = (self.output + out).decode(errors="replace").splitlines()
        return {
            "attached": attached,
            "status": self.process.returncode,
            "lines": lines,
            "violations": self.vm.violations,
        }


def attached(folders: dict[str, Path]) -> dict[str, dict[str, object]]:
    """All at once."""
    running = {kind: Attaching(folder) for kind, folder in folders.items()}
    return {kind: each.end() for kind, each in running.items()}


def batch(kinds: Sequence[str]) -> dict[str, object]:
    """The facts of some kinds, by kind."""
    facts: dict[str, object] = {}
    with plugged(kinds) as folders:
        present = {kind: folder for kind, folder in folders.items() if folder.exists()}
        by_command = attached(present)
        for kind in kinds:
            facts[kind] = "given up by the kernel"
        for kind, folder in present.items():
            facts[kind] = by_command[kind] | {"holders": holders()}
            if folder.exists():
                facts[kind] |= {"seen": seen(folder), "used": used(folder), "holders": holders()}
    return facts


def main() -> None:
    """All kinds, or those named."""
    kinds = sys.argv[1:] or [*KINDS]
    facts: dict[str, object] = {}
    for first in range(0, len(kinds), TOGETHER):
        some = kinds[first : first + TOGETHER]
        try:
            facts |= batch(some)
        except BaseException:
            facts |= dict.fromkeys(some, traceback.format_exc())
            print(traceback.format_exc(), file=sys.stderr, flush=True)
        print(json.dumps({kind: facts[kind] for kind in some}), file=sys.stderr, flush=True)
    facts["KiB of the largest process"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
