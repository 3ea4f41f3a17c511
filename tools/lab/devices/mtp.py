"""`mtp[,serial=X][,size=BYTES]`: a media player or phone in MTP mode, with a folder and a sample file of that size.

Interface class 6/1/1 (Still Image Capture Device 1.0) with the word MTP in its name, which libmtp looks for, and the
vendor extension "microsoft.com" in its DeviceInfo. Each operation is a command, perhaps data one way, and a response;
what it works on is in `mtp_store.py`. There is one session, and the device has no events of its own.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tools.lab.devices.describe import (
    BULK,
    BULK_PACKET,
    INTERRUPT,
    VENDOR,
    configuration,
    device,
    endpoint,
    interface,
    model,
)
from tools.lab.devices.mtp_info import device_info, property_description, storage_info
from tools.lab.devices.mtp_store import STORAGE, Object, OperationError, Store
from tools.lab.devices.options import check, check_speed
from tools.lab.devices.ptp import (
    COMMAND,
    CONTAINER,
    DATA,
    MAX_PARAMETERS,
    RESPONSE,
    UINT32,
    WHOLE_OBJECT,
    Operation,
    Property,
    Result,
    array,
    container,
    parameters,
    value,
)
from usbbridge.backend.emulated.function import NAK, STALL, Function, Model
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import ClassCode, RequestType, SetupPacket, Speed

PRODUCT: Final = 0x0111
IN, OUT, EVENTS = 0x81, 0x02, 0x83
STILL_IMAGE, PTP = 0x01, 0x01
"bInterfaceSubClass and bInterfaceProtocol."
EVENT_BYTES: Final = 28
CANCEL, DEVICE_RESET, GET_DEVICE_STATUS = 0x64, 0x66, 0x67
"Class requests (Still Image Capture Device 1.0 §5.2)."
MAX_COMMAND: Final = CONTAINER.size + 4 * MAX_PARAMETERS
MAX_DATA: Final = 17 << 20
"Bytes of one data phase: a little more than the storage holds, so that it is the storage that refuses."
WITHOUT_SESSION: Final = (Operation.GET_DEVICE_INFO, Operation.OPEN_SESSION)
MAX_SAMPLE: Final = 8 << 20
DEFAULT_SAMPLE: Final = 300_000

Handler = Callable[[Sequence[int]], bytes | None]


@dataclass(slots=True)
class Incoming:
    """A command whose data phase is under way."""

    operation: int
    transaction: int
    parameters: tuple[int, ...]
    data: bytearray


class Mtp(Function):
    """The player; see the module's text."""

    def __init__(self, speed: Speed, serial: str = "MTP1", sample_size: int = DEFAULT_SAMPLE) -> None:
        self.model = _model(speed, serial)
        self.store = Store(sample_size)
        self._packet = BULK_PACKET[speed]
        self._outgoing: deque[memoryview] = deque()
        self._tell: dict[int, Handler] = {
            Operation.GET_DEVICE_INFO: lambda given: device_info(serial, [*self._tell, *self._take]),
            Operation.OPEN_SESSION: self._open_session,
            Operation.CLOSE_SESSION: self._close_session,
            Operation.GET_STORAGE_IDS: lambda given: array((STORAGE,), UINT32),
            Operation.GET_STORAGE_INFO: lambda given: storage_info(self.store, given[0]),
            Operation.GET_NUM_OBJECTS: self._count,
            Operation.GET_OBJECT_HANDLES: lambda given: array(self.store.handles(*given[:3]), UINT32),
            Operation.GET_OBJECT_INFO: lambda given: self.store.get(given[0]).info(),
            Operation.GET_OBJECT: lambda given: self.store.get(given[0]).data,
            Operation.GET_PARTIAL_OBJECT: self._partial,
            Operation.DELETE_OBJECT: self._delete,
            Operation.GET_OBJECT_PROPS_SUPPORTED: lambda given: array(Property),
            Operation.GET_OBJECT_PROP_DESC: lambda given: property_description(given[0]),
            Operation.GET_OBJECT_PROP_VALUE: self._property,
        }
        self._take: dict[int, Callable[[Incoming], None]] = {
            Operation.SEND_OBJECT_INFO: self._announce,
            Operation.SEND_OBJECT: self._fill,
        }
        self.restart()

    def restart(self) -> None:
        """What is stored is kept."""
        self._session = 0
        self._announced: Object | None = None
        self._answer: tuple[int, ...] = ()
        self._abandon()

    def _abandon(self) -> None:
        self._incoming: Incoming | None = None
        self._outgoing.clear()

    def select(self, number: int, alternate: int) -> None:
        self._abandon()

    def close(self) -> None:
        """Nothing is held."""

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        if setup.kind is not RequestType.CLASS or setup.index != 0:
            return STALL
        if setup.request == GET_DEVICE_STATUS and len(data) >= 4:
            data[:4] = (4).to_bytes(2, "little") + Result.OK.to_bytes(2, "little")
            return 4
        if setup.request == CANCEL:
            self._abandon()
        elif setup.request == DEVICE_RESET:
            self.restart()
        else:
            return STALL
        return len(data)

    # ---- OUT endpoint

    def receive(self, endpoint: int, data: memoryview) -> int:
        if not len(data):  # ends a data phase whose length says so, too
            return 0
        if self._outgoing:
            return NAK
        try:
            if self._incoming is None:
                self._command(data)
            else:
                self._more(self._incoming, data)
        except ValueError:  # no container, or another one than was due
            self._abandon()
            return STALL
        return len(data)

    def _command(self, data: memoryview) -> None:
        if not CONTAINER.size <= len(data) <= MAX_COMMAND:
            raise ValueError
        length, kind, code, transaction = CONTAINER.unpack_from(data)
        if length != len(data) or kind != COMMAND:
            raise ValueError
        given = parameters(data[CONTAINER.size :])
        if code in self._take:
            self._incoming = Incoming(code, transaction, given, bytearray())
        else:
            padded = (*given, *(0,) * (MAX_PARAMETERS - len(given)))
            self._carry_out(code, transaction, lambda: self._tell.get(code, _refuse)(padded))

    def _more(self, incoming: Incoming, data: memoryview) -> None:
        incoming.data += data
        if len(incoming.data) < CONTAINER.size:
            return
        length, kind, code, transaction = CONTAINER.unpack_from(incoming.data)
        expected = kind == DATA and (code, transaction) == (incoming.operation, incoming.transaction)
        if not expected or len(incoming.data) > length or length == WHOLE_OBJECT or length > MAX_DATA:
            raise ValueError
        if len(incoming.data) == length:
            self._incoming = None
            del incoming.data[: CONTAINER.size]
            self._carry_out(code, transaction, lambda: self._take[code](incoming))

    # ---- operations

    def _carry_out(self, code: int, transaction: int, call: Callable[[], bytes | None]) -> None:
        """Call what makes the data, if there are any, and queue that and the response."""
        self._answer, data = (), None
        try:
            if not self._session and code not in WITHOUT_SESSION:
                raise OperationError(Result.SESSION_NOT_OPEN)
            data, result = call(), Result.OK
        except OperationError as error:
            result = error.result
        if data is not None:
            self._queue(container(DATA, code, transaction, data))
        self._respond(transaction, result)

    def _open_session(self, given: Sequence[int]) -> None:
        if not given[0]:
            raise OperationError(Result.INVALID_PARAMETER)
        if self._session:
            raise OperationError(Result.SESSION_ALREADY_OPEN)
        self._session = given[0]

    def _close_session(self, given: Sequence[int]) -> None:
        self._session, self._announced = 0, None

    def _count(self, given: Sequence[int]) -> None:
        self._answer = (len(self.store.handles(*given[:3])),)

    def _partial(self, given: Sequence[int]) -> bytes:
        handle, offset, size = given[:3]
        found = self.store.get(handle).data[offset : offset + size]
        self._answer = (len(found),)
        return found

    def _delete(self, given: Sequence[int]) -> None:
        self._announced = None
        self.store.delete(given[0])

    def _property(self, given: Sequence[int]) -> bytes:
        target = self.store.get(given[0])
        if given[1] not in set(Property):
            raise OperationError(Result.INVALID_PROP_CODE)
        return value(*target.property(Property(given[1])))

    def _announce(self, incoming: Incoming) -> None:
        storage, parent = (*incoming.parameters, 0, 0)[:2]
        if storage not in (0, STORAGE):
            raise OperationError(Result.INVALID_STORAGE)
        made = self._announced = self.store.announce(parent, bytes(incoming.data))
        self._answer = (STORAGE, parent, made.handle)

    def _fill(self, incoming: Incoming) -> None:
        target, self._announced = self._announced, None
        if target is None:
            raise OperationError(Result.NO_VALID_OBJECT_INFO)
        self.store.fill(target, bytes(incoming.data))

    # ---- IN endpoint

    def _respond(self, transaction: int, result: Result) -> None:
        body = b"".join(number.to_bytes(4, "little") for number in self._answer)
        self._queue(container(RESPONSE, result, transaction, body))

    def _queue(self, message: bytes) -> None:
        """A container; where no packet of it would be short, an empty one ends it."""
        self._outgoing.append(memoryview(message))
        if not len(message) % self._packet:
            self._outgoing.append(memoryview(b""))

    def send(self, endpoint: int, data: memoryview) -> int:
        if endpoint == EVENTS or not self._outgoing:
            return NAK
        message = self._outgoing[0]
        size = min(len(data), len(message))
        data[:size] = message[:size]
        if size < len(message):
            self._outgoing[0] = message[size:]
            return size
        self._outgoing.popleft()
        if size < len(data) and self._outgoing and not len(self._outgoing[0]):
            self._outgoing.popleft()  # this transfer has room for it
        return size


def _refuse(given: Sequence[int]) -> None:
    raise OperationError(Result.OPERATION_NOT_SUPPORTED)


def _model(speed: Speed, serial: str) -> Model:
    size = BULK_PACKET[speed]
    ends = [
        endpoint(IN, BULK, size),
        endpoint(OUT, BULK, size),
        endpoint(EVENTS, INTERRUPT, EVENT_BYTES, 8 if speed is Speed.HIGH else 16),
    ]
    return model(
        device(VENDOR, PRODUCT),
        configuration(interface(0, ClassCode.IMAGE, STILL_IMAGE, PTP, endpoints=ends, i_interface=4)),
        strings=("usbbridge", "Media player", serial, "MTP"),
        speed=speed,
    )


def create(speed: Speed, options: dict[str, str]) -> Function:
    """Options: serial, size. Raises UsageError."""
    check("media player", options, "serial", "size")
    check_speed("media player", speed, Speed.FULL, Speed.HIGH)
    text = options.get("size", str(DEFAULT_SAMPLE))
    if not text.isdecimal() or int(text) > MAX_SAMPLE:
        raise UsageError(f"size={text}: a number of bytes up to {MAX_SAMPLE} is wanted")
    return Mtp(speed, options.get("serial", "MTP1"), int(text))
