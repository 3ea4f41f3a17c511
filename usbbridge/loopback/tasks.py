"""What a guest's drivers are written in: tasks, which yield a request to the device and get the reply back.

    def get_status(endpoint: int) -> Task[int]:
        reply = yield Control(SetupPacket(0x82, Request.GET_STATUS, 0, endpoint, 2))
        return int.from_bytes(reply.data, "little")

A driver so written reads from top to bottom, and neither waits nor knows a socket: `Job` runs it, over whatever can
submit a request and call back. Several jobs may run on one device at a time, as drivers do in a guest kernel.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeAlias, TypeVar

from usbbridge.errors import ConnectionLostError, UsbBridgeError
from usbbridge.usb.ch9 import SetupPacket
from usbbridge.usbredir.packets import Packet
from usbbridge.usbredir.proto import Status

T = TypeVar("T")
Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Control:
    """A control transfer on endpoint 0; `data` is the data stage of an OUT request, `setup.length` bytes."""

    setup: SetupPacket
    data: Buffer = b""


@dataclass(frozen=True, slots=True)
class Bulk:
    """A bulk transfer: OUT sends `data`; IN asks for as many bytes as `into` holds and puts them there."""

    endpoint: int
    data: Buffer = b""
    into: memoryview = field(default_factory=lambda: memoryview(bytearray()))


@dataclass(frozen=True, slots=True)
class InterruptOut:
    """One interrupt OUT transfer. (Interrupt IN is a stream: see `Guest.reports`.)"""

    endpoint: int
    data: Buffer


@dataclass(frozen=True, slots=True)
class Command:
    """A usbredir request that is no transfer: set_configuration, set_alt_setting, start_interrupt_receiving, reset."""

    packet: Packet


Request: TypeAlias = Control | Bulk | InterruptOut | Command


@dataclass(frozen=True, slots=True)
class Reply:
    """How a request ended."""

    status: Status
    length: int = 0
    "Bytes moved in the data stage."
    data: memoryview = field(default_factory=lambda: memoryview(b""))
    "What an IN transfer brought, `length` bytes: the head of `Bulk.into` where there was one."
    packet: Packet | None = None
    "The answer to a `Command`; None to a reset, which has no answer."


Task: TypeAlias = Generator[Request, Reply, T]


class TaskAbortedError(ConnectionLostError):
    """The device or the connection went away below a task."""


class Submitter(Protocol):
    """What a job runs on: a `Guest`."""

    def submit(
        self, request: Request, done: Callable[[Reply], None], lost: Callable[[UsbBridgeError], None]
    ) -> int: ...


class Job(Generic[T]):
    """A task under way. `done` is called once, with the job, when the task has returned or raised."""

    def __init__(self, submitter: Submitter, task: Task[T], done: "Callable[[Job[T]], None]") -> None:
        self._submitter = submitter
        self._task = task
        self._done = done
        self.finished = False
        self._result: list[T] = []
        self._error: Exception | None = None

    def start(self) -> None:
        """Run the task up to its first request."""
        self._step(lambda: next(self._task))

    def result(self) -> T:
        """What the task returned; raises what it raised. Only once the job has finished."""
        assert self.finished, "the task is still running"
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _step(self, resume: Callable[[], Request]) -> None:
        try:
            request = resume()
        except StopIteration as end:
            self._finish(result=[end.value])
        except Exception as error:  # whatever a driver raises is its caller's to see, in result()
            self._finish(error=error)
        else:
            self._submit(request)

    def _submit(self, request: Request) -> None:
        try:
            self._submitter.submit(request, self._replied, self._lost)
        except UsbBridgeError as error:
            self._lost(error)

    def _replied(self, reply: Reply) -> None:
        self._step(lambda: self._task.send(reply))

    def _lost(self, error: UsbBridgeError) -> None:
        self._step(lambda: self._task.throw(error))

    def _finish(self, result: list[T] | None = None, error: Exception | None = None) -> None:
        self._result, self._error = result or [], error
        self.finished = True
        self._done(self)
