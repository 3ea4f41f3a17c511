"""The engine that makes a `usbbridge.backend.base.Device` out of a function.

Each endpoint has a queue of waiting transfers. Whatever may let one of them go on (a submit, a cleared halt, the
function's own `wake`) makes the engine offer the oldest of each queue to the function, until none moves any more. What
has ended waits for `reap()`; an eventfd is readable meanwhile: an event loop can wait for it beside its sockets.

The function moves the data between its own source and the transfer's memory: nothing is copied here.

Isochronous endpoints go by the clock instead: see `usbbridge.backend.emulated.iso`.
"""

import os
import select
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from usbbridge.backend.base import Status, Transfer
from usbbridge.backend.emulated.chapter9 import Chapter9
from usbbridge.backend.emulated.function import BABBLE, NAK, STALL, Function
from usbbridge.backend.emulated.iso import IsoEngine
from usbbridge.backend.emulated.pool import DONE, IDLE, QUEUED, EmulatedTransfer, TransferPool
from usbbridge.errors import DeviceError, DeviceLostError
from usbbridge.usb.ch9 import DIR_IN, ENDPOINT_ADDRESS_MASK, SetupPacket, Speed, TransferType
from usbbridge.usb.descriptors import Configuration, DeviceDescriptor

_STATUS: Final = {STALL: Status.STALL, BABBLE: Status.OVERFLOW, NAK: Status.NO_DEVICE}
"How a transfer ends whose function moved no data and doesn't want it to wait, or no longer can."
_STREAM_SHIFT: Final = 8
"Streams have queues of their own: a queue's key is the endpoint's address with the stream above it."


class EmulatedDevice:
    """A device in this process; see `usbbridge.backend.base.Device` for the contract of each method.

    It starts in its first configuration, as a device does that its host has enumerated before handing it on.
    """

    def __init__(self, function: Function, name: str) -> None:
        self._function, self._name, self._model = function, name, function.model
        self._queues: dict[int, deque[EmulatedTransfer]] = {}
        self._done: deque[EmulatedTransfer] = deque()
        self._pool = TransferPool()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._signalled = False
        self._lost = ""
        self._closed = False
        self._streams: dict[int, int] = {}
        "How many there are on endpoints that have some."
        self._chapter9 = Chapter9(function, self._flush)
        self._iso = IsoEngine(function, self._end) if self._chapter9.has_iso else None
        self._first = self._chapter9.first_value
        self._chapter9.configure(self._first)
        function.wake, function.leave = self._pump_all, self.unplug

    @property
    def name(self) -> str:
        return self._name

    @property
    def descriptor(self) -> DeviceDescriptor:
        return self._model.device

    @property
    def speed(self) -> Speed:
        return self._model.speed

    @property
    def function(self) -> Function:
        """What the device does: for its owner to look at, for instance whether a disk has been ejected."""
        return self._function

    def configuration(self) -> Configuration | None:
        self._check_present()
        return self._chapter9.configuration

    def pollfds(self) -> Sequence[tuple[int, int]]:
        if self._closed:
            return ()
        wakeup = (self._wakeup, select.EPOLLIN)
        return (wakeup,) if self._iso is None else (wakeup, (self._iso.fd, select.EPOLLIN))

    # ---- what is not done for each transfer

    def claim(self) -> None:
        """Nobody else can have it: nothing to do."""
        self._check_present()

    def release(self) -> None:
        """Back to the configuration that was active when it was opened."""
        configuration = self._chapter9.configuration
        if not self._lost and (configuration is None or configuration.value != self._first):
            self._chapter9.configure(self._first)

    def set_configuration(self, value: int) -> None:
        self._check_present()
        if not self._chapter9.configure(value):
            raise DeviceError(f"{self._name} has no configuration {value}")

    def set_interface(self, number: int, alternate: int) -> None:
        self._check_present()
        if not self._chapter9.select(number, alternate):
            raise DeviceError(f"{self._name} has no interface {number} with alternate setting {alternate}")

    def clear_halt(self, endpoint: int) -> None:
        self._check_present()
        if not self._chapter9.clear_halt(endpoint):
            raise DeviceError(f"{self._name} has no endpoint {endpoint:#04x}")
        self._pump_all()

    def reset(self) -> None:
        self._check_present()
        self._chapter9.reset()

    def alloc_streams(self, count: int, endpoints: Sequence[int]) -> int:
        self._check_present()
        offered = [self._max_streams(address) for address in endpoints]
        if count < 1 or not all(offered):
            raise DeviceError(f"{self._name} has no bulk streams on endpoints {_listed(endpoints)}")
        made = min(count, *offered)
        self._streams |= dict.fromkeys(endpoints, made)
        return made

    def _max_streams(self, address: int) -> int:
        endpoint = self._chapter9.endpoints.get(address)
        return endpoint.max_streams if endpoint is not None else 0

    def free_streams(self, endpoints: Sequence[int]) -> None:
        self._check_present()
        for address in endpoints:
            self._streams.pop(address, None)

    def unplug(self, reason: str = "was unplugged") -> None:
        """Take the device away: what is in flight ends with NO_DEVICE, and from now on there is no device."""
        self._lost = self._lost or f"{self._name} {reason}"
        for queue in self._queues.values():
            while queue:
                self._end(queue.popleft(), Status.NO_DEVICE, 0)
        if self._iso is not None:
            self._iso.flush_all(Status.NO_DEVICE)
        self._signal()  # somebody may have nothing in flight and wait nevertheless

    def close(self) -> None:
        """Ends what is in flight without telling its owner, who is about to forget the device."""
        if self._closed:
            return
        self.unplug("is closed")
        self._closed = True
        for transfer in self._done:
            transfer.state = IDLE
        self._done.clear()
        self._pool.clear()
        self._function.close()
        self._signalled = False
        os.close(self._wakeup)
        if self._iso is not None:
            self._iso.close()
            self._iso = None

    def _check_present(self) -> None:
        if self._lost:
            raise DeviceLostError(self._lost)

    # ---- transfers

    def take(self, size: int) -> EmulatedTransfer:
        return self._pool.take(size)

    def take_iso(self, packets: int, size: int) -> EmulatedTransfer:
        return self._pool.take(packets * size, packets)

    def give_back(self, transfer: Transfer) -> None:
        self._pool.give_back(_own(transfer))

    def submit_control(self, transfer: Transfer, length: int) -> Status:
        own = _own(transfer)
        setup = SetupPacket.parse(own.setup)
        refused = self._refusal(own, length)
        if refused or setup.length > length:  # as usbfs: the data area must hold wLength
            return refused or Status.ERROR
        own.endpoint, own.length, own.stream, own.state = 0, setup.length, 0, QUEUED
        answer = self._chapter9.control(setup, own.data[: setup.length])
        if answer == NAK and not self._lost:
            self._queues.setdefault(0, deque()).append(own)
        else:
            self._end(own, _STATUS.get(answer, Status.COMPLETED), max(answer, 0))
        self._pump_all()  # a halt may have been cleared, or the function reset
        return Status.COMPLETED

    def submit_bulk(self, transfer: Transfer, endpoint: int, length: int) -> Status:
        return self._submit(_own(transfer), endpoint, length, TransferType.BULK)

    def submit_interrupt(self, transfer: Transfer, endpoint: int, length: int) -> Status:
        return self._submit(_own(transfer), endpoint, length, TransferType.INTERRUPT)

    def submit_bulk_stream(self, transfer: Transfer, endpoint: int, length: int, stream: int) -> Status:
        if not stream:
            return Status.ERROR
        return self._submit(_own(transfer), endpoint, length, TransferType.BULK, stream)

    def submit_iso(self, transfer: Transfer, endpoint: int, packets: int) -> Status:
        own = _own(transfer)
        refused = self._refusal(own, 0)
        if refused:
            return refused
        found = self._chapter9.endpoints.get(endpoint)
        if found is None or found.transfer_type is not TransferType.ISO or self._iso is None:
            return Status.ERROR
        return self._iso.submit(own, found, packets)

    def _submit(
        self, transfer: EmulatedTransfer, address: int, length: int, kind: TransferType, stream: int = 0
    ) -> Status:
        refused = self._refusal(transfer, length)
        if refused:
            return refused
        endpoint = self._chapter9.endpoints.get(address)
        # an endpoint that has streams takes nothing beside them, as a host controller has it
        if endpoint is None or endpoint.attributes & 3 != kind or not self._has_stream(address, stream):
            return Status.ERROR
        key = address | stream << _STREAM_SHIFT
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque()
        transfer.endpoint, transfer.length, transfer.stream, transfer.state = address, length, stream, QUEUED
        queue.append(transfer)
        if len(queue) == 1 and self._serve(address, queue):  # behind another one it would have to wait anyway
            self._pump_all()
        return Status.COMPLETED

    def _has_stream(self, address: int, stream: int) -> bool:
        count = self._streams.get(address, 0)
        return 0 < stream <= count if count else not stream

    def _refusal(self, transfer: EmulatedTransfer, length: int) -> Status:
        if self._lost:
            return Status.NO_DEVICE
        usable = transfer.state == IDLE and 0 <= length <= transfer.capacity
        return Status.COMPLETED if usable else Status.ERROR

    def cancel(self, transfer: Transfer) -> None:
        own = _own(transfer)
        if own.state == QUEUED and not (own.packets and self._iso is not None and self._iso.cancel(own)):
            self._queues[own.endpoint | own.stream << _STREAM_SHIFT].remove(own)
            self._end(own, Status.CANCELLED, 0)

    def reap(self) -> int:
        if self._iso is not None:
            self._iso.run()
        if self._signalled:
            os.eventfd_read(self._wakeup)
            self._signalled = False
        count = 0
        for _ in range(len(self._done)):  # only what is there now: an owner that submits again must not keep us here
            if not self._done:
                break  # an owner has closed the device
            transfer = self._done.popleft()
            transfer.state = IDLE
            count += 1
            transfer.on_done(transfer)
        return count

    def in_flight(self) -> int:
        iso = self._iso.in_flight() if self._iso is not None else 0
        return len(self._done) + sum(map(len, self._queues.values())) + iso

    def drain(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        self.reap()
        while any(transfer.status == Status.CANCELLED for transfer in self._done):
            if time.monotonic() >= deadline:
                return False
            self.reap()
        return True

    # ---- the engine

    def _pump_all(self) -> None:
        moved = not self._lost
        while moved:
            moved = False
            for key, queue in tuple(self._queues.items()):
                if queue and self._serve(key & ENDPOINT_ADDRESS_MASK, queue):
                    moved = True

    def _serve(self, address: int, queue: deque[EmulatedTransfer]) -> bool:
        """Offer the queue's transfers to the function until one has to wait. Whether any has ended."""
        moved = False
        while queue:
            answer = self._offer(address, queue[0])
            if answer == NAK or self._lost:  # it has just left: all have ended
                break
            if answer == STALL and address:  # endpoint 0 has no halt
                self._chapter9.halted.add(address)
            self._end(queue.popleft(), _STATUS.get(answer, Status.COMPLETED), max(answer, 0))
            moved = True
        return moved

    def _offer(self, address: int, transfer: EmulatedTransfer) -> int:
        if address in self._chapter9.halted:
            return STALL
        length, stream = transfer.length, transfer.stream
        if not address:
            return self._chapter9.control(SetupPacket.parse(transfer.setup), transfer.data[:length])
        if stream:
            serve = self._function.send_stream if address & DIR_IN else self._function.receive_stream
            return serve(address, stream, transfer.data[:length])
        if not address & DIR_IN:
            return self._function.receive(address, transfer.data[:length])
        return self._function.send(address, transfer.data[:length]) if length else 0

    def _flush(self, addresses: Iterable[int]) -> None:
        for address in addresses:
            self._streams.pop(address, None)
            for key in [key for key in self._queues if key & ENDPOINT_ADDRESS_MASK == address]:
                for transfer in self._queues.pop(key):
                    self._end(transfer, Status.CANCELLED, 0)
        if self._iso is not None:
            self._iso.flush(addresses, Status.CANCELLED)

    def _end(self, transfer: EmulatedTransfer, status: Status, actual: int) -> None:
        transfer.status, transfer.actual, transfer.state = status, actual, DONE
        self._done.append(transfer)
        self._signal()

    def _signal(self) -> None:
        if not self._signalled and not self._closed:
            self._signalled = True
            os.eventfd_write(self._wakeup, 1)


def _own(transfer: Transfer) -> EmulatedTransfer:
    """The transfer as one of ours; a stranger's is a programming error."""
    assert isinstance(transfer, EmulatedTransfer)
    return transfer


def _listed(endpoints: Sequence[int]) -> str:
    return ", ".join(f"{address:#04x}" for address in endpoints)
