"""The exporter's side of the usbip protocol: one backend device on one end of a socket, a kernel on the other.

The kernel's end is vhci-hcd, its virtual host controller; what it asks of the device comes as USBIP_CMD_SUBMIT and
USBIP_CMD_UNLINK (Linux, Documentation/usb/usbip_protocol.rst). Each URB becomes a transfer. So the USB core of Linux
and its drivers judge the device.

The protocol knows no port reset. A kernel begins one, as it begins with any device that it enumerates, by reading the
first 64 or the first 8 bytes of the device descriptor: that is taken for it.
"""

import contextlib
import errno
import socket
import struct
from typing import Final

from usbbridge.backend.base import ISO_FIELDS, ISO_LENGTH, Device, Status, Transfer
from usbbridge.errors import DeviceError, DeviceLostError
from usbbridge.usb.ch9 import DIR_IN, DescriptorType, Feature, Recipient, Request, SetupPacket, TransferType

BASIC: Final = struct.Struct(">IIIII")  # command, seqnum, devid, direction, ep
SUBMIT: Final = struct.Struct(">IIiii8s")  # transfer_flags, length, start_frame, number_of_packets, interval, setup
UNLINK: Final = struct.Struct(">I24x")  # the seqnum to unlink
REPLY: Final = struct.Struct(">IIIIIiiiii8x")  # ... status, actual_length, start_frame, number_of_packets, error_count
PACKET: Final = struct.Struct(">IIIi")  # offset, length, actual_length, status
CMD_SUBMIT, CMD_UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4
SHORT_NOT_OK: Final = 1
"URB_SHORT_NOT_OK in transfer_flags."

STATUS: Final = {
    Status.COMPLETED: 0,
    Status.ERROR: -errno.EPROTO,
    Status.TIMED_OUT: -errno.ETIMEDOUT,
    Status.CANCELLED: -errno.ECONNRESET,
    Status.STALL: -errno.EPIPE,
    Status.NO_DEVICE: -errno.ESHUTDOWN,
    Status.OVERFLOW: -errno.EOVERFLOW,
}

SET_CONFIGURATION: Final = (Recipient.DEVICE, Request.SET_CONFIGURATION)
SET_INTERFACE: Final = (Recipient.INTERFACE, Request.SET_INTERFACE)
CLEAR_FEATURE: Final = (Recipient.ENDPOINT, Request.CLEAR_FEATURE)
"bmRequestType and bRequest of what a host carries out with a call of its own."
GET_DESCRIPTOR: Final = (DIR_IN, Request.GET_DESCRIPTOR)
ENUMERATING: Final = (8, 64)
"wLength of the first read of a device descriptor after a port reset (Linux, drivers/usb/core/hub.c, hub_port_init)."


class Exporter:
    """One device on one socket, both its own from now on."""

    def __init__(self, device: Device, sock: socket.socket) -> None:
        self._device, self._sock = device, sock
        self._in_flight: dict[int, Transfer] = {}
        self._alternates: dict[int, int] = {}
        self._interrupt: set[int] = set()
        "Addresses of interrupt endpoints: an URB on the wire doesn't say whether it is bulk or interrupt."

    @property
    def device(self) -> Device:
        """What is exported."""
        return self._device

    def fds(self) -> list[int]:
        """What to wait for, until `ready` says that it is over."""
        return [self._sock.fileno(), *(fd for fd, _ in self._device.pollfds())]

    def ready(self, fd: int) -> bool:
        """One of `fds` is readable. False: the kernel has detached the device, or it has gone; it is closed now."""
        try:
            going = fd != self._sock.fileno() or self._receive()
            self._device.reap()
            self._device.configuration()  # raises for a device that has gone
        except (DeviceLostError, OSError):
            going = False
        if not going:
            self.close()
        return going

    def close(self) -> None:
        """End both; the kernel takes the end of the socket for the device having been pulled out."""
        self._sock.close()
        self._device.close()

    # ---- from the kernel

    def _read(self, view: memoryview) -> bool:
        while view:
            count = self._sock.recv_into(view, 0, socket.MSG_WAITALL)
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
        flags, length, _, packets, _, setup = SUBMIT.unpack_from(raw, BASIC.size)
        endpoint = number | DIR_IN if direction else number
        if packets > 0:
            return self._receive_iso(seqnum, endpoint, length, packets)
        transfer = self._device.take(length)
        if not direction and not self._read(transfer.data[:length]):
            return False
        self._own(transfer, seqnum, (endpoint, flags))
        transfer.setup[:] = setup
        self._submit(transfer, endpoint, length)
        return True

    def _receive_iso(self, seqnum: int, endpoint: int, length: int, packets: int) -> bool:
        """The data of an OUT transfer, then the packets' descriptors, whose offsets may leave gaps in it."""
        data, table = bytearray(0 if endpoint & DIR_IN else length), bytearray(packets * PACKET.size)
        if not self._read(memoryview(data)) or not self._read(memoryview(table)):
            return False
        wanted = [*PACKET.iter_unpack(table)]
        transfer = self._device.take_iso(packets, max(size for _, size, _, _ in wanted))
        at = 0
        for i, (offset, size, _, _) in enumerate(wanted):
            transfer.iso[i * ISO_FIELDS + ISO_LENGTH] = size
            if data:
                transfer.data[at : at + size] = data[offset : offset + size]
                at += size
        self._own(transfer, seqnum, (endpoint, [offset for offset, _, _, _ in wanted]))
        transfer.on_done = self._iso_done
        status = self._device.submit_iso(transfer, endpoint, packets)
        if status != Status.COMPLETED:
            self._refuse_iso(transfer, status)
        return True

    def _own(self, transfer: Transfer, seqnum: int, header: object) -> None:
        transfer.id, transfer.header, transfer.cancelled = seqnum, header, False
        transfer.on_done = self._done
        self._in_flight[seqnum] = transfer

    def _submit(self, transfer: Transfer, endpoint: int, length: int) -> None:
        if not endpoint & 0x0F:
            setup = SetupPacket.parse(transfer.setup)
            done = self._special(setup)
            if done is not None:
                return self._answer(transfer, STATUS[done], 0)
            status = self._device.submit_control(transfer, length)
        elif endpoint in self._interrupt:
            status = self._device.submit_interrupt(transfer, endpoint, length)
        else:
            status = self._device.submit_bulk(transfer, endpoint, length)
        return None if status == Status.COMPLETED else self._answer(transfer, STATUS[status], 0)

    def _special(self, setup: SetupPacket) -> Status | None:
        """How a request ended that a host carries out with a call of its own; None for any other."""
        request = setup.request_type, setup.request
        try:
            if request == SET_CONFIGURATION:
                self._device.set_configuration(setup.value)
                self._alternates.clear()
                self._list_endpoints()
            elif request == SET_INTERFACE:
                self._device.set_interface(setup.index, setup.value)
                self._alternates[setup.index] = setup.value
                self._list_endpoints()
            elif request == CLEAR_FEATURE and setup.value == Feature.ENDPOINT_HALT:
                self._device.clear_halt(setup.index)
            else:
                self._look_for_a_reset(setup)
                return None
        except DeviceLostError:
            return Status.NO_DEVICE
        except DeviceError:
            return Status.STALL
        return Status.COMPLETED

    def _look_for_a_reset(self, setup: SetupPacket) -> None:
        first = (setup.request_type, setup.request) == GET_DESCRIPTOR and setup.value == DescriptorType.DEVICE << 8
        if first and setup.length in ENUMERATING:
            self._device.reset()

    def _list_endpoints(self) -> None:
        configuration = self._device.configuration()
        self._interrupt = {
            endpoint.address
            for setting in (configuration.interfaces if configuration else ())
            if setting.alternate == self._alternates.get(setting.number, 0)
            for endpoint in setting.endpoints
            if endpoint.transfer_type == TransferType.INTERRUPT
        }

    def _unlink(self, seqnum: int, victim: int) -> None:
        transfer = self._in_flight.pop(victim, None)
        if transfer is not None:
            transfer.cancelled = True
            self._device.cancel(transfer)
        status = -errno.ECONNRESET if transfer is not None else 0
        self._send(REPLY.pack(RET_UNLINK, seqnum, 0, 0, 0, status, 0, 0, 0, 0))

    # ---- to the kernel

    def _send(self, *parts: bytes | memoryview) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has detached: the next read will say so
            self._sock.sendall(b"".join(parts))

    def _done(self, transfer: Transfer) -> None:
        if transfer.cancelled:  # the kernel has been told already
            self._device.give_back(transfer)
            return
        status = STATUS[Status(transfer.status)]
        _, flags = transfer.header
        if not status and flags & SHORT_NOT_OK and transfer.actual < transfer.length:
            status = -errno.EREMOTEIO
        self._answer(transfer, status, transfer.actual)

    def _answer(self, transfer: Transfer, status: int, actual: int) -> None:
        del self._in_flight[transfer.id]
        endpoint, _ = transfer.header
        reply = REPLY.pack(RET_SUBMIT, transfer.id, 0, 0, 0, status, actual, 0, 0, 0)
        self._send(reply, transfer.data[:actual] if endpoint & DIR_IN else b"")
        self._device.give_back(transfer)

    def _iso_done(self, transfer: Transfer) -> None:
        if transfer.cancelled:
            self._device.give_back(transfer)
            return
        if transfer.status != Status.COMPLETED:
            self._refuse_iso(transfer, Status(transfer.status))
            return
        endpoint, offsets = transfer.header
        data, table, errors, moved, at = [], bytearray(), 0, 0, 0
        for i, offset in enumerate(offsets):
            size, actual, status = transfer.iso[i * ISO_FIELDS : (i + 1) * ISO_FIELDS]
            table += PACKET.pack(offset, size, actual, STATUS[Status(status)])
            data.append(transfer.data[at : at + actual])
            errors, moved, at = errors + bool(status), moved + actual, at + size
        self._answer_iso(transfer, 0, moved, errors, b"".join(data) if endpoint & DIR_IN else b"", table)

    def _refuse_iso(self, transfer: Transfer, status: Status) -> None:
        """No packet has moved, for the same reason."""
        _, offsets = transfer.header
        lengths = transfer.iso[ISO_LENGTH : len(offsets) * ISO_FIELDS : ISO_FIELDS]
        table = b"".join(
            PACKET.pack(offset, size, 0, STATUS[status]) for offset, size in zip(offsets, lengths, strict=True)
        )
        self._answer_iso(transfer, STATUS[status], 0, len(offsets), b"", table)

    def _answer_iso(
        self, transfer: Transfer, status: int, moved: int, errors: int, data: bytes, table: bytes | bytearray
    ) -> None:
        del self._in_flight[transfer.id]
        packets = len(table) // PACKET.size
        reply = REPLY.pack(RET_SUBMIT, transfer.id, 0, 0, 0, status, moved, 0, packets, errors)
        self._send(reply, data, bytes(table))
        self._device.give_back(transfer)
