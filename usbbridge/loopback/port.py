"""A USB port of the loopback VM: one usb-redir device, and what the guest does with what is plugged in there."""

import threading
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TypeVar

from usbbridge.errors import ConnectionLostError, UsbBridgeError
from usbbridge.loopback.admission import Announcement
from usbbridge.loopback.enumeration import UsbDevice, enumerate_device
from usbbridge.loopback.guest import Guest
from usbbridge.loopback.storage import Disk
from usbbridge.loopback.tasks import Buffer, Job, Task, TaskAbortedError
from usbbridge.usbredir.proto import ALL_CAPS, Cap

T = TypeVar("T")


class Stage(Enum):
    """How far a port's device has come."""

    EMPTY = "no client"
    OPEN = "a client is there, no device"
    ANNOUNCED = "a device is being enumerated"
    READY = "the device is configured"
    DETACHED = "the device was detached by its host"
    FAILED = "something went wrong"


class Port:
    """One usb-redir of the VM with the guest behind it; lives on the VM's thread, but for `wait`."""

    def __init__(self, notify: Callable[["Port", str], None], *, caps: Cap = ALL_CAPS, rules: str = "") -> None:
        self._notify = notify
        self._caps, self._rules = caps, rules
        self._wake: Callable[[], None] = lambda: None
        self._changed = threading.Condition()
        self.guest: Guest | None = None
        self.stage = Stage.EMPTY
        self.error: Exception | None = None
        self.announcement: Announcement | None = None
        self.device: UsbDevice | None = None
        self.disk: Disk | None = None

    # For the server

    @property
    def taken(self) -> bool:
        """A client is on it."""
        return self.guest is not None

    def opened(self, wake: Callable[[], None]) -> None:
        """A client has come: the guest says hello."""
        self._wake = wake
        self.guest = Guest(self, caps=self._caps, rules=self._rules)
        self._become(Stage.OPEN)

    def feed(self, data: bytes | memoryview) -> None:
        """Bytes of the usb-host."""
        assert self.guest is not None
        self.guest.feed(data)

    def take_output(self) -> list[Buffer]:
        """Bytes for the usb-host."""
        return self.guest.take_output() if self.guest is not None else []

    def closed(self, error: UsbBridgeError) -> None:
        """The client has gone; if its device hadn't been detached before, that is a fault."""
        guest, self.guest = self.guest, None
        self._wake = lambda: None
        if guest is not None:
            guest.lost(error)
        if self.stage in (Stage.ANNOUNCED, Stage.READY):
            self._become(Stage.FAILED, error=error)
        elif self.stage is Stage.OPEN:
            self._become(Stage.EMPTY)
        self._notify(self, f"connection closed: {error}")

    # For the guest

    def announced(self, device: Announcement) -> None:
        """A device: enumerate it."""
        self.announcement = device
        self.device = self.disk = None
        self._become(Stage.ANNOUNCED)
        self.start(enumerate_device(), self._enumerated)

    def _enumerated(self, job: Job[UsbDevice]) -> None:
        try:
            self.device = job.result()
        except TaskAbortedError:
            pass  # the device was taken away meanwhile, which `detached` tells
        except Exception as error:
            self._become(Stage.FAILED, error=error)
        else:
            self._become(Stage.READY)

    def rejected(self, reason: str) -> None:
        """The guest refuses the device."""
        self._become(Stage.FAILED, error=UsbBridgeError(f"the VM rejected the device: {reason}"))

    def detached(self) -> None:
        """Unplugged, properly."""
        self._become(Stage.DETACHED)

    # For the VM

    def start(self, task: Task[T], done: Callable[[Job[T]], None]) -> None:
        """Run a driver's task on the device."""
        if self.guest is None:
            raise ConnectionLostError("no client is on this port")
        Job(self.guest, task, done).start()
        self._wake()

    def wait(self, wanted: Sequence[Stage], timeout: float) -> None:
        """Wait, on another thread, for one of these stages. Raises, once, what made the port fail, or TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.stage in (*wanted, Stage.FAILED), timeout):
                raise TimeoutError(f"after {timeout:g} s still: {self.stage.value}")
            error, self.error = self.error, None
            if self.stage is Stage.FAILED and self.guest is None:
                self.stage = Stage.EMPTY
        if error is not None:
            raise error

    def _become(self, stage: Stage, error: Exception | None = None) -> None:
        with self._changed:
            self.stage, self.error = stage, error
            self._changed.notify_all()
        self._notify(self, stage.value if error is None else f"{stage.value}: {error}")
