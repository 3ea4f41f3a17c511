"""The loopback VM, in this process: a SPICE or raw usbredir server, USB ports, and a guest that uses the devices.

    with LoopbackVm(password="secret") as vm:
        ...                                     # attach a device to vm.target
        device = vm.wait_for_device()           # enumerated and configured
        drive = vm.mount()                      # its disk driver is bound
        result = vm.read_all()                  # every block, hashed

The VM lives on a thread of its own; these methods may be called from any other and wait for what they are asked for,
at most `timeout` seconds (`TimeoutError`). What broke is raised from the method that waited for it.
"""

import asyncio
import hashlib
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

from usbbridge.loopback.bulkonly import MAX_TRANSFER
from usbbridge.loopback.enumeration import UsbDevice, bind_disk
from usbbridge.loopback.port import Port, Stage
from usbbridge.loopback.server import HOST, Event, RawConnection, Server, SpiceConnection
from usbbridge.loopback.storage import Disk, Drive
from usbbridge.loopback.tasks import Job, Task
from usbbridge.usbredir.proto import ALL_CAPS, Cap, DeviceSpeed

T = TypeVar("T")
TIMEOUT: Final = 30.0
HIGH_SPEED_READ: Final = 240 * 512
"Linux's usb-storage moves 240 sectors a command at most, 2048 (`MAX_TRANSFER`) at SuperSpeed."


@dataclass(frozen=True, slots=True)
class ReadResult:
    """A drive, read from end to end."""

    size: int
    sha256: str
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.size / self.seconds


class LoopbackVm:
    """See the module's text. `on_event` is called on the VM's thread, with a line for people."""

    def __init__(
        self,
        *,
        password: str | None = None,
        channels: int = 1,
        transport: str = "spice",
        tls: ssl.SSLContext | None = None,
        caps: Cap = ALL_CAPS,
        rules: str = "",
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        assert transport in ("spice", "raw"), transport
        self._on_event = on_event
        self._kind = SpiceConnection if transport == "spice" else RawConnection
        self._scheme = {"spice": "spice+tls" if tls else "spice", "raw": "tcp"}[transport]
        self._tls = tls
        self.events: list[str] = []
        "Everything that happened, oldest first."
        self.violations: list[str] = []
        "What the client did wrong."
        self.ports = [Port(self._port_changed, caps=caps, rules=rules) for _ in range(channels)]
        self._server = Server(self.ports, self._reported, password=password)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="loopback-vm", daemon=True)
        self.port = 0
        "TCP port on 127.0.0.1."

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(self._server.listen(self._kind, self._tls), self._loop)
        self.port = listening.result(TIMEOUT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result(TIMEOUT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def target(self) -> str:
        """What to give to `usbbridge attach --vm`."""
        return f"{self._scheme}://{HOST}:{self.port}"

    # What happens to a device

    def wait_for_device(self, channel: int = 0, timeout: float = TIMEOUT) -> UsbDevice:
        """The device on a channel, once the guest has enumerated and configured it."""
        port = self.ports[channel]
        port.wait((Stage.READY,), timeout)
        assert port.device is not None
        return port.device

    def wait_for_detach(self, channel: int = 0, timeout: float = TIMEOUT) -> None:
        """Wait until the device's host has detached it, properly; raises if its connection just ended."""
        self.ports[channel].wait((Stage.DETACHED,), timeout)

    def run(self, task: Task[T], channel: int = 0, timeout: float = TIMEOUT) -> T:
        """Run a task of a driver on a channel's device and return its result."""
        future: Future[T] = Future()

        def done(job: Job[T]) -> None:
            try:
                future.set_result(job.result())
            except Exception as error:
                future.set_exception(error)

        def start() -> None:
            try:
                self.ports[channel].start(task, done)
            except Exception as error:
                future.set_exception(error)

        self._loop.call_soon_threadsafe(start)
        return future.result(timeout)

    def kill(self) -> None:
        """End every connection without a word, as a VM that dies does."""
        self._loop.call_soon_threadsafe(self._server.abort)

    def pause(self, paused: bool = True) -> None:
        """Stop (or go on) reading the channels of devices, as QEMU does while its VM is paused."""
        self._loop.call_soon_threadsafe(self._server.pause, paused)

    # A disk

    def mount(self, channel: int = 0, timeout: float = TIMEOUT) -> Drive:
        """Wait for a device and put the disk driver on it."""
        port = self.ports[channel]
        device = self.wait_for_device(channel, timeout)
        port.disk = self.run(bind_disk(device), channel, timeout)
        assert port.disk.drive is not None
        return port.disk.drive

    def read_all(
        self, progress: Callable[[int, int], None] | None = None, channel: int = 0, timeout: float = 600.0
    ) -> ReadResult:
        """Read a mounted drive from end to end. `progress` gets (bytes read, bytes in all), on the VM's thread."""
        disk, drive = self._mounted(channel)
        sha256 = hashlib.sha256()
        buffer = memoryview(bytearray(self._transfer_size(channel) // drive.block_size * drive.block_size))

        def task() -> Task[None]:
            done = 0
            while done < drive.size:
                piece = buffer[: drive.size - done]
                yield from disk.read(done // drive.block_size, piece)
                sha256.update(piece)
                done += len(piece)
                if progress is not None:
                    progress(done, drive.size)

        start = time.monotonic()
        self.run(task(), channel, timeout)
        return ReadResult(drive.size, sha256.hexdigest(), time.monotonic() - start)

    def read(self, block: int, count: int, channel: int = 0) -> bytes:
        """`count` blocks of a mounted drive, by as many commands as it takes."""
        disk, drive = self._mounted(channel)
        data = memoryview(bytearray(count * drive.block_size))

        def task() -> Task[None]:
            for start in range(0, len(data), MAX_TRANSFER):
                yield from disk.read(block + start // drive.block_size, data[start : start + MAX_TRANSFER])

        self.run(task(), channel)
        return bytes(data)

    def write(self, block: int, data: bytes, channel: int = 0) -> None:
        """Write whole blocks to a mounted drive and make it keep them (SYNCHRONIZE CACHE)."""
        disk, drive = self._mounted(channel)
        view = memoryview(data)

        def task() -> Task[None]:
            for start in range(0, len(view), MAX_TRANSFER):
                yield from disk.write(block + start // drive.block_size, view[start : start + MAX_TRANSFER])
            yield from disk.synchronize()

        self.run(task(), channel)

    def _mounted(self, channel: int) -> tuple[Disk, Drive]:
        disk = self.ports[channel].disk
        assert disk is not None, "mount() comes first"
        assert disk.drive is not None
        return disk, disk.drive

    def _transfer_size(self, channel: int) -> int:
        announcement = self.ports[channel].announcement
        assert announcement is not None
        return MAX_TRANSFER if announcement.connect.speed == DeviceSpeed.SUPER else HIGH_SPEED_READ

    # What happened

    def _reported(self, event: Event, what: str) -> None:
        if event is Event.VIOLATION:
            self.violations.append(what)
        self._tell(f"{event.value}: {what}")

    def _port_changed(self, port: Port, what: str) -> None:
        self._tell(f"port {self.ports.index(port)}: {what}")

    def _tell(self, line: str) -> None:
        self.events.append(line)
        if self._on_event is not None:
            self._on_event(line)
