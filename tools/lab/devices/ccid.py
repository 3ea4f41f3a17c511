"""A smart-card reader of the class CCID 1.1 with one slot, on the level of extended APDUs, and a card in it.

    ccid[,serial=READER1][,card=yes|no]

The card (`tools.lab.devices.card`) speaks T=1 to the world, but the reader does that for it: its host sees commands and
responses. Told to LEAVE, the card is out of the slot until the host has asked for the slot's status and seen it gone.

Section numbers are those of the USB Device Class Specification for Integrated Circuit Card Devices, revision 1.1.
"""

from collections.abc import Callable
from enum import IntEnum
from struct import Struct
from typing import Final

from tools.lab.devices import options as given
from tools.lab.devices.card import ATR, MAX_EXTENDED, Card
from tools.lab.devices.describe import (
    BULK,
    INTERRUPT,
    configuration,
    descriptor,
    device,
    endpoint,
    interface,
    model,
)
from usbbridge.backend.emulated.function import NAK, STALL, Function, Model
from usbbridge.usb.ch9 import DIR_IN, ClassCode, Recipient, RequestType, SetupPacket, Speed, request_type

VENDOR: Final = 0x08E6
PRODUCT: Final = 0x4433
"""Gemplus, GemPC433-Swap: what QEMU's own reader says that it is. pcscd finds a reader's driver by these numbers alone,
and libccid has these on its list, with no quirk for them."""
ENDPOINT_OUT: Final = 1
ENDPOINT_IN: Final = DIR_IN | 2
ENDPOINT_NOTIFY: Final = DIR_IN | 3

_BULK_PACKET: Final = {Speed.FULL: 64, Speed.HIGH: 512}
_INTERVAL: Final = {Speed.FULL: 16, Speed.HIGH: 8}
"bInterval for a poll each 16 ms: in frames, and at high speed as a power of two of microframes."

HEADER: Final = Struct("<BIBB3s")
"bMessageType, dwLength, bSlot, bSeq, three bytes of the message's own (§6.1, §6.2)."
MAX_MESSAGE: Final = HEADER.size + 9 + MAX_EXTENDED
"dwMaxCCIDMessageLength: the longest APDU each way, lengths and status word included."

CCID_DESCRIPTOR: Final = 0x21
_DESCRIPTOR: Final = Struct("<HBBIIIBIIBIIIIIBBHBB")
AUTOMATIC: Final = 0x04BA
"dwFeatures (§5.1): parameters, voltage, clock, rate, negotiation and IFSD are the reader's own business."
EXTENDED_APDU_LEVEL: Final = 0x0004_0000
CLOCK_KHZ: Final = 4000
RATE_BPS: Final = 10_752
"Clock and data rate of a card that nothing was negotiated with (ISO 7816-3 §8.1: clock / 372)."

ABORT: Final = (request_type(RequestType.CLASS, Recipient.INTERFACE), 0x01)
GET_CLOCK_FREQUENCIES: Final = (request_type(RequestType.CLASS, Recipient.INTERFACE, is_in=True), 0x02)
GET_DATA_RATES: Final = (request_type(RequestType.CLASS, Recipient.INTERFACE, is_in=True), 0x03)
"bmRequestType and bRequest (§5.3)."


class Message(IntEnum):
    """bMessageType (§6.1, §6.2, §6.3)."""

    SET_PARAMETERS = 0x61
    POWER_ON = 0x62
    POWER_OFF = 0x63
    GET_SLOT_STATUS = 0x65
    GET_PARAMETERS = 0x6C
    RESET_PARAMETERS = 0x6D
    CLOCK = 0x6E
    TRANSFER = 0x6F
    ABORT = 0x72
    NOTIFY_SLOT_CHANGE = 0x50
    DATA_BLOCK = 0x80
    SLOT_STATUS = 0x81
    PARAMETERS = 0x82


ACTIVE, INACTIVE, ABSENT = range(3)
"bmICCStatus: powered; there, but without power; not there (§6.2.6)."
FAILED: Final = 0x40
"bmCommandStatus 1 in bStatus."
MUTE: Final = 0xFE
"bError ICC_MUTE: no card answers (table 6.2-2)."
NOT_SUPPORTED: Final = 0x00
BAD_LENGTH, BAD_SLOT, BAD_LEVEL = 1, 5, 8
"bError also names the first byte of a message that makes no sense (table 6.2-2)."

T1_PARAMETERS: Final = bytes.fromhex("1110004d002000")
"§6.2.3, for T=1: rates of the beginning, checksum LRC, usual waiting times, blocks of 32 bytes."
T1: Final = 1


def create(speed: Speed, options: dict[str, str]) -> "Reader":
    """A reader. Raises UsageError for options it doesn't have."""
    given.check("card reader", options, "serial", "card")
    given.check_speed("card reader", speed, *_BULK_PACKET)
    card = given.choice("card reader", options, "card", "yes", "no")
    return Reader(speed, options.get("serial", "READER1"), Card() if card == "yes" else None)


def reader_model(speed: Speed, serial: str) -> Model:
    """Descriptors of the reader."""
    own = _DESCRIPTOR.pack(
        *(0x0110, 0, 0x07, 1 << T1),  # one slot of all three voltages, T=1
        *(CLOCK_KHZ, CLOCK_KHZ, 0, RATE_BPS, RATE_BPS, 0),  # one clock and one rate, so no list of them
        *(254, 0, 0, AUTOMATIC | EXTENDED_APDU_LEVEL, MAX_MESSAGE),
        *(0xFF, 0xFF, 0, 0, 1),  # GET RESPONSE and ENVELOPE as the command's class; no display, no keypad
    )
    ends = (
        endpoint(ENDPOINT_OUT, BULK, _BULK_PACKET[speed]),
        endpoint(ENDPOINT_IN, BULK, _BULK_PACKET[speed]),
        endpoint(ENDPOINT_NOTIFY, INTERRUPT, 8, _INTERVAL[speed]),
    )
    return model(
        device(VENDOR, PRODUCT),
        configuration(interface(0, ClassCode.SMART_CARD, extra=descriptor(CCID_DESCRIPTOR, own), endpoints=ends)),
        strings=("usbbridge", "Card Reader", serial),
        speed=speed,
    )


class Reader(Function):
    """The reader, with a card in its slot or without one."""

    def __init__(self, speed: Speed, serial: str, card: Card | None) -> None:
        self.model = reader_model(speed, serial)
        self._packet = _BULK_PACKET[speed]
        self._card = card
        self._away: Card | None = None
        "The card that was in the slot, and will be again."
        self._seen_absent = False
        "Whether the host knows that it is away."
        self._powered = False
        self._notify = True
        self._command = bytearray()
        self._response = b""
        self._parameters = T1_PARAMETERS
        self._messages: dict[int, Callable[[bytes, bytes], bytes]] = {
            Message.POWER_ON: self._power_on,
            Message.POWER_OFF: self._power_off,
            Message.TRANSFER: self._transfer,
            Message.GET_SLOT_STATUS: self._get_slot_status,
            Message.CLOCK: lambda own, data: self._reply(Message.SLOT_STATUS),
            Message.ABORT: lambda own, data: self._reply(Message.SLOT_STATUS),  # there is never anything to abort
            Message.GET_PARAMETERS: lambda own, data: self._reply(Message.PARAMETERS, self._parameters, last=T1),
            Message.RESET_PARAMETERS: self._reset_parameters,
            Message.SET_PARAMETERS: self._set_parameters,
        }

    # ---- the slot

    @property
    def slot(self) -> int:
        """ACTIVE, INACTIVE or ABSENT."""
        if self._card is None:
            return ABSENT
        return ACTIVE if self._powered else INACTIVE

    def insert(self, card: Card) -> None:
        """Put a card into the slot."""
        self._put_in(card)
        self.wake()

    def remove(self) -> None:
        """Pull the card out."""
        self._take_out()
        self.wake()

    def _put_in(self, card: Card) -> None:
        self._card, self._away, self._notify = card, None, True

    def _take_out(self) -> None:
        self._card, self._powered, self._notify, self._seen_absent = None, False, True, False

    # ---- USB

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        request = (setup.request_type, setup.request)
        if setup.index != 0:
            return STALL
        if request == ABORT and not setup.length:
            self._command.clear()
            self._response = b""
            return 0
        numbers = {GET_CLOCK_FREQUENCIES: CLOCK_KHZ, GET_DATA_RATES: RATE_BPS}
        if request not in numbers:
            return STALL
        size = min(4, len(data))
        data[:size] = numbers[request].to_bytes(4, "little")[:size]
        return size

    def receive(self, endpoint: int, data: memoryview) -> int:
        if self._response:
            return NAK  # bMaxCCIDBusySlots is 1: one command, one response
        self._command += data
        last = len(data) % self._packet != 0  # a short packet ends a transfer (USB 2.0 §5.8.3), and so a message
        if len(self._command) >= HEADER.size:
            self._take_message(last=last)
        elif last:
            self._command.clear()
        return len(data)

    def _take_message(self, *, last: bool) -> None:
        """Answer what has come, if no more of it will come or could be held."""
        kind, length, slot, sequence, own = HEADER.unpack_from(self._command)
        if last or len(self._command) >= min(HEADER.size + length, MAX_MESSAGE):
            body = bytes(self._command[HEADER.size :])
            self._command.clear()
            answer = self._answer(kind, length, slot, own, body)
            self._response = answer[:5] + bytes((slot, sequence)) + answer[7:]

    def send(self, endpoint: int, data: memoryview) -> int:
        return self._send_notice(data) if endpoint == ENDPOINT_NOTIFY else self._send_response(data)

    def _send_response(self, data: memoryview) -> int:
        if not self._response:
            return NAK
        size = min(len(data), len(self._response))
        data[:size] = self._response[:size]
        self._response = self._response[size:]
        if not self._response:
            self._move_card()
        return size

    def _send_notice(self, data: memoryview) -> int:
        """RDR_to_PC_NotifySlotChange (§6.3.1): whether there is a card, and that this has changed."""
        if not self._notify or len(data) < 2:
            return NAK
        self._notify = False
        data[:2] = bytes((Message.NOTIFY_SLOT_CHANGE, 2 | (self._card is not None)))
        return 2

    def restart(self) -> None:
        """§6.3.1: a reader that has been configured tells of the card that it has."""
        self._command.clear()
        self._response, self._powered, self._parameters = b"", False, T1_PARAMETERS
        self._notify = self._card is not None

    def select(self, number: int, alternate: int) -> None:
        """The one alternate setting chosen again."""
        self.restart()

    def close(self) -> None:
        """Nothing is held."""

    # ---- messages

    def _answer(self, kind: int, length: int, slot: int, own: bytes, body: bytes) -> bytes:
        handler = self._messages.get(kind)
        if handler is None:
            return self._reply(Message.SLOT_STATUS, error=NOT_SUPPORTED)
        if len(body) != length:
            return self._reply(Message.SLOT_STATUS, error=BAD_LENGTH)
        if slot != 0:
            return self._reply(Message.SLOT_STATUS, error=BAD_SLOT)
        return handler(own, body)

    def _reply(self, kind: Message, data: bytes = b"", *, last: int = 0, error: int | None = None) -> bytes:
        """A response (§6.2); slot and sequence number are yet to be filled in."""
        status = self.slot | (FAILED if error is not None else 0)
        return HEADER.pack(kind, len(data), 0, 0, bytes((status, error or 0, last))) + data

    def _power_on(self, own: bytes, data: bytes) -> bytes:
        if self._card is None:
            return self._reply(Message.DATA_BLOCK, error=MUTE)
        self._card.reset()
        self._powered = True
        return self._reply(Message.DATA_BLOCK, ATR)

    def _power_off(self, own: bytes, data: bytes) -> bytes:
        self._powered = False
        return self._reply(Message.SLOT_STATUS)

    def _get_slot_status(self, own: bytes, data: bytes) -> bytes:
        self._seen_absent = self._card is None
        return self._reply(Message.SLOT_STATUS)

    def _transfer(self, own: bytes, data: bytes) -> bytes:
        """PC_to_RDR_XfrBlock (§6.1.4); a whole APDU fits, so it never comes in parts."""
        if own[1:] != bytes(2):
            return self._reply(Message.DATA_BLOCK, error=BAD_LEVEL)
        if self._card is None or not self._powered:
            return self._reply(Message.DATA_BLOCK, error=MUTE)
        return self._reply(Message.DATA_BLOCK, self._card.answer(data))

    def _reset_parameters(self, own: bytes, data: bytes) -> bytes:
        self._parameters = T1_PARAMETERS
        return self._reply(Message.PARAMETERS, self._parameters, last=T1)

    def _set_parameters(self, own: bytes, data: bytes) -> bytes:
        if own[0] != T1 or len(data) != len(T1_PARAMETERS):
            return self._reply(Message.PARAMETERS, self._parameters, last=T1, error=7)
        self._parameters = data
        return self._reply(Message.PARAMETERS, data, last=T1)

    def _move_card(self) -> None:
        """The host has read a response: a card that was told to leave leaves; one that was seen to be gone is back."""
        if self._card is not None and self._card.leaving:
            self._card.leaving, self._away = False, self._card
            self._take_out()
        elif self._away is not None and self._seen_absent:
            self._put_in(self._away)
