"""CTAPHID (CTAP 2.1 §11.2), the key's side: messages of several applications in 64-byte reports.

A report is a channel (4 bytes) and then, with bit 7 set, a command and a length, or else a sequence number. One message
is under way at a time; another application that begins one meanwhile is told that the key is busy.
"""

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from tools.lab.devices.ctap2 import MAX_MESSAGE, TOUCHED, Status

REPORT_SIZE: Final = 64
INITIAL: Final = struct.Struct(">IBH")
CONTINUATION: Final = struct.Struct(">IB")
COMMAND_BIT: Final = 0x80
BROADCAST: Final = 0xFFFFFFFF

VERSION: Final = 2
"CTAPHID protocol version identifier."
CAN_WINK, CAN_CBOR, NO_MSG = 0x01, 0x04, 0x08
"Capabilities: NO_MSG says that there is no U2F."
NONCE_SIZE: Final = 8
MAX_CHANNELS: Final = 64
"Applications that have ever asked for a channel; the one that was silent for longest loses its own."
MAX_REPORTS: Final = 2 * (MAX_MESSAGE // 59 + 1)
"Reports that wait to be read: the longest answer, and as much again. A host that doesn't read can't write more."
SECONDS_BETWEEN: Final = 0.5
"A message whose next packet takes longer may be put aside for another one (§11.2.5.2)."


class Command(IntEnum):
    """What a message is for (§11.2.9)."""

    PING = 0x01
    INIT = 0x06
    WINK = 0x08
    CBOR = 0x10
    CANCEL = 0x11
    KEEPALIVE = 0x3B
    ERROR = 0x3F


class Error(IntEnum):
    """The byte of an ERROR message (§11.2.9.1.6)."""

    INVALID_COMMAND = 0x01
    INVALID_LENGTH = 0x03
    INVALID_SEQUENCE = 0x04
    MESSAGE_TIMEOUT = 0x05
    CHANNEL_BUSY = 0x06
    INVALID_CHANNEL = 0x0B


UP_NEEDED: Final = 2
"The byte of a KEEPALIVE message: the key waits for the user's touch."


@dataclass
class _Message:
    """One that has not come whole yet."""

    channel: int
    command: int
    size: int
    deadline: float
    data: bytearray = field(default_factory=bytearray)
    sequence: int = 0


def packets(channel: int, command: int, data: bytes) -> list[bytes]:
    """A message as reports, the last one filled up with zeros."""
    room = REPORT_SIZE - INITIAL.size
    found = [INITIAL.pack(channel, COMMAND_BIT | command, len(data)) + data[:room]]
    step = REPORT_SIZE - CONTINUATION.size
    for number, start in enumerate(range(room, len(data), step)):
        found.append(CONTINUATION.pack(channel, number) + data[start : start + step])
    return [report.ljust(REPORT_SIZE, b"\0") for report in found]


class Channels:
    """Takes reports, and has `reports` to send."""

    def __init__(self, answer: Callable[[bytes], bytes], clock: Callable[[], float], *, touched: bool) -> None:
        """`answer` is the authenticator. Unless `touched`, nobody touches the key: what needs it waits for CANCEL."""
        self._answer, self._clock, self._touched = answer, clock, touched
        self.reports: deque[bytes] = deque()
        self.winks = 0
        "How often the key has been asked to show itself to the user."
        self._channels: dict[int, None] = {}
        self._last_channel = 0
        self._message: _Message | None = None
        self._waiting: int | None = None
        "The channel whose command waits for a touch."
        self._commands: dict[int, Callable[[int, bytes], None]] = {
            Command.PING: lambda channel, data: self._send(channel, Command.PING, data),
            Command.WINK: self._wink,
            Command.CBOR: self._cbor,
        }

    def restart(self) -> None:
        """The key lost its power: no channel is known any more."""
        self.reports.clear()
        self._channels.clear()
        self._message = self._waiting = None

    def receive(self, report: bytes) -> None:
        """A report of 64 bytes."""
        channel, first = CONTINUATION.unpack_from(report)
        if not first & COMMAND_BIT:
            self._continue(channel, first, report[CONTINUATION.size :])
            return
        _, _, size = INITIAL.unpack_from(report)
        command, data = first & ~COMMAND_BIT, report[INITIAL.size :]
        if command == Command.INIT:
            self._init(channel, size, data)
        elif channel not in self._channels:
            self._error(channel, Error.INVALID_CHANNEL)
        elif command == Command.CANCEL:
            self._cancel(channel)
        elif self._may_begin(channel, size):
            self._message = _Message(channel, command, size, 0.0)
            self._add(self._message, data)

    def _may_begin(self, channel: int, size: int) -> bool:
        """Whether nothing else is under way; if something is, who has to hear of it hears of it."""
        message = self._message
        busy = self._waiting is not None
        if message is not None and message.channel == channel:
            self._message = None  # §11.2.5.3: neither of the two is taken
            self._error(channel, Error.INVALID_SEQUENCE)
            return False
        if message is not None and self._clock() >= message.deadline:
            self._message = None
            self._error(message.channel, Error.MESSAGE_TIMEOUT)
        elif message is not None:
            busy = True
        if busy or size > MAX_MESSAGE:
            self._error(channel, Error.CHANNEL_BUSY if busy else Error.INVALID_LENGTH)
            return False
        return True

    def _continue(self, channel: int, sequence: int, data: bytes) -> None:
        message = self._message
        if message is None or message.channel != channel:
            return  # §11.2.5.4: of a message that has been given up, or of nobody
        if sequence != message.sequence:
            self._message = None
            self._error(channel, Error.INVALID_SEQUENCE)
            return
        message.sequence += 1
        self._add(message, data)

    def _add(self, message: _Message, data: bytes) -> None:
        message.data += data[: message.size - len(message.data)]
        message.deadline = self._clock() + SECONDS_BETWEEN
        if len(message.data) < message.size:
            return
        self._message = None
        self._channels[message.channel] = self._channels.pop(message.channel)  # now the one that spoke last
        command = self._commands.get(message.command)
        if command is None:
            self._error(message.channel, Error.INVALID_COMMAND)
        else:
            command(message.channel, bytes(message.data))

    # ---- commands

    def _init(self, channel: int, size: int, data: bytes) -> None:
        """§11.2.9.1.3: a new channel for who speaks on the broadcast one; on a channel of its own, a fresh start."""
        if size != NONCE_SIZE:
            self._error(channel, Error.INVALID_LENGTH)
            return
        given = self._allocate() if channel == BROADCAST else channel
        if given not in self._channels:
            self._error(channel, Error.INVALID_CHANNEL)
            return
        self._abandon(given)
        about = struct.pack(">IBBBBB", given, VERSION, 1, 0, 0, CAN_WINK | CAN_CBOR | NO_MSG)
        self._send(channel, Command.INIT, data[:NONCE_SIZE] + about)

    def _allocate(self) -> int:
        if len(self._channels) == MAX_CHANNELS:
            oldest = next(iter(self._channels))
            del self._channels[oldest]
            self._abandon(oldest)
        self._last_channel = self._last_channel % (BROADCAST - 1) + 1  # neither 0 nor the broadcast channel
        self._channels[self._last_channel] = None
        return self._last_channel

    def _abandon(self, channel: int) -> None:
        if self._message is not None and self._message.channel == channel:
            self._message = None
        if self._waiting == channel:
            self._waiting = None

    def _wink(self, channel: int, data: bytes) -> None:
        if data:
            self._error(channel, Error.INVALID_LENGTH)
            return
        self.winks += 1
        self._send(channel, Command.WINK, b"")

    def _cbor(self, channel: int, data: bytes) -> None:
        if not data:
            self._error(channel, Error.INVALID_LENGTH)
            return
        if data[0] in TOUCHED:
            self._send(channel, Command.KEEPALIVE, bytes((UP_NEEDED,)))
            if not self._touched:
                self._waiting = channel
                return
        self._send(channel, Command.CBOR, self._answer(data))

    def _cancel(self, channel: int) -> None:
        """§11.2.9.1.5: has no answer of its own, and none at all when nothing waits."""
        if self._waiting == channel:
            self._waiting = None
            self._send(channel, Command.CBOR, bytes((Status.KEEPALIVE_CANCEL,)))

    # ---- answers

    def _send(self, channel: int, command: int, data: bytes) -> None:
        self.reports += packets(channel, command, data)

    def _error(self, channel: int, error: Error) -> None:
        self._send(channel, Command.ERROR, bytes((error,)))
