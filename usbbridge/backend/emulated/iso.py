"""Isochronous endpoints of an emulated device: a packet a service interval, whether anybody is ready for it or not.

Each endpoint has a queue of transfers, and the time at which the next packet is due. The alarm goes when the first of
all queued transfers is through, as a host controller interrupts; what has become due by then is handed to the function
packet by packet. A transfer that comes when its endpoint has none starts in the next interval; intervals that have
passed without one are lost, as on a bus.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from usbbridge.backend.base import ISO_FIELDS, ISO_LENGTH, Status
from usbbridge.backend.emulated.clock import Alarm
from usbbridge.backend.emulated.function import BABBLE, Function
from usbbridge.backend.emulated.pool import QUEUED, EmulatedTransfer
from usbbridge.usb.ch9 import Speed
from usbbridge.usb.descriptors import Endpoint

FRAME: Final = 1_000_000
MICROFRAME: Final = 125_000
"Nanoseconds of a frame, at full speed, and of a microframe, above (USB 2.0 §8.4.3.1)."
MAX_EXPONENT: Final = 16
"bInterval of isochronous endpoints: 1 to 16, for 2^(bInterval-1) (micro)frames (USB 2.0 §9.6.6)."
MAX_LAG: Final = 100_000_000
"Nanoseconds of missed intervals that are made up for; a process that was stopped for longer has lost the rest."

End = Callable[[EmulatedTransfer, Status, int], None]


def service_interval(endpoint: Endpoint, speed: Speed) -> int:
    """Nanoseconds from one packet of an isochronous endpoint to the next (USB 2.0 §9.6.6). A bInterval that is none is
    taken for the nearest that is one, as Linux does."""
    exponent = min(max(endpoint.interval, 1), MAX_EXPONENT) - 1
    return (FRAME if speed <= Speed.FULL else MICROFRAME) << exponent


class IsoQueue:
    """The transfers that wait on one endpoint."""

    def __init__(self, function: Function, endpoint: Endpoint, interval: int) -> None:
        self._interval = interval
        self._serve = function.send_packet if endpoint.is_in else function.receive_packet
        self._address = endpoint.address
        self._due = 0
        self.transfers: deque[EmulatedTransfer] = deque()

    def submit(self, transfer: EmulatedTransfer, now: int) -> None:
        """Put a transfer behind the others."""
        if not self.transfers:
            self._due = max(self._due, now + self._interval)
        transfer.next_packet = transfer.offset = transfer.actual = 0
        self.transfers.append(transfer)

    @property
    def deadline(self) -> int:
        """When the first transfer is through; there is one."""
        first = self.transfers[0]
        return self._due + (first.count - first.next_packet - 1) * self._interval

    def run(self, now: int, end: End) -> None:
        """Serve the packets that have become due; `end` is called with the transfers that are through."""
        self._due = max(self._due, now - MAX_LAG)
        while self.transfers and self._due <= now:
            first = self.transfers[0]
            self._packet(first)
            self._due += self._interval
            if first.next_packet == first.count and self.transfers:  # else the device has just left the bus
                self.transfers.popleft()
                end(first, Status.COMPLETED, first.actual)

    def _packet(self, transfer: EmulatedTransfer) -> None:
        at, start = transfer.next_packet * ISO_FIELDS, transfer.offset
        stop = start + transfer.iso[at + ISO_LENGTH]
        answer = self._serve(self._address, transfer.data[start:stop])
        actual = max(answer, 0)
        status = Status.COMPLETED if answer >= 0 else Status.OVERFLOW if answer == BABBLE else Status.ERROR
        transfer.iso[at + 1], transfer.iso[at + 2] = actual, status
        transfer.next_packet, transfer.offset, transfer.actual = (
            transfer.next_packet + 1,
            stop,
            transfer.actual + actual,
        )


class IsoEngine:
    """All isochronous endpoints of a device, and the alarm that says when to look at them."""

    def __init__(self, function: Function, end: End) -> None:
        """`end` is called with each transfer that has ended, how, and the bytes that moved."""
        self._function, self._end = function, end
        self._queues: dict[int, IsoQueue] = {}
        self._alarm = Alarm()
        self.fd: Final = self._alarm.fd
        "Readable when `run` has something to do."

    def submit(self, transfer: EmulatedTransfer, endpoint: Endpoint, packets: int) -> Status:
        """Queue the first `packets` packets. ERROR if their lengths make no sense."""
        lengths = transfer.iso[ISO_LENGTH : packets * ISO_FIELDS : ISO_FIELDS].tolist()
        if not 0 < packets <= transfer.packets or min(lengths) < 0 or sum(lengths) > transfer.capacity:
            return Status.ERROR
        queue = self._queues.get(endpoint.address)
        if queue is None:
            interval = service_interval(endpoint, self._function.model.speed)
            queue = self._queues[endpoint.address] = IsoQueue(self._function, endpoint, interval)
        transfer.endpoint, transfer.length, transfer.count = endpoint.address, sum(lengths), packets
        transfer.state = QUEUED
        queue.submit(transfer, time.monotonic_ns())
        if len(queue.transfers) == 1:
            self._set_alarm()
        return Status.COMPLETED

    def run(self) -> None:
        """Serve what has become due. Does nothing, at little cost, before its time."""
        now = time.monotonic_ns()
        waiting = [queue for queue in self._queues.values() if queue.transfers and queue.deadline <= now]
        if waiting:
            for queue in waiting:
                queue.run(now, self._end)
            self._set_alarm()

    def cancel(self, transfer: EmulatedTransfer) -> bool:
        """Take a transfer out of its queue; False if it is in none of these."""
        queue = self._queues.get(transfer.endpoint)
        if queue is None or transfer not in queue.transfers:
            return False
        queue.transfers.remove(transfer)
        self._abandon(transfer, Status.CANCELLED)
        self._set_alarm()
        return True

    def flush(self, addresses: Iterable[int], status: Status) -> None:
        """End all transfers of these endpoints, which start anew or are no more."""
        for address in addresses:
            queue = self._queues.pop(address, None)
            while queue and queue.transfers:
                self._abandon(queue.transfers.popleft(), status)
        self._set_alarm()

    def flush_all(self, status: Status) -> None:
        """End all transfers."""
        self.flush(tuple(self._queues), status)

    def in_flight(self) -> int:
        """Transfers that wait."""
        return sum(len(queue.transfers) for queue in self._queues.values())

    def close(self) -> None:
        """Let the alarm go. No transfer is in flight."""
        self._alarm.close()

    def _abandon(self, transfer: EmulatedTransfer, status: Status) -> None:
        for at in range(transfer.next_packet * ISO_FIELDS, transfer.count * ISO_FIELDS, ISO_FIELDS):
            transfer.iso[at + 1], transfer.iso[at + 2] = 0, status
        self._end(transfer, status, transfer.actual)

    def _set_alarm(self) -> None:
        self._alarm.set(min((queue.deadline for queue in self._queues.values() if queue.transfers), default=0))
