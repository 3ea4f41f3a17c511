"""The service in the client machine: configured, started, followed, and looked into from outside."""

import contextlib
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from tests.e2e.rig import MIB, command
from tests.machine.waiting import poll_for
from tools.lab import REPOSITORY, AtPort, Completed, LabError, Process, UsbView, Vm

T = TypeVar("T")

USER = "usbbridge"
CONFIG = "/etc/usbbridge/usbbridge.toml"
TICKET = "/etc/usbbridge/vm-ticket"
RULES = "/etc/usbbridge/rules.d/10-lab.toml"
MONITOR_SOCKET = "/run/usbbridge-monitor/monitor.sock"
CONTROL_SOCKET = "/run/usbbridge/control.sock"
DATABASE = "/var/lib/usbbridge-monitor/compat.db"
CHOICES = "/var/lib/usbbridge/choices.json"

STICK = "46f4:0001"
"QEMU's usb-storage."

VM_NAME = "desk"
RAW_NAME = "desk-raw"
"The same VM by its bare usbredir port."

PATIENCE = 60.0
"For what surely happens, on an emulated and perhaps busy machine."
LOOK_AGAIN = 0.1
"Between looks at what nothing announces: which processes there are, and what they have open."
RECEIVING = "__skb_wait_for_more_packets"
"Where in the kernel a process sleeps that waits for a message, as /proc/PID/stack shows it."
ROLES = ("service", "monitor", "control", "encoder")

INSIDE = REPOSITORY / "tests/e2e"
PYTHON = str(Path(sys.executable).absolute())


def eventually(look: Callable[[], T], what: str, timeout: float = PATIENCE) -> T:
    """The first true result of `look`, for what no event announces."""
    try:
        return poll_for(look, timeout, LOOK_AGAIN)
    except TimeoutError:
        raise AssertionError(f"no {what} in {timeout:.0f} s") from None


@dataclass(frozen=True)
class Entry:
    """An event of control's API, with the client machine's time of it."""

    at: float
    event: str
    data: Any

    def __str__(self) -> str:
        data = self.data
        if self.event == "device":
            data = {"id": data["device"]["id"], **{key: data[key] for key in ("state", "vm", "message", "encoder")}}
        return f"{self.at:.3f} {self.event} {json.dumps(data)[:400]}"


class Watch:
    """Follows the API in the client machine, through every restart of the service."""

    def __init__(self, client: UsbView) -> None:
        interpreter = str(Path(sys.executable).resolve())
        self._process = client.start([interpreter, "-I", "-S", str(INSIDE / "api_watch.py"), CONTROL_SOCKET])
        self._read = 0
        self.entries: list[Entry] = []
        self.devices: dict[str, dict[str, Any]] = {}
        self.vms: dict[str, dict[str, Any]] = {}
        self.choices: list[dict[str, Any]] = []
        self.monitor = False
        self.running = False

    def close(self) -> None:
        """End it."""
        self._process.kill()

    @property
    def mark(self) -> int:
        """The place after all that has come so far."""
        self._take(self._process.stdout)
        return len(self.entries)

    def wait(self, look: Callable[[], T], what: str, timeout: float = PATIENCE) -> T:
        """The first true result of `look`, which is called after each line."""

        def taken(output: bytes) -> T:
            self._take(output)
            return look()

        return self._process.wait_until(taken, what, timeout)

    def wait_entry(self, fits: Callable[[Entry], object], what: str, *, since: int, timeout: float = PATIENCE) -> Entry:
        """The first event after the mark that fits."""
        found = self.wait(lambda: next((e for e in self.entries[since:] if fits(e)), None), what, timeout)
        assert found is not None
        return found

    def device(self, bus_port: str) -> dict[str, Any] | None:
        """What is said now of the device that is plugged in there."""
        for found in self.devices.values():
            if found["device"]["entry"]["bus_port"] == bus_port:
                return found
        return None

    def state(self, bus_port: str) -> str:
        """Its state; empty if it is not there."""
        found = self.device(bus_port)
        return found["state"] if found else ""

    def verdict(self, bus_port: str) -> str:
        """What the compatibility list says of it; empty if it is not there."""
        found = self.device(bus_port)
        return found["device"]["verdict"] if found else ""

    def _take(self, output: bytes) -> None:
        end = output.rfind(b"\n") + 1
        lines, self._read = output[self._read : end].splitlines(), end
        for line in lines:
            entry = Entry(**json.loads(line))
            self.entries.append(entry)
            self._apply(entry.event, entry.data)

    def _apply(self, event: str, data: Any) -> None:
        match event:
            case "status":
                self.running, self.monitor = True, data["monitor"]
                self.devices = {device["device"]["id"]: device for device in data["devices"]}
                self.vms = {vm["name"]: vm for vm in data["vms"]}
                self.choices = data["choices"]
            case "ended":
                self.running = self.monitor = False
                self.devices = {}
            case "device":
                self.devices[data["device"]["id"]] = data
            case "device-gone":
                self.devices.pop(data["id"], None)
            case "vm":
                self.vms[data["name"]] = data
            case "choices":
                self.choices = data
            case "monitor":
                self.monitor = data["connected"]


@dataclass(frozen=True)
class Facts:
    """A process as /proc shows it."""

    pid: int
    status: Mapping[str, str]
    "The lines of /proc/PID/status."
    fds: Mapping[str, str]
    "Its descriptors, and what they are of."
    started: float
    "When, in seconds of the machine's clock, to a hundredth."

    @property
    def uids(self) -> set[int]:
        """Real, effective, saved and file system uid."""
        return {int(uid) for uid in self.status["Uid"].split()}

    @property
    def parent(self) -> int:
        return int(self.status["PPid"])

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        return int(self.status["VmRSS"].removesuffix("kB")) / 1000

    @property
    def usb_nodes(self) -> list[str]:
        """Device nodes it has open."""
        return sorted(target for target in self.fds.values() if target.startswith("/dev/bus/usb"))

    def capabilities(self, *sets: str) -> int:
        """Every capability in any of the sets: `Eff`, `Prm`, `Inh`, `Amb`, `Bnd`."""
        found = 0
        for name in sets:
            found |= int(self.status[f"Cap{name}"], 16)
        return found


def facts(client: UsbView, pid: int) -> Facts:
    """What /proc says of a process. OSError if it ends meanwhile."""
    lines = (line.partition(":") for line in client.read_text(f"/proc/{pid}/status").splitlines())
    status = {name: value.strip() for name, _, value in lines}
    # Field 22 of stat(5), counted after the name, which may hold anything; in ticks of 1/100 s.
    ticks = int(client.read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()[19])
    return Facts(pid, status, client.links(f"/proc/{pid}/fd/*"), ticks / 100)


def roles(client: UsbView) -> dict[str, list[int]]:
    """The processes of the service by what they are, zombies left out: they have no command line."""
    found: dict[str, list[int]] = {role: [] for role in ROLES}
    for path in client.glob("/proc/[0-9]*/cmdline"):
        try:
            words = client.read_text(path).strip("\0").split("\0")
        except OSError:  # it has ended meanwhile
            continue
        if role := _role(words):
            found[role].append(int(path.split("/")[2]))
    return found


def _role(words: list[str]) -> str:
    """`python -P -m usbbridge.ROLE …`, or `usbbridge ROLE`."""
    for before, word in itertools.pairwise(words):
        role = word.removeprefix("usbbridge.") if before == "-m" else word if before.endswith("usbbridge") else ""
        if role in ROLES:
            return role
    return ""


def vm_table(name: str, target: str | list[str]) -> str:
    """A VM of the configuration: a SPICE server, or raw ports."""
    password = f'password-file = "{TICKET}"\n' if isinstance(target, str) else ""
    return f"[vm.{name}]\ntarget = {json.dumps(target)}\n{password}\n"


CONNECT_STICKS = """\
[[rule]]
id = "46f4:0001"
verdict = "connect"
note = "the lab's sticks"
"""


class Service:
    """The service, run without systemd as `usbbridge service`."""

    def __init__(self, client: UsbView, vm: Vm, settings: str = "") -> None:
        """`settings`: more of the configuration, whole tables."""
        self.client, self.vm = client, vm
        self._process: Process | None = None
        self._logged = self._seen = 0
        self._prepare()
        vms = vm_table(VM_NAME, vm.spice) + vm_table(RAW_NAME, [vm.tcp])
        self.configure(f'default-vm = "{VM_NAME}"\n\n' + vms + settings)
        self.rules(CONNECT_STICKS)

    def _prepare(self) -> None:
        """What an administrator does first: a user, folders, the VM's ticket. And what is so only in the lab: whoever
        is not root can't run an interpreter that lies in root's home."""
        for folder in _closed_folders():
            self.client.run(["chmod", "o+x", str(folder)])
        self._make_user()
        self.client.shell("mkdir -p /etc/usbbridge/rules.d /etc/usbbridge/conf.d")
        self.client.put(TICKET, f"{self.vm.options.ticket}\n".encode())
        self.client.shell(f"chown root:{USER} {TICKET}; chmod 640 {TICKET}")

    def _make_user(self) -> None:
        self.client.shell(f"id {USER} || useradd --system --user-group --no-create-home {USER}")

    def configure(self, text: str) -> None:
        """Write the configuration."""
        self.client.put(CONFIG, text.encode())

    def rules(self, text: str) -> None:
        """Write the local rules."""
        self.client.put(RULES, text.encode())

    def start(self) -> None:
        """Start it, and wait until control has the monitor's list."""
        argv, env = command()
        self._process = self.client.start([*argv, "service"], env=env)
        try:
            self.watch.wait(lambda: self.watch.running and self.watch.monitor, "service")
        except LabError as error:
            raise LabError(f"{error}\n{self.story}") from error

    def stop(self) -> Completed:
        """End it as Ctrl-C does; nothing of it is left."""
        assert self._process is not None
        process, self._process = self._process, None
        process.interrupt()
        done = process.wait()
        self.watch.wait(lambda: not self.watch.running, "end of the service")
        assert not any(roles(self.client).values())
        return done

    def close(self) -> None:
        """End everything, whatever state it is in."""
        if self._process is not None:
            self._process.interrupt()
            try:
                self._process.wait(PATIENCE)
            finally:
                self._process.kill()
        self.watch.close()
        self.client.shell(f"rm -rf /var/lib/usbbridge* /run/usbbridge* {CONFIG} {RULES}")

    @cached_property
    def watch(self) -> Watch:
        """The API, followed."""
        return Watch(self.client)

    def begin(self) -> None:
        """A test begins: what was written before is not its story."""
        self._logged = len(self.log)
        self._seen = self.watch.mark

    def wait_spare(self) -> int:
        """Wait until an encoder waits for a device; its number."""
        return eventually(lambda: next(iter(self.spares()), 0), "spare encoder")

    def spares(self) -> list[int]:
        """Encoders that have been started in advance, and are ready: they wait for their first message."""
        found = []
        for pid in roles(self.client)["encoder"]:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if RECEIVING in self.client.read_text(f"/proc/{pid}/stack"):
                    found.append(pid)
        return found

    @property
    def log(self) -> str:
        """What it has written."""
        return "" if self._process is None else (self._process.stdout + self._process.stderr).decode(errors="replace")

    @property
    def story(self) -> str:
        """What it has written, and told over its API, since the test began."""
        return "\n".join([self.log[self._logged :], *map(str, self.watch.entries[self._seen :])])

    # Processes

    def one(self, role: str) -> Facts:
        """The only process of its kind."""
        [pid] = roles(self.client)[role]
        return facts(self.client, pid)

    def encoder_of(self, stick: AtPort) -> Facts:
        """The encoder that has the device."""
        found = self.watch.device(stick.bus_port)
        assert found is not None
        return facts(self.client, found["encoder"])

    # Commands

    def run(self, *arguments: str, check: bool = True) -> Completed:
        """A verb of the command line, in the client machine as root."""
        argv, env = command()
        return self.client.run([*argv, *arguments], env=env, check=check)

    def add_rule(self, *words: str) -> str:
        """Add a local rule to the compatibility list; its name there."""
        found = re.search(r"local:\d+", self.run("rules", "add", *words).text)
        assert found is not None
        return found[0]

    def run_as(self, user: str, *argv: str, check: bool = True) -> Completed:
        """Something as another user."""
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        return self.client.run([*become, *argv], env={"PYTHONPATH": str(REPOSITORY)}, check=check)

    # Waiting

    def wait_state(self, stick: AtPort, state: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """Wait until a device is in a state; what is then said of it."""

        def look() -> dict[str, Any] | None:
            return self.watch.device(stick.bus_port) if self.watch.state(stick.bus_port) == state else None

        found = self.watch.wait(look, f"{state} {stick.bus_port}", timeout)
        assert found is not None
        return found

    def wait_attached(self, stick: AtPort, timeout: float = PATIENCE) -> dict[str, Any]:
        """Wait until a device is attached."""
        return self.wait_state(stick, "attached", timeout)


def _closed_folders() -> Iterator[Path]:
    for place in {Path(sys.prefix), Path(sys.base_prefix), REPOSITORY}:
        for folder in [place, *place.parents]:
            if not folder.stat().st_mode & 0o001:
                yield folder


def reading(vm: Vm) -> Process:
    """A read of the whole disk in the guest, under way; of what is read, only the first part comes out."""
    disk = vm.wait_block_device()
    rest = f"exec dd if={disk} bs=256k iflag=direct skip=4 of=/dev/null status=none"
    reader = vm.start(["/bin/sh", "-c", f"dd if={disk} bs=1M count=1 iflag=direct status=none; {rest}"])
    reader.wait_bytes(MIB)
    return reader


def given_back(client: UsbView, stick: AtPort, since: float) -> float | None:
    """When the device came back to its kernel driver after `since`, by the client's clock; None if it has not."""
    bound = client.uevents(ACTION="bind", SUBSYSTEM="usb", DRIVER="usb-storage")
    times = [at for at, event in bound if at > since and f"/{stick.bus_port}:" in event["DEVPATH"]]
    return min(times, default=None)
