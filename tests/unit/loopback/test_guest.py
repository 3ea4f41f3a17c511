"""The guest against a usb-host that does what the test tells it, right or wrong."""

from contextlib import suppress
from dataclasses import replace

import pytest

from tests.unit.loopback.wires import CONNECT, ENDPOINTS, INTERFACES, Scripted
from usbbridge.errors import RemoteProtocolError
from usbbridge.loopback.admission import Announcement
from usbbridge.loopback.tasks import Bulk, Command, Control, InterruptOut, Job, Reply, Task, TaskAbortedError
from usbbridge.usb.ch9 import SetupPacket
from usbbridge.usbredir.packets import (
    AltSettingStatus,
    BulkPacket,
    CancelDataPacket,
    ConfigurationStatus,
    ControlPacket,
    DeviceDisconnect,
    EndpointEntry,
    EpInfo,
    FilterFilter,
    FilterReject,
    InterruptPacket,
    InterruptReceivingStatus,
    Reset,
    SetConfiguration,
    StartInterruptReceiving,
)
from usbbridge.usbredir.proto import ALL_CAPS, Cap, EndpointType, PacketType, Status

GET_DEVICE = Control(SetupPacket(0x80, 6, 0x100, 0, 18))
DENY_STORAGE = "0x08,-1,-1,-1,0|-1,-1,-1,-1,1"


@pytest.fixture
def host() -> Scripted:
    """A usb-host whose device is attached."""
    scripted = Scripted()
    scripted.attach()
    return scripted


def bulk_in(size: int) -> Bulk:
    return Bulk(0x81, into=memoryview(bytearray(size)))


def test_says_hello_first_and_alone() -> None:
    host = Scripted()
    assert host.kinds() == [PacketType.HELLO]
    assert host.codec.peer_caps == ALL_CAPS


def test_a_device_is_announced_to_the_watcher(host: Scripted) -> None:
    assert host.watcher.told == ["announced"]
    assert host.guest.device is not None
    assert host.guest.device.connect == CONNECT


def test_nothing_can_be_submitted_without_a_device() -> None:
    with pytest.raises(TaskAbortedError):
        Scripted().submit(GET_DEVICE)


# Rejection


def test_a_device_without_interfaces_is_rejected() -> None:
    host = Scripted()
    host.say(CONNECT)
    assert host.packets[-1][1] == FilterReject()
    assert host.guest.device is None
    assert host.watcher.told[0].startswith("rejected")


def test_a_host_that_lacks_what_xhci_needs_is_rejected() -> None:
    host = Scripted(caps=ALL_CAPS & ~Cap.IDS_64BIT)
    host.attach()
    assert "IDS_64BIT" in host.watcher.told[0]


def test_an_interrupt_endpoint_without_an_interval_is_rejected() -> None:
    host = Scripted()
    bad = EndpointEntry(EndpointType.INTERRUPT, 0, 0, 8)
    host.say(INTERFACES)
    host.say(EpInfo((*ENDPOINTS.endpoints[:-1], bad)))
    host.say(CONNECT)
    assert host.watcher.told == ["rejected: endpoint entry 31 has interval 0"]


def test_a_filter_is_sent_and_kept_to() -> None:
    host = Scripted(rules=DENY_STORAGE)
    host.attach()
    assert [packet for _, packet in host.packets[1:]] == [FilterFilter(DENY_STORAGE), FilterReject()]


def test_a_filter_stays_here_if_the_host_knows_no_filters() -> None:
    host = Scripted(caps=ALL_CAPS & ~Cap.FILTER, rules=DENY_STORAGE)
    host.attach()
    assert host.kinds() == [PacketType.HELLO]
    assert host.watcher.told == ["rejected: the VM's filter denies it"]


# Requests and replies


def test_a_control_transfer_brings_its_data(host: Scripted) -> None:
    request_id, ends = host.submit(GET_DEVICE)
    assert host.transfers == [(request_id, 0x80, 18, b"")]
    host.say(ControlPacket(0x80, 6, 0x80, 0, 0x100, 0, 4, b"data"), request_id)
    (reply,) = ends
    assert isinstance(reply, Reply)
    assert (reply.status, reply.length, bytes(reply.data)) == (Status.SUCCESS, 4, b"data")


def test_a_bulk_read_fills_the_drivers_buffer(host: Scripted) -> None:
    request = bulk_in(8)
    request_id, ends = host.submit(request)
    host.say(BulkPacket(0x81, 0, 5, 0, b"hello"), request_id)
    assert bytes(request.into) == b"hello\0\0\0"
    assert isinstance(ends[0], Reply)
    assert bytes(ends[0].data) == b"hello"


def test_a_large_bulk_read_in_pieces_lands_in_the_drivers_buffer(host: Scripted) -> None:
    size = 100_000
    first, second = bulk_in(size), bulk_in(size)
    ids = [host.submit(request)[0] for request in (first, second)]
    data = bytes(range(250)) * (size // 250)
    for request_id, byte in zip(ids, (0, 1), strict=True):
        packet = host.codec.encode(BulkPacket(0x81, 0, size, 0, bytes([byte]) + data[1:]), request_id)
        for start in range(0, len(packet), 1000):
            host.guest.feed(packet[start : start + 1000])
    assert (first.into[0], second.into[0]) == (0, 1)
    assert bytes(first.into[1:]) == bytes(second.into[1:]) == data[1:]


def test_a_large_reply_out_of_order_still_goes_to_its_own_request(host: Scripted) -> None:
    size = 100_000
    first, second = bulk_in(size), bulk_in(size)
    host.submit(first)
    second_id, ends = host.submit(second)
    packet = host.codec.encode(BulkPacket(0x81, 0, size, 0, bytes([7]) * size), second_id)
    for start in range(0, len(packet), 1000):
        host.guest.feed(packet[start : start + 1000])
    assert bytes(second.into) == bytes([7]) * size
    assert isinstance(ends[0], Reply)


def test_a_bulk_write_carries_the_data_out(host: Scripted) -> None:
    request_id, ends = host.submit(Bulk(0x02, b"some data"))
    assert host.transfers == [(request_id, 0x02, 9, b"some data")]
    host.say(BulkPacket(0x02, 0, 9, 0), request_id)
    assert isinstance(ends[0], Reply)
    assert ends[0].length == 9


def test_an_interrupt_write_is_answered(host: Scripted) -> None:
    request_id, ends = host.submit(InterruptOut(0x03, b"led"))
    host.say(InterruptPacket(0x03, Status.STALL, 0), request_id)
    assert isinstance(ends[0], Reply)
    assert ends[0].status is Status.STALL


def test_interrupt_reports_are_kept(host: Scripted) -> None:
    request_id, ends = host.submit(Command(StartInterruptReceiving(0x83)))
    host.say(InterruptReceivingStatus(0, 0x83), request_id)
    host.say(InterruptPacket(0x83, 0, 3, b"key"), 0)
    host.say(InterruptReceivingStatus(Status.STALL, 0x83), 0)
    assert isinstance(ends[0], Reply)
    assert list(host.guest.reports[0x83]) == [(0, 0, b"key")]


def test_a_command_is_answered_by_its_status(host: Scripted) -> None:
    request_id, ends = host.submit(Command(SetConfiguration(1)))
    assert host.packets[-1] == (request_id, SetConfiguration(1))
    host.say(ConfigurationStatus(Status.IOERROR, 0), request_id)
    assert isinstance(ends[0], Reply)
    assert ends[0].status is Status.IOERROR
    assert ends[0].packet == ConfigurationStatus(Status.IOERROR, 0)


def test_a_reset_has_no_answer(host: Scripted) -> None:
    _, ends = host.submit(Command(Reset()))
    assert [type(end) for end in ends] == [Reply]
    assert host.guest.in_flight == ()


def test_a_status_nobody_knows_is_an_error(host: Scripted) -> None:
    request_id, ends = host.submit(Bulk(0x02, b"x"))
    packet = bytearray(host.codec.encode(BulkPacket(0x02, 0, 0, 0), request_id))
    packet[17] = 77  # our own encoder refuses to
    host.guest.feed(packet)
    assert isinstance(ends[0], Reply)
    assert ends[0].status is Status.IOERROR


@pytest.mark.parametrize("caps", [ALL_CAPS, ALL_CAPS & ~Cap.IDS_64BIT], ids=["64-bit ids", "32-bit ids"])
def test_ids_are_large_sparse_and_used_again_when_free(caps: Cap) -> None:
    host = Scripted(guest_caps=caps)
    host.attach()
    kept, _ = host.submit(bulk_in(1))
    seen = set()
    for _ in range(5000):
        request_id, _ = host.submit(Bulk(0x02, b"x"))
        host.say(BulkPacket(0x02, 0, 1, 0), request_id)
        seen.add(request_id)
    assert (min(seen) > 0xFFFFFFFF) == bool(caps & Cap.IDS_64BIT)
    assert len(seen) == 4095
    assert kept not in seen


# What a usb-host must not do


@pytest.mark.parametrize(
    "packet",
    [
        BulkPacket(0x81, 0, 9, 0, bytes(9)),
        BulkPacket(0x82, 0, 1, 0, b"x"),
        BulkPacket(0x81, 0, 1, 5, b"x"),
        ControlPacket(0x80, 6, 0x80, 0, 0x100, 0, 0),
        InterruptPacket(0x03, 0, 0),
        AltSettingStatus(0, 0, 0),
    ],
    ids=["too long", "another endpoint", "a stream", "a control reply", "an interrupt reply", "a command's reply"],
)
def test_a_reply_that_does_not_fit_its_request_is_a_violation(host: Scripted, packet: BulkPacket) -> None:
    request_id, _ = host.submit(bulk_in(8))
    with pytest.raises(RemoteProtocolError):
        host.say(packet, request_id)


def test_a_control_reply_has_to_echo_the_request(host: Scripted) -> None:
    request_id, _ = host.submit(GET_DEVICE)
    with pytest.raises(RemoteProtocolError):
        host.say(ControlPacket(0x80, 6, 0x80, 0, 0x200, 0, 0), request_id)


def test_a_second_reply_is_a_violation(host: Scripted) -> None:
    request_id, _ = host.submit(Bulk(0x02, b"x"))
    host.say(BulkPacket(0x02, 0, 1, 0), request_id)
    with pytest.raises(RemoteProtocolError):
        host.say(BulkPacket(0x02, 0, 1, 0), request_id)


# Cancelling


def test_a_cancelled_transfer_has_one_reply(host: Scripted) -> None:
    request_id, ends = host.submit(bulk_in(8))
    assert host.guest.cancel(request_id)
    assert not host.guest.cancel(request_id)
    host.carry()
    assert host.packets[-1] == (request_id, CancelDataPacket())
    host.say(BulkPacket(0x81, Status.CANCELLED, 0, 0), request_id)
    assert isinstance(ends[0], Reply)
    assert ends[0].status is Status.CANCELLED
    assert not host.guest.cancel(request_id)


# The device's end


def test_a_disconnect_is_acknowledged_and_ends_what_is_in_flight(host: Scripted) -> None:
    _, ends = host.submit(bulk_in(8))
    host.say(DeviceDisconnect())
    assert host.kinds()[-1] == PacketType.DEVICE_DISCONNECT_ACK
    assert isinstance(ends[0], TaskAbortedError)
    assert host.watcher.told == ["announced", "detached"]


def test_a_disconnect_without_a_device_is_acknowledged_too() -> None:
    host = Scripted()
    host.say(DeviceDisconnect())
    assert host.kinds()[-1] == PacketType.DEVICE_DISCONNECT_ACK
    assert host.watcher.told == []


def test_a_late_reply_after_the_disconnect_is_no_fault(host: Scripted) -> None:
    request_id, ends = host.submit(bulk_in(8))
    host.say(DeviceDisconnect())
    host.say(BulkPacket(0x81, Status.IOERROR, 0, 0), request_id)
    with pytest.raises(RemoteProtocolError):
        host.say(BulkPacket(0x81, Status.IOERROR, 0, 0), request_id)
    assert len(ends) == 1


def test_the_next_device_can_be_attached_on_the_same_connection(host: Scripted) -> None:
    host.say(DeviceDisconnect())
    host.attach()
    assert host.watcher.told == ["announced", "detached", "announced"]
    host.submit(GET_DEVICE)


def test_a_lost_connection_ends_what_is_in_flight(host: Scripted) -> None:
    _, ends = host.submit(bulk_in(8))
    host.guest.lost(TaskAbortedError("gone"))
    assert isinstance(ends[0], TaskAbortedError)
    assert host.guest.device is None


def test_a_driver_that_tries_again_after_the_end_ends_too(host: Scripted) -> None:
    def stubborn() -> Task[str]:
        for _ in range(2):
            with suppress(TaskAbortedError):
                yield Bulk(0x02, b"x")
        return "given up"

    jobs: list[Job[str]] = []
    Job(host.guest, stubborn(), jobs.append).start()
    host.guest.lost(TaskAbortedError("gone"))
    assert [job.result() for job in jobs] == ["given up"]


@pytest.mark.parametrize(("speed", "word"), [(2, "high"), (255, "unknown"), (9, "unknown (9)")])
def test_a_speed_is_told_in_a_word(speed: int, word: str) -> None:
    assert Announcement(replace(CONNECT, speed=speed), INTERFACES, ENDPOINTS).speed == word
