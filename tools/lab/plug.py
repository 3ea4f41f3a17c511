"""`python -m tools.lab.plug PORT SPEC [PORT SPEC ...]`: emulated devices in this machine's own kernel, as root.

A SPEC is `disk:PATH[,ro]`, or a module of `tools.lab.devices` with options for it: `camera,serial=X`. The option
`speed=low|full|high|super` is for any of those; without it, the port decides. Ports 0 to 7 of the kernel's virtual host
controller (vhci-hcd, which must be loaded) are high-speed ones, 8 to 15 SuperSpeed.

Prints `plugged BUS-PORT` for each device when the kernel has enumerated and configured it (which it may never do with
one that lies about itself), and ends when all are detached. SIGTERM and SIGINT detach them. A function that has an
attribute `becomes`, not None, leaves the bus, and what that is comes to the same port instead: one more such line.
"""

import contextlib
import errno
import importlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools.lab.usbip import Exporter
from usbbridge.backend.emulated.device import EmulatedDevice
from usbbridge.backend.emulated.disk import PREFIX, open_disk
from usbbridge.backend.emulated.function import Function
from usbbridge.errors import UsageError, UsbBridgeError
from usbbridge.usb.ch9 import Speed

CONTROLLER: Final = Path("/sys/devices/platform/vhci_hcd.0")
DEVICE_ID: Final = 1 << 16 | 1  # bus 1, device 1 of the exporter: any will do
FIRST_SUPER: Final = 8
PORTS: Final = 16

KERNEL_SPEEDS: Final = {Speed.LOW: 1, Speed.FULL: 2, Speed.HIGH: 3, Speed.SUPER: 5}
"Linux's enum usb_device_speed."
HUB_SPEEDS: Final = {False: "480", True: "5000"}
"What sysfs says of the controller's two root hubs."

ATTEMPTS: Final = 100
PAUSE: Final = 0.02
"How often, and after how many seconds, a port that is still taken is tried again: there is nothing to wait for."

NETLINK_KOBJECT_UEVENT: Final = 15
KERNEL_EVENTS: Final = 1
"The multicast group of the kernel's own uevents (Linux, lib/kobject_uevent.c)."
EVENT_SIZE: Final = 4096
"Above what an event can have: UEVENT_BUFFER_SIZE and a path (Linux, include/linux/kobject.h)."
EVENTS_BYTES: Final = 8 << 20
"Of events that may wait: where something sends hundreds a second, one that is lost would be waited for for ever."
SO_RCVBUFFORCE: Final = 33
"asm-generic/socket.h; Python has no name for it."


class Port:
    """One of the virtual controller's ports."""

    def __init__(self, number: int) -> None:
        if not 0 <= number < PORTS:
            raise UsageError(f"there is no port {number}: the virtual controller has 0 to {PORTS - 1}")
        self.is_super = number >= FIRST_SUPER
        self._index = number % FIRST_SUPER
        hub = self._hub()
        self.bus_port = f"{(hub / 'busnum').read_text().strip()}-{self._index + 1}"
        # The kernel numbers all high-speed ports before the others; how many there are is up to its configuration.
        self._number = self._index + (int((hub / "maxchild").read_text()) if self.is_super else 0)

    def _hub(self) -> Path:
        for hub in CONTROLLER.glob("usb[0-9]*"):
            if (hub / "speed").read_text().strip() == HUB_SPEEDS[self.is_super]:
                return hub
        raise UsageError("this kernel has no virtual host controller", hint="modprobe vhci-hcd")

    def attach(self, device: EmulatedDevice) -> Exporter:
        """Plug the device in."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            words = self._number, theirs.fileno(), DEVICE_ID, KERNEL_SPEEDS[device.speed]
            self._write_attach(" ".join(map(str, words)))
        return Exporter(device, ours)

    @staticmethod
    def _write_attach(text: str) -> None:
        """The controller tells nobody when it is done with the device that was there before: its attribute `status`
        can't be polled, as it never calls sysfs_notify, and the end of the device on the bus, of which there is an
        event, is the work of another thread (Linux, drivers/usb/usbip/vhci_hcd.c, vhci_shutdown_connection and
        vhci_device_reset)."""
        for _ in range(ATTEMPTS):
            try:
                (CONTROLLER / "attach").write_text(text)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                time.sleep(PAUSE)
            else:
                return
        raise UsageError("there is a device at this port already")

    def detach(self) -> None:
        """Pull the device out; the kernel then closes its end of the socket."""
        with contextlib.suppress(OSError):  # it has gone by itself
            (CONTROLLER / "detach").write_text(str(self._number))


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Name and options of `NAME[,option=value...]`; an option without a value has an empty one."""
    name, *words = spec.split(",")
    return name, {option: value for option, _, value in (word.partition("=") for word in words)}


def make_device(spec: str, *, is_super: bool) -> EmulatedDevice:
    """The device that a SPEC describes, on a port of that kind. Raises UsageError and what `open_disk` raises."""
    default = Speed.SUPER if is_super else Speed.HIGH
    if spec.startswith(PREFIX):
        return open_disk(spec, speed=default)
    name, options = parse_spec(spec)
    word = options.pop("speed", default.name.lower())
    speed = {each.name.lower(): each for each in KERNEL_SPEEDS}.get(word)
    if speed is None or (speed is Speed.SUPER) != is_super:
        raise UsageError(
            f"{spec}: no {word} speed on this port", hint=f"ports {FIRST_SUPER} and up are for super speed"
        )
    return EmulatedDevice(make_function(name, speed, options), name)


def make_function(name: str, speed: Speed, options: dict[str, str]) -> Function:
    """What the module `tools.lab.devices.NAME` creates."""
    try:
        module = importlib.import_module(f"tools.lab.devices.{name}")
    except ModuleNotFoundError as error:
        raise UsageError(f"there is no module tools.lab.devices.{name}") from error
    made: Function = module.create(speed, options)
    return made


class Plugs:
    """All devices of one run of the program."""

    def __init__(self, specs: Sequence[tuple[int, str]]) -> None:
        self._poller = select.epoll()
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT)
        self._events.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, EVENTS_BYTES)
        self._events.bind((0, KERNEL_EVENTS))
        self._poller.register(self._events, select.EPOLLIN)
        self._exporters: dict[int, Exporter] = {}
        self._plugged: dict[Exporter, tuple[Port, EmulatedDevice]] = {}
        self._returning: dict[str, tuple[Port, EmulatedDevice]] = {}
        "By BUS-PORT: what is to be plugged in once the kernel has seen that what was there is gone."
        for number, spec in specs:
            port = Port(number)
            self._plug(port, make_device(spec, is_super=port.is_super))

    def _plug(self, port: Port, device: EmulatedDevice) -> None:
        exporter = port.attach(device)
        for fd in exporter.fds():
            self._poller.register(fd, select.EPOLLIN)
            self._exporters[fd] = exporter
        self._plugged[exporter] = port, device

    def detach(self) -> None:
        """Pull all out; `serve` ends when they are. Called from a signal's handler."""
        if not self._plugged:
            sys.exit()  # nothing would wake `serve`
        self._returning.clear()
        for port, _ in self._plugged.values():
            port.detach()

    def serve(self) -> None:
        """Serve the devices until all are detached."""
        while self._plugged or self._returning:
            for fd, _ in self._poller.poll():
                exporter = self._exporters.get(fd)
                if exporter is not None:
                    self._serve(exporter, fd)
                elif fd == self._events.fileno():
                    self._event()

    def _serve(self, exporter: Exporter, fd: int) -> None:
        staying = exporter.ready(fd)
        port, device = self._plugged[exporter]
        successor: Function | None = getattr(device.function, "becomes", None)
        if successor is not None:
            exporter.close()
            self._returning[port.bus_port] = port, EmulatedDevice(successor, device.name)
        if successor is not None or not staying:
            self._exporters = {fd: other for fd, other in self._exporters.items() if other is not exporter}
            del self._plugged[exporter]

    def _event(self) -> None:
        """Read one of the kernel's events: a device of ours that it binds to its USB core is told of.

        The core has configured it by then. (To look into sysfs instead would wait for the core, which waits for us.)
        """
        with contextlib.suppress(OSError):  # some were lost
            action, _, path = self._events.recv(EVENT_SIZE).partition(b"\0")[0].decode().partition("@")
            bus_port = path.rpartition("/")[2]
            if action == "bind" and bus_port in [port.bus_port for port, _ in self._plugged.values()]:
                os.write(sys.stdout.fileno(), f"plugged {bus_port}\n".encode())  # in one piece
            if action == "remove" and bus_port in self._returning:
                self._plug(*self._returning.pop(bus_port))


def main() -> None:
    """See the top."""
    words = sys.argv[1:]
    if not words or len(words) % 2:
        sys.exit(__doc__)
    try:
        plugs = Plugs([(int(port), spec) for port, spec in zip(words[::2], words[1::2], strict=True)])
    except UsbBridgeError as error:
        sys.exit(f"{error.message}: {error.hint}" if error.hint else error.message)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: plugs.detach())
    plugs.serve()


if __name__ == "__main__":
    main()
