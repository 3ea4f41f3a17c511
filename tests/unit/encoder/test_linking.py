"""While a VM does not answer, whoever started the encoder is still heard."""

import os
import socket
from pathlib import Path

import pytest

from tests.fakes.device import FakeDevice
from tests.fakes.encoder import RawVm, RunningEncoder
from usbbridge.encoder.linking import Stopped, unless_stopped
from usbbridge.ipc.channel import MessageChannel, pair
from usbbridge.ipc.messages import AskStats, Capture, Ended, Stats, Stop


def refuse(capture: Capture, fd: int) -> None:
    raise AssertionError("nobody has asked for a capture")


def silent(vm: RawVm) -> str:
    """A SPICE server that takes connections and says nothing."""
    return f"spice+{vm.target}"


@pytest.mark.parametrize("how", ["stop", "death of the starter", "signal", "nonsense"])
def test_an_encoder_that_waits_for_a_vm_can_be_stopped(
    encoder: RunningEncoder, vm: RawVm, device: FakeDevice, how: str
) -> None:
    encoder.start(silent(vm))
    sock, _ = vm.listener.accept()
    with sock:
        match how:
            case "stop":
                encoder.tell(Stop())
            case "signal":
                os.write(encoder.signal, b"\0")
            case "nonsense":
                encoder.channel._sock.send(b"nonsense")
            case _:
                encoder.channel.close()
        assert encoder.join() == Ended(0)
    assert device.log == [("close",)]


def test_it_answers_a_question_for_numbers_meanwhile(encoder: RunningEncoder, vm: RawVm, device: FakeDevice) -> None:
    encoder.start(silent(vm))
    sock, _ = vm.listener.accept()
    with sock:
        encoder.tell(AskStats())
        assert encoder.hear() == Stats(0, 0, 0)
        assert encoder.stop() == Ended(0)


def test_what_is_linked_too_late_is_closed() -> None:
    starter, theirs = pair()
    ours, kept = socket.socketpair()
    gate_reader, gate_writer = os.pipe()

    def link() -> socket.socket:
        os.read(gate_reader, 1)
        return ours

    starter.send(Stop())
    with pytest.raises(Stopped):
        unless_stopped(link, socket.socket.close, MessageChannel(theirs), gate_reader, refuse)
    os.write(gate_writer, b"xx")
    with kept:
        assert kept.recv(1) == b""  # its other end was closed
    starter.close()
    theirs.close()
    for fd in (gate_reader, gate_writer):
        os.close(fd)


def test_what_linking_raises_is_raised(tmp_path: Path) -> None:
    starter, theirs = pair()
    reader, writer = os.pipe()

    def link() -> socket.socket:
        raise FileNotFoundError(tmp_path)

    with pytest.raises(FileNotFoundError):
        unless_stopped(link, socket.socket.close, MessageChannel(theirs), reader, refuse)
    starter.close()
    theirs.close()
    for fd in (reader, writer):
        os.close(fd)
