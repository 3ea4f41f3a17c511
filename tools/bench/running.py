"""One run: the guests, what lies between, the hosts; and what the hosts spent while the guests worked."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.bench import rig
from tools.bench.machine import Placement
from tools.bench.peers import DISPLAY, PEERS, Ports, environment
from tools.bench.workloads import Device, Workload

START_SECONDS = 30.0
"Until a guest has its device: spicy starts slowly."
GRACE_SECONDS = 60.0
"That a run may take beyond its own time."
END_SECONDS = 2.0
"That a host has to end by itself when its guest is gone, before it is told to."
SLOWEST_END = 3.0
"How many times as long it has at the most, however patient one is."
LINES = dict[str, dict[str, float]]


class RunError(Exception):
    """A run gave no result; the text says which program said what."""


@dataclass(slots=True)
class Run:
    """What one run gave: the guests' lines by device and name, and the hosts' cost."""

    lines: list[LINES]
    cpu: float = 0.0
    "Seconds of processor time that the hosts spent while the guests worked."
    seconds: float = 0.0
    "The span of that, by the clock."
    resident: float = 0.0
    "MiB that the largest process of a host held at most, fakeusb's disk of 64 MiB included."
    connected: float = 0.0
    "Seconds from the start of the (last) host to its device at the guest."


def parse(text: str) -> LINES:
    """`NAME key=value key=value ...`, line by line; words that are no numbers are left out."""
    found: LINES = {}
    for line in text.splitlines():
        name, *words = line.split()
        pairs = (word.partition("=") for word in words)
        values = {key: float(value) for key, sep, value in pairs if sep and _is_number(value)}
        found.setdefault(name, {}).update(values)
    return found


def _is_number(text: str) -> bool:
    with contextlib.suppress(ValueError):
        float(text)
        return True
    return False


class Program:
    """A child whose output is read by the line, with a time limit; its two streams are one."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.name, self.text = Path(command[0]).name, ""
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def wait_for(self, word: str, seconds: float) -> None:
        """Read until this word has come. Raises RunError."""
        deadline = time.monotonic() + seconds
        while word not in self.text:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._stdout], [], [], left)[0]:
                raise RunError(f"{self.name} did not say {word!r} in {seconds:.0f} s: {self.text}")
            read = os.read(self._stdout.fileno(), 1 << 16)
            if not read:
                raise RunError(f"{self.name} ended before it said {word!r}: {self.text}")
            self.text += read.decode(errors="replace")

    def end(self) -> None:
        """Let it end, and make it if it does not."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        _end(self._process, patience=END_SECONDS)
        self._stdout.close()


class Host:
    """A contestant: a tree of processes, whose output matters only when something fails."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path) -> None:
        self._log, self.started = log, time.monotonic()
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )

    def spent(self) -> float:
        """Seconds of processor time of all threads that it has now."""
        return sum(_spent(pid) for pid in _tree(self._process.pid))

    def resident(self) -> float:
        """MiB of the largest process, at its largest."""
        return max((_status_kib(pid, "VmHWM") for pid in _tree(self._process.pid)), default=0) / 1024

    def said(self) -> str:
        """The end of its output."""
        return self._log.read_text(errors="replace").strip()[-1000:]

    def end(self, patience: float) -> None:
        """It may end by itself for so many seconds; then it is told to."""
        _end(self._process, patience)


def _end(process: subprocess.Popen[bytes], patience: float) -> None:
    for number, seconds in ((None, patience), (signal.SIGTERM, patience), (signal.SIGKILL, END_SECONDS)):
        if number is not None:
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def _tree(pid: int) -> list[int]:
    """The process and all that it has started."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _spent(pid: int) -> float:
    total = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _status_kib(pid: int, name: str) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1])
    return 0


# ---- one run


def through(workload: Workload, peer: str, place: Placement, folder: Path, patience: float = 1.0) -> Run:
    """The work on each device of the workload through `peer`, all at once; what has a time limit beside the work may
    take `patience` times as long. Raises RunError."""
    with contextlib.ExitStack() as stack:
        chains = [_chain(stack, device, workload, peer, place) for device in workload.devices]
        hosts = []
        for n, (device, (_, ports)) in enumerate(zip(workload.devices, chains, strict=True)):
            command = [*place.host, *PEERS[peer].command(rig.device_id(device.model), workload.path, ports)]
            report = {"FAKEUSB_REPORT": str(folder / f"device{n}")}
            hosts.append(Host(command, environment(peer) | device.environment | report, folder / f"host{n}"))
            # a raw connection ends with its guest; a SPICE server waits for the next one
            stack.callback(hosts[-1].end, END_SECONDS * min(patience, SLOWEST_END) if workload.path == "raw" else 0)
        guests = [guest for guest, _ in chains]
        try:
            run = _watched(guests, hosts, workload, patience)
        except RunError as error:
            _reports(folder)  # of this run, not of the next
            said = "; ".join(host.said() for host in hosts)
            raise RunError(f"{workload.name}, {peer}: {error}; the host said: {said}") from None
        run.lines += _reports(folder)
        return run


def _reports(folder: Path) -> list[LINES]:
    """What the devices themselves have counted (isochronous OUT), which is written once the guest has stopped."""
    files = [*folder.glob("device*")]
    found = [parse(file.read_text()) for file in files]
    for file in files:
        file.unlink()
    return found


def _watched(guests: list[Program], hosts: list[Host], workload: Workload, patience: float) -> Run:
    """Wait until all guests have begun, and then until all have done their work."""
    for guest in guests:
        guest.wait_for("connect_ms=", START_SECONDS * patience)
    connected = time.monotonic() - hosts[-1].started
    before, began = sum(host.spent() for host in hosts), time.monotonic()
    for guest in guests:
        guest.wait_for("\ndone", GRACE_SECONDS + 2 * workload.seconds)
    spent, seconds = sum(host.spent() for host in hosts) - before, time.monotonic() - began
    resident = max(host.resident() for host in hosts)
    return Run([parse(guest.text) for guest in guests], spent, seconds, resident, connected)


def _chain(
    stack: contextlib.ExitStack, device: Device, workload: Workload, peer: str, place: Placement
) -> tuple[Program, Ports]:
    """A guest that listens, and what is between it and the host: nothing, a proxy, or a SPICE server."""
    raw, front, secure = _free_ports(3)
    plain_environment = os.environ | {"LIMIT_S": str(workload.seconds), "HOLD": "1"}
    work = [rig.program("guestgen"), str(raw), *device.ops.split()]
    guest = _started(stack, [*place.guest, *work], plain_environment | device.environment, "listening")
    if workload.rtt is not None:
        proxy = [rig.program("delayproxy"), str(front), str(raw), str(workload.rtt // 2)]
        _started(stack, [*place.guest, *proxy], dict(os.environ), "listening")
        return guest, Ports(raw=front)
    if workload.path == "raw":
        return guest, Ports(raw=raw)
    server = ["-p", str(front), "-t", str(secure), "-c", str(rig.CERTIFICATES), "-u", str(raw)]
    _started(stack, [*place.guest, rig.program("spicesrv"), *server], dict(os.environ), "ready")
    return guest, Ports(plain=front, tls=secure)


def _started(stack: contextlib.ExitStack, command: list[str], env: dict[str, str], word: str) -> Program:
    program = Program(command, env)
    stack.callback(program.end)
    program.wait_for(word, START_SECONDS)
    return program


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def locally(workload: Workload, place: Placement, folder: Path) -> Run:
    """The same work on the device itself, without redirection. Raises RunError."""
    device, began = workload.devices[0], time.monotonic()
    env = os.environ | {"LIMIT_S": str(workload.seconds), "LD_LIBRARY_PATH": str(rig.FAKEUSB)} | device.environment
    env["FAKEUSB_REPORT"] = str(folder / "device")
    command = [*place.host, rig.program("localbench"), *device.ops.split()]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{workload.name} without redirection: {done.stderr}")
    return Run([parse(done.stdout), *_reports(folder)], seconds=time.monotonic() - began)


@contextlib.contextmanager
def display() -> Iterator[None]:
    """An X server for spicy, which has a window."""
    server = subprocess.Popen(
        ["Xvfb", DISPLAY, "-screen", "0", "640x480x24", "-nolisten", "tcp", "-displayfd", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        server.stdout.readline()  # its number: it listens
        yield
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()
