"""Plugs `usbbridge.backend.base.Device`s into this machine's own Linux kernel, through vhci-hcd.

    usbip_exporter.py PORT SPEC [PORT SPEC ...]     SPEC as in `disk:PATH[,ro]`

Ports 0 to 7 of the kernel's virtual host controller are high-speed, 8 to 15 SuperSpeed. The controller gets one end of
a socket pair and speaks the usbip protocol on it (Linux, Documentation/usb/usbip_protocol.rst); this speaks the
exporter's side on the other end and turns each URB into a transfer. So the kernel's own USB core and drivers judge the
device. A device is closed when the kernel detaches it; the program ends with the last one.
"""

import errno
import select
import socket
import struct
import sys
from pathlib import Path

from usbbridge.backend.base import Device, Status, Transfer
from usbbridge.backend.emulated.disk import open_disk
from usbbridge.usb.ch9 import DIR_IN, Feature, Recipient, Request, SetupPacket, Speed, TransferType

ATTACH = Path("/sys/devices/platform/vhci_hcd.0/attach")
DEVICE_ID = 1 << 16 | 1  # bus 1, device 1: any will do

BASIC = struct.Struct(">IIIII")  # command, seqnum, devid, direction, ep
SUBMIT = struct.Struct(">IIiii8s")  # transfer_flags, length, start_frame, number_of_packets, interval, setup
UNLINK = struct.Struct(">I24x")  # the seqnum to unlink
REPLY = struct.Struct(">IIIIIiiiii8x")  # ... status, actual_length, start_frame, number_of_packets, error_count
CMD_SUBMIT, CMD_UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4
SHORT_NOT_OK = 1

STATUS = {
    Status.COMPLETED: 0,
    Status.ERROR: -errno.EPROTO,
    Status.TIMED_OUT: -errno.ETIMEDOUT,
    Status.CANCELLED: -errno.ECONNRESET,
    Status.STALL: -errno.EPIPE,
    Status.NO_DEVICE: -errno.ESHUTDOWN,
    Status.OVERFLOW: -errno.EOVERFLOW,
}


class Exporter:
    """One device on one socket."""

    def __init__(self, device: Device, sock: socket.socket) -> None:
        self._device, self._sock = device, sock
        self._in_flight: dict[int, Transfer] = {}

    def fds(self) -> list[int]:
        """What to wait for."""
        return [self._sock.fileno(), *(fd for fd, _ in self._device.pollfds())]

    def ready(self, fd: int) -> bool:
        """One of `fds` is readable. False: the kernel has detached the device, which is closed now."""
        if fd == self._sock.fileno() and not self._receive():
            self._sock.close()
            self._device.close()
            return False
        self._device.reap()
        return True

    def _read(self, view: memoryview) -> bool:
        while view:
            count = self._sock.recv_into(view)
            if not count:
                return False
            view = view[count:]
        return True

    def _receive(self) -> bool:
        raw = bytearray(BASIC.size + SUBMIT.size)
        if not self._read(memoryview(raw)):
            return False
        command, seqnum, _, direction, number = BASIC.unpack_from(raw)
        if command == CMD_UNLINK:
            self._unlink(seqnum, *UNLINK.unpack_from(raw, BASIC.size))
            return True
        flags, length, _, _, _, setup = SUBMIT.unpack_from(raw, BASIC.size)
        transfer = self._device.take(length)
        if not direction and not self._read(transfer.data[:length]):
            return False
        transfer.id, transfer.header, transfer.cancelled = seqnum, (direction, flags), False
        transfer.setup[:], transfer.on_done = setup, self._done
        self._in_flight[seqnum] = transfer
        self._submit(transfer, number | DIR_IN if direction else number, length)
        return True

    def _submit(self, transfer: Transfer, endpoint: int, length: int) -> None:
        if not endpoint & 0x0F:
            setup = SetupPacket.parse(transfer.setup)
            if self._special(setup):
                return self._answer(transfer, 0, 0)
            status = self._device.submit_control(transfer, length)
        elif self._type(endpoint) == TransferType.INTERRUPT:
            status = self._device.submit_interrupt(transfer, endpoint, length)
        else:
            status = self._device.submit_bulk(transfer, endpoint, length)
        return None if status == Status.COMPLETED else self._answer(transfer, STATUS[status], 0)

    def _special(self, setup: SetupPacket) -> bool:
        """Requests that a host carries out with a call of their own."""
        if setup.request_type == Recipient.DEVICE and setup.request == Request.SET_CONFIGURATION:
            self._device.set_configuration(setup.value)
        elif setup.request_type == Recipient.INTERFACE and setup.request == Request.SET_INTERFACE:
            self._device.set_interface(setup.index, setup.value)
        elif (setup.request_type, setup.request, setup.value) == (
            Recipient.ENDPOINT,
            Request.CLEAR_FEATURE,
            Feature.ENDPOINT_HALT,
        ):
            self._device.clear_halt(setup.index)
        else:
            return False
        return True

    def _type(self, address: int) -> TransferType:
        configuration = self._device.configuration()
        assert configuration is not None
        endpoints = (e for interface in configuration.interfaces for e in interface.endpoints)
        return next(e.transfer_type for e in endpoints if e.address == address)

    def _done(self, transfer: Transfer) -> None:
        if transfer.cancelled:  # the kernel has been told already
            self._device.give_back(transfer)
            return
        status = STATUS[Status(transfer.status)]
        if not status and transfer.header[1] & SHORT_NOT_OK and transfer.actual < transfer.length:
            status = -errno.EREMOTEIO
        self._answer(transfer, status, transfer.actual)

    def _answer(self, transfer: Transfer, status: int, actual: int) -> None:
        del self._in_flight[transfer.id]
        direction, _ = transfer.header
        self._sock.sendall(REPLY.pack(RET_SUBMIT, transfer.id, 0, 0, 0, status, actual, 0, 0, 0))
        if direction and actual:
            self._sock.sendall(transfer.data[:actual])
        self._device.give_back(transfer)

    def _unlink(self, seqnum: int, victim: int) -> None:
        transfer = self._in_flight.pop(victim, None)
        if transfer is not None:
            transfer.cancelled = True
            self._device.cancel(transfer)
        status = -errno.ECONNRESET if transfer is not None else 0
        self._sock.sendall(REPLY.pack(RET_UNLINK, seqnum, 0, 0, 0, status, 0, 0, 0, 0))


def plug_in(port: int, spec: str) -> Exporter:
    """Open a disk and attach it to a port of the kernel's virtual controller."""
    device = open_disk(spec, speed=Speed.HIGH if port < 8 else Speed.SUPER)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    kernel_speed = 5 if device.speed is Speed.SUPER else 3  # Linux's enum usb_device_speed
    ATTACH.write_text(f"{port} {theirs.fileno()} {DEVICE_ID} {kernel_speed}")
    theirs.close()
    return Exporter(device, ours)


def main() -> None:
    """See the top."""
    poller, exporters = select.epoll(), {}
    for port, spec in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        exporter = plug_in(int(port), spec)
        for fd in exporter.fds():
            poller.register(fd, select.EPOLLIN)
            exporters[fd] = exporter
    while exporters:
        for fd, _ in poller.poll():
            exporter = exporters.get(fd)
            if exporter and not exporter.ready(fd):
                exporters = {fd: other for fd, other in exporters.items() if other is not exporter}


if __name__ == "__main__":
    main()
