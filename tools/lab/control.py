"""The rig that stays up for a maintainer: one process holds the machines, others ask it over a unix socket.

A request is one JSON line and the asker's standard input, output and error, handed over as descriptors; the answer is
the exit status. So a command in a machine reads and writes the asker's own terminal.
"""

import contextlib
import dataclasses
import json
import os
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.lab.client import Client, Plugged
from tools.lab.host import LabError, cache_folder
from tools.lab.lab import Lab
from tools.lab.machine import Machine
from tools.lab.process import Process
from tools.lab.vm import Vm, VmOptions

MAX_REQUEST = 64 * 1024
READ_SIZE = 64 * 1024


def socket_path() -> Path:
    """Where the rig of this user listens."""
    return cache_folder() / "control"


def ask(verb: str, **arguments: object) -> int:
    """Have the rig do something with our standard streams; the exit status. LabError when there is no rig."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(str(socket_path()))
        except OSError as error:
            raise LabError("no lab is up; start one with: python -m tools.lab up") from error
        socket.send_fds(connection, [json.dumps([verb, arguments]).encode()], [0, 1, 2])
        answer = connection.recv(MAX_REQUEST)
    if not answer:
        raise LabError("the lab has ended")
    return int(answer)


def require_none_up() -> None:
    """Raise LabError if this user's rig is already up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        if connection.connect_ex(str(socket_path())) == 0:
            raise LabError("a lab is already up; end it with: python -m tools.lab down")


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """One who asks: the connection and the three standard streams, which are closed in the end."""

    connection: socket.socket
    streams: tuple[int, int, int]

    def say(self, text: str) -> None:
        """Write a line to standard output."""
        os.write(self.streams[1], text.encode() + b"\n")

    def fail(self, text: str) -> None:
        """Write a line to standard error."""
        os.write(self.streams[2], text.encode() + b"\n")

    def finish(self, status: int) -> None:
        """Answer, and be done with it."""
        with contextlib.suppress(OSError):  # it may have gone
            self.connection.send(str(status).encode())
        self.connection.close()
        for stream in self.streams:
            os.close(stream)


class Rig:
    """Two machines and what can be asked of them: each public method is a verb."""

    def __init__(self, lab: Lab, options: VmOptions, *, systemd: bool = False) -> None:
        self._lab = lab
        self._options = options
        self.client: Client = lab.client(systemd=systemd)
        self.vm: Vm = lab.vm(options)
        self._verbs: dict[str, Callable[..., str]] = {
            "status": self.status,
            "plug": self.plug,
            "unplug": self.unplug,
            "move": self.move,
            "press": self.press,
            "network": self.network,
            "power": self.power,
            "console": self.console,
            "qmp": self.qmp,
        }

    def serve(self) -> None:
        """Answer for ever. Only commands get a thread: QEMU ends with the thread that started it."""
        path = socket_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen()
            try:
                while self._serve_one(listener.accept()[0]):
                    pass
            finally:
                path.unlink(missing_ok=True)

    def _serve_one(self, connection: socket.socket) -> bool:
        """Serve one request; whether the rig is to go on."""
        data, fds, _, _ = socket.recv_fds(connection, MAX_REQUEST, 3)
        if len(fds) != 3:
            connection.close()
            return True
        caller = Caller(connection, (fds[0], fds[1], fds[2]))
        verb, arguments = json.loads(data)
        if verb == "run":
            threading.Thread(target=self._guard, args=(caller, self._run, arguments), daemon=True).start()
        else:
            self._guard(caller, self._simple, {"verb": verb, "arguments": arguments})
        return bool(verb != "down")

    def _guard(self, caller: Caller, work: Callable[..., int], arguments: dict[str, Any]) -> None:
        status = 1
        try:
            status = work(caller, **arguments)
        except (LabError, OSError, TypeError) as error:
            caller.fail(f"lab: {error}")
        finally:
            caller.finish(status)

    def _simple(self, caller: Caller, verb: str, arguments: dict[str, Any]) -> int:
        if verb != "down":
            text = self._verbs[verb](**arguments)
            if text:
                caller.say(text)
        return 0

    def _run(self, caller: Caller, machine: str, argv: list[str], tty: tuple[int, int] | None) -> int:
        def copy(data: bytes) -> None:
            with contextlib.suppress(OSError):  # the reader has gone, which also closes the connection
                os.write(caller.streams[1], data)

        with self._machine(machine).start(argv, tty=tty, on_output=copy) as process:
            _feed(caller, process)
            return process.wait().status & 0xFF

    def _machine(self, name: str) -> Machine:
        machines: dict[str, Machine] = {"client": self.client, "vm": self.vm}
        if name not in machines:
            raise LabError(f"no machine {name}: there are {' and '.join(machines)}")
        return machines[name]

    # Verbs

    def status(self) -> str:
        """What there is, with addresses as seen from the client machine."""
        lines = [f"{machine.name}: {'up' if machine.running else 'dead'}" for machine in (self.client, self.vm)]
        lines += [f"plugged: {_described(device)}" for device in self.client.plugged]
        lines += [
            f"ticket: {self._options.ticket or 'none'}",
            f"plain:  {self.vm.spice}",
            f"TLS:    {self.vm.spice_tls}",
        ]
        lines += [f"CA:     {self.vm.ca_file}", f"raw:    {self.vm.tcp}", f"folder: {self._lab.folder}"]
        return "\n".join(lines)

    def plug(self, kind: str, image: str | None, size: int, speed: str, line: str | None) -> str:
        """Plug a device into the client machine."""
        path = Path(image) if image else None
        if path is None and kind in ("usb-storage", "usb-bot", "usb-uas"):
            path = self._lab.image(f"disk-{len(self.client.plugged)}", size << 20)
        device = self.client.plug(kind, image=path, speed=speed, chardev=Path(line) if line else None)
        return _described(device)

    def unplug(self, name: str) -> str:
        """Unplug a device, by QEMU's name for it or by its bus and port; "all" is every one."""
        found = [device for device in self.client.plugged if name in (device.id, device.bus_port, "all")]
        if not found:
            raise LabError(f"no device {name} is plugged in")
        for device in found:
            self.client.unplug(device)
        return ""

    def move(self, name: str, port: int) -> str:
        """Pull a disk out and plug it in at another port."""
        for device in self.client.plugged:
            if name in (device.id, device.bus_port):
                return _described(self.client.move(device, port))
        raise LabError(f"no device {name} is plugged in")

    def press(self, keys: list[str]) -> str:
        """Press keys together."""
        self.client.press(*keys)
        return ""

    def network(self, up: bool) -> str:
        """Connect or cut the client machine's network."""
        self.client.network(up=up)
        return ""

    def power(self, action: str) -> str:
        """Pause, resume, kill or (after a kill) boot the virtual machine."""
        match action:
            case "pause":
                self.vm.pause()
            case "resume":
                self.vm.resume()
            case "kill":
                self.vm.kill()
            case "boot":
                self.vm = self._lab.again(self.vm)
                self.vm.wait_ready()
                return self.status()
        return ""

    def console(self, machine: str) -> str:
        """A kernel's console so far."""
        return self._machine(machine).console

    def qmp(self, machine: str, command: str, arguments: dict[str, object]) -> str:
        """A command of QEMU's own."""
        return json.dumps(self._machine(machine).qmp.command(command, **arguments), indent=2)


def _described(device: Plugged) -> str:
    return f"{device.id} at {device.bus_port}"


def _feed(caller: Caller, process: Process) -> None:
    """Copy the caller's standard input to the process until that ends, or end it when the caller goes."""
    ended, ending = os.pipe()

    def watch() -> None:
        with contextlib.suppress(LabError):
            process.wait_end()
        os.close(ending)

    threading.Thread(target=watch, daemon=True).start()
    sources = [ended, caller.connection.fileno(), caller.streams[0]]
    while ended not in (ready := select.select(sources, [], [])[0]):
        if caller.connection.fileno() in ready:
            process.kill()
            break
        data = os.read(caller.streams[0], READ_SIZE)
        process.write(data)
        if not data:
            process.close_stdin()
            sources.remove(caller.streams[0])
    os.close(ended)
