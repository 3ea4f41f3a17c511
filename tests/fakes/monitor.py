"""A monitor that does what the test says: real socket, real messages, no devices."""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from usbbridge.compat.rule import Verdict
from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.monitoring import (
    REQUESTS,
    VERSION,
    Adopt,
    Gone,
    Hello,
    Listed,
    Open,
    Opened,
    Plugged,
    PluggedDevice,
    Refused,
    Returned,
    Synced,
    Welcome,
)
from usbbridge.usb.ch9 import Speed
from usbbridge.usb.entry import DeviceEntry, InterfaceEntry

SECONDS = 20.0
T = TypeVar("T")


def plugged(
    bus_port: str = "1-2",
    devnum: int = 7,
    *,
    serial: str = "4C530001",
    verdict: Verdict = Verdict.ALLOW,
    ids: tuple[int, int] = (0x0951, 0x1666),
    quirks: tuple[str, ...] = (),
) -> PluggedDevice:
    """A flash drive."""
    entry = DeviceEntry(
        bus_port=bus_port,
        busnum=int(bus_port.partition("-")[0]),
        devnum=devnum,
        node=Path(f"/dev/bus/usb/001/{devnum:03}"),
        vendor=ids[0],
        product=ids[1],
        bcd_device=0x100,
        class_=0,
        subclass=0,
        protocol=0,
        speed=Speed.HIGH,
        manufacturer="Kingston",
        product_name="DataTraveler",
        serial=serial,
        configuration=1,
        interfaces=(InterfaceEntry(0, 0, 8, 6, 80, "usb-storage"),),
        name="Kingston DataTraveler",
    )
    return PluggedDevice(f"{bus_port}#{devnum}", entry, verdict=verdict, because="a rule", quirks=quirks)


class FakeMonitor:
    """Listens; `heard` is everything that control has said on the connection there is, Hello first.

    It gives out /dev/null for every device that is asked for, unless `refusal` says no, and says `Returned` when the
    lease ends: as the real one does.
    """

    def __init__(self, path: Path, *devices: PluggedDevice) -> None:
        self.devices = {device.id: device for device in devices}
        self.heard: list[Any] = []
        self.connections = 0
        self.refusal: Callable[[Open], Refused | None] = lambda request: None
        self.silent = False
        "Does not answer Open."
        self.leases: dict[str, socket.socket] = {}
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._channel: MessageChannel | None = None
        self._listen()

    def _listen(self) -> None:
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._loop.add_reader(self._listener.fileno(), self._accept)

    # ---- what the test does

    async def hears(self, kind: type[T], number: int = 1) -> T:
        """The `number`th message of a kind, now or when it comes."""
        await self.until(lambda: len(self.of(kind)) >= number)
        return self.of(kind)[number - 1]

    def of(self, kind: type[T]) -> list[T]:
        """What it has heard of a kind."""
        return [message for message in self.heard if isinstance(message, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds after something happened here."""
        async with asyncio.timeout(SECONDS):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def say(self, message: Any, *fds: int) -> None:
        """Say anything."""
        assert self._channel is not None
        self._channel.send(message, *fds)

    def plug(self, device: PluggedDevice) -> None:
        """It is there from now on, or has changed."""
        self.devices[device.id] = device
        self.say(Plugged(device))

    def unplug(self, device: PluggedDevice) -> None:
        """It is there no longer."""
        del self.devices[device.id]
        self.say(Gone(device.id))

    def stop(self) -> None:
        """Die: the socket's file stays, and nobody is behind it."""
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        self.disconnect()
        for device in list(self.leases):
            self._drop(device)

    def restart(self) -> None:
        """Live again."""
        self._listen()

    def disconnect(self) -> None:
        """End the connection."""
        if self._channel is not None:
            self._loop.remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def deaf(self) -> None:
        """Read no more."""
        assert self._channel is not None
        self._loop.remove_reader(self._channel.fileno())

    # ---- what it does by itself

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        self.disconnect()
        self._channel, self.heard = MessageChannel(sock, REQUESTS), []
        self.connections += 1
        self._loop.add_reader(sock.fileno(), self._readable)
        self._changed.set()

    def _readable(self) -> None:
        assert self._channel is not None
        received = self._channel.receive()
        if received is None:
            self.disconnect()
        else:
            self.heard.append(received[0])
            self._answer(*received)
        self._changed.set()

    def _answer(self, message: Any, fds: tuple[int, ...]) -> None:
        match message:
            case Hello():
                self.say(Welcome(VERSION))
                for device in self.devices.values():
                    self.say(Plugged(device))
                self.say(Listed())
            case Open(request, device_id):
                refused = self.refusal(message)
                if refused is not None or self.silent:
                    os.close(fds[0])
                    if refused is not None:
                        self.say(refused)
                    return
                self._lend(device_id, fds[0])
                fd = os.open(os.devnull, os.O_RDWR)
                self.say(Opened(request), fd)
                os.close(fd)
            case Adopt(device_id):
                self._lend(device_id, fds[0])
            case Synced():
                pass

    def _lend(self, device: str, lease: int) -> None:
        sock = self.leases[device] = socket.socket(fileno=lease)
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._lease_over, device)

    def _lease_over(self, device: str) -> None:
        assert self.leases[device].recv(1) == b""
        self._drop(device)
        if self._channel is not None:
            self.say(Returned(device))
        self._changed.set()

    def _drop(self, device: str) -> None:
        lease = self.leases.pop(device)
        self._loop.remove_reader(lease.fileno())
        lease.close()
