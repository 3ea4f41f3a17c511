"""The loop that joins a device to a VM: what ends it, how, and that nobody is left hanging."""

import errno
import os
import socket
import threading
import time
from contextlib import suppress

import pytest

from tests.fakes.device import BULK_IN, FakeDevice
from tests.fakes.encoder import RawVm, RunningEncoder
from usbbridge.backend.base import Status
from usbbridge.encoder import loop, main
from usbbridge.encoder.link import RawLink, open_link
from usbbridge.encoder.loop import Loop
from usbbridge.errors import ConnectionLostError, DeviceError, RefusedError
from usbbridge.ipc.channel import MessageChannel, pair
from usbbridge.ipc.messages import AskStats, Ended, Progressed, Stats, Stop
from usbbridge.redirect import host as redirect_host
from usbbridge.redirect.host import Host
from usbbridge.usbredir.packets import (
    BulkPacket,
    ConfigurationStatus,
    DeviceConnect,
    DeviceDisconnect,
    DeviceDisconnectAck,
    FilterReject,
    GetConfiguration,
    InterruptReceivingStatus,
    StartInterruptReceiving,
)


def attach(encoder: RunningEncoder, vm: RawVm) -> None:
    encoder.start(vm.target)
    vm.accept().wait_for(DeviceConnect)


def acknowledge(vm: RawVm) -> None:
    vm.wait_for(DeviceDisconnect)
    vm.guest.say(DeviceDisconnectAck())
    vm.send()


def use(vm: RawVm) -> None:
    """A transfer that the device keeps."""
    vm.guest.bulk(1, BULK_IN, 512)
    vm.guest.say(GetConfiguration(), 2)
    vm.send()
    vm.wait_for(ConfigurationStatus)


@pytest.mark.parametrize("how", ["stop", "death of the starter", "signal", "nonsense"])
def test_a_wanted_end_tells_the_guest_and_waits_for_it(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice, how: str
) -> None:
    attach(encoder, vm)
    use(vm)
    match how:
        case "stop":
            encoder.tell(Stop())
        case "signal":
            os.write(encoder.signal, b"\0")
        case "nonsense":
            encoder.channel._sock.send(b"nonsense")
        case _:
            encoder.channel.close()
    acknowledge(vm)
    assert encoder.join() == Ended(0)
    assert device.log[-2:] == [("reset",), ("close",)]


def test_the_announcement_is_on_its_way_before_the_device_is_reset(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, reset = threading.Event(), device.reset

    def slow() -> None:
        assert may_go_on.wait(30)
        reset()

    monkeypatch.setattr(device, "reset", slow)
    attach(encoder, vm)  # hears the announcement while the device is being reset
    assert ("reset",) not in device.log
    may_go_on.set()
    use(vm)
    assert device.log == [("claim",), ("reset",)]


def test_steps_are_told_as_they_are_taken(encoder: RunningEncoder, vm: RawVm, device: FakeDevice) -> None:
    attach(encoder, vm)
    vm.guest.control(1, 0x80, 6, 0x0100, 0, 18)
    vm.send()
    encoder.hear_step("attached")
    assert encoder.said == [
        Progressed("linked", ""),
        Progressed("hello", "guest"),
        Progressed("announced", device.name),
        Progressed("attached", device.name),
    ]


def test_numbers_are_told_when_they_are_asked_for(encoder: RunningEncoder, vm: RawVm, device: FakeDevice) -> None:
    attach(encoder, vm)
    encoder.hear_step("announced")
    use(vm)
    encoder.hear_step("attached")
    encoder.tell(AskStats())
    answer = encoder.hear()
    assert isinstance(answer, Stats)
    assert answer.from_vm == 80 + 26 + 16
    assert answer.to_vm > 80 + 3 * 16


def test_a_starter_that_dies_while_it_is_being_answered_ends_it_like_any_other(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice
) -> None:
    attach(encoder, vm)
    encoder.hear_step("announced")
    encoder.tell(AskStats())
    encoder.channel.close()
    acknowledge(vm)
    assert encoder.join() == Ended(0)


def test_a_starter_that_is_gone_before_the_first_step_ends_it(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice
) -> None:
    encoder.start(vm.target)
    encoder.channel.close()
    with suppress(ConnectionError):  # it may be gone before it has read the hello
        vm.accept()
    assert encoder.join() == Ended(0)


def test_a_paused_vm_is_not_waited_for_long(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "ACK_SECONDS", 0.01)
    attach(encoder, vm)
    assert encoder.stop() == Ended(0)
    assert device.log[-1] == ("close",)


def test_the_end_of_the_connection_is_the_end_of_the_vm(encoder: RunningEncoder, vm: RawVm, device: FakeDevice) -> None:
    attach(encoder, vm)
    use(vm)
    vm.sock.close()
    ended = encoder.join()
    assert (ended.status, ended.error) == (1, "ConnectionLostError")
    assert ended.message == f"{vm.target} closed the connection"
    assert device.log[-2:] == [("reset",), ("close",)]


def test_an_end_before_anything_was_said_is_told_from_that(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice
) -> None:
    encoder.start(vm.target)
    sock, _ = vm.listener.accept()
    sock.close()
    ended = encoder.join()
    assert ended.message == f"{vm.target} closed the connection before it said anything"
    assert device.log == [("close",)], "it was never claimed, so needs no reset"


def test_a_vm_that_ends_during_the_goodbye_is_not_waited_for(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice
) -> None:
    attach(encoder, vm)
    encoder.tell(Stop())
    vm.wait_for(DeviceDisconnect)
    vm.sock.close()
    assert encoder.join() == Ended(0)


def test_an_unplugged_device_is_taken_away_from_the_guest(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice
) -> None:
    attach(encoder, vm)
    device.refuse = Status.NO_DEVICE
    vm.guest.bulk(1, BULK_IN, 512)
    vm.send()
    assert isinstance(vm.wait_for(BulkPacket), BulkPacket)
    acknowledge(vm)
    ended = encoder.join()
    assert (ended.status, ended.error, ended.message) == (1, "DeviceLostError", "1-1 1234:5678 Fake was unplugged")


def test_nonsense_in_answer_to_the_goodbye_does_not_hide_why_it_was_said(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice
) -> None:
    attach(encoder, vm)
    device.refuse = Status.NO_DEVICE
    vm.guest.bulk(1, BULK_IN, 512)
    vm.send()
    vm.wait_for(DeviceDisconnect)
    vm.sock.sendall(b"\xff" * 16)
    assert encoder.join().error == "DeviceLostError"


def test_a_guest_that_breaks_the_protocol_is_told_nothing_more(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice
) -> None:
    attach(encoder, vm)
    use(vm)
    vm.sock.sendall(b"\xff" * 16)
    ended = encoder.join()
    assert (ended.status, ended.error) == (1, "PeerViolationError")
    assert "unknown packet type" in ended.message
    assert vm.rest() == b""
    assert device.log[-2:] == [("reset",), ("close",)]
    assert device.flying == []


def test_a_guest_that_rejects_the_device_is_named_as_the_reason(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice
) -> None:
    attach(encoder, vm)
    vm.guest.say(FilterReject())
    vm.send()
    acknowledge(vm)
    ended = encoder.join()
    assert (ended.status, ended.error) == (5, "RefusedError")


@pytest.mark.parametrize("error", [RefusedError("it is in use"), DeviceError("it is broken")])
def test_a_device_that_cannot_be_claimed_is_named_as_the_reason(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice, error: RefusedError
) -> None:
    device.failures["claim"] = error
    encoder.start(vm.target)
    vm.accept()
    ended = encoder.join()
    assert (ended.status, ended.message) == (error.exit_status, error.message)
    assert ("close",) in device.log


def test_an_unknown_first_message_is_refused(encoder: RunningEncoder) -> None:
    encoder.tell(Stop())
    assert encoder.join().status == 2


def test_a_starter_that_says_nothing_and_goes_is_no_trouble(encoder: RunningEncoder) -> None:
    encoder.channel.close()
    assert encoder.join().status == 2


def test_a_target_that_is_none_is_told(encoder: RunningEncoder, device: FakeDevice) -> None:
    encoder.start("gopher://x")
    ended = encoder.join()
    assert (ended.status, ended.error) == (2, "UsageError")


def test_a_guest_that_asks_and_never_reads_is_read_no_more_until_it_does(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    high = 64 << 10
    monkeypatch.setattr(redirect_host, "OUTBOX_HIGH", high)
    attach(encoder, vm)
    for packet_id in range(1000):
        vm.guest.say(GetConfiguration(), packet_id)
    batch = vm.guest.take_out()
    vm.sock.setblocking(False)
    sent = 0
    with suppress(BlockingIOError):
        while sent < 64 << 20:
            sent += vm.sock.send(batch[sent % len(batch) :])
    assert sent < 64 << 20, "it reads on and on"
    vm.sock.settimeout(20)
    answers = 0
    while answers < sent // 16:
        vm.guest.codec.feed(vm.sock.recv(1 << 16))
        answers += sum(isinstance(packet, ConfigurationStatus) for _, packet in vm.guest.ear.take())
    vm.sock.sendall(batch[sent % len(batch) :])  # what was begun is ended
    encoder.tell(Stop())
    acknowledge(vm)
    assert encoder.join() == Ended(0)


def test_an_interrupt_endpoint_of_a_device_without_descriptors_is_served(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice
) -> None:
    attach(encoder, vm)
    vm.guest.say(StartInterruptReceiving(0x83))
    vm.guest.control(9, 0x80, 6, 0x0100, 0, 18)
    vm.send()
    encoder.hear_step("attached")
    encoder.tell(Stop())
    acknowledge(vm)
    assert encoder.join() == Ended(0)
    assert device.flying == []


class Unreachable(socket.socket):
    """A connection on which an ICMP message has come."""

    def recv_into(self, *arguments: object) -> int:
        raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))


class UnreachableLink:
    frame = None

    def __init__(self, sock: socket.socket, host: Host) -> None:
        self.sock, self.buffer, self.received = sock, host.codec.buffer, host.codec.received

    def take_replies(self) -> bytes:
        return b""

    def lost(self) -> Exception:
        return ConnectionLostError("the link is down")


def test_whatever_the_network_says_is_the_end_of_the_connection(device: FakeDevice) -> None:
    near, far = socket.socketpair()
    starter, other = pair()
    wakeup, signal = os.pipe()
    host = Host(device, version="test", on_progress=lambda progress: None, clock=time.monotonic)
    with Unreachable(fileno=near.detach()) as sock, far, other:
        far.sendall(b"x")
        link = UnreachableLink(sock, host)
        with pytest.raises(ConnectionLostError, match="the link is down"):
            Loop(host, device, link, MessageChannel(starter._sock), wakeup).run()
    starter.close()
    os.close(wakeup)
    os.close(signal)


def test_a_vm_that_has_gone_quiet_is_nudged_now_and_then_and_left_in_peace_at_last(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "FIRST_NUDGE_SECONDS", 0.01)
    monkeypatch.setattr(loop, "NUDGE_GROWTH", 2.0)
    monkeypatch.setattr(loop, "LAST_NUDGE_SECONDS", 0.05)
    nudge, next_waits = Loop._nudge, []

    def recorded(self: Loop) -> None:
        nudge(self)
        next_waits.append(self._quiet)

    def with_messages(*args: object) -> RawLink:
        link = open_link(*args)
        link.frame = lambda parts, size: parts  # as on SPICE, but adding nothing
        return link

    monkeypatch.setattr(Loop, "_nudge", recorded)
    monkeypatch.setattr(main, "open_link", with_messages)
    attach(encoder, vm)
    use(vm)
    encoder.hear_step("attached")
    nudges = [vm.wait_for(InterruptReceivingStatus) for _ in range(3)]
    assert nudges == [InterruptReceivingStatus(0, 0x80)] * 3
    encoder.tell(Stop())
    acknowledge(vm)
    assert encoder.join() == Ended(0)
    assert next_waits[-3:] == [0.02, 0.04, -1]
