"""One QEMU machine under TCG: boots Debian's kernel on the host's root file system and runs what it is told."""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tools.lab.driven import PATH, Driven
from tools.lab.host import LabError, program
from tools.lab.initramfs import initramfs
from tools.lab.kernel import kernel
from tools.lab.link import AgentLink
from tools.lab.process import PATIENCE
from tools.lab.qmp import Qmp

# Where QEMU's user-mode network has the host, and the machine.
HOST_ADDRESS = "10.0.2.2"
MACHINE_ADDRESS = "10.0.2.15/24"

# Folders of the host that a machine has afresh; what is asked for below them is bound in its place.
FRESH = ("/tmp", "/run", "/var/tmp", "/mnt")

# no_timer_check: a busy host may keep the emulated timer from ticking just when the kernel looks whether it does.
KERNEL_LINE = "console=ttyS0 quiet loglevel=4 panic=-1 random.trust_cpu=on mitigations=off nokaslr tsc=unstable"
KERNEL_LINE += " no_timer_check"
# The network keeps the name under which init.sh has set it up; systemd's own lines would only slow the console down.
SYSTEMD_LINE = f"{KERNEL_LINE} net.ifnames=0 systemd.unit=multi-user.target systemd.show_status=no audit=0"


class Machine(Driven):
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
        super().__init__(name)
        folder.mkdir()
        self.folder = folder
        self._host_names = host_names
        self._visible = visible
        self._systemd = systemd
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

    def last_words(self) -> str:
        """The end of its console, and of what QEMU says."""
        return self.console[-3000:] + self._qemu_says()

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
