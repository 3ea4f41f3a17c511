"""The monitor as a process of a machine with dummy_hcd and configfs gadgets, the stick that it hands out, its client,
and who holds what it has handed out."""

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.machine.gadgets import IMAGE, driver, gadget
from tests.machine.waiting import Manager, wait
from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.monitoring import (
    ANSWERS,
    VERSION,
    Gone,
    Hello,
    Listed,
    Open,
    Opened,
    Plugged,
    PluggedDevice,
    Refused,
    Returned,
)

RUN = Path("/tmp/bridge")
SOCKET = RUN / "run/monitor.sock"
LOG = RUN / "log"
CLAIM_INTERFACE = 0x8004550F  # linux/usbdevice_fs.h
USBDEVFS_IOCTL = 0xC0105512
DISCONNECT = 0x5516


class Monitor:
    """The process, once it serves, unless nobody expects that."""

    def __init__(self, *, serves: bool = True) -> None:
        self.manager = Manager()
        self.log = LOG.open("a")
        command = [sys.executable, "-P", "-m", "usbbridge", "monitor"]
        environment = os.environ | {"USBBRIDGE_CONFIG": str(RUN / "usbbridge.toml"), "USBBRIDGE_MODE": "system"}
        self.process = subprocess.Popen(command, stderr=self.log, env=environment | self.manager.environment)
        if serves:
            self.manager.wait_ready()

    def fds(self) -> int:
        """Open descriptors, but for those of sysfs and procfs, which it may just be reading."""
        found = 0
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # it was open for a moment only
                found += not str(link.readlink()).startswith(("/sys/", "/proc/"))
        return found

    def status(self, field: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))

    def end(self, signum: int = signal.SIGTERM) -> int:
        """Its exit status."""
        self.process.send_signal(signum)
        self.log.close()
        self.manager.close()
        return self.process.wait()


class Client:
    """Control, as the monitor sees it."""

    def __init__(self, *, greet: bool = True) -> None:
        self.sock = connect()
        self.sock.settimeout(20)
        self.channel = MessageChannel(self.sock, ANSWERS)
        self.devices: dict[str, PluggedDevice] = {}
        self.heard: list[Any] = []
        if greet:
            self.channel.send(Hello(VERSION))
            self.until(Listed)

    def hear(self) -> tuple[Any, tuple[int, ...]] | None:
        received = self.channel.receive()
        if received is not None:
            message = received[0]
            self.heard.append(message)
            if isinstance(message, Plugged):
                self.devices[message.device.id] = message.device
            elif isinstance(message, Gone):
                del self.devices[message.device]
        return received

    def until(self, kind: type, what: Callable[[Any], object] = lambda _: True) -> tuple[Any, tuple[int, ...]]:
        while True:
            received = self.hear()
            assert received is not None, f"it ended before {kind.__name__}"
            if isinstance(received[0], kind) and what(received[0]):
                return received

    def stick(self) -> PluggedDevice:
        return next(d for d in self.devices.values() if d.entry.bus_port == "1-1")

    def wait_for(self, what: Callable[[PluggedDevice], object]) -> PluggedDevice:
        """Until the device in port 1 is so."""
        while True:
            for device in self.devices.values():
                if device.entry.bus_port == "1-1" and what(device):
                    return device
            assert self.hear() is not None

    def open(self, **options: bool) -> tuple[Any, int, socket.socket]:
        """The answer, the device's descriptor (-1 if none came), and the holder's end of the lease."""
        answer, fd, lease, theirs = self.open_and_keep(**options)
        theirs.close()
        return answer, fd, lease

    def open_and_keep(self, **options: bool) -> tuple[Any, int, socket.socket, socket.socket]:
        """And the monitor's end, which control keeps for the next monitor."""
        lease, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.send(Open(7, self.stick().id, **({"asked": True} | options)), theirs.fileno())
        while True:
            received = self.hear()
            assert received is not None
            if isinstance(received[0], Opened | Refused):
                return received[0], received[1][0] if received[1] else -1, lease, theirs

    def ended(self) -> bool:
        """Whether the monitor ends the connection, whatever else it says before."""
        try:
            while self.hear() is not None:
                pass
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self.sock.close()


def connect() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(str(SOCKET))
    except OSError:
        sock.close()
        raise
    return sock


def held(fd: int, lease: socket.socket) -> int:
    """A process that has claimed the device and holds the lease, as an encoder does; its id."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with contextlib.suppress(OSError):  # it has no driver at this moment
                fcntl.ioctl(fd, USBDEVFS_IOCTL, struct.pack("@iiP", 0, DISCONNECT, 0))
            fcntl.ioctl(fd, CLAIM_INTERFACE, struct.pack("I", 0))
            os.write(writer, b"!")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1), "it could not be claimed"
    os.close(reader)
    os.close(fd)
    lease.close()
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def run(*command: str) -> int:
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


def plug(folder: Path) -> None:
    (folder / "UDC").write_text("dummy_udc.0")


def unplug(folder: Path) -> None:
    (folder / "UDC").write_text("\n")


def back() -> bool:
    return driver() == "usb-storage" and Path("/dev/sda1").exists()


def give_back(client: Client, pid: int) -> str:
    """Kill the holder; the driver of the device once it is back."""
    kill(pid)
    client.until(Returned)
    wait(back)
    return driver()


class Rig:
    """The stick, which is plugged in and has an ext4 on its only partition, and the monitor, which runs; a step may put
    another into its place."""

    def __init__(self) -> None:
        self.stick = gadget("stick", "mass_storage.0", {"lun.0/file": str(IMAGE)})
        plug(self.stick)
        wait(back)
        assert run("mkfs.ext4", "-q", "-F", "/dev/sda1") == 0
        self.monitor = Monitor()

    def restart(self, signum: int = signal.SIGTERM) -> None:
        """The monitor ends by this signal, and another begins."""
        self.monitor.end(signum)
        self.monitor = Monitor()
