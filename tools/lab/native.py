"""A client machine at the host's own speed: user-mode Linux with a real USB stack, on the virtual machines' network.

Emulated processors run Python some twenty times slower than real ones, and what is quick on a thin client is not quick
there. User-mode Linux is a process of this host: its kernel has dummy_hcd, gadgets and vhci-hcd, and the programs in it
run at full speed but for their system calls (55 us each). Its network is a QEMU that has no machine, only two ends of a
cable: one is the user-mode kernel's, the other QEMU's user network, on which the host is 10.0.2.2 as for any machine of
the lab.

It needs the launcher `uml`: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the repository.
"""

import contextlib
import dataclasses
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from tools.lab.driven import ENVIRONMENT
from tools.lab.emulation import Emulating
from tools.lab.host import LabError, program
from tools.lab.link import AgentLink
from tools.lab.machine import HOST_ADDRESS, MACHINE_ADDRESS
from tools.lab.process import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]
UML = Path(os.environ.get("USBBRIDGE_UML", REPOSITORY.parent / "shared/lab/uml"))

MEMORY: Final = "1000M"
CABLE_BUFFER: Final = 4 << 20
"Bytes of Ethernet frames that may be under way: a full buffer is a lost frame, and a pause of 200 ms in TCP."
LIFETIME: Final = 4 * 3600
"Seconds after which a forgotten machine ends."

GADGET: Final = "/sys/kernel/config/usb_gadget/stick"
STICK: Final = "46f4:0001"
PLUG: Final = f"""\
mkdir -p {GADGET}; cd {GADGET}
echo 0x46f4 > idVendor; echo 0x0001 > idProduct
mkdir -p strings/0x409 configs/c.1 functions/mass_storage.0
echo QEMU > strings/0x409/manufacturer; echo "USB HARDDRIVE" > strings/0x409/product
echo "$1" > strings/0x409/serialnumber
echo "$2" > functions/mass_storage.0/lun.0/file
[ -e configs/c.1/mass_storage.0 ] || ln -s functions/mass_storage.0 configs/c.1/
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Stick:
    """A mass-storage gadget at the one port of dummy_hcd."""

    bus_port: str

    @property
    def sysfs(self) -> str:
        """Its folder in the machine's sysfs."""
        return f"/sys/bus/usb/devices/{self.bus_port}"


class NativeClient(Emulating):
    """The machine, made by a `Lab`. One stick can be plugged into it at a time, and as many emulated devices as go."""

    def __init__(self, folder: Path, *, visible: Path) -> None:
        """`visible` is the one folder below the host's /tmp that the machine is to see."""
        super().__init__("native")
        folder.mkdir()
        self.folder = folder
        with contextlib.ExitStack() as parts:
            ours, theirs = (parts.enter_context(end) for end in _cable())
            listener = parts.enter_context(socket.create_server(("127.0.0.1", 0)))
            self._network = _start(_network(theirs), [theirs], folder / "network.log", {})
            self._machine = _start(self._boot(ours, listener), [ours], folder / "uml.log", self._environment(visible))
            self._link = AgentLink(self.name, self._accept(listener))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def last_words(self) -> str:
        """What the launcher and the network have written."""
        return "".join((self.folder / name).read_text(errors="replace")[-2000:] for name in ("uml.log", "network.log"))

    def close(self) -> None:
        """End the machine; nothing in it is kept."""
        self._link.close()
        _kill_session(int((self.folder / "kernel.pid").read_text()))  # it has made itself a session of its own
        for process in (self._machine, self._network):
            _kill_session(process.pid)
            process.wait()

    # Devices

    def plug(self, kind: str = "usb-storage", *, image: Path, serial: str) -> Stick:
        """Plug in a stick with a copy of this image, and wait until the kernel has bound a driver to it."""
        assert kind == "usb-storage"
        copy = f"/tmp/{image.name}"
        self.run(["/bin/bash", "-euc", f"cp {shlex.quote(str(image))} {copy}; {PLUG}", "plug", serial, copy])
        return self.plug_gadget(GADGET)

    def plug_gadget(self, gadget: str) -> Stick:
        """Plug a gadget in, which a folder of configfs describes; waits as `plug`."""
        since = len(self.uevents())
        self.shell(f"echo dummy_udc.0 > {gadget}/UDC")
        found = self.wait_until(lambda: self._bound(since), "stick")
        assert found is not None
        return found

    def _bound(self, since: int) -> Stick | None:
        for _, event in self.uevents()[since:]:
            if event.get("ACTION") == "bind" and event.get("DEVTYPE") == "usb_interface":
                return Stick(Path(event["DEVPATH"]).name.partition(":")[0])
        return None

    def unplug(self, stick: Stick) -> None:
        """Pull it out, and wait until the kernel has seen that."""
        self.shell(f"echo > {GADGET}/UDC")
        self.wait_until(lambda: not self.glob(stick.sysfs), f"end of {stick.bus_port}")

    def unplug_all(self) -> None:
        """Pull everything out."""
        self.withdraw_all()
        self.shell(f'[ ! -e {GADGET}/UDC ] || [ -z "$(cat {GADGET}/UDC)" ] || echo > {GADGET}/UDC')

    # Its start

    def _boot(self, cable: socket.socket, listener: socket.socket) -> list[str]:
        kernel = self.folder / "kernel"
        image = UML.parent / "linux-uml"
        kernel.write_text(
            f'#!/bin/sh\necho $$ > {self.folder}/kernel.pid\nexec {image} "$@" vec0:transport=fd,fd={cable.fileno()}\n'
        )
        kernel.chmod(0o755)
        port = listener.getsockname()[1]
        script = (
            f"ip link set vec0 up; ip address add {MACHINE_ADDRESS} dev vec0; ip route add default via {HOST_ADDRESS}; "
            f"exec {Path(sys.executable).absolute()} -m tools.lab.guest.agent {HOST_ADDRESS}:{port}"
        )
        return [str(UML), "-m", MEMORY, "-k", str(kernel), "--", "/bin/bash", "-euc", script]

    def _environment(self, visible: Path) -> dict[str, str]:
        return {
            "UML_OUT": str(visible),
            "UML_TIMEOUT": str(LIFETIME),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _accept(self, listener: socket.socket) -> socket.socket:
        """The agent's connection; LabError when the machine ends instead."""
        pidfd = os.pidfd_open(self._machine.pid)
        try:
            ready = select.select([listener.fileno(), pidfd], [], [], PATIENCE)[0]
        finally:
            os.close(pidfd)
        if listener.fileno() not in ready:
            raise LabError(f"user-mode Linux did not come up:\n{self.last_words()}")
        return listener.accept()[0]


def _kill_session(leader: int) -> None:
    """Kill all processes of a session: the launcher's are in several process groups."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            session = int(stat.read_text().rpartition(")")[2].split()[3])  # field 6, counted after the name
            if session == leader:
                os.kill(int(stat.parent.name), signal.SIGKILL)


def _cable() -> tuple[socket.socket, socket.socket]:
    """Two ends; a datagram is an Ethernet frame."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CABLE_BUFFER)
    return ends


def _network(cable: socket.socket) -> list[str]:
    return [
        *(program("qemu-system-x86_64"), "-M", "none", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-netdev", "user,id=net", "-netdev", f"dgram,id=cable,local.type=fd,local.str={cable.fileno()}"),
        *("-netdev", "hubport,id=a,hubid=0,netdev=net", "-netdev", "hubport,id=b,hubid=0,netdev=cable"),
    ]


def _start(
    command: Sequence[str], held: Sequence[socket.socket], log: Path, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    guarded = [program("setpriv"), "--pdeathsig", "KILL", "--", *command]
    with log.open("ab") as output:
        return subprocess.Popen(
            guarded,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=ENVIRONMENT | environment,
            cwd=REPOSITORY,
            pass_fds=[end.fileno() for end in held],
            start_new_session=True,
        )
