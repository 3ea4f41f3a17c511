"""Runs inside a machine with dummy_hcd and vhci-hcd, as root: `usbbridge service`, seven devices, and hundreds
of hotplug events a second.

The monitor hears of events by libudev first, then, as if pyudev were not installed, by itself. Prints what happened, as
JSON by name; `test_hotplug_rate.py` judges it.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from tests.integration import hotplug_storm
from tests.integration.service_in_machine import CONTROL, PASSWORD, RUN, Service, configure, reachable
from tests.machine.gadgets import plug_in_stick
from tests.machine.steps import Facts
from tests.machine.usb import DEVICES
from tests.machine.waiting import poll_for, wait
from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.client import ServiceClient, connected
from usbbridge.ipc.monitoring import ANSWERS, VERSION, Gone, Hello, Listed, Open, Plugged, Refused
from usbbridge.loopback.vm import LoopbackVm
from usbbridge.usb.entry import DeviceEntry

MONITOR: Final = RUN / "monitor/monitor.sock"
STORM: Final = Path(hotplug_storm.__file__)
RATE: Final = 250
"Events a second that are sent; a quarter more than have to be borne."
SECONDS: Final = 5
FLOOD: Final = 20_000
"Events while the monitor does not look: ten times what its buffer holds."
PATIENCE: Final = 120.0
"Seconds for one message: the machine may be slow."

PLUGGED: Final = ("fido", "acm", "ftdi", "ccid", "keyboard", "printer")
"Devices of `tools.lab.devices`, on the high-speed ports of the kernel's virtual controller in this order."
STICK: Final = "1-1:1.0"

State = dict[str, dict[int, str]]
"Devices that are there, as BUS-PORT#DEVNUM: the driver of each interface."


# ---- what there is, to whom


def kernel() -> State:
    """By sysfs."""
    return {f"{folder.name}#{_word(folder / 'devnum')}": drivers(folder) for folder in devices()}


def devices() -> list[Path]:
    return [folder for folder in DEVICES.iterdir() if ":" not in folder.name]


def drivers(device: Path) -> dict[int, str]:
    """None of a root hub, whose interface is called otherwise: `1-0:1.0` for `usb1`."""
    found = {}
    for folder in device.glob(f"{device.name}:*"):
        link = folder / "driver"
        found[int(_word(folder / "bInterfaceNumber"), 16)] = link.readlink().name if link.exists() else ""
    return found


def _word(file: Path) -> str:
    return file.read_text().strip()


class Record:
    """What somebody has been told is there; each message has to fit to those before."""

    def __init__(self) -> None:
        self.state: State = {}
        self.came: list[str] = []
        self.went: list[str] = []
        self.changed = 0
        "Messages about a device that was there already."
        self.contradictions: list[str] = []

    def plugged(self, device: str, interfaces: dict[int, str]) -> None:
        place = device.partition("#")[0]
        if device in self.state:
            self.changed += 1
        else:
            self.came.append(device)
            others = [other for other in self.state if other.partition("#")[0] == place]
            self.contradictions += [f"{device} came where {other} still was" for other in others]
        self.state[device] = interfaces

    def gone(self, device: str) -> None:
        self.went.append(device)
        if self.state.pop(device, None) is None:
            self.contradictions.append(f"{device} went, and was not there")


class Client:
    """A client of the monitor, which it has the rights of control with."""

    def __init__(self) -> None:
        self.record = Record()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(PATIENCE)
        self._sock.connect(str(MONITOR))
        self._channel = MessageChannel(self._sock, ANSWERS)
        self._channel.send(Hello(VERSION))
        self._until(Listed)

    def hear(self) -> object:
        """The next message."""
        received = self._channel.receive()
        assert received is not None, "the monitor has ended the connection"
        match received[0]:
            case Plugged(device):
                self.record.plugged(device.id, interfaces(device.entry))
            case Gone(device):
                self.record.gone(device)
        return received[0]

    def _until(self, kind: type) -> None:
        while not isinstance(self.hear(), kind):
            pass

    def settle(self) -> None:
        """Hear all that the monitor has said up to now: it answers in turn."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            self._channel.send(Open(1, "9-9#9"), theirs.fileno())
            self._until(Refused)

    def until(self, what: Callable[[State], bool]) -> None:
        while not what(self.record.state):
            self.hear()

    def close(self) -> None:
        self._sock.close()


def interfaces(entry: DeviceEntry) -> dict[int, str]:
    return {interface.number: interface.driver for interface in entry.interfaces}


class Subscriber:
    """A subscriber of control's API."""

    def __init__(self) -> None:
        self.record = Record()
        self._client = ServiceClient(connected([CONTROL]))
        self._client.patience = PATIENCE
        for status in self._client.call("subscribe")["devices"]:
            self._heard("device", status)
        self._events = self._client.events()

    def _heard(self, kind: str, data: Any) -> None:
        if kind == "device":
            found = {each["number"]: each["driver"] for each in data["device"]["entry"]["interfaces"]}
            self.record.plugged(data["device"]["id"], found)
        elif kind == "device-gone":
            self.record.gone(data["id"])

    def until(self, what: Callable[[State], bool]) -> None:
        while not what(self.record.state):
            self._heard(*next(self._events))

    def close(self) -> None:
        self._client.close()


# ---- what happens to devices


class Plugs:
    """The emulated devices, in a process of their own."""

    def __init__(self, names: tuple[str, ...]) -> None:
        words = [word for number, name in enumerate(names) for word in (str(number), name)]
        command = [sys.executable, "-m", "tools.lab.plug", *words]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.places = {_line(self._process.stdout).split()[1] for _ in names}

    def unplug(self) -> None:
        """All of them; the kernel may not be done with that yet."""
        self._process.terminate()
        assert self._process.wait(PATIENCE) == 0


def _line(pipe: IO[str] | None) -> str:
    assert pipe is not None
    assert select.select([pipe], [], [], PATIENCE)[0], "it does not say a word"
    line = pipe.readline()
    assert line, "it has ended"
    return line


class Storm:
    """Events by the hundred, from a process of their own, and who counts them."""

    def __init__(self, *interface: str) -> None:
        command = [sys.executable, str(STORM), str(RATE), str(SECONDS), *interface]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert _line(self._process.stdout) == "listening\n"

    def is_over(self, seconds: float = 0) -> bool:
        """Whether all has been sent, or is within so many seconds."""
        assert self._process.poll() is None, "it has ended before it was told to"
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def end(self) -> dict[str, Any]:
        """What it has counted."""
        said, _ = self._process.communicate(timeout=PATIENCE)
        facts: dict[str, Any] = json.loads(said.splitlines()[-1])
        return facts


def plug(stick: Path) -> None:
    (stick / "UDC").write_text("dummy_udc.0")


def unplug(stick: Path) -> None:
    (stick / "UDC").write_text("\n")


# ---- what it costs


def netlink(pid: int) -> dict[str, int]:
    """Of a process's socket for the kernel's events: bytes that wait in it, and how many events it had no room for."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it was open for a moment only
            inodes.add(link.readlink().name.removeprefix("socket:[").rstrip("]"))
    rows = (line.split() for line in Path("/proc/net/netlink").read_text().splitlines()[1:])
    found = [row for row in rows if row[1] == str(hotplug_storm.NETLINK_KOBJECT_UEVENT) and row[9] in inodes]
    return {"waiting": sum(int(row[4]) for row in found), "lost": sum(int(row[8]) for row in found)}


def turns(pid: int) -> int:
    """How often a process was given a processor: once for each thing that woke it, or more."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


# ---- the steps


class Steps:
    def __init__(self, stick: Path, vm: LoopbackVm) -> None:
        self.stick, self.vm = stick, vm
        self.plugs = Plugs(PLUGGED)
        self.start()

    def start(self) -> dict[str, Any]:
        """The service, and who listens to both its parts."""
        self.service = Service()
        self.monitor, self.control = self.service.parts["monitor"], self.service.parts["control"]
        self.client, self.subscriber = Client(), Subscriber()
        self.agree()
        return {"libudev": "libudev" in Path(f"/proc/{self.monitor}/maps").read_text()}

    def end(self) -> dict[str, Any]:
        for ear in (self.client, self.subscriber):
            ear.close()
        self.service.process.terminate()
        return {"status": self.service.process.wait(PATIENCE)}

    def restart(self) -> dict[str, Any]:
        """The service anew, without pyudev."""
        self.end()
        (RUN / "notify").unlink()
        with without_pyudev():
            return self.start()

    def agree(self) -> None:
        """Wait until both have been told of all that is there, as it is. Raises an error if that is not to come."""
        # What the monitor has not read yet is seen by nobody but the kernel, which does not tell when it is read.
        poll_for(lambda: not netlink(self.monitor)["waiting"], PATIENCE)
        self.client.settle()
        self.client.until(lambda state: state == kernel())
        self.subscriber.until(lambda state: state == kernel())

    def records(self) -> dict[str, Record]:
        """New ones, which begin with what is there."""
        for ear in (self.client, self.subscriber):
            state, ear.record = ear.record.state, Record()
            ear.record.state = state
        return {"monitor": self.client.record, "control": self.subscriber.record}

    def lies(self) -> dict[str, Any]:
        """Events about what stays as it is."""
        records, before = self.records(), turns(self.control)
        storm = Storm()
        assert storm.is_over(PATIENCE)
        facts = storm.end()
        self.agree()
        told = sum(len(r.came) + len(r.went) + r.changed for r in records.values())
        return facts | netlink(self.monitor) | {"told": told, "turns of control": turns(self.control) - before}

    def replug(self) -> None:
        """All emulated devices, as soon as everybody has been told of each step."""
        self.plugs.unplug()
        self.until(lambda places: not places & self.plugs.places)
        self.plugs = Plugs(PLUGGED)
        self.until(lambda places: places >= self.plugs.places)

    def until(self, what: Callable[[set[str]], bool]) -> None:
        """Wait until both have been told that this is where there are devices."""
        for ear in (self.client, self.subscriber):
            ear.until(lambda state: what({device.partition("#")[0] for device in state}))

    def replugs(self) -> dict[str, Any]:
        """Devices that go and come, all at once and as fast as they do, and one that loses its driver and gets it back
        dozens of times a second, among events about what stays as it is."""
        records, before = self.records(), turns(self.control)
        storm = Storm(STICK)
        rounds = 0
        while not storm.is_over():
            self.replug()
            rounds += 1
        facts = storm.end()
        self.agree()
        facts |= {"rounds": rounds, "turns of control": turns(self.control) - before, **netlink(self.monitor)}
        facts["changes told"] = {who: record.changed for who, record in records.items()}
        for who, record in records.items():
            same = (sorted(record.came), sorted(record.went)) == (sorted(facts["came"]), sorted(facts["went"]))
            facts[who] = {"same": same, "contradictions": record.contradictions}
        return facts

    def flood(self) -> dict[str, Any]:
        """More events than there is room for, while the monitor does not look, and what is there is another then."""
        records, before = self.records(), set(self.client.record.state)
        lost = self.service.said("events were lost")
        os.kill(self.monitor, signal.SIGSTOP)
        hotplug_storm.flood(FLOOD)
        self.plugs.unplug()
        unplug(self.stick)
        # The kernel tells of a device's end before the last of its folders is gone.
        wait(lambda: not [f for f in devices() if f.name in self.plugs.places | {"1-1"}])
        self.plugs = Plugs(PLUGGED[2::-1])
        plug(self.stick)
        wait(lambda: (DEVICES / STICK / "driver").exists())
        facts: dict[str, Any] = netlink(self.monitor)
        os.kill(self.monitor, signal.SIGCONT)
        self.agree()
        fresh = Client()
        facts |= {"said": self.service.said("events were lost") - lost, "fresh": fresh.record.state == kernel()}
        fresh.close()
        facts["same"] = sorted(before & set(self.client.record.state))
        facts["contradictions"] = [words for record in records.values() for words in record.contradictions]
        return facts

    def after(self) -> dict[str, Any]:
        """A device goes and comes: events are heard as before."""
        lost, records = netlink(self.monitor)["lost"], self.records()
        unplug(self.stick)
        self.until(lambda places: "1-1" not in places)
        plug(self.stick)
        self.until(lambda places: "1-1" in places)
        told = {who: [len(record.went), len(record.came)] for who, record in records.items()}
        wait(lambda: (DEVICES / STICK / "driver").exists())
        self.agree()
        return {"told": told, "lost": netlink(self.monitor)["lost"] - lost}

    def traffic(self) -> dict[str, Any]:
        """The drive is read by a VM, once, and four times: how often each process was given a processor for that."""
        encoder = self.service.call("attach", device="1-1")["encoder"]
        self.vm.mount(timeout=PATIENCE)
        self.vm.read_all(timeout=PATIENCE)
        self.service.wait_encoders()
        pids = {"control": self.control, "monitor": self.monitor, "encoder": encoder}
        found: dict[str, list[int]] = {who: [] for who in pids}
        for times in (1, 4):
            before = {who: turns(pid) for who, pid in pids.items()}
            for _ in range(times):
                self.vm.read_all(timeout=PATIENCE)
            for who, pid in pids.items():
                found[who].append(turns(pid) - before[who])
        self.service.call("detach", device="1-1")
        return found


@contextlib.contextmanager
def without_pyudev() -> Iterator[None]:
    """What is started meanwhile finds one that can't be imported."""
    folder = RUN / "stand-ins/pyudev"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('it is not to be had here')\n")
    before = os.environ["PYTHONPATH"]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder.parent), before])
    yield
    os.environ["PYTHONPATH"] = before


def main() -> dict[str, object]:
    facts = Facts()
    reachable()
    stick = plug_in_stick()
    with LoopbackVm(password=PASSWORD, channels=1) as vm:
        configure(vm)
        steps = Steps(stick, vm)
        for work in (steps.lies, steps.replugs, steps.flood, steps.after, steps.traffic, steps.restart):
            facts.step(work.__name__, work)
        facts.step("flood without libudev", steps.flood)
        facts.step("after without libudev", steps.after)
        facts.step("end", steps.end)
    facts["log"] = (RUN / "log").read_text()
    return facts


if __name__ == "__main__":
    print(json.dumps(main()))
