"""Captures of a running encoder: what their readers get, whatever they do; and that the redirection does not wait."""

import os
import select
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.fakes.device import BULK_IN, BULK_OUT, DESCRIPTOR, EVERYTHING, FakeDevice
from tests.fakes.encoder import SECONDS, RawVm, RunningEncoder
from tests.fakes.guest import Rig
from usbbridge.capture.pcapng import ENHANCED_PACKET, INTERFACE_STATISTICS, Block, Splitter, dropped_of
from usbbridge.encoder import capturing
from usbbridge.encoder.capturing import MAX_CAPTURES, Capturing
from usbbridge.ipc.messages import Capture, Ended, Stop
from usbbridge.usb.descriptors import configuration_bytes, device_bytes
from usbbridge.usbredir.packets import DeviceConnect, DeviceDisconnect, DeviceDisconnectAck

INTRODUCTION = 6
"Packets that a capture begins with: two descriptors and a configuration, each with an end."


class Reading:
    """The other end of a capture."""

    def __init__(self) -> None:
        self.sock, self.theirs = socket.socketpair()
        self.sock.settimeout(SECONDS)
        self._splitter = Splitter()
        self.blocks: list[Block] = []

    def give(self) -> int:
        """The end that is written to; it is no longer ours."""
        return self.theirs.detach()

    def some(self) -> bool:
        """Receive what there is; False at the end."""
        data = self.sock.recv(1 << 20)
        self.blocks += self._splitter.feed(data)
        return bool(data)

    def until(self, packets: int) -> list[Block]:
        """Receive until there are so many packets."""
        while len(self.packets) < packets:
            assert self.some(), "the capture has ended"
        return self.packets

    def rest(self) -> list[Block]:
        """Everything."""
        while self.some():
            pass
        assert self._splitter.rest == 0
        return self.blocks

    @property
    def packets(self) -> list[Block]:
        return [block for block in self.blocks if block.kind == ENHANCED_PACKET]

    @property
    def dropped(self) -> int:
        return dropped_of([block for block in self.blocks if block.kind == INTERFACE_STATISTICS][-1].data)


@pytest.fixture
def reading() -> Iterator[Reading]:
    one = Reading()
    yield one
    one.sock.close()
    one.theirs.close()


def kinds(packets: list[Block]) -> str:
    """Types of events: S, C, E."""
    return "".join(chr(packet.data[28 + 8]) for packet in packets)


def payload(packet: Block) -> bytes:
    (captured,) = struct.unpack_from("<I", packet.data, 20)
    return packet.data[28 + 64 : 28 + captured]


# ---- in an encoder


def attach(encoder: RunningEncoder, vm: RawVm) -> None:
    encoder.start(vm.target)
    vm.accept().wait_for(DeviceConnect)


def capture(encoder: RunningEncoder, reading: Reading) -> None:
    fd = reading.give()
    encoder.channel.send(Capture(1, 7), fd)
    os.close(fd)


def send_bulk(vm: RawVm) -> None:
    vm.guest.bulk(1, BULK_OUT, data=b"hello")
    vm.send()


def stop(encoder: RunningEncoder, vm: RawVm) -> Ended:
    encoder.tell(Stop())
    vm.wait_for(DeviceDisconnect)
    vm.guest.say(DeviceDisconnectAck())
    vm.send()
    return encoder.join()


@pytest.mark.usefixtures("device")
def test_a_capture_begins_with_what_is_known_of_the_device(
    encoder: RunningEncoder, vm: RawVm, reading: Reading
) -> None:
    attach(encoder, vm)
    capture(encoder, reading)
    packets = reading.until(INTRODUCTION)
    assert kinds(packets) == "SCSCSC"
    assert [payload(packets[n]) for n in (1, 3)] == [device_bytes(DESCRIPTOR), configuration_bytes(EVERYTHING)]
    send_bulk(vm)
    assert payload(reading.until(INTRODUCTION + 1)[-1]) == b"hello"
    assert stop(encoder, vm) == Ended(0)
    assert reading.rest()[-1].kind == INTERFACE_STATISTICS


@pytest.mark.usefixtures("device")
def test_a_capture_may_be_asked_for_before_there_is_anything(
    encoder: RunningEncoder, vm: RawVm, reading: Reading
) -> None:
    encoder.start(f"spice+{vm.target}")
    sock, _ = vm.listener.accept()
    capture(encoder, reading)
    sock.close()
    assert encoder.join().status
    assert reading.rest() == []


@pytest.mark.usefixtures("device")
def test_a_reader_that_ends_its_capture_gets_the_end_of_it(
    encoder: RunningEncoder, vm: RawVm, reading: Reading
) -> None:
    attach(encoder, vm)
    capture(encoder, reading)
    reading.sock.shutdown(socket.SHUT_WR)
    assert reading.rest()[-1].kind == INTERFACE_STATISTICS
    send_bulk(vm)
    assert stop(encoder, vm) == Ended(0)


@pytest.mark.usefixtures("device")
def test_a_capture_without_a_connection_is_nonsense(encoder: RunningEncoder, vm: RawVm) -> None:
    attach(encoder, vm)
    encoder.tell(Capture())
    vm.wait_for(DeviceDisconnect)
    vm.guest.say(DeviceDisconnectAck())
    vm.send()
    assert encoder.join() == Ended(0)


# ---- by hand


class Bench:
    """A host that is attached, and captures of it, of which the test does the loop's part."""

    def __init__(self) -> None:
        self.device = FakeDevice()
        self.rig = Rig(self.device).attach()
        self.epoll = select.epoll()
        self.capturing = Capturing(self.rig.host, self.device, self.epoll)

    def begin(self, reading: Reading, **fields: object) -> None:
        self.capturing.begin(Capture(1, 7, **fields), reading.give())  # type: ignore[arg-type]  # as the test wants

    def turn(self) -> None:
        """Serve every connection that is ready."""
        for fd, _ in self.epoll.poll(0):
            assert self.capturing.ready(fd)

    def send(self, data: bytes = b"hello") -> None:
        """A bulk transfer, and its end."""
        self.rig.guest.bulk(1, BULK_OUT, data=data)
        self.rig.settle()
        self.device.finish(self.device.flying[-1])
        self.rig.settle()

    @property
    def tapped(self) -> bool:
        return self.rig.host._device is not self.device


@pytest.fixture
def bench() -> Iterator[Bench]:
    one = Bench()
    yield one
    one.capturing.close()
    one.epoll.close()


def test_events_are_written_when_the_loop_comes_to_it(bench: Bench, reading: Reading) -> None:
    bench.begin(reading)
    bench.turn()
    bench.send()
    bench.turn()
    assert kinds(reading.until(INTRODUCTION + 2)[INTRODUCTION:]) == "SC"
    assert bench.epoll.poll(0) == [], "nothing waits any more"


def test_the_tap_is_there_only_while_there_is_a_reader(bench: Bench, reading: Reading) -> None:
    assert not bench.tapped
    bench.begin(reading)
    assert bench.tapped
    bench.turn()
    reading.sock.close()
    bench.turn()
    assert not bench.tapped
    bench.send()
    assert bench.epoll.poll(0) == []


def test_a_transfer_that_is_in_flight_for_long_bears_any_number_of_captures(bench: Bench) -> None:
    bench.rig.guest.bulk(1, BULK_IN, 64)
    bench.rig.settle()
    transfer = bench.device.flying[-1]
    before = transfer.on_done
    for _ in range(3):
        one = Reading()
        bench.begin(one)
        assert transfer.on_done != before
        one.sock.close()
        bench.turn()
        assert transfer.on_done == before, "its end goes straight to its owner again"
    bench.device.finish(transfer, data=b"late")
    bench.rig.settle()
    assert bench.rig.host.pending == {}


def test_a_reader_that_takes_nothing_more_is_let_go(bench: Bench, reading: Reading) -> None:
    bench.begin(reading)
    bench.turn()
    reading.sock.shutdown(socket.SHUT_RD)
    bench.send()
    for _ in range(3):
        bench.turn()
    assert bench.epoll.poll(0) == [], "or the encoder would never sleep again"
    assert not bench.tapped


def test_two_readers_get_what_each_wants(bench: Bench, reading: Reading) -> None:
    other = Reading()
    bench.begin(reading)
    bench.send(b"first")
    bench.begin(other, headers_only=True)
    bench.send(b"second")
    bench.turn()
    assert [payload(p) for p in reading.until(INTRODUCTION + 4)[INTRODUCTION:]] == [b"first", b"", b"second", b""]
    assert [payload(p) for p in other.until(INTRODUCTION + 2)[INTRODUCTION:]] == [b"", b""]
    other.sock.close()
    bench.turn()
    assert bench.tapped


def test_what_a_slow_reader_misses_is_counted(bench: Bench, reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capturing, "MAX_WAITING", 3000)
    bench.begin(reading)
    for _ in range(100):
        bench.send(bytes(100))
    bench.turn()
    kept = len(reading.until(INTRODUCTION + 1)) - INTRODUCTION
    bench.send(b"again")
    bench.turn()
    packets = reading.until(INTRODUCTION + kept + 2)
    assert reading.dropped == 200 - kept
    first = packets[INTRODUCTION + kept].data
    assert struct.unpack_from("<HHQ", first, len(first) - 20) == (4, 8, 200 - kept), "epb_dropcount"


def test_a_slow_reader_that_ends_its_capture_gets_all_of_it(bench: Bench, reading: Reading) -> None:
    bench.begin(reading)
    for _ in range(100):
        bench.send(bytes(16384))
    reading.sock.shutdown(socket.SHUT_WR)
    bench.turn()
    assert not bench.tapped
    while reading.some():
        bench.turn()
    assert reading.rest()[-1].kind == INTERFACE_STATISTICS
    assert (len(reading.packets), reading.dropped) == (INTRODUCTION + 200, 0)


def test_a_slow_reader_that_has_ended_its_capture_may_go(bench: Bench, reading: Reading) -> None:
    bench.begin(reading)
    for _ in range(100):
        bench.send(bytes(16384))
    reading.sock.shutdown(socket.SHUT_WR)
    bench.turn()
    reading.sock.close()
    bench.turn()
    assert bench.epoll.poll(0) == []


def test_a_reader_that_never_reads_does_not_hold_up_the_end(
    bench: Bench, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capturing, "FLUSH_SECONDS", 0)
    bench.begin(reading)
    for _ in range(100):
        bench.send(bytes(16384))
    bench.turn()
    bench.capturing.close()
    assert not bench.tapped
    while reading.some():
        pass


def test_readers_that_never_read_hold_up_the_end_together_no_longer_than_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines: list[float] = []
    monkeypatch.setattr(capturing.Reader, "flush", lambda _, deadline: deadlines.append(deadline))
    readers = [Reading() for _ in range(MAX_CAPTURES)]
    for one in readers:
        bench.begin(one)
    before = time.monotonic()
    bench.capturing.close()
    assert (len(deadlines), len(set(deadlines))) == (MAX_CAPTURES, 1)
    assert deadlines[0] >= before + capturing.FLUSH_SECONDS
    for one in readers:
        one.sock.close()


def test_at_the_end_of_the_attachment_every_capture_is_whole(bench: Bench, reading: Reading) -> None:
    bench.begin(reading)
    bench.send()
    bench.capturing.close()
    assert reading.rest()[-1].kind == INTERFACE_STATISTICS
    assert (len(reading.packets), reading.dropped) == (INTRODUCTION + 2, 0)


def test_one_reader_too_many_is_sent_away(bench: Bench, reading: Reading) -> None:
    readers = [Reading() for _ in range(MAX_CAPTURES)]
    for one in readers:
        bench.begin(one)
    bench.begin(reading)
    assert reading.rest() == []
    for one in readers:
        one.sock.close()


def test_what_is_no_connection_is_closed(bench: Bench) -> None:
    reader, writer = os.pipe()
    bench.capturing.begin(Capture(), writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert not bench.tapped


def test_a_stranger_is_told_from_a_reader(bench: Bench) -> None:
    assert not bench.capturing.ready(0)


def test_descriptors_that_are_given_are_told(bench: Bench, reading: Reading) -> None:
    whole = device_bytes(DESCRIPTOR) + b"".join(map(configuration_bytes, bench.device.configurations))
    bench.begin(reading, descriptors=whole.hex())
    bench.turn()
    packets = reading.until(INTRODUCTION + 2)
    assert b"".join(payload(packets[n]) for n in (1, 3, 5)) == whole


def test_descriptors_that_are_nonsense_are_passed_over(bench: Bench, reading: Reading) -> None:
    bench.begin(reading, descriptors="nonsense")
    bench.turn()
    assert len(reading.until(INTRODUCTION)) == INTRODUCTION


def test_a_device_that_is_gone_has_no_configuration_to_be_told(bench: Bench, reading: Reading) -> None:
    bench.device.unplug()
    bench.begin(reading)
    bench.turn()
    assert kinds(reading.until(2)) == "SC"


def test_data_in_is_captured_as_it_was_when_it_came(bench: Bench, reading: Reading) -> None:
    bench.begin(reading)
    bench.rig.guest.bulk(1, BULK_IN, 64)
    bench.rig.settle()
    transfer = bench.device.flying[-1]
    bench.device.finish(transfer, data=b"first")
    bench.rig.settle()
    transfer.data[:5] = b"other"
    bench.turn()
    assert payload(reading.until(INTRODUCTION + 2)[-1]) == b"first"
