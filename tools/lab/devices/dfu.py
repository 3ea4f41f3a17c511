"""The two faces of USB Device Firmware Upgrade 1.1: the interface of a running application, and the boot loader's."""

import struct
from enum import IntEnum
from typing import Final

from tools.lab.devices.describe import VENDOR, configuration, descriptor, device, interface, model
from usbbridge.backend.emulated.function import STALL, Function, Model
from usbbridge.usb.ch9 import ClassCode, RequestType, SetupPacket, Speed

SUBCLASS, RUNTIME, DFU_MODE = 0x01, 0x01, 0x02
"bInterfaceSubClass, and bInterfaceProtocol of the two (§4.1.2, §4.2.3)."
FUNCTIONAL: Final = 0x21
CAN_DOWNLOAD, CAN_UPLOAD = 0x01, 0x02
"bmAttributes (§4.1.3). Not manifestation tolerant, and does not detach by itself: both wait for a reset."
DETACH_MILLISECONDS: Final = 1000
TRANSFER_BYTES: Final = 1024
"wTransferSize."
MAX_FIRMWARE: Final = 256 << 10
"Bytes, as in a middling microcontroller."
STATUS: Final = struct.Struct("<B3sBB")
"bStatus, bwPollTimeout, bState, iString (§6.1.2)."
STATUS_OK, ERROR_ADDRESS, ERROR_STALLED = 0x00, 0x08, 0x0F


class DfuRequest(IntEnum):
    """bRequest (table 3.2)."""

    DETACH = 0
    DNLOAD = 1
    UPLOAD = 2
    GETSTATUS = 3
    CLRSTATUS = 4
    GETSTATE = 5
    ABORT = 6


class State(IntEnum):
    """bState (§6.1.2); those in which a device is busy are left out, as this one never is."""

    APP_IDLE = 0
    APP_DETACH = 1
    IDLE = 2
    DNLOAD_SYNC = 3
    DNLOAD_IDLE = 5
    MANIFEST_SYNC = 6
    MANIFEST_WAIT_RESET = 8
    UPLOAD_IDLE = 9
    ERROR = 10


def dfu_interface(protocol: int) -> bytes:
    """Interface 0, without endpoints, and its functional descriptor (§4.1.3)."""
    body = struct.pack("<BHHH", CAN_DOWNLOAD | CAN_UPLOAD, DETACH_MILLISECONDS, TRANSFER_BYTES, 0x0110)
    return interface(0, ClassCode.APPLICATION_SPECIFIC, SUBCLASS, protocol, extra=descriptor(FUNCTIONAL, body))


class _Dfu(Function):
    """What both have."""

    def __init__(self, product: int, name: str, serial: str, protocol: int, speed: Speed) -> None:
        self.model = _model(product, name, serial, protocol, speed)
        self.state = State.IDLE if protocol == DFU_MODE else State.APP_IDLE
        self.status = STATUS_OK
        self.detached = False
        "Whether a reset has come that makes a device leave this face for the other."

    def select(self, number: int, alternate: int) -> None:
        """There is one setting only."""

    def close(self) -> None:
        """Nothing is held."""

    def receive(self, endpoint: int, data: memoryview) -> int:
        """There is no endpoint."""
        return STALL

    def send(self, endpoint: int, data: memoryview) -> int:
        """There is no endpoint."""
        return STALL

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.kind is not RequestType.CLASS or setup.index != 0:
            return STALL
        if setup.request == DfuRequest.GETSTATUS:
            return _put(data, STATUS.pack(self.status, bytes(3), self._next(), 0))
        if setup.request == DfuRequest.GETSTATE:
            return _put(data, bytes((self.state,)))
        return self.request(setup, data)

    def _next(self) -> State:
        """The state that GETSTATUS tells of is the one it leads to."""
        after = {State.DNLOAD_SYNC: State.DNLOAD_IDLE, State.MANIFEST_SYNC: State.MANIFEST_WAIT_RESET}
        self.state = after.get(self.state, self.state)
        return self.state

    def request(self, setup: SetupPacket, data: memoryview) -> int:
        """What the two faces don't have in common."""
        return STALL


class Runtime(_Dfu):
    """The application's interface: DETACH and a reset, and the device becomes its boot loader."""

    def __init__(self, speed: Speed) -> None:
        super().__init__(0, "DFU", "", RUNTIME, speed)

    def reset(self) -> None:
        self.detached = self.state is State.APP_DETACH
        self.restart()

    def restart(self) -> None:
        self.state = State.APP_IDLE

    def request(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.request != DfuRequest.DETACH:
            return STALL
        self.state = State.APP_DETACH
        return 0


class DfuMode(_Dfu):
    """The boot loader's interface: firmware is read and written, in blocks."""

    def __init__(self, product: int, name: str, serial: str, firmware: bytearray, speed: Speed) -> None:
        super().__init__(product, name, serial, DFU_MODE, speed)
        self.firmware = firmware
        self._block = 0
        self._incoming = bytearray()

    def reset(self) -> None:
        self.detached = self.state is State.MANIFEST_WAIT_RESET
        self.restart()

    def restart(self) -> None:
        self.state, self.status = State.IDLE, STATUS_OK

    def request(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.request == DfuRequest.DNLOAD and self.state in (State.IDLE, State.DNLOAD_IDLE):
            return self._download(setup.value, data)
        if setup.request == DfuRequest.UPLOAD and self.state in (State.IDLE, State.UPLOAD_IDLE):
            return self._upload(data)
        if setup.request == DfuRequest.CLRSTATUS or (setup.request == DfuRequest.ABORT and self.state != State.ERROR):
            self.state, self.status = State.IDLE, STATUS_OK
            return 0
        return self._fail(ERROR_STALLED)

    def _fail(self, status: int) -> int:
        self.state, self.status = State.ERROR, status
        return STALL

    def _download(self, block: int, data: memoryview) -> int:
        if self.state is State.IDLE:
            self._block, self._incoming = block, bytearray()
        if not len(data):
            return self._manifest()
        if block != self._block or len(data) > TRANSFER_BYTES or len(self._incoming) + len(data) > MAX_FIRMWARE:
            return self._fail(ERROR_ADDRESS)
        self._incoming += data
        self._block = block + 1 & 0xFFFF
        self.state = State.DNLOAD_SYNC
        return len(data)

    def _manifest(self) -> int:
        if self.state is State.IDLE:
            return self._fail(ERROR_STALLED)
        self.firmware[:] = self._incoming
        self.state = State.MANIFEST_SYNC
        return 0

    def _upload(self, data: memoryview) -> int:
        """Each block is what follows the one before; one that isn't full is the last (§6.2)."""
        if self.state is State.IDLE:
            self._block = 0
        begin = self._block * TRANSFER_BYTES
        size = _put(data[:TRANSFER_BYTES], bytes(self.firmware[begin : begin + TRANSFER_BYTES]))
        self._block += 1
        self.state = State.UPLOAD_IDLE if size == TRANSFER_BYTES else State.IDLE
        return size


def _put(data: memoryview, found: bytes) -> int:
    size = min(len(found), len(data))
    data[:size] = found[:size]
    return size


def _model(product: int, name: str, serial: str, protocol: int, speed: Speed) -> Model:
    return model(
        device(VENDOR, product),
        configuration(dfu_interface(protocol)),
        strings=("usbbridge", name, serial),
        speed=speed,
    )
