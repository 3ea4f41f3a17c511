"""Bulk streams of a real host controller through the libusb backend: a UAS disk answers commands on streams of theirs.

python -m tests.e2e.checks.bulk_streams BUS-PORT

Where the kernel runs on a controller with streams (QEMU's xHCI) and a UAS device is at a SuperSpeed port of it. Talks
UAS (T10/2095-D, USB Attached SCSI) itself: three INQUIRYs at once, each with its tag as the stream of its status and of
its data, the waiting transfers submitted before the commands.
"""

import os
import select
import sys
import time
from typing import Final

from tests.e2e.checks.common import PATIENCE, expect, fail, report
from tests.machine.usb import DEVICES, node
from usbbridge.backend import libusb
from usbbridge.backend.base import Status, Transfer
from usbbridge.errors import DeviceError
from usbbridge.usb.ch9 import DIR_IN
from usbbridge.usb.descriptors import Configuration

UAS: Final = 0x62
"bInterfaceProtocol."
COMMAND, STATUS, DATA_IN = 0x01, 0x82, 0x83
"QEMU's endpoints for the pipes of those names."
COMMAND_IU, SENSE_IU = 0x01, 0x03
INQUIRY: Final = bytes.fromhex("120000002400").ljust(16, b"\0")
INQUIRY_SIZE: Final = 36
STATUS_SIZE: Final = 128
WANTED: Final = 16
TAGS: Final = (3, 1, 2)


class Disk:
    """The device, and what has ended on it."""

    def __init__(self, bus_port: str) -> None:
        self.device = libusb.open_fd(os.open(node(DEVICES / bus_port), os.O_RDWR), bus_port)
        self.ended: list[tuple[int, int, int, bytes]] = []
        "Endpoint, stream, status and data."

    def submit(self, endpoint: int, length: int, stream: int = 0, data: bytes = b"") -> Transfer:
        transfer: Transfer = self.device.take(length)
        transfer.data[: len(data)] = data
        transfer.on_done, transfer.header = self._done, stream
        if stream:
            status = self.device.submit_bulk_stream(transfer, endpoint, length, stream)
        else:
            status = self.device.submit_bulk(transfer, endpoint, length)
        expect(status == Status.COMPLETED, f"endpoint {endpoint:#04x}, stream {stream} takes no transfer: {status!r}")
        return transfer

    def _done(self, transfer: Transfer) -> None:
        data = bytes(transfer.data[: transfer.actual]) if transfer.endpoint & DIR_IN else b""
        self.ended.append((transfer.endpoint, transfer.header, transfer.status, data))
        self.device.give_back(transfer)

    def wait(self, count: int) -> list[tuple[int, int, int, bytes]]:
        """So many transfers that have ended."""
        poller = select.poll()
        for fd, events in self.device.pollfds():
            poller.register(fd, events)
        deadline = time.monotonic() + PATIENCE
        while len(self.ended) < count:
            expect(time.monotonic() < deadline, f"{len(self.ended)} of {count} transfers have ended: {self.ended}")
            poller.poll(1000)
            self.device.reap()
        ended, self.ended = self.ended, []
        return ended


def command(tag: int) -> bytes:
    """A COMMAND IU (UAS §6.2.2) with an INQUIRY to the first unit."""
    return bytes((COMMAND_IU, 0)) + tag.to_bytes(2, "big") + bytes(4) + bytes(8) + INQUIRY


def inquire(disk: Disk) -> list[str]:
    """What the disk calls itself, asked on three streams at once."""
    for tag in sorted(TAGS):
        disk.submit(STATUS, STATUS_SIZE, tag)
        disk.submit(DATA_IN, INQUIRY_SIZE, tag)
    for tag in TAGS:
        disk.submit(COMMAND, len(command(tag)), data=command(tag))
    ended = disk.wait(3 * len(TAGS))
    expect(all(status == Status.COMPLETED for _, _, status, _ in ended), f"not all completed: {ended}")
    for endpoint, stream, _, data in ended:
        if endpoint == STATUS:
            expect(data[0] == SENSE_IU and int.from_bytes(data[2:4], "big") == stream, f"wrong status: {data.hex()}")
    return [data[8:32].decode() for endpoint, _, _, data in ended if endpoint == DATA_IN]


def cancel(disk: Disk) -> None:
    """Two streams of one endpoint wait; the later one is cancelled, then the other."""
    first, second = disk.submit(DATA_IN, INQUIRY_SIZE, 5), disk.submit(DATA_IN, INQUIRY_SIZE, 6)
    for transfer, stream in ((second, 6), (first, 5)):
        disk.device.cancel(transfer)
        ended = disk.wait(1)
        expect([each[1:3] for each in ended] == [(stream, Status.CANCELLED)], f"another transfer ended: {ended}")


def endpoints_with_streams(configuration: Configuration) -> list[int]:
    setting = next((each for each in configuration.interfaces if each.protocol == UAS), None)
    if setting is None:
        fail("the device has no UAS interface")
    return [endpoint.address for endpoint in setting.endpoints if endpoint.max_streams]


def main() -> None:
    """See the top."""
    disk = Disk(sys.argv[1])
    disk.device.claim()
    configuration = disk.device.configuration()
    assert configuration is not None
    endpoints = endpoints_with_streams(configuration)
    expect(disk.device.alloc_streams(1, endpoints) == 1, "one stream is one")
    disk.device.free_streams(endpoints)
    made = disk.device.alloc_streams(WANTED, endpoints)
    try:
        disk.device.alloc_streams(WANTED, endpoints)
        fail("streams were made twice")
    except DeviceError as error:
        refusal = str(error)
    names = inquire(disk)
    cancel(disk)
    expect(len(set(names)) == 1 and len(names) == len(TAGS), f"the answers differ: {names}")
    disk.device.free_streams(endpoints)
    disk.device.close()
    report(streams=made, endpoints=endpoints, name=names[0], refusal=refusal)


if __name__ == "__main__":
    main()
