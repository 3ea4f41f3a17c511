"""A host for devices of the factory: transfers to a function through the engine that emulated devices run on."""

from dataclasses import dataclass

from usbbridge.backend.base import Status, Transfer
from usbbridge.backend.emulated.device import EmulatedDevice
from usbbridge.backend.emulated.function import Function
from usbbridge.usb.ch9 import DIR_IN, SetupPacket, TransferType


@dataclass
class Done:
    """How a transfer ended."""

    status: Status
    data: bytes
    "What an IN transfer has brought."


class Pending:
    """A transfer that has been submitted."""

    def __init__(self, device: EmulatedDevice, transfer: Transfer) -> None:
        self._device, self._done = device, None
        self._transfer = transfer
        transfer.on_done = self._finished

    def _finished(self, transfer: Transfer) -> None:
        self._done = Done(Status(transfer.status), bytes(transfer.data[: transfer.actual]))
        self._device.give_back(transfer)

    @property
    def done(self) -> Done | None:
        """None while it waits."""
        self._device.reap()
        return self._done

    def cancel(self) -> None:
        self._device.cancel(self._transfer)
        self._device.reap()


class Host:
    """Makes transfers one by one."""

    def __init__(self, function: Function) -> None:
        self.device = EmulatedDevice(function, "device")

    def submit(self, endpoint: int, data: bytes | int) -> Pending:
        """A bulk or interrupt transfer: of these bytes to the device, or of so many from it."""
        size = data if isinstance(data, int) else len(data)
        transfer = self.device.take(size)
        if isinstance(data, bytes):
            transfer.data[:size] = data
        pending = Pending(self.device, transfer)
        interrupt = self._type(endpoint) is TransferType.INTERRUPT
        submit = self.device.submit_interrupt if interrupt else self.device.submit_bulk
        assert submit(transfer, endpoint, size) is Status.COMPLETED
        return pending

    def _type(self, address: int) -> TransferType:
        configuration = self.device.configuration()
        assert configuration is not None
        ends = (end for interface in configuration.interfaces for end in interface.endpoints)
        return next(end.transfer_type for end in ends if end.address == address)

    def write(self, endpoint: int, data: bytes) -> Status | None:
        """None: it waits."""
        done = self.submit(endpoint, data).done
        return done.status if done else None

    def read(self, endpoint: int, size: int) -> bytes | None:
        """None when there is nothing to read."""
        pending = self.submit(endpoint | DIR_IN, size)
        done = pending.done
        if done is None:
            pending.cancel()
            return None
        assert done.status is Status.COMPLETED
        return done.data

    def control(self, kind: int, request: int, value: int = 0, index: int = 0, data: bytes | int = 0) -> Done:
        """A control transfer, with these bytes to the device or with room for so many from it."""
        size = data if isinstance(data, int) else len(data)
        transfer = self.device.take(size)
        transfer.setup[:] = SetupPacket(kind, request, value, index, size).pack()
        if isinstance(data, bytes):
            transfer.data[:size] = data
        pending = Pending(self.device, transfer)
        assert self.device.submit_control(transfer, size) is Status.COMPLETED
        assert pending.done is not None
        return pending.done
