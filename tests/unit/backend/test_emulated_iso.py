"""Isochronous endpoints of the engine: by the given time alone, and with the alarm in a whole device."""

import select
from collections.abc import Iterator

import pytest

from tools.lab.devices.isosource import COUNTS, GET_COUNTS, NUMBER, SINK, SOURCE, IsoSource, packet
from usbbridge.backend.base import ISO_FIELDS, Status
from usbbridge.backend.emulated.device import EmulatedDevice
from usbbridge.backend.emulated.iso import FRAME, MAX_LAG, MICROFRAME, IsoQueue, service_interval
from usbbridge.backend.emulated.pool import EmulatedTransfer
from usbbridge.errors import DeviceError
from usbbridge.usb.ch9 import DIR_IN, Recipient, RequestType, SetupPacket, Speed, TransferType, request_type
from usbbridge.usb.descriptors import Endpoint

SIZE = 64
PACKETS = 8


def iso_endpoint(address: int, interval: int = 1) -> Endpoint:
    return Endpoint(address, TransferType.ISO, SIZE, interval)


# ---- the schedule


class Schedule:
    """A queue on endpoint SOURCE with a packet each microframe, and a clock that stands still."""

    def __init__(self) -> None:
        self.function = IsoSource(Speed.HIGH, {"size": str(SIZE)})
        self.function.select(0, 1)
        self.queue = IsoQueue(self.function, iso_endpoint(SOURCE), MICROFRAME)
        self.ended: list[EmulatedTransfer] = []

    def submit(self, now: int, packets: int = PACKETS) -> EmulatedTransfer:
        transfer = EmulatedTransfer(packets * SIZE, packets)
        transfer.count = packets
        transfer.iso[::ISO_FIELDS] = memoryview(bytearray(SIZE.to_bytes(4, "little") * packets)).cast("i")
        self.queue.submit(transfer, now)
        return transfer

    def run(self, now: int) -> int:
        """Packets that have been asked of the function so far."""
        self.queue.run(now, lambda transfer, status, actual: self.ended.append(transfer))
        data = bytearray(COUNTS.size)
        self.function.control(SetupPacket(0xC0, GET_COUNTS, 0, 0, COUNTS.size), memoryview(data))
        return int(COUNTS.unpack(data)[0])


@pytest.fixture
def schedule() -> Schedule:
    return Schedule()


@pytest.mark.parametrize(
    ("speed", "interval", "nanoseconds"),
    [
        (Speed.FULL, 1, FRAME),
        (Speed.FULL, 4, 8 * FRAME),
        (Speed.HIGH, 1, MICROFRAME),
        (Speed.HIGH, 4, FRAME),
        (Speed.SUPER, 2, 2 * MICROFRAME),
        (Speed.HIGH, 0, MICROFRAME),
        (Speed.HIGH, 255, MICROFRAME << 15),
    ],
)
def test_the_service_interval_is_a_power_of_two_in_frames_or_microframes(speed, interval, nanoseconds) -> None:
    assert service_interval(iso_endpoint(SOURCE, interval), speed) == nanoseconds


def test_a_packet_is_served_each_interval(schedule: Schedule) -> None:
    schedule.submit(1000)
    assert schedule.run(1000) == 0
    assert schedule.run(1000 + MICROFRAME) == 1
    assert schedule.run(1000 + 3 * MICROFRAME + 1) == 3


def test_a_transfer_ends_with_its_last_packet_and_the_next_follows_without_a_gap(schedule: Schedule) -> None:
    first, second = schedule.submit(0), schedule.submit(0)
    assert schedule.queue.deadline == PACKETS * MICROFRAME
    schedule.run(PACKETS * MICROFRAME)
    assert schedule.ended == [first]
    assert schedule.queue.deadline == 2 * PACKETS * MICROFRAME
    schedule.run(2 * PACKETS * MICROFRAME)
    assert schedule.ended == [first, second]
    assert bytes(second.data[:SIZE]) == packet(PACKETS, SIZE)


def test_a_late_run_serves_all_that_has_become_due(schedule: Schedule) -> None:
    for _ in range(3):
        schedule.submit(0)
    assert schedule.run(2 * PACKETS * MICROFRAME + MICROFRAME) == 2 * PACKETS + 1


def test_what_comes_to_an_empty_queue_starts_anew(schedule: Schedule) -> None:
    schedule.submit(0, packets=1)
    schedule.run(MICROFRAME)
    schedule.submit(50 * FRAME, packets=2)
    assert schedule.run(50 * FRAME) == 1
    assert schedule.run(50 * FRAME + MICROFRAME) == 2


def test_a_queue_that_was_left_alone_for_long_makes_up_for_a_bounded_time(schedule: Schedule) -> None:
    packets = 2 * MAX_LAG // MICROFRAME
    schedule.submit(0, packets=packets)
    assert schedule.run(10 * MAX_LAG) == MAX_LAG // MICROFRAME + 1


# ---- the device


@pytest.fixture
def device() -> Iterator[EmulatedDevice]:
    made = plugged()
    yield made
    made.close()


def plugged(**options: str) -> EmulatedDevice:
    device = EmulatedDevice(IsoSource(Speed.HIGH, {"size": str(SIZE)} | options), "iso source")
    device.set_interface(0, 1)
    return device


class Stream:
    """Transfers that are submitted again when they end, until there were enough packets."""

    def __init__(self, device: EmulatedDevice, endpoint: int, wanted: int = 0) -> None:
        self.device, self.endpoint, self.wanted = device, endpoint, wanted
        self.packets: list[tuple[int, int]] = []
        "Number (-1 if the packet holds none) and status of each packet that came."
        self.statuses: list[int] = []
        self._submitted = 0

    def submit(self, packets: int = PACKETS, size: int = SIZE) -> EmulatedTransfer:
        transfer = self.device.take_iso(packets, size)
        transfer.on_done = self._done
        self._start(transfer, packets, size)
        return transfer

    def _start(self, transfer: EmulatedTransfer, packets: int, size: int) -> None:
        for i in range(packets):
            transfer.iso[i * ISO_FIELDS] = size
            if not self.endpoint & DIR_IN:
                transfer.data[i * size : (i + 1) * size] = packet(self._submitted + i, size)
        self._submitted += packets
        assert self.device.submit_iso(transfer, self.endpoint, packets) is Status.COMPLETED

    def _done(self, transfer: EmulatedTransfer) -> None:
        self.statuses.append(transfer.status)
        at = 0
        for i in range(transfer.packets):
            length, actual, status = transfer.iso[i * ISO_FIELDS : (i + 1) * ISO_FIELDS]
            number = NUMBER.unpack_from(transfer.data, at)[0] if actual >= NUMBER.size else -1
            self.packets.append((number, status))
            at += length
        if transfer.status == Status.COMPLETED and self._submitted < self.wanted:
            self._start(transfer, PACKETS, SIZE)
        else:
            self.device.give_back(transfer)

    def run(self) -> None:
        """Wait for the device, and reap, until nothing is in flight."""
        poller = select.poll()
        for fd, events in self.device.pollfds():
            poller.register(fd, events)
        while self.device.in_flight():
            assert poller.poll(10_000), "nothing happens"
            self.device.reap()


def test_packets_arrive_in_order_without_gaps(device: EmulatedDevice) -> None:
    stream = Stream(device, SOURCE, wanted=50 * PACKETS)
    for _ in range(4):
        stream.submit()
    stream.run()
    assert stream.packets == [(number, Status.COMPLETED) for number in range(50 * PACKETS)]


def test_packets_that_are_sent_arrive_in_order(device: EmulatedDevice) -> None:
    stream = Stream(device, SINK, wanted=20 * PACKETS)
    for _ in range(4):
        stream.submit()
    stream.run()
    assert counts(device) == (0, 20 * PACKETS, 0)


def counts(device: EmulatedDevice) -> tuple[int, ...]:
    transfer = device.take(COUNTS.size)
    kind = request_type(RequestType.VENDOR, Recipient.DEVICE, is_in=True)
    transfer.setup[:] = SetupPacket(kind, GET_COUNTS, 0, 0, COUNTS.size).pack()
    transfer.on_done = lambda done: None
    device.submit_control(transfer, COUNTS.size)
    device.reap()
    return COUNTS.unpack(transfer.data[: transfer.actual])


def test_damaged_long_and_short_packets_are_told_apart_in_a_transfer_that_completes() -> None:
    device = plugged(errors="4", babble="6", short="5")
    stream = Stream(device, SOURCE)
    stream.submit()
    stream.run()
    device.close()
    assert stream.statuses == [Status.COMPLETED]
    assert [status for _, status in stream.packets] == [0, 0, 0, Status.ERROR, 0, Status.OVERFLOW, 0, Status.ERROR]
    assert [number for number, _ in stream.packets] == [0, 1, 2, -1, 4, -1, 6, -1]


def test_a_packet_begins_where_the_lengths_before_it_add_up_to(device: EmulatedDevice) -> None:
    device.set_interface(0, 2)  # packets of a quarter of the size
    transfer = device.take_iso(3, SIZE)
    transfer.on_done = lambda done: None
    for i, length in enumerate((20, 40, SIZE)):
        transfer.iso[i * ISO_FIELDS] = length
    device.submit_iso(transfer, SOURCE, 3)
    Stream(device, SOURCE).run()
    assert transfer.iso.tolist() == [20, 16, 0, 40, 16, 0, SIZE, 16, 0]
    assert [NUMBER.unpack_from(transfer.data, at)[0] for at in (0, 20, 60)] == [0, 1, 2]


def test_a_cancelled_transfer_ends_so_and_the_others_go_on(device: EmulatedDevice) -> None:
    stream = Stream(device, SOURCE)
    stream.submit()
    device.cancel(stream.submit())
    stream.run()
    assert sorted(stream.statuses) == [Status.COMPLETED, Status.CANCELLED]
    assert [number for number, status in stream.packets if not status] == list(range(PACKETS))


@pytest.mark.parametrize(
    ("act", "status"),
    [
        (lambda device: device.set_interface(0, 2), Status.CANCELLED),
        (lambda device: device.set_configuration(0), Status.CANCELLED),
        (lambda device: device.reset(), Status.CANCELLED),
        (lambda device: device.unplug(), Status.NO_DEVICE),
    ],
)
def test_transfers_do_not_outlive_their_endpoint(act, status) -> None:
    device = plugged()
    stream = Stream(device, SOURCE)
    for _ in range(3):
        stream.submit()
    act(device)
    assert device.in_flight() == device.reap() == 3
    assert stream.statuses == [status] * 3
    assert {each for _, each in stream.packets} == {status}
    device.close()


def test_a_device_may_leave_the_bus_in_the_middle_of_a_packet() -> None:
    device = plugged()
    serve = device.function.send_packet

    def leave(endpoint: int, data: memoryview) -> int:
        device.function.leave()
        return serve(endpoint, data)

    device.function.send_packet = leave
    stream = Stream(device, SOURCE)
    for _ in range(3):
        stream.submit()
    stream.run()
    assert stream.statuses == [Status.NO_DEVICE] * 3
    device.close()


def test_a_device_is_closed_with_isochronous_transfers_in_flight(device: EmulatedDevice) -> None:
    Stream(device, SOURCE).submit()
    fds = [fd for fd, _ in device.pollfds()]
    device.close()
    device.close()
    assert len(fds) == 2
    assert device.pollfds() == ()


@pytest.mark.parametrize(
    ("endpoint", "packets", "length"),
    [(0x83, 1, SIZE), (SOURCE, 0, SIZE), (SOURCE, PACKETS + 1, SIZE), (SOURCE, 1, -1), (SOURCE, 8, 4096)],
)
def test_what_makes_no_sense_is_refused(device: EmulatedDevice, endpoint: int, packets: int, length: int) -> None:
    transfer = device.take_iso(PACKETS, SIZE)
    transfer.iso[::ISO_FIELDS] = memoryview(bytearray(length.to_bytes(4, "little", signed=True) * PACKETS)).cast("i")
    assert device.submit_iso(transfer, endpoint, packets) is Status.ERROR
    assert device.in_flight() == 0


def test_a_transfer_comes_back_for_the_same_number_of_packets_only(device: EmulatedDevice) -> None:
    first = device.take_iso(PACKETS, SIZE)
    device.give_back(first)
    assert device.take(PACKETS * SIZE) is not first
    assert device.take_iso(PACKETS // 2, 2 * SIZE) is not first
    assert device.take_iso(PACKETS, SIZE) is first


def test_an_isochronous_endpoint_has_no_bulk_streams(device: EmulatedDevice) -> None:
    with pytest.raises(DeviceError, match="iso source has no bulk streams on endpoints 0x81"):
        device.alloc_streams(4, [SOURCE])
