"""A tap tells every transfer with its end, of every kind, whenever it is put in between; and does nothing else."""

from collections.abc import Callable

import pytest

from tests.fakes.device import BULK_IN, BULK_OUT, INTERRUPT_IN, INTERRUPT_OUT, ISO_IN, ISO_OUT, FakeDevice
from tests.fakes.guest import Rig
from usbbridge.backend.base import ISO_ACTUAL, ISO_FIELDS, ISO_LENGTH, ISO_STATUS, Status, Transfer
from usbbridge.capture.usbmon import COMPLETE, EINPROGRESS, ERROR, SUBMIT, Event
from usbbridge.encoder.tap import TappedDevice
from usbbridge.errors import DeviceError, DeviceLostError
from usbbridge.usb.ch9 import Speed, TransferType
from usbbridge.usbredir.packets import SetAltSetting, SetConfiguration, StartInterruptReceiving


class Listener:
    """Hears a tap, and keeps what events were: their data is copied."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event.data, memoryview):
            fields = {name: getattr(event, name) for name in ("urb", "type", "status", "length", "setup", "packets")}
            event = Event(**fields, data=bytes(event.data))
        self.events.append(event)

    def take(self) -> list[tuple[int, int, int, bytes]]:
        """Type, status, length and data of each."""
        events, self.events = self.events, []
        return [(event.type, event.status, event.length, bytes(event.data)) for event in events]

    def ids(self) -> list[int]:
        return [event.urb.id for event in self.events]


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def heard() -> Listener:
    return Listener()


@pytest.fixture
def rig(device: FakeDevice) -> Rig:
    """A host that is attached, and not tapped yet."""
    return Rig(device).attach()


@pytest.fixture
def tapped(rig: Rig, device: FakeDevice, heard: Listener) -> TappedDevice:
    """The same, tapped."""
    return tap(rig, device, heard)


def tap(rig: Rig, device: FakeDevice, heard: Listener) -> TappedDevice:
    tapped = TappedDevice(device, heard)
    tapped.adopt(rig.host.drive(tapped))
    return tapped


@pytest.mark.usefixtures("tapped")
def test_a_bulk_transfer_in_is_told_with_its_data_at_the_end(rig: Rig, device: FakeDevice, heard: Listener) -> None:
    rig.guest.bulk(1, BULK_IN, 512)
    rig.settle()
    assert heard.take() == [(SUBMIT, EINPROGRESS, 512, b"")]
    device.finish(device.flying[0], data=b"hello")
    rig.settle()
    assert heard.take() == [(COMPLETE, 0, 5, b"hello")]


@pytest.mark.usefixtures("tapped")
def test_a_bulk_transfer_out_is_told_with_its_data_at_the_beginning(
    rig: Rig, device: FakeDevice, heard: Listener
) -> None:
    rig.guest.bulk(1, BULK_OUT, data=b"hello")
    rig.settle()
    device.finish(device.flying[0])
    rig.settle()
    assert len(set(heard.ids())) == 1
    assert heard.take() == [(SUBMIT, EINPROGRESS, 5, b"hello"), (COMPLETE, 0, 5, b"")]


@pytest.mark.usefixtures("tapped")
def test_a_control_transfer_is_told_with_its_setup_packet(rig: Rig, device: FakeDevice, heard: Listener) -> None:
    rig.guest.control(1, 0x80, 6, 0x0100, 0, 18)
    rig.settle()
    device.finish(device.flying[0], data=bytes(18))
    rig.settle()
    begin, end = heard.events
    assert begin.setup == bytes.fromhex("8006000100001200")
    assert (begin.urb, begin.urb.endpoint, begin.urb.kind) == (end.urb, 0x80, TransferType.CONTROL)
    assert heard.take() == [(SUBMIT, EINPROGRESS, 18, b""), (COMPLETE, 0, 18, bytes(18))]


@pytest.mark.usefixtures("tapped")
def test_a_control_transfer_out_is_told_with_its_data(rig: Rig, device: FakeDevice, heard: Listener) -> None:
    rig.guest.control(1, 0x21, 9, 0, 0, 3, b"abc")
    rig.settle()
    device.finish(device.flying[0], Status.STALL)
    rig.settle()
    assert heard.take() == [(SUBMIT, EINPROGRESS, 3, b"abc"), (COMPLETE, -32, 0, b"")]


@pytest.mark.usefixtures("tapped")
def test_interrupt_transfers_have_their_interval(rig: Rig, device: FakeDevice, heard: Listener) -> None:
    rig.guest.interrupt(1, INTERRUPT_OUT, b"key")
    rig.settle()
    device.finish(device.flying[0])
    rig.settle()
    assert {(event.urb.kind, event.urb.interval) for event in heard.events} == {(TransferType.INTERRUPT, 8)}
    assert heard.take() == [(SUBMIT, EINPROGRESS, 3, b"key"), (COMPLETE, 0, 3, b"")]


def test_a_slow_device_has_its_interval_in_frames(heard: Listener) -> None:
    device = FakeDevice(speed=Speed.FULL)
    rig = Rig(device).attach()
    tap(rig, device, heard)
    rig.guest.interrupt(1, INTERRUPT_OUT, b"key")
    rig.settle()
    assert heard.events[0].urb.interval == 4


@pytest.mark.usefixtures("tapped")
def test_reports_are_told_one_after_the_other(rig: Rig, device: FakeDevice, heard: Listener) -> None:
    rig.ask(StartInterruptReceiving(INTERRUPT_IN))
    heard.take()
    for n in range(20):
        device.finish(device.flying[0], data=bytes([n]))
        rig.settle()
        assert heard.take() == [(COMPLETE, 0, 1, bytes([n])), (SUBMIT, EINPROGRESS, 64, b"")]


def test_what_is_in_flight_is_told_at_its_end(rig: Rig, device: FakeDevice, heard: Listener) -> None:
    rig.ask(StartInterruptReceiving(INTERRUPT_IN))
    rig.guest.bulk(1, BULK_IN, 512)
    rig.guest.control(2, 0x80, 6, 0x0100, 0, 18)
    rig.settle()
    report, (bulk, control) = device.flying[0], device.flying[-2:]
    tap(rig, device, heard)
    for transfer in (report, bulk, control):
        device.finish(transfer, data=b"x")
        rig.settle()
    ends = [event for event in heard.events if event.type == COMPLETE]
    kinds = [TransferType.INTERRUPT, TransferType.BULK, TransferType.CONTROL]
    assert [(event.urb.kind, event.urb.endpoint) for event in ends] == list(
        zip(kinds, (INTERRUPT_IN, BULK_IN, 0x80), strict=True)
    )


def test_after_it_was_taken_out_nothing_is_told(
    rig: Rig, device: FakeDevice, heard: Listener, tapped: TappedDevice
) -> None:
    rig.ask(StartInterruptReceiving(INTERRUPT_IN))
    rig.guest.bulk(1, BULK_IN, 512)
    rig.settle()
    heard.take()
    tapped.stop(rig.host.drive(device))
    for transfer in list(device.flying):
        device.finish(transfer, data=b"x")
    rig.settle()
    rig.guest.control(2, 0x80, 6, 0x0100, 0, 18)
    rig.settle()
    assert heard.events == []
    assert all(transfer.on_done.__self__ is not tapped for transfer in device.flying)


def test_the_guest_notices_nothing(rig: Rig, device: FakeDevice, heard: Listener, tapped: TappedDevice) -> None:
    untapped = Rig(FakeDevice()).attach()
    for one in (rig, untapped):
        fake = one.device
        assert isinstance(fake, FakeDevice)
        one.guest.bulk(1, BULK_IN, 512)
        one.guest.bulk(2, BULK_OUT, data=b"abc")
        one.guest.control(3, 0x80, 6, 0x0100, 0, 18)
        one.settle()
        for transfer in list(fake.flying):
            fake.finish(transfer, data=b"abc")
    assert rig.answers() == untapped.answers()
    assert device.outstanding == 0
    assert len(heard.events) == 6


@pytest.mark.usefixtures("tapped")
@pytest.mark.parametrize(("refusal", "errno"), [(Status.STALL, -32), (Status.NO_DEVICE, -19), (Status.ERROR, -71)])
def test_what_is_not_taken_is_told_as_an_error(
    rig: Rig, device: FakeDevice, heard: Listener, refusal: Status, errno: int
) -> None:
    device.refuse = refusal
    rig.guest.bulk(1, BULK_IN, 512)
    rig.to_host()
    assert len(set(heard.ids())) == 1
    assert heard.take() == [(SUBMIT, EINPROGRESS, 512, b""), (ERROR, errno, 0, b"")]


@pytest.mark.parametrize(
    ("status", "errno"),
    [(Status.ERROR, -71), (Status.CANCELLED, -2), (Status.OVERFLOW, -75), (Status.TIMED_OUT, -110), (99, -71)],
)
def test_a_bad_end_has_the_kernels_number(device: FakeDevice, heard: Listener, status: int, errno: int) -> None:
    transfer = device.take(64)
    transfer.on_done = device.give_back
    TappedDevice(device, heard).submit_bulk(transfer, BULK_IN, 64)
    device.finish(transfer)
    transfer.status = status
    device.reap()
    assert transfer.free
    assert heard.take()[-1] == (COMPLETE, errno, 0, b"")


@pytest.mark.usefixtures("tapped")
def test_what_the_kernel_is_asked_for_looks_like_the_control_transfer_it_makes(
    rig: Rig, device: FakeDevice, heard: Listener
) -> None:
    rig.ask(SetAltSetting(1, 1))
    rig.ask(SetConfiguration(2))
    rig.guest.control(3, 0x02, 1, 0, BULK_IN, 0)
    rig.settle()
    setups = [event.setup.hex() for event in heard.events if event.type == SUBMIT]
    assert setups == ["010b010001000000", "0009020000000000", "0201000081000000"]
    assert all(event.status == 0 for event in heard.events if event.type == COMPLETE)


@pytest.mark.parametrize(("error", "errno"), [(DeviceError("no"), -32), (DeviceLostError("gone"), -19)])
def test_what_the_kernel_refuses_is_told_and_raised(
    device: FakeDevice, heard: Listener, error: DeviceError, errno: int
) -> None:
    device.failures["clear_halt"] = error
    with pytest.raises(type(error)):
        TappedDevice(device, heard).clear_halt(BULK_IN)
    assert heard.take()[-1] == (COMPLETE, errno, 0, b"")


def test_a_device_that_is_gone_can_be_tapped(device: FakeDevice, heard: Listener) -> None:
    device.unplug()
    assert TappedDevice(device, heard).name == device.name


# ---- isochronous transfers and streams: their methods are called as the host calls them


class IsoTransfer(Transfer):
    """Plain memory."""

    def __init__(self, packets: int, size: int) -> None:
        self.setup, self.data = memoryview(bytearray(8)), memoryview(bytearray(packets * size))
        self.iso = memoryview(bytearray(4 * ISO_FIELDS * packets)).cast("i")
        self.packets, self.status, self.cancelled = packets, Status.COMPLETED, False
        self.on_done: Callable[[Transfer], None] = lambda transfer: None


class IsoDevice(FakeDevice):
    """Takes what it is given."""

    def submit_iso(self, transfer: Transfer, endpoint: int, packets: int) -> Status:
        transfer.endpoint = endpoint
        return self.refuse

    def submit_bulk_stream(self, transfer: Transfer, endpoint: int, length: int, stream: int) -> Status:
        transfer.endpoint, transfer.length, transfer.stream = endpoint, length, stream
        return self.refuse


def iso_transfer(*lengths: int) -> IsoTransfer:
    transfer = IsoTransfer(len(lengths), max(lengths))
    for i, length in enumerate(lengths):
        transfer.iso[ISO_FIELDS * i + ISO_LENGTH] = length
    return transfer


def end(transfer: IsoTransfer, *ends: tuple[int, Status]) -> None:
    for i, (actual, status) in enumerate(ends):
        transfer.iso[ISO_FIELDS * i + ISO_ACTUAL], transfer.iso[ISO_FIELDS * i + ISO_STATUS] = actual, status
    transfer.on_done(transfer)


def test_isochronous_packets_in_are_told_with_their_statuses(heard: Listener) -> None:
    transfer = iso_transfer(4, 4, 4)
    TappedDevice(IsoDevice(), heard).submit_iso(transfer, ISO_IN, 3)
    transfer.data[:12] = b"abcdEFGHijkl"
    end(transfer, (3, Status.COMPLETED), (0, Status.ERROR), (2, Status.COMPLETED))
    begin, done = heard.events
    assert list(begin.packets) == [(EINPROGRESS, 0, 4), (EINPROGRESS, 4, 4), (EINPROGRESS, 8, 4)]
    assert list(done.packets) == [(0, 0, 3), (-71, 4, 0), (0, 8, 2)]
    assert (begin.urb.kind, begin.urb.interval) == (TransferType.ISO, 1)
    assert heard.take() == [(SUBMIT, EINPROGRESS, 12, b""), (COMPLETE, 0, 5, b"abcdEFGHij")]


def test_isochronous_packets_out_are_told_with_their_data(heard: Listener) -> None:
    transfer = iso_transfer(2, 3)
    transfer.data[:5] = b"hello"
    TappedDevice(IsoDevice(), heard).submit_iso(transfer, ISO_OUT, 2)
    end(transfer, (2, Status.COMPLETED), (3, Status.COMPLETED))
    assert heard.take() == [(SUBMIT, EINPROGRESS, 5, b"hello"), (COMPLETE, 0, 5, b"")]


def test_an_isochronous_transfer_that_was_in_flight_is_told_at_its_end(heard: Listener) -> None:
    transfer, tapped = iso_transfer(4, 4), TappedDevice(IsoDevice(), heard)
    transfer.endpoint = ISO_IN
    tapped.adopt([transfer])
    end(transfer, (4, Status.COMPLETED), (4, Status.COMPLETED))
    assert [event.urb.kind for event in heard.events] == [TransferType.ISO]
    assert heard.take() == [(COMPLETE, 0, 8, bytes(8))]


def test_a_transfer_on_a_stream_is_a_bulk_transfer(heard: Listener) -> None:
    device = IsoDevice()
    transfer = device.take(64)
    transfer.on_done = lambda t: None
    TappedDevice(device, heard).submit_bulk_stream(transfer, BULK_OUT, 5, 3)
    assert (transfer.stream, heard.events[0].urb.kind) == (3, TransferType.BULK)
    assert heard.take() == [(SUBMIT, EINPROGRESS, 5, bytes(5))]
