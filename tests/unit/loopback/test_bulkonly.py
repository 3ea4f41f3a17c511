"""The Bulk-Only driver against a device that answers as the test says: stalls, errors, nonsense."""

from collections.abc import Callable

import pytest

from usbbridge.errors import UsbBridgeError
from usbbridge.loopback.bulkonly import CBW, CSW, CSW_SIGNATURE, BulkOnly, Outcome, TransportError
from usbbridge.loopback.bulkonly import mass_storage_interface as find
from usbbridge.loopback.storage import NOT_READY, UNIT_ATTENTION, Disk, ScsiError
from usbbridge.loopback.tasks import Bulk, Control, Job, Reply, Request, Task
from usbbridge.usb.ch9 import SetupPacket
from usbbridge.usb.descriptors import Configuration, Endpoint, Interface
from usbbridge.usbredir.proto import Status

ENDPOINTS = (Endpoint(0x81, 2, 512, 0), Endpoint(0x02, 2, 512, 0))
INTERFACE = Interface(0, 0, 8, 6, 0x50, endpoints=ENDPOINTS)
READ = bytes((0x28, *range(9)))
CLEAR_IN = SetupPacket(0x02, 1, 0, 0x81, 0)
CLEAR_OUT = SetupPacket(0x02, 1, 0, 0x02, 0)
RESET = SetupPacket(0x21, 0xFF, 0, 0, 0)


class Device:
    """Answers each request with the next of its replies; a function makes the reply's data out of the last CBW."""

    def __init__(self, *replies: "Reply | Callable[[bytes], bytes]") -> None:
        self._replies = list(replies)
        self._wrapper = b""
        self.seen: list[Request] = []

    def submit(self, request: Request, done: Callable[[Reply], None], lost: Callable[[UsbBridgeError], None]) -> int:
        self.seen.append(request)
        if isinstance(request, Bulk) and request.endpoint == 0x02 and len(request.data) == CBW.size:
            self._wrapper = bytes(request.data)
        reply = self._replies.pop(0)
        done(reply if isinstance(reply, Reply) else self._filled(request, reply(self._wrapper)))
        return 0

    @staticmethod
    def _filled(request: Request, data: bytes) -> Reply:
        assert isinstance(request, Bulk)
        request.into[: len(data)] = data
        return Reply(Status.SUCCESS, len(data), request.into[: len(data)])

    @property
    def setups(self) -> list[SetupPacket]:
        return [request.setup for request in self.seen if isinstance(request, Control)]

    def run(self, task: Task[Outcome]) -> Outcome:
        jobs: list[Job[Outcome]] = []
        Job(self, task, jobs.append).start()
        return jobs[0].result()


OK = Reply(Status.SUCCESS)
STALL = Reply(Status.STALL)
FAILED_TRANSFER = Reply(Status.IOERROR)


def wrote(count: int) -> Reply:
    return Reply(Status.SUCCESS, count)


def data(content: bytes) -> Callable[[bytes], bytes]:
    return lambda wrapper: content


def status(code: int = 0, residue: int = 0, tag: int = 0, signature: int = CSW_SIGNATURE) -> Callable[[bytes], bytes]:
    """A CSW; `tag` is added to the command's."""

    def fill(wrapper: bytes) -> bytes:
        return CSW.pack(signature, CBW.unpack(wrapper)[1] + tag, residue, code)

    return fill


def read(*replies: Reply | Callable[[bytes], bytes]) -> tuple[Outcome | Exception, Device, bytes]:
    """A read of 8 bytes: how it ended, the device, and what is in the buffer."""
    device, into = Device(*replies), memoryview(bytearray(8))
    try:
        return device.run(BulkOnly(INTERFACE).run(READ, into=into)), device, bytes(into)
    except TransportError as error:
        return error, device, bytes(into)


def test_a_command_is_wrapper_data_and_status() -> None:
    outcome, device, content = read(OK, data(b"contents"), status())
    assert outcome == Outcome(True, 8)
    assert content == b"contents"
    wrapper = device.seen[0]
    assert isinstance(wrapper, Bulk)
    assert CBW.unpack(wrapper.data) == (0x43425355, 1, 8, 0x80, 0, 10, READ.ljust(16, b"\0"))


def test_tags_differ() -> None:
    transport = BulkOnly(INTERFACE)
    for expected in (1, 2):
        device = Device(OK, status())
        device.run(transport.run(bytes(6)))
        wrapper = device.seen[0]
        assert isinstance(wrapper, Bulk)
        assert CBW.unpack(wrapper.data)[1] == expected


def test_a_write_sends_its_data() -> None:
    device = Device(OK, wrote(4), status())
    assert device.run(BulkOnly(INTERFACE).run(bytes(10), data=b"data")) == Outcome(True, 4)


def test_less_data_than_asked_for_is_what_the_residue_says() -> None:
    assert read(OK, data(b"padded!!"), status(residue=3))[0] == Outcome(True, 5)


def test_a_stalled_data_stage_is_cleared_and_the_status_read() -> None:
    outcome, device, _ = read(OK, STALL, OK, status(code=1, residue=8))
    assert outcome == Outcome(False, 0)
    assert device.setups == [CLEAR_IN]


def test_a_stalled_write_clears_the_out_pipe() -> None:
    device = Device(OK, STALL, OK, status(code=1, residue=4))
    assert device.run(BulkOnly(INTERFACE).run(bytes(10), data=b"data")) == Outcome(False, 0)
    assert device.setups == [CLEAR_OUT]


def test_the_status_stage_may_stall_once() -> None:
    outcome, device, _ = read(OK, data(b"contents"), STALL, OK, status())
    assert outcome == Outcome(True, 8)
    assert device.setups == [CLEAR_IN]


@pytest.mark.parametrize(
    "replies",
    [
        (STALL,),
        (OK, FAILED_TRANSFER),
        (OK, data(b"contents"), STALL, OK, STALL),
        (OK, data(b"contents"), data(b"short")),
        (OK, data(b"contents"), status(code=2)),
        (OK, data(b"contents"), status(code=3)),
        (OK, data(b"contents"), status(tag=1)),
        (OK, data(b"contents"), status(signature=0)),
        (OK, data(b"contents"), status(residue=9)),
    ],
    ids=[
        "command stalled",
        "data stage failed",
        "status stalled twice",
        "status too short",
        "phase error",
        "reserved status",
        "another tag",
        "no signature",
        "residue too large",
    ],
)
def test_a_device_that_has_lost_the_thread_is_reset(replies: tuple[Reply, ...]) -> None:
    outcome, device, _ = read(*replies, OK, OK, OK)
    assert isinstance(outcome, TransportError)
    assert device.setups[-3:] == [RESET, CLEAR_IN, CLEAR_OUT]


@pytest.mark.parametrize("failing", [0, 1], ids=["reset", "clear halt"])
def test_a_failed_recovery_says_so(failing: int) -> None:
    outcome, _, _ = read(STALL, *([OK] * failing), STALL)
    assert "refused" in str(outcome) or "could not be cleared" in str(outcome)


def test_a_device_with_one_unit_may_stall_get_max_lun() -> None:
    jobs: list[Job[int]] = []
    Job(Device(STALL), BulkOnly(INTERFACE).max_lun(), jobs.append).start()
    assert jobs[0].result() == 0


def test_only_a_scsi_bulk_only_interface_with_both_pipes_is_taken() -> None:
    others = (
        Interface(0, 0, 3, 1, 1),
        Interface(1, 0, 8, 6, 0x62, endpoints=ENDPOINTS),
        Interface(2, 0, 8, 6, 0x50, endpoints=ENDPOINTS[:1]),
    )
    assert find(Configuration(1, 0x80, 50, 0, (*others, INTERFACE))) is INTERFACE
    assert find(Configuration(1, 0x80, 50, 0, others)) is None


# Unit attentions (the disk driver's side of a failing command)


def sense(key: int) -> tuple[Reply | Callable[[bytes], bytes], ...]:
    """TEST UNIT READY fails; REQUEST SENSE tells why."""
    return (OK, status(code=1), OK, data(bytes((0x70, 0, key)) + bytes(15)), status())


def ready(*replies: Reply | Callable[[bytes], bytes]) -> None:
    jobs: list[Job[None]] = []
    Job(Device(*replies), Disk(BulkOnly(INTERFACE)).wait_ready(), jobs.append).start()
    jobs[0].result()


def test_unit_attentions_are_passed_over() -> None:
    ready(*sense(UNIT_ATTENTION), *sense(UNIT_ATTENTION), OK, status())


@pytest.mark.parametrize(
    "replies", [sense(NOT_READY), sense(UNIT_ATTENTION) * 4], ids=["not ready", "attentions without end"]
)
def test_a_drive_that_does_not_become_ready_is_given_up(replies: tuple[Reply, ...]) -> None:
    with pytest.raises(ScsiError):
        ready(*replies)
