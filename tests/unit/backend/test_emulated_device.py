"""The engine, around a function made for the purpose: endpoint 0x81 sends what it is given, 0x02 swallows."""

import os
import select

import pytest

from usbbridge.backend.base import Device, Status
from usbbridge.backend.emulated.device import EmulatedDevice
from usbbridge.backend.emulated.function import BABBLE, NAK, STALL, Function, Model
from usbbridge.backend.emulated.pool import POOL_BYTES
from usbbridge.errors import DeviceError, DeviceLostError
from usbbridge.usb.ch9 import DIR_IN, Feature, Recipient, Request, SetupPacket, Speed, TransferType
from usbbridge.usb.descriptors import (
    Configuration,
    DeviceDescriptor,
    Endpoint,
    Interface,
    configuration_bytes,
    device_bytes,
    parse_string,
)

BULK_IN, BULK_OUT, INTERRUPT_IN = 0x81, 0x02, 0x83
STALLING = b"stall"


class Probe(Function):
    """Sends messages it was given; the message STALLING is a STALL."""

    def __init__(self, speed: Speed = Speed.HIGH) -> None:
        main = Interface(0, 0, 0xFF, 0, 0, 0, (_endpoint(BULK_IN), _endpoint(BULK_OUT)))
        other = Interface(0, 1, 0xFF, 0, 0, 0, (_endpoint(INTERRUPT_IN, TransferType.INTERRUPT),))
        configurations = [Configuration(v, 0xE0, 50, 0, (main, other)) for v in (1, 3)]
        self.model = Model(
            speed=speed,
            device=DeviceDescriptor(0x0200, 0, 0, 0, 64, 0x1234, 0x5678, 0x0100, 1, 2, 0, 2),
            configurations=tuple(map(configuration_bytes, configurations)),
            strings=("maker", "probe ☂"),
            bos=b"\x05\x0f\x05\x00\x00" if speed is Speed.SUPER else b"",
            other_speed=(configuration_bytes(configurations[0]),) if speed is Speed.HIGH else (),
        )
        self.messages: list[bytes] = []
        self.received: list[bytes] = []
        self.requests: list[SetupPacket] = []
        self.events: list[object] = []

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        self.requests.append(setup)
        if setup.request != 0x42:
            return STALL
        if setup.is_in:
            data[:] = bytes(len(data))
        return len(data)

    def receive(self, endpoint: int, data: memoryview) -> int:
        self.received.append(bytes(data))
        return len(data)

    def send(self, endpoint: int, data: memoryview) -> int:
        if not self.messages:
            return NAK
        if self.messages[0] != STALLING and len(self.messages[0]) > len(data):
            return BABBLE
        message = self.messages.pop(0)
        if message == STALLING:
            return STALL
        data[: len(message)] = message
        return len(message)

    def restart(self) -> None:
        self.events.append("restart")

    def select(self, number: int, alternate: int) -> None:
        self.events.append((number, alternate))

    def close(self) -> None:
        self.events.append("close")


def _endpoint(address: int, kind: TransferType = TransferType.BULK) -> Endpoint:
    return Endpoint(address, kind, 512, 1)


@pytest.fixture
def probe():
    return Probe()


@pytest.fixture
def device(probe):
    made = EmulatedDevice(probe, "probe")
    yield made
    made.close()


class Owner:
    """Submits, and notes what ends."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.ended: list[tuple[object, Status, bytes]] = []

    def submit(self, endpoint: int, data: bytes | int, name: object = None, kind: str = "bulk"):
        size = data if isinstance(data, int) else len(data)
        transfer = self.device.take(size)
        if not isinstance(data, int):
            transfer.data[:size] = data
        transfer.header, transfer.on_done = name, self._done
        submit = self.device.submit_bulk if kind == "bulk" else self.device.submit_interrupt
        assert submit(transfer, endpoint, size) is Status.COMPLETED
        return transfer

    def _done(self, transfer) -> None:
        self.ended.append((transfer.header, Status(transfer.status), bytes(transfer.data[: transfer.actual])))
        self.device.give_back(transfer)

    def control(self, kind: int, request: int, value: int = 0, index: int = 0, data: bytes | int = 0):
        """(status, data) of a control transfer."""
        size = data if isinstance(data, int) else len(data)
        transfer = self.device.take(size)
        transfer.setup[:] = SetupPacket(kind, request, value, index, size).pack()
        if not isinstance(data, int):
            transfer.data[:size] = data
        transfer.header, transfer.on_done = "control", self._done
        assert self.device.submit_control(transfer, size) is Status.COMPLETED
        self.device.reap()
        return self.ended.pop([name for name, _, _ in self.ended].index("control"))[1:]


@pytest.fixture
def owner(device):
    return Owner(device)


def readable(device) -> bool:
    poller = select.epoll()
    for fd, events in device.pollfds():
        poller.register(fd, events)
    ready = bool(poller.poll(0))
    poller.close()
    return ready


# ---- transfers


def test_it_is_a_device(device: EmulatedDevice):
    as_seam: Device = device
    assert (as_seam.name, as_seam.speed, as_seam.descriptor.vendor) == ("probe", Speed.HIGH, 0x1234)


def test_an_in_transfer_waits_until_the_function_has_data(device, owner, probe):
    owner.submit(BULK_IN, 100)
    assert (device.reap(), device.in_flight(), readable(device)) == (0, 1, False)
    probe.messages.append(b"hello")
    probe.wake()
    assert readable(device)
    assert device.reap() == 1
    assert owner.ended == [(None, Status.COMPLETED, b"hello")]
    assert (device.in_flight(), readable(device)) == (0, False)


def test_transfers_of_an_endpoint_end_in_order(device, owner, probe):
    for name in range(3):
        owner.submit(BULK_IN, 10, name)
    probe.messages += [b"a", b"b", b"c"]
    probe.wake()
    device.reap()
    assert [(name, data) for name, _, data in owner.ended] == [(0, b"a"), (1, b"b"), (2, b"c")]


def test_out_data_reaches_the_function(device, owner, probe):
    owner.submit(BULK_OUT, b"out")
    device.reap()
    assert probe.received == [b"out"]
    assert owner.ended[0][:2] == (None, Status.COMPLETED)


def test_nothing_ends_outside_reap(device, owner):
    owner.submit(BULK_OUT, b"x")
    assert owner.ended == []
    device.reap()
    assert len(owner.ended) == 1


def test_a_transfer_without_data_ends_at_once(device, owner):
    owner.submit(BULK_IN, 0)
    owner.submit(BULK_OUT, b"")
    device.reap()
    assert [status for _, status, _ in owner.ended] == [Status.COMPLETED, Status.COMPLETED]


def test_what_does_not_fit_is_an_overflow(device, owner, probe):
    probe.messages.append(bytes(100))
    owner.submit(BULK_IN, 99)
    device.reap()
    assert owner.ended == [(None, Status.OVERFLOW, b"")]


def test_an_owner_that_submits_again_does_not_keep_reap_from_returning(device, probe):
    again = device.take(4)

    def resubmit(transfer):
        device.submit_bulk(transfer, BULK_OUT, 4)

    again.on_done = resubmit
    resubmit(again)
    assert [device.reap() for _ in range(3)] == [1, 1, 1]
    assert readable(device)


def test_cancel_ends_a_waiting_transfer_through_reap_and_only_once(device, owner):
    first, second = owner.submit(BULK_IN, 10, 1), owner.submit(BULK_IN, 10, 2)
    device.cancel(second)
    device.cancel(second)
    assert owner.ended == []
    device.reap()
    assert owner.ended == [(2, Status.CANCELLED, b"")]
    device.cancel(second)  # back in its owner's hands: nothing to cancel
    device.cancel(first)
    device.reap()
    assert owner.ended[1:] == [(1, Status.CANCELLED, b"")]


def test_cancel_after_the_end_changes_nothing(device, owner):
    transfer = owner.submit(BULK_OUT, b"x")
    device.cancel(transfer)
    device.reap()
    assert owner.ended[0][1] is Status.COMPLETED


def test_drain_reaps_what_was_cancelled(device, owner):
    device.cancel(owner.submit(BULK_IN, 10))
    owner.submit(BULK_IN, 10)
    assert device.drain(0.0)
    assert [status for _, status, _ in owner.ended] == [Status.CANCELLED]
    assert device.in_flight() == 1


@pytest.mark.parametrize(
    ("endpoint", "length", "why"),
    [(0x85, 10, "no such endpoint"), (BULK_IN, 4096, "too long"), (BULK_IN, -1, "negative"), (0, 1, "control")],
)
def test_a_transfer_that_cannot_be_is_refused(device, endpoint, length, why):
    assert device.submit_bulk(device.take(10), endpoint, length) is Status.ERROR, why


def test_the_wrong_kind_of_transfer_and_one_twice_are_refused(device, owner):
    assert device.submit_interrupt(device.take(1), BULK_IN, 1) is Status.ERROR
    transfer = owner.submit(BULK_IN, 10)
    assert device.submit_bulk(transfer, BULK_IN, 10) is Status.ERROR
    with pytest.raises(ValueError, match="still has it"):
        device.give_back(transfer)


def test_transfers_are_reused_by_size(device):
    first = device.take(5000)
    assert first.capacity == 8192
    device.give_back(first)
    assert device.take(8192) is first
    assert device.take(1).capacity == 512


def test_free_buffers_are_kept_up_to_a_bound(device):
    for transfer in [device.take(1 << 20) for _ in range(40)]:
        device.give_back(transfer)
    assert device._pool.bytes_kept == POOL_BYTES


# ---- halts


def test_a_stall_halts_the_endpoint_until_it_is_cleared(device, owner, probe):
    for name in range(2):
        owner.submit(BULK_IN, 10, name)
    probe.messages += [STALLING, b"later"]
    probe.wake()
    owner.submit(BULK_IN, 10, 2)
    device.reap()
    assert owner.ended == [(name, Status.STALL, b"") for name in range(3)]
    assert owner.control(DIR_IN | Recipient.ENDPOINT, Request.GET_STATUS, 0, BULK_IN, 2)[1] == b"\x01\x00"
    device.clear_halt(BULK_IN)
    assert owner.control(DIR_IN | Recipient.ENDPOINT, Request.GET_STATUS, 0, BULK_IN, 2)[1] == b"\x00\x00"
    owner.submit(BULK_IN, 10, 3)
    device.reap()
    assert owner.ended[3:] == [(3, Status.COMPLETED, b"later")]


def test_a_host_may_halt_and_clear_by_request(device, owner):
    owner.submit(BULK_IN, 10)
    halt = (Feature.ENDPOINT_HALT, BULK_IN)
    assert owner.control(Recipient.ENDPOINT, Request.SET_FEATURE, *halt)[0] is Status.COMPLETED
    device.reap()
    assert owner.ended.pop()[1] is Status.STALL
    assert owner.control(Recipient.ENDPOINT, Request.CLEAR_FEATURE, *halt)[0] is Status.COMPLETED
    owner.submit(BULK_IN, 10)
    assert device.reap() == 0


def test_clearing_an_endpoint_that_is_not_there_is_an_error(device):
    with pytest.raises(DeviceError, match="0x85"):
        device.clear_halt(0x85)


# ---- configuration, reset, the end


def test_it_starts_configured_and_can_be_configured_anew(device, owner, probe):
    assert device.configuration().value == 1
    waiting = owner.submit(BULK_IN, 10)
    device.set_configuration(3)
    assert device.configuration().value == 3
    device.reap()
    assert owner.ended == [(None, Status.CANCELLED, b"")]
    assert waiting.status == Status.CANCELLED
    device.set_configuration(0)
    assert device.configuration() is None
    assert device.submit_bulk(device.take(1), BULK_IN, 1) is Status.ERROR
    device.release()
    assert device.configuration().value == 1
    with pytest.raises(DeviceError, match="no configuration 2"):
        device.set_configuration(2)


def test_an_alternate_setting_brings_its_own_endpoints(device, owner, probe):
    waiting = owner.submit(BULK_IN, 10)
    device.set_interface(0, 1)
    assert probe.events[-1] == (0, 1)
    device.reap()
    assert waiting.status == Status.CANCELLED
    assert device.submit_bulk(device.take(1), BULK_IN, 1) is Status.ERROR
    owner.submit(INTERRUPT_IN, 8, "key", "interrupt")
    probe.messages.append(b"key")
    probe.wake()
    device.reap()
    assert owner.ended[-1] == ("key", Status.COMPLETED, b"key")
    for number, alternate in ((0, 2), (1, 0)):
        with pytest.raises(DeviceError, match="no interface"):
            device.set_interface(number, alternate)


def test_a_reset_ends_transfers_and_halts_and_leaves_the_first_settings(device, owner, probe):
    device.set_configuration(3)
    device.set_interface(0, 1)
    waiting = owner.submit(INTERRUPT_IN, 10, kind="interrupt")
    probe.events.clear()
    device.reset()
    device.reap()
    assert waiting.status == Status.CANCELLED
    assert probe.events == ["restart"]
    assert device.configuration().value == 3
    assert owner.control(DIR_IN | Recipient.INTERFACE, Request.GET_INTERFACE, 0, 0, 1)[1] == b"\x00"


def test_unplugged_it_ends_everything_and_is_lost_from_then_on(device, owner):
    owner.submit(BULK_OUT, b"done before", 1)
    owner.submit(BULK_IN, 10, 2)
    device.unplug()
    assert readable(device)
    device.reap()
    assert [(name, status) for name, status, _ in owner.ended] == [(1, Status.COMPLETED), (2, Status.NO_DEVICE)]
    for call in (
        lambda: device.clear_halt(BULK_IN),
        lambda: device.set_configuration(1),
        lambda: device.set_interface(0, 0),
        device.configuration,
        device.claim,
        device.reset,
    ):
        with pytest.raises(DeviceLostError, match="unplugged"):
            call()
    transfer = device.take(1)
    assert device.submit_bulk(transfer, BULK_IN, 1) is Status.NO_DEVICE
    assert device.submit_control(transfer, 0) is Status.NO_DEVICE
    device.release()


def test_close_drops_what_is_in_flight_and_may_be_called_again(device, owner, probe):
    owner.submit(BULK_OUT, b"x")
    owner.submit(BULK_IN, 10)
    fd = device.pollfds()[0][0]
    device.close()
    device.close()
    assert (owner.ended, device.in_flight(), device.pollfds(), device.reap()) == ([], 0, (), 0)
    assert probe.events.count("close") == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_an_owner_may_close_the_device_while_reaping(device):
    transfers = [device.take(1) for _ in range(2)]
    for transfer in transfers:
        transfer.on_done = lambda _: device.close()
        device.submit_bulk(transfer, BULK_OUT, 1)
    assert device.reap() == 1


# ---- endpoint 0


def test_descriptors_are_cut_to_what_the_host_asks_for(owner, probe):
    device = device_bytes(probe.model.device)
    for size, expected in ((8, device[:8]), (18, device), (64, device), (0, b"")):
        assert owner.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0100, 0, size) == (Status.COMPLETED, expected)
    for index in (0, 1):
        whole = probe.model.configurations[index]
        assert owner.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0200 | index, 0, 500)[1] == whole


def test_strings(owner):
    assert owner.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0300, 0, 255)[1] == b"\x04\x03\x09\x04"
    assert parse_string(owner.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0302, 0x0409, 255)[1]) == "probe ☂"
    for value, language in ((0x0303, 0x0409), (0x0302, 0x0407), (0x03EE, 0)):  # EEh: Microsoft's, which not to have
        assert owner.control(DIR_IN, Request.GET_DESCRIPTOR, value, language, 255)[0] is Status.STALL


def test_a_high_speed_device_has_a_qualifier_and_a_super_speed_one_a_bos():
    high, fast = (Owner(EmulatedDevice(Probe(speed), "x")) for speed in (Speed.HIGH, Speed.SUPER))
    assert high.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0600, 0, 10)[1] == bytes.fromhex("0a060002000000400100")
    other = high.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0700, 0, 500)[1]
    assert (other[1], len(other)) == (7, len(Probe().model.configurations[0]))
    assert high.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0F00, 0, 5)[0] is Status.STALL
    assert fast.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0F00, 0, 5)[1] == b"\x05\x0f\x05\x00\x00"
    assert fast.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0600, 0, 10)[0] is Status.STALL
    for owner in (high, fast):
        owner.device.close()


def test_super_speed_requests_exist_at_super_speed_only():
    requests = [
        (0, Request.SET_FEATURE, Feature.U1_ENABLE, 0, 0),
        (0, Request.SET_SEL, 0, 0, bytes(6)),
        (0, Request.SET_ISOCH_DELAY, 40, 0, 0),
        (Recipient.INTERFACE, Request.SET_FEATURE, 0, 0, 0),
    ]
    for speed, status in ((Speed.SUPER, Status.COMPLETED), (Speed.HIGH, Status.STALL)):
        owner = Owner(EmulatedDevice(Probe(speed), "x"))
        assert [owner.control(*request)[0] for request in requests] == [status] * 4
        flags = owner.control(DIR_IN, Request.GET_STATUS, 0, 0, 2)[1]
        assert flags == (b"\x05\x00" if speed is Speed.SUPER else b"\x01\x00")
        owner.device.close()


def test_configuration_and_interface_by_request(device, owner):
    assert owner.control(DIR_IN, Request.GET_CONFIGURATION, 0, 0, 1)[1] == b"\x01"
    assert owner.control(0, Request.SET_CONFIGURATION, 3)[0] is Status.COMPLETED
    assert owner.control(DIR_IN, Request.GET_CONFIGURATION, 0, 0, 1)[1] == b"\x03"
    assert owner.control(Recipient.INTERFACE, Request.SET_INTERFACE, 1, 0)[0] is Status.COMPLETED
    assert owner.control(DIR_IN | Recipient.INTERFACE, Request.GET_INTERFACE, 0, 0, 1)[1] == b"\x01"
    assert owner.control(0, Request.SET_ADDRESS, 5)[0] is Status.COMPLETED


def test_remote_wakeup_is_remembered(owner):
    assert owner.control(0, Request.SET_FEATURE, Feature.DEVICE_REMOTE_WAKEUP)[0] is Status.COMPLETED
    assert owner.control(DIR_IN, Request.GET_STATUS, 0, 0, 2)[1] == b"\x03\x00"
    assert owner.control(0, Request.CLEAR_FEATURE, Feature.DEVICE_REMOTE_WAKEUP)[0] is Status.COMPLETED
    assert owner.control(DIR_IN, Request.GET_STATUS, 0, 0, 2)[1] == b"\x01\x00"


@pytest.mark.parametrize(
    "request_",
    [
        (DIR_IN, Request.GET_DESCRIPTOR, 0x0101, 0, 18),
        (DIR_IN, Request.GET_DESCRIPTOR, 0x0202, 0, 9),
        (DIR_IN, Request.GET_DESCRIPTOR, 0x9900, 0, 9),
        (0, Request.GET_DESCRIPTOR, 0x0100, 0, 18),
        (0, Request.SET_CONFIGURATION, 2, 0, 0),
        (0, Request.SET_CONFIGURATION, 0x0101, 0, 0),
        (DIR_IN, Request.SET_CONFIGURATION, 1, 0, 0),
        (Recipient.INTERFACE, Request.SET_INTERFACE, 5, 0, 0),
        (Recipient.INTERFACE, Request.SET_INTERFACE, 0, 99, 0),
        (DIR_IN | Recipient.INTERFACE, Request.GET_INTERFACE, 0, 7, 1),
        (DIR_IN | Recipient.ENDPOINT, Request.GET_STATUS, 0, 0x8F, 2),
        (DIR_IN | Recipient.INTERFACE, Request.GET_STATUS, 0, 9, 2),
        (DIR_IN | 31, Request.GET_STATUS, 0, 0, 2),
        (0, Request.SET_FEATURE, Feature.TEST_MODE, 0x0100, 0),
        (Recipient.ENDPOINT, Request.SET_FEATURE, 7, BULK_IN, 0),
        (0, Request.SYNCH_FRAME, 0, 0, 0),
        (0, 0xFE, 0, 0, 0),
        (DIR_IN | 0x60, 0x06, 0x0100, 0, 18),
    ],
)
def test_requests_that_name_nothing_stall(owner, request_):
    assert owner.control(*request_)[0] is Status.STALL
    assert owner.control(DIR_IN, Request.GET_CONFIGURATION, 0, 0, 1) == (Status.COMPLETED, b"\x01")  # no halt stays


def test_class_and_vendor_requests_and_descriptors_of_interfaces_go_to_the_function(owner, probe):
    assert owner.control(DIR_IN | 0x21, 0x42, 1, 2, 3) == (Status.COMPLETED, bytes(3))
    assert owner.control(0x40, 0x42, 1, 2, b"abc")[0] is Status.COMPLETED
    assert owner.control(0x40, 0x43, 1, 2, b"abc")[0] is Status.STALL
    owner.control(DIR_IN | Recipient.INTERFACE, Request.GET_DESCRIPTOR, 0x2200, 0, 60)
    assert [setup.request for setup in probe.requests] == [0x42, 0x42, 0x43, Request.GET_DESCRIPTOR]


def test_a_setup_packet_that_asks_for_more_than_the_data_area_is_refused(device):
    transfer = device.take(0)
    transfer.setup[:] = SetupPacket(DIR_IN, Request.GET_DESCRIPTOR, 0x0100, 0, 18).pack()
    assert device.submit_control(transfer, 17) is Status.ERROR
    assert device.submit_control(transfer, 10_000) is Status.ERROR


def test_a_request_that_the_function_puts_off_is_answered_when_it_wakes(device, probe):
    answers = [NAK, NAK, 4]
    probe.control = lambda setup, data: answers.pop(0)
    transfer, ended = device.take(4), []
    transfer.setup[:] = SetupPacket(0xC0, 0x42, 0, 0, 4).pack()
    transfer.on_done = ended.append
    assert device.submit_control(transfer, 4) is Status.COMPLETED
    assert (device.reap(), device.in_flight()) == (0, 1)
    probe.wake()
    assert device.reap() == 1
    assert (ended, transfer.status, transfer.actual) == ([transfer], Status.COMPLETED, 4)


def test_a_function_may_answer_standard_requests_itself(owner, probe):
    probe.standard = lambda setup, data: STALL if setup.request == Request.GET_STATUS else None
    assert owner.control(0x80, Request.GET_STATUS, data=2)[0] is Status.STALL
    assert owner.control(0x80, Request.GET_CONFIGURATION, data=1) == (Status.COMPLETED, b"\x01")


def test_a_function_that_leaves_in_a_transfer_takes_all_others_with_it(device, owner, probe):
    def leave(endpoint, data):
        probe.leave()
        return len(data)

    waiting = owner.submit(BULK_IN, 64)
    probe.receive = leave
    owner.submit(BULK_OUT, b"go")
    device.reap()
    assert [status for _, status, _ in owner.ended] == [Status.NO_DEVICE] * 2
    assert waiting.status == Status.NO_DEVICE
    with pytest.raises(DeviceLostError):
        device.configuration()
