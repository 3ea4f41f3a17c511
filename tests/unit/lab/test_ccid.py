"""The card reader, through the engine of emulated devices."""

import os
import struct

import pytest

from tests.unit.lab.usb_host import Host
from tools.lab.devices import ccid
from tools.lab.devices.card import AID, ATR, NOTES_SIZE, Card
from usbbridge.backend.base import Status
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import Speed

OUT, IN, NOTIFY = 0x01, 0x82, 0x83
HEADER = struct.Struct("<BIBB3s")
POWER_ON, POWER_OFF, GET_SLOT_STATUS, TRANSFER, ESCAPE = 0x62, 0x63, 0x65, 0x6F, 0x6B
SET_PARAMETERS, GET_PARAMETERS, RESET_PARAMETERS, CLOCK, ABORT = 0x61, 0x6C, 0x6D, 0x6E, 0x72
DATA_BLOCK, SLOT_STATUS, PARAMETERS = 0x80, 0x81, 0x82
ACTIVE, INACTIVE, ABSENT, FAILED = 0, 1, 2, 0x40
MUTE = 0xFE

SELECT_APPLICATION = bytes((0x00, 0xA4, 0x04, 0x00, len(AID))) + AID + b"\0"
LEAVE = bytes.fromhex("80ee0000")


class ReaderHost(Host):
    """A host whose reader is plugged in."""

    def __init__(self, speed: Speed = Speed.HIGH, **options: str) -> None:
        self.reader = ccid.create(speed, options)
        super().__init__(self.reader)
        self._sequence = 0

    def ask(self, kind: int, data: bytes = b"", *, own: bytes = bytes(3), slot: int = 0) -> tuple[int, int, int, bytes]:
        """Type, status, error and data of the response to a message."""
        self._sequence = (self._sequence + 1) % 256
        message = HEADER.pack(kind, len(data), slot, self._sequence, own) + data
        assert self.write(OUT, message) is Status.COMPLETED
        answer = self.read(IN, ccid.MAX_MESSAGE)
        assert answer is not None
        answered, length, where, sequence, about = HEADER.unpack_from(answer)
        assert (length, where, sequence) == (len(answer) - HEADER.size, slot, self._sequence)
        return answered, about[0], about[1], answer[HEADER.size :]

    def transmit(self, apdu: bytes) -> bytes:
        kind, status, _, data = self.ask(TRANSFER, apdu)
        assert (kind, status) == (DATA_BLOCK, ACTIVE)
        return data


@pytest.fixture
def host() -> ReaderHost:
    return ReaderHost()


@pytest.fixture
def powered(host: ReaderHost) -> ReaderHost:
    assert host.ask(POWER_ON) == (DATA_BLOCK, ACTIVE, 0, ATR)
    return host


@pytest.mark.parametrize(("speed", "packet"), [(Speed.FULL, 64), (Speed.HIGH, 512)])
def test_its_class_descriptor_tells_of_extended_apdus(speed, packet):
    host = ReaderHost(speed)
    [interface] = host.device.configuration().interfaces
    assert (interface.class_, interface.subclass, interface.protocol) == (0x0B, 0, 0)
    assert [(end.address, end.packet_bytes) for end in interface.endpoints] == [
        (OUT, packet),
        (IN, packet),
        (NOTIFY, 8),
    ]
    described = host.control(0x80, 6, 0x0200, 0, 255).data[18:72]
    assert described[:6] == bytes((54, 0x21, 0x10, 0x01, 0, 7))
    features, longest = struct.unpack_from("<II", described, 40)
    assert features & 0x0007_0000 == 0x0004_0000
    assert longest == ccid.MAX_MESSAGE


def test_it_tells_of_its_card_once_it_is_configured(host):
    assert host.read(NOTIFY, 8) == b"\x50\x03"
    assert host.read(NOTIFY, 8) is None
    assert ReaderHost(card="no").read(NOTIFY, 8) is None


def test_the_card_is_powered_and_unpowered(host):
    assert host.ask(GET_SLOT_STATUS) == (SLOT_STATUS, INACTIVE, 0, b"")
    assert host.ask(POWER_ON) == (DATA_BLOCK, ACTIVE, 0, ATR)
    assert host.ask(GET_SLOT_STATUS) == (SLOT_STATUS, ACTIVE, 0, b"")
    assert host.ask(POWER_OFF) == (SLOT_STATUS, INACTIVE, 0, b"")
    assert host.ask(TRANSFER, b"\0\x84\0\0\x08") == (DATA_BLOCK, INACTIVE | FAILED, MUTE, b"")


def test_without_a_card_none_answers():
    host = ReaderHost(card="no")
    assert host.ask(GET_SLOT_STATUS) == (SLOT_STATUS, ABSENT, 0, b"")
    assert host.ask(POWER_ON) == (DATA_BLOCK, ABSENT | FAILED, MUTE, b"")


def test_a_card_is_put_in_and_pulled_out():
    host = ReaderHost(card="no")
    waiting = host.submit(NOTIFY, 8)
    assert waiting.done is None
    host.reader.insert(Card())
    assert waiting.done.data == b"\x50\x03"
    assert host.ask(POWER_ON)[1] == ACTIVE
    waiting = host.submit(NOTIFY, 8)
    host.reader.remove()
    assert waiting.done.data == b"\x50\x02"
    assert host.ask(GET_SLOT_STATUS)[1] == ABSENT


def test_a_card_that_leaves_is_back_when_its_absence_was_seen(powered):
    host = powered
    assert host.read(NOTIFY, 8) == b"\x50\x03"
    assert host.transmit(LEAVE) == b"\x90\0"
    assert host.read(NOTIFY, 8) == b"\x50\x02"
    assert host.ask(POWER_ON)[2] == MUTE
    assert host.read(NOTIFY, 8) is None
    assert host.ask(GET_SLOT_STATUS)[1] == ABSENT
    assert host.read(NOTIFY, 8) == b"\x50\x03"
    assert host.ask(GET_SLOT_STATUS)[1] == INACTIVE
    assert host.ask(POWER_ON)[3] == ATR


def test_a_long_apdu_and_a_long_response_in_transfers_of_any_size(powered):
    powered.transmit(SELECT_APPLICATION)
    powered.transmit(bytes.fromhex("00a4020c020002"))
    notes = os.urandom(NOTES_SIZE)
    apdu = bytes.fromhex("00d6000000") + len(notes).to_bytes(2) + notes
    message = HEADER.pack(TRANSFER, len(apdu), 0, 9, bytes(3)) + apdu
    for start in range(0, len(message), 512):
        assert powered.write(OUT, message[start : start + 512]) is Status.COMPLETED
    assert powered.read(IN, 512)[HEADER.size :] == b"\x90\0"
    powered.write(OUT, HEADER.pack(TRANSFER, 7, 0, 10, bytes(3)) + bytes.fromhex("00b00000000000"))
    parts = [powered.read(IN, 512) for _ in range(5)]
    assert b"".join(parts)[HEADER.size :] == notes + b"\x90\0"
    assert powered.read(IN, 512) is None


def test_the_next_message_waits_until_the_response_was_read(powered):
    powered.write(OUT, HEADER.pack(GET_SLOT_STATUS, 0, 0, 1, bytes(3)))
    waiting = powered.submit(OUT, HEADER.pack(GET_SLOT_STATUS, 0, 0, 2, bytes(3)))
    assert waiting.done is None
    assert powered.read(IN, 64)[6] == 1
    assert waiting.done.status is Status.COMPLETED
    assert powered.read(IN, 64)[6] == 2


@pytest.mark.parametrize(
    ("kind", "data", "own", "slot", "error"),
    [
        (ESCAPE, b"x", bytes(3), 0, 0),
        (0xFF, b"", bytes(3), 0, 0),
        (POWER_ON, b"", bytes(3), 1, 5),
        (TRANSFER, b"x", b"\0\1\0", 0, 8),
        (SET_PARAMETERS, bytes(5), b"\0\0\0", 0, 7),
        (SET_PARAMETERS, bytes(5), b"\1\0\0", 0, 7),
    ],
)
def test_messages_that_are_refused_name_the_byte_that_is_wrong(powered, kind, data, own, slot, error):
    assert powered.ask(kind, data, own=own, slot=slot)[1:3] == (ACTIVE | FAILED, error)


def test_a_message_that_announces_too_much_is_refused(powered):
    powered.write(OUT, HEADER.pack(TRANSFER, 0xFFFFFFFF, 0, 1, bytes(3)))
    answer = powered.read(IN, 64)
    assert (answer[0], answer[7], answer[8]) == (SLOT_STATUS, ACTIVE | FAILED, 1)
    assert powered.ask(GET_SLOT_STATUS)[1] == ACTIVE


def test_a_message_that_ends_too_early_is_refused(powered):
    powered.write(OUT, b"x")  # not even a header: nobody to answer
    powered.write(OUT, HEADER.pack(TRANSFER, 600, 0, 1, bytes(3)) + bytes(600 - 1))
    assert powered.read(IN, 64)[7:9] == bytes((ACTIVE | FAILED, 1))
    assert powered.ask(GET_SLOT_STATUS)[1] == ACTIVE


def test_a_message_longer_than_the_longest_is_not_gathered(powered):
    for _ in range(ccid.MAX_MESSAGE // 512 + 1):
        assert (
            powered.write(OUT, HEADER.pack(TRANSFER, 0xFFFFFFFF, 0, 1, bytes(3)).ljust(512, b"x")) is Status.COMPLETED
        )
    assert powered.read(IN, 64)[7:9] == bytes((ACTIVE | FAILED, 1))


def test_a_message_with_more_data_than_it_says_is_refused(powered):
    powered.write(OUT, HEADER.pack(TRANSFER, 1, 0, 1, bytes(3)) + b"xx")
    assert powered.read(IN, 64)[7:9] == bytes((ACTIVE | FAILED, 1))


def test_parameters_are_kept_until_they_are_reset(powered):
    first = powered.ask(GET_PARAMETERS)[3]
    assert len(first) == 7
    changed = bytes.fromhex("1311004500fe00")
    assert powered.ask(SET_PARAMETERS, changed, own=b"\1\0\0") == (PARAMETERS, ACTIVE, 0, changed)
    assert powered.ask(GET_PARAMETERS)[3] == changed
    assert powered.ask(RESET_PARAMETERS)[3] == first


@pytest.mark.parametrize("kind", [CLOCK, ABORT])
def test_messages_that_have_nothing_to_do_are_answered(powered, kind):
    assert powered.ask(kind) == (SLOT_STATUS, ACTIVE, 0, b"")


def test_class_requests(powered):
    assert powered.control(0xA1, 0x02, data=4).data == (4000).to_bytes(4, "little")
    assert powered.control(0xA1, 0x03, data=4).data == (10752).to_bytes(4, "little")
    assert powered.control(0xA1, 0x04, data=4).status is Status.STALL
    assert powered.control(0xA1, 0x02, index=1, data=4).status is Status.STALL
    powered.write(OUT, HEADER.pack(GET_SLOT_STATUS, 0, 0, 1, bytes(3)))
    assert powered.control(0x21, 0x01, value=0x0100).status is Status.COMPLETED
    assert powered.read(IN, 64) is None


def test_a_port_reset_takes_the_power_away(powered):
    powered.read(NOTIFY, 8)
    powered.device.reset()
    assert powered.read(NOTIFY, 8) == b"\x50\x03"
    assert powered.ask(GET_SLOT_STATUS)[1] == INACTIVE


@pytest.mark.parametrize(
    ("speed", "options"), [(Speed.LOW, {}), (Speed.HIGH, {"card": "maybe"}), (Speed.HIGH, {"x": ""})]
)
def test_a_reader_that_cannot_be(speed, options):
    with pytest.raises(UsageError):
        ccid.create(speed, options)
