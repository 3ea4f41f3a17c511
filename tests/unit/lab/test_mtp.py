"""The media player: containers, sessions, and files that come and go."""

import struct

import pytest

from tests.unit.lab.usb_host import Host
from tools.lab.devices import mtp, mtp_store, ptp
from tools.lab.devices.mtp import IN, OUT
from tools.lab.devices.mtp_store import CAPACITY, STORAGE, sample
from tools.lab.devices.ptp import ANY, COMMAND, CONTAINER, DATA, OBJECT_INFO, RESPONSE, Format, Operation, Result
from usbbridge.backend.base import Status
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import Speed

SIZE = 5000
FOLDER, README, SAMPLE = 1, 2, 3


class Initiator:
    """The host's side of PTP."""

    def __init__(self, size: int = SIZE) -> None:
        self.host = Host(mtp.create(Speed.HIGH, {"size": str(size)}))
        self._transaction = 0

    def send(self, kind: int, code: int, body: bytes) -> Status | None:
        return self.host.write(OUT, ptp.container(kind, code, self._transaction, body))

    def receive(self, room: int = 1 << 20) -> tuple[int, int, bytes]:
        """Kind, code and body of a container, fetched in transfers of `room` bytes."""
        found = self.host.read(IN, room)
        length, kind, code, transaction = CONTAINER.unpack_from(found)
        assert transaction == self._transaction
        while len(found) < length:
            found += self.host.read(IN, room)
        if not length % 512 and not length % room:
            assert self.host.read(IN, room) == b""
        assert len(found) == length
        return kind, code, found[CONTAINER.size :]

    def run(self, code: int, *given: int, data: bytes | None = None, room: int = 1 << 20) -> tuple[int, bytes, tuple]:
        """Response code, data and the response's parameters of an operation."""
        self._transaction += 1
        assert self.send(COMMAND, code, struct.pack(f"<{len(given)}I", *given)) is Status.COMPLETED
        if data is not None:
            assert self.send(DATA, code, data) is Status.COMPLETED
        kind, answered, body = self.receive(room)
        found = b""
        if kind == DATA:
            assert answered == code
            found = body
            kind, answered, body = self.receive(room)
        assert kind == RESPONSE
        assert self.host.read(IN, 512) is None
        return answered, found, ptp.parameters(body)

    def ok(self, code: int, *given: int, data: bytes | None = None, room: int = 1 << 20) -> tuple[bytes, tuple]:
        result, found, answer = self.run(code, *given, data=data, room=room)
        assert result == Result.OK
        return found, answer

    def handles(self, parent: int = 0, form: int = 0) -> list[int]:
        found, _ = self.ok(Operation.GET_OBJECT_HANDLES, ANY, form, parent)
        return list(struct.unpack_from(f"<{len(found) // 4 - 1}I", found, 4))

    def store(self, name: str, data: bytes, parent: int = ANY) -> int:
        _, answer = self.ok(Operation.SEND_OBJECT_INFO, STORAGE, parent, data=info(name, len(data)))
        self.ok(Operation.SEND_OBJECT, data=data)
        return answer[2]


def info(name: str, size: int, form: int = Format.UNDEFINED) -> bytes:
    return OBJECT_INFO.pack(STORAGE, form, 0, size, *[0] * 11) + ptp.string(name) + ptp.string("") * 3


@pytest.fixture
def fresh():
    made = Initiator()
    yield made
    made.host.device.close()


@pytest.fixture
def initiator(fresh):
    fresh.ok(Operation.OPEN_SESSION, 1)
    return fresh


# ---- sessions


def test_the_device_tells_about_itself_without_a_session(fresh):
    found, _ = fresh.ok(Operation.GET_DEVICE_INFO)
    assert struct.unpack_from("<HIH", found) == (100, 6, 100)
    assert ptp.parse_string(found[8:]) == "microsoft.com: 1.0;"
    assert "Media player".encode("utf-16-le") in found


def test_everything_else_needs_a_session(fresh):
    assert fresh.run(Operation.GET_STORAGE_IDS)[0] == Result.SESSION_NOT_OPEN
    assert fresh.run(Operation.SEND_OBJECT, data=b"x")[0] == Result.SESSION_NOT_OPEN
    fresh.ok(Operation.OPEN_SESSION, 1)
    fresh.ok(Operation.GET_STORAGE_IDS)
    fresh.ok(Operation.CLOSE_SESSION)
    assert fresh.run(Operation.GET_STORAGE_IDS)[0] == Result.SESSION_NOT_OPEN


def test_there_is_one_session(initiator):
    assert initiator.run(Operation.OPEN_SESSION, 2)[0] == Result.SESSION_ALREADY_OPEN
    initiator.ok(Operation.CLOSE_SESSION)
    assert initiator.run(Operation.OPEN_SESSION, 0)[0] == Result.INVALID_PARAMETER


def test_a_reset_ends_the_session_and_keeps_the_files(initiator):
    handle = initiator.store("kept", b"content")
    initiator.host.device.reset()
    initiator.ok(Operation.OPEN_SESSION, 1)
    assert initiator.ok(Operation.GET_OBJECT, handle)[0] == b"content"


# ---- files


def test_the_tree_of_files(initiator):
    assert initiator.handles() == [FOLDER, README, SAMPLE]
    assert initiator.handles(parent=ANY) == [FOLDER, SAMPLE]
    assert initiator.handles(parent=FOLDER) == [README]
    assert initiator.handles(form=Format.TEXT) == [README]
    assert initiator.ok(Operation.GET_NUM_OBJECTS, ANY)[1] == (3,)
    assert initiator.run(Operation.GET_OBJECT_HANDLES, 7)[0] == Result.INVALID_STORAGE
    assert initiator.run(Operation.GET_OBJECT_HANDLES, ANY, 0, SAMPLE)[0] == Result.INVALID_PARENT


@pytest.mark.parametrize("size", [0, 1, 499, 500, 501, 1012, 5000])
@pytest.mark.parametrize("room", [512, 1024, 1 << 20])
def test_a_file_is_fetched_whole_whatever_its_size_and_that_of_transfers(size, room):
    initiator = Initiator(size)
    initiator.ok(Operation.OPEN_SESSION, 1)
    assert initiator.ok(Operation.GET_OBJECT, SAMPLE, room=room)[0] == sample(size)


def test_a_part_of_a_file(initiator):
    found, answer = initiator.ok(Operation.GET_PARTIAL_OBJECT, SAMPLE, 100, 50)
    assert (found, answer) == (sample(SIZE)[100:150], (50,))
    assert initiator.ok(Operation.GET_PARTIAL_OBJECT, SAMPLE, SIZE - 1, 50)[1] == (1,)


def test_a_file_is_sent_described_and_deleted(initiator):
    handle = initiator.store("größer.bin", b"x" * 3000, FOLDER)
    described, _ = initiator.ok(Operation.GET_OBJECT_INFO, handle)
    fields = OBJECT_INFO.unpack_from(described)
    assert (fields[0], fields[1], fields[3], fields[11]) == (STORAGE, Format.UNDEFINED, 3000, FOLDER)
    assert ptp.parse_string(described[OBJECT_INFO.size :]) == "größer.bin"
    assert initiator.ok(Operation.GET_OBJECT, handle)[0] == b"x" * 3000
    initiator.ok(Operation.DELETE_OBJECT, handle)
    assert initiator.run(Operation.GET_OBJECT, handle)[0] == Result.INVALID_HANDLE


def test_data_may_come_in_pieces(initiator):
    initiator.ok(Operation.SEND_OBJECT_INFO, STORAGE, ANY, data=info("pieces", 1012))
    initiator._transaction += 1
    initiator.send(COMMAND, Operation.SEND_OBJECT, b"")
    whole = ptp.container(DATA, Operation.SEND_OBJECT, initiator._transaction, bytes(1012))
    for at in range(0, len(whole), 300):
        assert initiator.host.write(OUT, whole[at : at + 300]) is Status.COMPLETED
    assert initiator.receive()[:2] == (RESPONSE, Result.OK)
    assert initiator.host.write(OUT, b"") is Status.COMPLETED


def test_a_deleted_folder_takes_along_what_is_in_it(initiator):
    initiator.ok(Operation.DELETE_OBJECT, FOLDER)
    assert initiator.handles() == [SAMPLE]
    initiator.ok(Operation.DELETE_OBJECT, ANY)
    assert initiator.handles() == []


def test_what_does_not_fit_is_refused_and_takes_no_room(initiator):
    result, _, _ = initiator.run(Operation.SEND_OBJECT_INFO, STORAGE, ANY, data=info("big", CAPACITY))
    assert result == Result.STORE_FULL
    initiator.ok(Operation.SEND_OBJECT_INFO, STORAGE, ANY, data=info("small", 10))
    free = initiator.host.device.function.store.free
    assert initiator.run(Operation.SEND_OBJECT, data=bytes(free + 11))[0] == Result.STORE_FULL
    initiator.ok(Operation.SEND_OBJECT_INFO, STORAGE, ANY, data=info("after", 10))


def test_data_without_a_description_are_refused(initiator):
    assert initiator.run(Operation.SEND_OBJECT, data=b"x")[0] == Result.NO_VALID_OBJECT_INFO


@pytest.mark.parametrize(
    "broken",
    [b"", bytes(51), info("name", 1)[:55], info("name", 1)[:52] + b"\xff"],
    ids=["empty", "no name", "half a name", "a name longer than all"],
)
def test_a_broken_description_is_refused(initiator, broken):
    assert initiator.run(Operation.SEND_OBJECT_INFO, STORAGE, ANY, data=broken)[0] == Result.INVALID_DATASET


@pytest.mark.parametrize(("storage", "parent", "result"), [(7, ANY, Result.INVALID_STORAGE), (0, 99, 0x2009)])
def test_a_file_needs_a_place(initiator, storage, parent, result):
    assert initiator.run(Operation.SEND_OBJECT_INFO, storage, parent, data=info("x", 1))[0] == result


def test_storage_is_described(initiator):
    found, _ = initiator.ok(Operation.GET_STORAGE_INFO, STORAGE)
    assert struct.unpack_from("<HHHQQ", found)[3] == CAPACITY
    assert initiator.run(Operation.GET_STORAGE_INFO, 7)[0] == Result.INVALID_STORAGE


def test_properties_are_listed_described_and_read(initiator):
    listed, _ = initiator.ok(Operation.GET_OBJECT_PROPS_SUPPORTED, Format.UNDEFINED)
    codes = struct.unpack_from(f"<{len(listed) // 2 - 2}H", listed, 4)
    assert set(codes) == set(ptp.Property)
    for code in codes:
        described, _ = initiator.ok(Operation.GET_OBJECT_PROP_DESC, code, Format.UNDEFINED)
        assert struct.unpack_from("<H", described)[0] == code
        initiator.ok(Operation.GET_OBJECT_PROP_VALUE, SAMPLE, code)
    size, _ = initiator.ok(Operation.GET_OBJECT_PROP_VALUE, SAMPLE, ptp.Property.SIZE)
    assert int.from_bytes(size, "little") == SIZE
    assert initiator.run(Operation.GET_OBJECT_PROP_VALUE, SAMPLE, 0x1234)[0] == Result.INVALID_PROP_CODE
    assert initiator.run(Operation.GET_OBJECT_PROP_DESC, 0x1234)[0] == Result.INVALID_PROP_CODE


@pytest.mark.parametrize("text", ["", "a", "größer", "\N{CAT}.jpg", "x" * 254])
def test_strings_are_read_as_they_were_written(text):
    assert ptp.parse_string(ptp.string(text) + b"what follows") == text


def test_a_name_without_an_end_is_cut(initiator):
    endless = OBJECT_INFO.pack(*[0] * 15) + b"\xff" + "x".encode("utf-16-le") * 255
    _, answer = initiator.ok(Operation.SEND_OBJECT_INFO, STORAGE, ANY, data=endless)
    described, _ = initiator.ok(Operation.GET_OBJECT_INFO, answer[2])
    assert ptp.parse_string(described[OBJECT_INFO.size :]) == "x" * 254


# ---- what a host may get wrong


def test_an_unknown_operation_is_answered(initiator):
    assert initiator.run(0x9999)[0] == Result.OPERATION_NOT_SUPPORTED


@pytest.mark.parametrize(
    "sent",
    [
        b"x",
        ptp.container(DATA, Operation.GET_OBJECT, 1),
        ptp.container(COMMAND, Operation.GET_OBJECT, 1, b"odd"),
        ptp.container(COMMAND, Operation.GET_OBJECT, 1, bytes(24)),
        ptp.container(COMMAND, Operation.GET_OBJECT, 1)[:-1] + b"xx",
    ],
    ids=["a byte", "data", "half a parameter", "six parameters", "another length"],
)
def test_what_is_no_command_stalls(fresh, sent):
    assert fresh.host.write(OUT, sent) is Status.STALL
    fresh.host.device.clear_halt(OUT)
    fresh.ok(Operation.GET_DEVICE_INFO)


@pytest.mark.parametrize(
    "sent",
    [
        ptp.container(DATA, Operation.SEND_OBJECT_INFO, 2),
        ptp.container(COMMAND, Operation.SEND_OBJECT, 2),
        ptp.container(DATA, Operation.SEND_OBJECT, 9),
        CONTAINER.pack(ptp.WHOLE_OBJECT, DATA, Operation.SEND_OBJECT, 2),
        CONTAINER.pack(mtp.MAX_DATA + 1, DATA, Operation.SEND_OBJECT, 2),
        CONTAINER.pack(3, DATA, Operation.SEND_OBJECT, 2),
        ptp.container(DATA, Operation.SEND_OBJECT, 2, b"abc") + b"more",
    ],
    ids=["operation", "kind", "transaction", "no length", "too long", "too short", "more"],
)
def test_data_other_than_announced_stall(initiator, sent):
    initiator._transaction += 1
    initiator.send(COMMAND, Operation.SEND_OBJECT, b"")
    assert initiator.host.write(OUT, sent) is Status.STALL
    initiator.host.device.clear_halt(OUT)
    initiator.ok(Operation.GET_STORAGE_IDS)


def test_a_cancelled_transfer_leaves_nothing_behind(initiator):
    initiator._transaction += 1
    initiator.send(COMMAND, Operation.GET_OBJECT, struct.pack("<I", SAMPLE))
    assert initiator.host.control(0x21, mtp.CANCEL, data=bytes(6)).status is Status.COMPLETED
    assert initiator.host.control(0xA1, mtp.GET_DEVICE_STATUS, data=20).data == bytes.fromhex("04000120")
    assert initiator.host.read(IN, 512) is None
    initiator.ok(Operation.GET_STORAGE_IDS)


def test_a_device_reset_ends_the_session(initiator):
    assert initiator.host.control(0x21, mtp.DEVICE_RESET).status is Status.COMPLETED
    assert initiator.run(Operation.GET_STORAGE_IDS)[0] == Result.SESSION_NOT_OPEN
    assert initiator.host.control(0x21, 0x65).status is Status.STALL


def test_a_command_waits_until_the_last_response_is_fetched(initiator):
    initiator._transaction += 1
    initiator.send(COMMAND, Operation.GET_STORAGE_IDS, b"")
    waiting = initiator.host.submit(OUT, ptp.container(COMMAND, Operation.GET_STORAGE_IDS, 9))
    assert waiting.done is None
    initiator.receive()
    initiator.receive()
    assert waiting.done.status is Status.COMPLETED


@pytest.mark.parametrize("options", [{"size": "-1"}, {"size": "1000000000"}, {"colour": "red"}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(UsageError):
        mtp.create(Speed.HIGH, options)


def test_names_are_counted_so_that_empty_files_fill_the_storage_too():
    store = mtp_store.Store(0)
    before = store.free
    store.announce(ANY, info("empty", 0))
    assert store.free == before - mtp_store.NAME_COST
