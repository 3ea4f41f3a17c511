"""A smart card of ISO 7816-4: one application with a file to read, a file to write, and a key that answers challenges.

Pure: a command comes as the bytes of an APDU, the response goes as such. What the card holds is known to whoever
imports this: `CONTENT`, and `KEY`, with which INTERNAL AUTHENTICATE makes HMAC-SHA-256.
"""

import hashlib
import hmac
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import reduce
from operator import xor
from typing import Final

AID: Final = b"\xf0usbbridge"
"Application identifier; F is the category of those that nobody has registered (ISO 7816-5 §8.2)."
CONTENT_FILE, NOTES_FILE = 0x0001, 0x0002
CONTENT: Final = hashlib.shake_256(b"what is written on the card").digest(20_000)
"Longer than a short APDU can carry, than a bulk packet, and no multiple of one."
NOTES_SIZE: Final = 2048
KEY: Final = hashlib.sha256(b"what the card keeps to itself").digest()

MAX_SHORT: Final = 256
MAX_EXTENDED: Final = 65_536
"Longest responses, without the status word (ISO 7816-4 §5.1)."


class Instruction(IntEnum):
    """INS (ISO 7816-4 table 4), and one of the card's own."""

    GET_CHALLENGE = 0x84
    INTERNAL_AUTHENTICATE = 0x88
    SELECT = 0xA4
    READ_BINARY = 0xB0
    UPDATE_BINARY = 0xD6
    LEAVE = 0xEE
    "Class 80: whoever holds the card pulls it out of the reader, and puts it in again once that was seen."


class Word(IntEnum):
    """Status words (ISO 7816-4 §5.6)."""

    OK = 0x9000
    END_OF_FILE = 0x6282
    WRONG_LENGTH = 0x6700
    NO_FILE_SELECTED = 0x6986
    NOT_FOUND = 0x6A82
    WRONG_PARAMETERS = 0x6A86
    OUTSIDE_FILE = 0x6B00
    UNKNOWN_INSTRUCTION = 0x6D00
    UNKNOWN_CLASS = 0x6E00


INTERINDUSTRY, PROPRIETARY = 0x00, 0x80
"CLA: no secure messaging, no chaining, first logical channel."
BY_FILE, BY_NAME = 0x02, 0x04
"P1 of SELECT."


def _answer_to_reset() -> bytes:
    """ISO 7816-3 §8.2: direct convention, T=1 alone, then historical bytes of which one says: extended lengths."""
    historical = bytes.fromhex("8073c02140") + b"\x57bridge!"  # compact TLV: card capabilities, 7 bytes of our own
    body = bytes((0x80 | len(historical), 0x01)) + historical
    return b"\x3b" + body + bytes((reduce(xor, body),))


ATR: Final = _answer_to_reset()


@dataclass(frozen=True, slots=True)
class Command:
    """A command APDU."""

    class_: int
    instruction: int
    parameters: tuple[int, int]
    data: bytes
    expected: int
    "Ne: bytes that the host wants at most; 0 for none."

    @property
    def offset(self) -> int:
        """P1 and P2 of the binary commands: 15 bits (ISO 7816-4 §7.2.2)."""
        return self.parameters[0] << 8 | self.parameters[1]


def parse(apdu: bytes) -> Command | None:
    """ISO 7816-4 §5.1, the seven forms of a command; None for bytes that are none."""
    if len(apdu) < 4:
        return None
    lengths = _extended(apdu[4:]) if len(apdu) > 5 and apdu[4] == 0 else _short(apdu[4:])
    if lengths is None:
        return None
    return Command(apdu[0], apdu[1], (apdu[2], apdu[3]), *lengths)


def _short(body: bytes) -> tuple[bytes, int] | None:
    if len(body) <= 1:
        return b"", (body[0] or MAX_SHORT) if body else 0
    end = 1 + body[0]
    if len(body) == end:
        return body[1:], 0
    return (body[1:end], body[end] or MAX_SHORT) if len(body) == end + 1 else None


def _extended(body: bytes) -> tuple[bytes, int] | None:
    if len(body) < 3:
        return None
    (number,) = struct.unpack_from(">xH", body)
    if len(body) == 3:
        return b"", number or MAX_EXTENDED
    end = 3 + number
    if number and len(body) == end:
        return body[3:], 0
    if not number or len(body) != end + 2:
        return None
    return body[3:end], int.from_bytes(body[end:]) or MAX_EXTENDED


Answer = tuple[bytes, Word]


class Card:
    """The card itself. Its memory outlasts a loss of power, as an EEPROM does."""

    def __init__(self) -> None:
        self.leaving = False
        "Whether it has been told to leave the reader; for the reader to act on and to take back."
        self._files = {CONTENT_FILE: CONTENT, NOTES_FILE: bytes(NOTES_SIZE)}
        self._application = False
        self._file = 0
        self._commands: dict[tuple[int, int], Callable[[Command], Answer]] = {
            (INTERINDUSTRY, Instruction.SELECT): self._select,
            (INTERINDUSTRY, Instruction.READ_BINARY): self._read,
            (INTERINDUSTRY, Instruction.UPDATE_BINARY): self._update,
            (INTERINDUSTRY, Instruction.GET_CHALLENGE): lambda command: (os.urandom(command.expected), Word.OK),
            (INTERINDUSTRY, Instruction.INTERNAL_AUTHENTICATE): self._authenticate,
            (PROPRIETARY, Instruction.LEAVE): self._leave,
        }

    def reset(self) -> None:
        """Powered on again: nothing is selected."""
        self._application, self._file = False, 0

    def answer(self, apdu: bytes) -> bytes:
        """The response APDU."""
        data, word = self._answer(apdu)
        return data + word.to_bytes(2)

    def _answer(self, apdu: bytes) -> Answer:
        command = parse(apdu)
        if command is None:
            return b"", Word.WRONG_LENGTH
        handler = self._commands.get((command.class_, command.instruction))
        if handler is not None:
            return handler(command)
        known = command.class_ in (INTERINDUSTRY, PROPRIETARY)
        return b"", Word.UNKNOWN_INSTRUCTION if known else Word.UNKNOWN_CLASS

    def _select(self, command: Command) -> Answer:
        """§7.1.1: the application by its name, or a file in it."""
        if command.parameters[0] == BY_NAME:
            return self._select_application(command)
        if command.parameters[0] != BY_FILE or len(command.data) != 2:
            return b"", Word.WRONG_PARAMETERS
        number = int.from_bytes(command.data)
        if not self._application or number not in self._files:
            return b"", Word.NOT_FOUND
        self._file = number
        return b"", Word.OK

    def _select_application(self, command: Command) -> Answer:
        if command.data != AID:
            return b"", Word.NOT_FOUND
        self._application, self._file = True, 0
        name = bytes((0x84, len(AID))) + AID  # the name, in a file control information template (§5.3.3)
        return (bytes((0x6F, len(name))) + name)[: command.expected], Word.OK

    def _read(self, command: Command) -> Answer:
        """§7.2.3."""
        if not self._file:
            return b"", Word.NO_FILE_SELECTED
        content = self._files[self._file]
        if command.offset >= len(content):
            return b"", Word.OUTSIDE_FILE
        found = content[command.offset :][: command.expected]
        whole = len(found) == command.expected or command.expected in (MAX_SHORT, MAX_EXTENDED)  # "as much as there is"
        return found, Word.OK if whole else Word.END_OF_FILE

    def _update(self, command: Command) -> Answer:
        """§7.2.5."""
        if self._file != NOTES_FILE:
            return b"", Word.NO_FILE_SELECTED
        content, end = self._files[NOTES_FILE], command.offset + len(command.data)
        if end > len(content):
            return b"", Word.OUTSIDE_FILE
        self._files[NOTES_FILE] = content[: command.offset] + command.data + content[end:]
        return b"", Word.OK

    def _authenticate(self, command: Command) -> Answer:
        """§7.5.2: proves that the card has the key."""
        if not self._application:
            return b"", Word.NOT_FOUND
        return hmac.digest(KEY, command.data, "sha256")[: command.expected], Word.OK

    def _leave(self, command: Command) -> Answer:
        self.leaving = True
        return b"", Word.OK
