"""One QEMU machine under TCG: boots Debian's kernel on the host's root file system and runs what it is told."""

import dataclasses
import os
import select
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

from tools.lab.host import LabError, program
from tools.lab.initramfs import initramfs
from tools.lab.kernel import kernel
from tools.lab.link import AgentLink
from tools.lab.process import PATIENCE, Completed, Process
from tools.lab.qmp import Qmp

T = TypeVar("T")

# Where QEMU's user-mode network has the host, and the machine.
HOST_ADDRESS = "10.0.2.2"
MACHINE_ADDRESS = "10.0.2.15/24"

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "linux"}

# Folders of the host that a machine has afresh; what is asked for below them is bound in its place.
FRESH = ("/tmp", "/run", "/var/tmp", "/mnt")

KERNEL_LINE = "console=ttyS0 quiet loglevel=4 panic=-1 random.trust_cpu=on mitigations=off nokaslr tsc=unstable"
# The network keeps the name under which init.sh has set it up; systemd's own lines would only slow the console down.
SYSTEMD_LINE = f"{KERNEL_LINE} net.ifnames=0 systemd.unit=multi-user.target systemd.show_status=no audit=0"


@dataclasses.dataclass(frozen=True, slots=True)
class Clock:
    """How a machine's monotonic clock stands to this host's."""

    offset: float
    "To be added to the machine's time, in seconds."
    error: float
    "By how much that may be wrong at most."

    def on_host(self, time_there: float) -> float:
        """The host's time (`time.monotonic`) of a time in the machine."""
        return time_there + self.offset


class Machine:
    """A running machine, made by a `Lab`. It boots at once, and whatever is asked of it first waits for that."""

    def __init__(
        self,
        name: str,
        folder: Path,
        devices: Sequence[str] = (),
        *,
        memory: int = 1024,
        visible: Sequence[Path] = (),
        host_names: str = "",
        guest: bool = True,
        systemd: bool = False,
    ) -> None:
        """Start QEMU with `devices` added to its command line; `memory` in MiB.

        `visible` are paths of the host below its /tmp and /run that the machine is to see. Without a `guest` there is
        only QEMU, with nothing running in it: enough to be refused by. With `systemd`, that is the first process, with
        udevd and a journal; otherwise the lab's agent is, and there is nothing else.
        """
        folder.mkdir()
        self.name = name
        self.folder = folder
        self.environment = dict(ENVIRONMENT)
        self._host_names = host_names
        self._visible = visible
        self._systemd = systemd
        self._booting = time.monotonic()
        with _listen(folder / "qmp") as qmp, _listen(folder / "agent") as agent:
            command = [*_base_command(name, folder, memory), *(self._guest_command() if guest else ["-S"]), *devices]
            self._process = self._start(command)
            self.qmp = Qmp(self._accept(qmp))
            # QEMU connects to both when it starts.
            self._link = AgentLink(name, self._accept(agent))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Life

    def wait_ready(self, timeout: float = PATIENCE) -> float:
        """Wait until the machine is up; the seconds since it was started. LabError with its console when it is not."""
        try:
            self._link.wait_ready(timeout)
        except LabError as error:
            raise LabError(f"{error}:\n{self.console[-3000:]}{self._qemu_says()}") from error
        return time.monotonic() - self._booting

    @property
    def running(self) -> bool:
        """Whether QEMU runs."""
        return self._process.poll() is None

    @property
    def console(self) -> str:
        """What the kernel has written to its serial console."""
        path = self.folder / "console.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def pause(self) -> None:
        """Stop its processor."""
        self.qmp.command("stop")

    def resume(self) -> None:
        """Let its processor go on."""
        self.qmp.command("cont")

    def kill(self) -> None:
        """End QEMU as a crash would, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the machine; nothing in it is kept. Nothing if it has ended already."""
        self.kill()
        self.qmp.close()
        self._link.close()

    # Processes

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        env: dict[str, str] | None = None,
        cwd: str = "/",
        timeout: float = PATIENCE,
        check: bool = True,
    ) -> Completed:
        """Run a command to its end. LabError, with what it wrote, when its status is not 0 and `check` is set."""
        with self.start(argv, env=env, cwd=cwd) as process:
            process.write(input)
            process.close_stdin()
            done = process.wait(timeout)
        if check and done.status:
            raise LabError(f"{self.name}: {shlex.join(argv)}: status {done.status}: {done.text}\n{done.error}")
        return done

    def shell(self, script: str, *, timeout: float = PATIENCE, check: bool = True) -> Completed:
        """Run a line of shell that fails at the first failing command."""
        return self.run(["/bin/bash", "-euo", "pipefail", "-c", script], timeout=timeout, check=check)

    def start(
        self,
        argv: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        cwd: str = "/",
        tty: tuple[int, int] | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Process:
        """Start a process: on a terminal of `tty` (rows, columns) if given; its output to `on_output` if given."""
        self.wait_ready()
        return self._link.start(argv, env=self.environment | (env or {}), cwd=cwd, tty=tty, on_output=on_output)

    # Files and events

    def glob(self, pattern: str) -> list[str]:
        """Paths in the machine that match."""
        _, found = self._link.query("glob", pattern)
        return list(found)

    def read_text(self, path: str) -> str:
        """A file's text without white space around it; OSError when it cannot be read."""
        _, text = self._link.query("read", path)
        return str(text).strip()

    def links(self, pattern: str) -> dict[str, str]:
        """The symbolic links that match, and what each points to."""
        _, found = self._link.query("links", pattern)
        return dict(found)

    def now(self) -> float:
        """Seconds of the machine's monotonic clock."""
        time_there, _ = self._link.query("glob", "/")
        return time_there

    def clock(self, rounds: int = 10) -> Clock:
        """Its clock against the host's, by the quickest of some questions. It drifts: ask near the event."""
        best = Clock(0.0, float("inf"))
        for _ in range(rounds):
            asked = time.monotonic()
            there = self.now()
            half = (time.monotonic() - asked) / 2
            best = min(best, Clock(asked + half - there, half), key=lambda clock: clock.error)
        return best

    def put(self, path: str, data: bytes) -> None:
        """Write a file in the machine."""
        self.run(["/bin/sh", "-c", 'cat > "$1"', "put", path], input=data)

    def wait_until(self, look: Callable[[], T], what: str, timeout: float = PATIENCE) -> T:
        """The first true result of `look`, called again after each uevent and each process that ends in the machine."""
        self.wait_ready()
        return self._link.wait_until(look, what, timeout)

    def uevents(self, **fields: str) -> list[tuple[float, dict[str, str]]]:
        """The kernel's uevents so far that have these fields, each with the machine's time of it."""
        return [(at, event) for at, event in self._link.uevents if fields.items() <= event.items()]

    # Disks

    def block_devices(self) -> list[str]:
        """The SCSI disks and CD-ROMs that are ready for use, as device nodes."""
        return [f"/dev/{Path(path).name}" for path in self.glob("/sys/block/s[dr]*") if self._block_is_ready(path)]

    def wait_block_device(self, timeout: float = PATIENCE) -> str:
        """Wait for a disk or a CD-ROM; its device node."""
        return self.wait_until(lambda: next(iter(self.block_devices()), ""), "block device", timeout)

    def wait_no_block_device(self, timeout: float = PATIENCE) -> None:
        """Wait until no disk and no CD-ROM is left."""
        self.wait_until(lambda: not self.glob("/sys/block/s[dr]*"), "end of the block devices", timeout)

    def _block_is_ready(self, path: str) -> bool:
        """A disk is announced, by an event of its own, only after the kernel has read its size and partitions."""
        name = Path(path).name
        announced = [event for _, event in self.uevents(SUBSYSTEM="block", DEVNAME=name)]
        return bool(announced) and announced[-1]["ACTION"] != "remove" and bool(self.glob(f"/dev/{name}"))

    # QEMU

    def _guest_command(self) -> list[str]:
        system = kernel()
        config = {
            "NAME": self.name,
            "PYTHON": str(Path(sys.executable).resolve()),
            "VISIBLE": " ".join(str(path) for path in _bound([*self._visible, system.modules, Path(sys.prefix)])),
            "ADDRESS": MACHINE_ADDRESS,
            "HOST_ADDRESS": HOST_ADDRESS,
            "HOST_NAMES": self._host_names,
            "SYSTEMD": "yes" if self._systemd else "",
        }
        archive = self.folder / "initramfs"
        archive.write_bytes(initramfs(system, config))
        line = SYSTEMD_LINE if self._systemd else KERNEL_LINE
        return ["-kernel", str(system.image), "-initrd", str(archive), "-append", line]

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        # QEMU ends with the thread that started it, however that ends.
        guarded = [program("setpriv"), "--pdeathsig", "KILL", "--", *command]
        with (self.folder / "qemu.log").open("ab") as log:
            return subprocess.Popen(
                guarded,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": PATH},
                start_new_session=True,
            )

    def _accept(self, listener: socket.socket) -> socket.socket:
        """QEMU's connection; LabError with its last words when it ends instead."""
        pidfd = os.pidfd_open(self._process.pid)
        try:
            ready = select.select([listener.fileno(), pidfd], [], [], PATIENCE)[0]
        finally:
            os.close(pidfd)
        if listener.fileno() not in ready:
            self._process.kill()
            raise LabError(f"QEMU did not start:{self._qemu_says()}")
        return listener.accept()[0]

    def _qemu_says(self) -> str:
        return "\n" + (self.folder / "qemu.log").read_text(errors="replace")[-2000:]


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)
    return listener


def _bound(paths: Sequence[Path]) -> list[Path]:
    """Those of the paths that a machine would not see by itself."""
    return [path for path in dict.fromkeys(paths) if any(path.is_relative_to(fresh) for fresh in FRESH)]


def _base_command(name: str, folder: Path, memory: int) -> list[str]:
    """QEMU without the devices that only one of the machines has."""
    return [
        *(program("qemu-system-x86_64"), "-name", name, "-nodefaults", "-no-user-config", "-no-reboot"),
        # KVM may be there and hang; TCG works everywhere.
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", str(memory), "-display", "none"),
        *("-serial", f"file:{folder / 'console.log'}"),
        *("-chardev", f"socket,id=qmp,path={folder / 'qmp'}", "-mon", "chardev=qmp,mode=control"),
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={folder / 'agent'}"),
        *("-device", "virtserialport,chardev=agent,name=lab.agent"),
        *("-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=root,mount_tag=host"),
    ]
