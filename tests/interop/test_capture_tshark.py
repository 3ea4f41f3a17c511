"""Captures dissected by Wireshark's command line, tshark: of a disk that a VM uses, and of isochronous packets.

Wireshark shows what it understands: a record that is a byte off shows up as malformed, or as nothing it knows.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.encoder import RunningEncoder
from usbbridge.capture import pcapng
from usbbridge.capture.introduction import introduction
from usbbridge.capture.usbmon import COMPLETE, EINPROGRESS, SUBMIT, Address, Event, Urb
from usbbridge.cli.capture_file import CaptureFile, open_output
from usbbridge.ipc.messages import Capture
from usbbridge.loopback.vm import LoopbackVm
from usbbridge.usb.ch9 import TransferType
from usbbridge.usb.descriptors import (
    Configuration,
    DeviceDescriptor,
    Endpoint,
    Interface,
    configuration_bytes,
    device_bytes,
)

BLOCK = 512
SIZE = 1 << 20
SECONDS = 30.0
NOW = 1_700_000_000_000_000
Packet = dict[str, Any]

if not shutil.which("tshark"):
    pytest.skip("tshark is not installed", allow_module_level=True)


def tshark(file: Path, *arguments: str) -> str:
    """What it says of a file; anything on standard error that is no remark on being root fails the test."""
    done = subprocess.run(["tshark", "-r", str(file), *arguments], capture_output=True, text=True, check=True)
    assert [line for line in done.stderr.splitlines() if not line.startswith("Running as user")] == []
    return done.stdout


def packets(file: Path, *, show: str = "") -> list[Packet]:
    """Every packet, its layers' fields by name."""
    found = json.loads(tshark(file, "-T", "json", "--no-duplicate-keys", *(["-Y", show] if show else [])))
    return [packet["_source"]["layers"] for packet in found]


def malformed(file: Path) -> int:
    return len(packets(file, show="_ws.malformed || _ws.unreassembled"))


@contextmanager
def captured_disk(folder: Path, file: Path, *, headers_only: bool = False, late: bool = False) -> Iterator[LoopbackVm]:
    """A disk attached to a VM by an encoder, and all of it captured, or what comes after the disk was mounted."""
    (folder / "drive.img").write_bytes(os.urandom(SIZE))
    ours, theirs = socket.socketpair()
    writer = threading.Thread(target=write, args=(ours, file))
    with LoopbackVm(transport="raw") as vm, ours, theirs:
        encoder = RunningEncoder()
        writer.start()
        encoder.start(vm.target, disk=f"disk:{folder}/drive.img")
        if late:
            vm.mount()
        encoder.channel.send(Capture(3, 9, headers_only=headers_only), theirs.fileno())
        theirs.close()
        if not late:
            vm.mount()
        yield vm
        encoder.stop()
        encoder.close()
        writer.join()


def write(connection: socket.socket, path: Path) -> None:
    file = CaptureFile(open_output(str(path), force=False))
    while data := connection.recv(1 << 18):
        file.take(data)
    assert (file.whole, file.dropped) == (True, 0)
    file.close()


def test_a_disk_that_a_vm_uses_is_dissected(tmp_path: Path) -> None:
    file, data = tmp_path / "disk.pcapng", os.urandom(8 * BLOCK)
    with captured_disk(tmp_path, file) as vm:
        vm.read_all()
        vm.write(100, data)
    assert malformed(file) == 0
    (write,) = packets(file, show="scsi_sbc.opcode == 0x2a && usb.urb_type == 'S' && usbms.dCBWSignature")
    assert write["scsi"]["scsi_sbc.rdwr10.lba"] == "100"
    reads = packets(file, show="scsi_sbc.opcode == 0x28 && usbms.dCBWSignature")
    assert sum(int(packet["scsi"]["scsi_sbc.rdwr10.xferlen"]) for packet in reads) >= SIZE // BLOCK
    statuses = packets(file, show="usbms.dCSWStatus")
    assert len(statuses) >= len(reads)
    (raw,) = json.loads(tshark(file, "-Y", f"usb.urb_len == {len(data)} && usb.urb_type == 'S'", "-T", "jsonraw"))
    assert raw["_source"]["layers"]["frame_raw"][0].endswith(data.hex())


def test_every_end_finds_its_beginning(tmp_path: Path) -> None:
    file = tmp_path / "disk.pcapng"
    with captured_disk(tmp_path, file) as vm:
        vm.read_all()
    usb = [packet["usb"] for packet in packets(file)]
    ends = [fields for fields in usb if fields["usb.urb_type"] == "'C'"]
    assert ends
    assert all("usb.request_in" in fields for fields in ends)
    assert {(fields["usb.bus_id"], fields["usb.device_address"]) for fields in usb} == {("3", "9")}
    assert {fields["usb.urb_status"] for fields in ends} <= {"0", "-32"}
    times = [float(packet["frame"]["frame.time_epoch"]) for packet in packets(file)]
    assert times == sorted(times)


def test_a_capture_that_begins_late_knows_the_device(tmp_path: Path) -> None:
    file = tmp_path / "disk.pcapng"
    with captured_disk(tmp_path, file, late=True) as vm:
        vm.read(0, 16)
    assert malformed(file) == 0
    (read,) = packets(file, show="scsi_sbc.opcode == 0x28 && usbms.dCBWSignature")
    assert read["usb"]["usb.bInterfaceClass"] == "0x08"
    comments = packets(file, show="frame.comment")
    assert len(comments) == 6


def test_without_payload_there_is_none(tmp_path: Path) -> None:
    file = tmp_path / "disk.pcapng"
    with captured_disk(tmp_path, file, headers_only=True) as vm:
        vm.read_all()
    assert malformed(file) == 0
    own = packets(file, show="!frame.comment")
    assert {packet["frame"]["frame.cap_len"] for packet in own} == {"64"}
    assert max(int(packet["usb"]["usb.urb_len"]) for packet in own) > BLOCK
    assert any("Setup Data" in packet for packet in own), "setup packets stay"


def test_what_attach_captures_has_the_enumeration(tmp_path: Path) -> None:
    file, image = tmp_path / "disk.pcapng", tmp_path / "drive.img"
    image.write_bytes(os.urandom(SIZE))
    with LoopbackVm(transport="raw") as vm:
        command = [sys.executable, "-m", "usbbridge", "attach", "--foreground", f"disk:{image}", "--vm", vm.target]
        with subprocess.Popen([*command, "--capture", str(file)], stdout=subprocess.DEVNULL) as process:
            vm.mount()
            vm.read(0, 8)
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
    assert malformed(file) == 0
    own = packets(file, show="!frame.comment")
    assert own[0]["usb"]["usb.urb_type"] == "'S'"
    assert "Setup Data" in own[0]
    assert packets(file, show="scsi_sbc.opcode == 0x28")


# ---- isochronous transfers, as a microphone has them

MICROPHONE = Configuration(
    *(1, 0x80, 50, 0),
    (Interface(0, 0, 1, 2, 0), Interface(0, 1, 1, 2, 0, 0, (Endpoint(0x81, TransferType.ISO, 192, 1),))),
)
TABLE = [(0, 0, 192), (-71, 192, 0), (0, 384, 96)]


def iso_file(folder: Path, *, payload: bool = True) -> Path:
    urb, data = Urb(7, TransferType.ISO, 0x81, 1), bytes(range(240)) * 2
    descriptors = device_bytes(DeviceDescriptor(0x0200, 0, 0, 0, 64, 1, 2, 3)) + configuration_bytes(MICROPHONE)
    events = [
        *introduction(descriptors, 1),
        Event(urb, SUBMIT, EINPROGRESS, 576, packets=[(EINPROGRESS, 192 * i, 192) for i in range(3)]),
        Event(urb, COMPLETE, 0, 288, data, packets=TABLE),
        Event(
            Urb(8, TransferType.ISO, 0x01, 1), SUBMIT, EINPROGRESS, 6, b"abcdef", packets=[(-115, 0, 4), (-115, 4, 2)]
        ),
    ]
    blocks = [pcapng.section_header("test"), pcapng.interface("1-2", "a microphone")]
    for event in events:
        parts, length = event.record(Address(1, 2), NOW, payload=payload)
        blocks.append(pcapng.packet(NOW, parts, length))
    (folder / "iso.pcapng").write_bytes(b"".join(blocks))
    return folder / "iso.pcapng"


def test_isochronous_packets_are_dissected(tmp_path: Path) -> None:
    """Wireshark has one name for the header's `numdesc` and `ndesc`."""
    file = iso_file(tmp_path)
    assert malformed(file) == 0
    fields = ("usb.iso.iso_status", "usb.iso.iso_off", "usb.iso.iso_len", "usb.iso.error_count", "usb.iso.numdesc")
    asked = [part for field in fields for part in ("-e", field)]
    begin, end, out = tshark(file, "-Y", "usb.transfer_type == 0", "-T", "fields", *asked).splitlines()
    assert begin.split("\t") == ["-115,-115,-115", "0,192,384", "192,192,192", "0", "3,3"]
    assert end.split("\t") == ["0,-71,0", "0,192,384", "192,0,96", "1", "3,3"]
    assert out.split("\t") == ["-115,-115", "0,4", "4,2", "0", "2,2"]


def test_isochronous_packets_without_payload_are_described(tmp_path: Path) -> None:
    file = iso_file(tmp_path, payload=False)
    assert malformed(file) == 0
    table = tshark(file, "-Y", "usb.transfer_type == 0", "-T", "fields", "-e", "usb.iso.iso_len")
    assert table.splitlines() == ["192,192,192", "192,0,96", "4,2"]


# ---- what becomes of a large transfer, and of missing packets


def test_a_transfer_that_is_too_large_for_a_packet_is_cut_and_taken(tmp_path: Path) -> None:
    size = 1 << 20
    parts, length = Event(Urb(1, TransferType.BULK, 0x81), COMPLETE, 0, size, bytes(size)).record(
        Address(1, 2), NOW, payload=True
    )
    file = tmp_path / "large.pcapng"
    file.write_bytes(pcapng.section_header("t") + pcapng.interface("1", "") + pcapng.packet(NOW, parts, length))
    (packet,) = packets(file)
    assert packet["frame"]["frame.cap_len"] == str(pcapng.MAX_PACKET)
    assert packet["usb"]["usb.urb_len"] == str(size)


def test_packets_that_are_missing_are_counted(tmp_path: Path) -> None:
    parts, length = Event(Urb(1, TransferType.BULK, 0x81), SUBMIT, EINPROGRESS, 512).record(
        Address(1, 2), NOW, payload=True
    )
    file = tmp_path / "gap.pcapng"
    whole = pcapng.section_header("t") + pcapng.interface("1", "") + pcapng.packet(NOW, parts, length, dropped=17)
    file.write_bytes(whole + pcapng.statistics(NOW, 18, 17))
    (packet,) = packets(file)
    assert packet["frame"]["frame.drop_count"] == "17"
