"""The lab: its machines, the folder they work in, and the end of all that."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tools.lab.certificates import HOST_NAME
from tools.lab.client import Client
from tools.lab.host import require
from tools.lab.machine import Machine
from tools.lab.native import NativeClient
from tools.lab.vm import Vm, VmOptions

REPOSITORY = Path(__file__).resolve().parents[2]


class Lab:
    """A context manager that makes machines; at its end they are gone, and its folder with them.

        with Lab() as lab:
            client, vm = lab.client(), lab.vm()
            stick = client.plug("usb-storage", image=lab.image("stick", 64 << 20))
            ...

    A machine boots while the next one is made.
    """

    def __init__(self, *, visible: Sequence[Path] = ()) -> None:
        """`visible` are paths below the host's /tmp or /run that the machines are to see besides this repository.

        Raises LabError when something the lab needs is not installed.
        """
        require()
        self._visible = [REPOSITORY, *visible]
        self._folder = tempfile.TemporaryDirectory(prefix="usbbridge-lab-")
        self.folder = Path(self._folder.name)
        self._machines: list[Machine | NativeClient] = []
        self._made = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def client(self, *, systemd: bool = False) -> Client:
        """A client machine; with `systemd` as its first process, and so with udevd, or with nothing but the kernel."""
        client = Client(self._machine_folder("client"), visible=self._visible, host_names=HOST_NAME, systemd=systemd)
        self._machines.append(client)
        return client

    def native_client(self) -> NativeClient:
        """A client machine in user-mode Linux, which is no slower than this host. LabError where that is not there."""
        client = NativeClient(self._machine_folder("native"), visible=self.folder)
        self._machines.append(client)
        return client

    def vm(self, options: VmOptions | None = None) -> Vm:
        """A virtual machine."""
        vm = Vm("vm", self._machine_folder("vm"), options or VmOptions(), visible=self._visible)
        self._machines.append(vm)
        return vm

    def again(self, vm: Vm) -> Vm:
        """A virtual machine in the place of one that has ended or is ended now: same ports, ticket and certificate."""
        vm.close()
        self._machines.remove(vm)
        successor = Vm("vm", self._machine_folder("vm"), vm.options, visible=self._visible, like=vm)
        self._machines.append(successor)
        return successor

    def image(self, name: str, size: int) -> Path:
        """A file of `size` random bytes in the lab's folder, for a disk."""
        path = self.folder / name
        with Path("/dev/urandom").open("rb") as source, path.open("wb") as target:
            for at in range(0, size, 1 << 20):
                target.write(source.read(min(1 << 20, size - at)))
        return path

    def close(self) -> None:
        """End every machine and remove the folder."""
        for machine in self._machines:
            machine.close()
        self._machines.clear()
        self._folder.cleanup()

    def _machine_folder(self, name: str) -> Path:
        self._made += 1
        return self.folder / f"{name}-{self._made}"
