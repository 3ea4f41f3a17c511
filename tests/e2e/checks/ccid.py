"""A smart-card reader with a card in it, used through pcscd, libccid and the PC/SC library, as applications do.

    python -m tests.e2e.checks.ccid

pcscd is started here if it doesn't run, with the socket that it is to serve, as systemd does it: who connects to that
early waits. It finds the reader by looking, when it starts: it needs no udevd for that.
"""

import contextlib
import ctypes
import hashlib
import hmac
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from ctypes import Structure, byref, c_char, c_char_p, c_long, c_ulong, c_void_p
from pathlib import Path

from tests.e2e.checks.common import PATIENCE, expect, fail, report, usb_device
from tools.lab.devices.card import AID, ATR, CONTENT, CONTENT_FILE, KEY, NOTES_FILE
from tools.lab.devices.ccid import PRODUCT, VENDOR

DAEMON = "/usr/sbin/pcscd"
SERVE_INPUT = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&0 0</dev/null'
"For a shell: run a daemon with its socket, which is standard input, where sd_listen_fds(3) looks for it."
SOCKET = Path("/run/pcscd/pcscd.comm")
LOG = Path("/tmp/pcscd.log")

# PC/SC (pcsclite.h, winscard.h).
SCOPE_SYSTEM, SHARE_SHARED, PROTOCOL_T1, LEAVE_CARD = 2, 2, 2, 0
UNAWARE, CHANGED, PRESENT = 0x0, 0x2, 0x20
COUNT_SHIFT = 16
"The upper half of a reader's state counts cards that came and went (SCardGetStatusChange)."
E_TIMEOUT, E_NO_READERS, W_REMOVED_CARD, W_RESET_CARD = 0x8010000A, 0x8010002E, 0x80100069, 0x80100068
PNP = b"\\\\?PnP?\\Notification"
"The reader that isn't one: its state changes when a reader comes or goes."
BUFFER_SIZE = 65_548
"MAX_BUFFER_SIZE_EXTENDED: the longest APDU that the library takes."


class ReaderState(Structure):
    """SCARD_READERSTATE."""

    _fields_ = (
        ("name", c_char_p),
        ("user_data", c_void_p),
        ("current", c_ulong),
        ("event", c_ulong),
        ("atr_size", c_ulong),
        ("atr", c_char * 33),
    )


class IoRequest(Structure):
    """SCARD_IO_REQUEST."""

    _fields_ = (("protocol", c_ulong), ("size", c_ulong))


class Pcsc:
    """The library: a call that fails ends the check."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libpcsclite.so.1")
        self._context = c_long()
        self.call("SCardEstablishContext", SCOPE_SYSTEM, None, None, byref(self._context))

    def call(self, name: str, *arguments: object, ok: tuple[int, ...] = (0,)) -> int:
        """Call a function of the library; its result, if it is one of those that are `ok`."""
        function = getattr(self._library, name)
        function.restype = c_ulong
        converted = [c_ulong(each) if isinstance(each, int) else each for each in arguments]
        result = int(function(*converted)) & 0xFFFFFFFF
        if result not in ok:
            fail(f"{name} answers {result:#x}:\n{daemon_says()}")
        return result

    def readers(self) -> list[str]:
        """Names of the readers."""
        size = c_ulong(4096)
        names = ctypes.create_string_buffer(size.value)
        self.call("SCardListReaders", self._context, None, names, byref(size), ok=(0, E_NO_READERS))
        return [name.decode() for name in names.raw[: size.value].split(b"\0") if name]

    def change(self, name: bytes, known: int, seconds: float = PATIENCE) -> int:
        """The state of a reader once it is another than the `known` one; that one again, when it stays as it is."""
        state = ReaderState(name, None, known, 0, 0, b"")
        milliseconds = int(seconds * 1000)
        self.call("SCardGetStatusChange", self._context, milliseconds, byref(state), 1, ok=(0, E_TIMEOUT))
        return int(state.event) & ~CHANGED

    def connect(self, name: str) -> "Card":
        """Connect to the card in a reader."""
        handle, protocol = c_long(), c_ulong()
        self.call(
            *("SCardConnect", self._context, name.encode(), SHARE_SHARED, PROTOCOL_T1, byref(handle), byref(protocol))
        )
        expect(protocol.value == PROTOCOL_T1, f"the card speaks protocol {protocol.value}, not T=1")
        return Card(self, handle)


class Card:
    """A connection to a card."""

    def __init__(self, library: Pcsc, handle: c_long) -> None:
        self._library, self._handle = library, handle

    def status(self) -> bytes:
        """The ATR."""
        name, name_size = ctypes.create_string_buffer(256), c_ulong(256)
        atr, atr_size = ctypes.create_string_buffer(33), c_ulong(33)
        places = (byref(c_ulong()), byref(c_ulong()))
        self._library.call("SCardStatus", self._handle, name, byref(name_size), *places, atr, byref(atr_size))
        return atr.raw[: atr_size.value]

    def transmit(self, apdu: bytes, *, ok: tuple[int, ...] = (0,)) -> tuple[bytes, int]:
        """Response and status word of a command."""
        size, answer = c_ulong(BUFFER_SIZE), ctypes.create_string_buffer(BUFFER_SIZE)
        request = IoRequest(PROTOCOL_T1, ctypes.sizeof(IoRequest))
        arguments = (byref(request), apdu, len(apdu), None, answer, byref(size))
        if self._library.call("SCardTransmit", self._handle, *arguments, ok=ok):
            return b"", 0
        data = answer.raw[: size.value]
        return data[:-2], int.from_bytes(data[-2:])

    def ask(self, apdu: bytes) -> bytes:
        """The response to a command that must succeed."""
        data, word = self.transmit(apdu)
        expect(word == 0x9000, f"{apdu[:5].hex()} is answered {word:04x}")
        return data

    def disconnect(self) -> None:
        self._library.call("SCardDisconnect", self._handle, LEAVE_CARD)


@contextlib.contextmanager
def daemon() -> Iterator[None]:
    """A pcscd, for as long as it is needed, unless there is one."""
    if SOCKET.exists():
        yield
        return
    expect(Path(DAEMON).exists(), f"{DAEMON} is not installed")
    SOCKET.parent.mkdir(exist_ok=True)
    command = ["/bin/sh", "-c", SERVE_INPUT, DAEMON, "--foreground", "--info"]
    with LOG.open("wb") as log, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(SOCKET))
        listener.listen()
        process = subprocess.Popen(command, stdin=listener, stdout=log, stderr=log)
    # The socket is pcscd's only now: should it end, nobody waits for it any longer.
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        SOCKET.unlink(missing_ok=True)


def daemon_says() -> str:
    """The end of its log."""
    return LOG.read_text(errors="replace")[-2000:] if LOG.exists() else ""


def find_reader(library: Pcsc, serial: str) -> str:
    """The name that pcscd gives to the reader: its model's, and then its serial number."""
    known = UNAWARE
    deadline = time.monotonic() + PATIENCE
    while not (names := [name for name in library.readers() if f"({serial})" in name]):
        left = deadline - time.monotonic()
        expect(left > 0, f"pcscd has no reader {serial}:\n{daemon_says()}")
        known = library.change(PNP, known, left)
    return names[0]


def wait_card(library: Pcsc, reader: str, changes: int = 0) -> int:
    """Wait until there is a card and the slot has changed that often, which pcscd counts. How often it has."""
    known, deadline = UNAWARE, time.monotonic() + PATIENCE
    while not (known & PRESENT and known >> COUNT_SHIFT >= changes):
        expect(time.monotonic() < deadline, f"the reader's state stays at {known:#x}")
        known = library.change(reader.encode(), known, deadline - time.monotonic())
    return known >> COUNT_SHIFT


def select(card: Card) -> None:
    answer = card.ask(bytes((0x00, 0xA4, 0x04, 0x00, len(AID))) + AID + b"\0")
    expect(AID in answer, f"SELECT answers {answer.hex()}")


def select_file(card: Card, number: int) -> None:
    card.ask(bytes((0x00, 0xA4, 0x02, 0x0C, 2)) + number.to_bytes(2))


def read_content(card: Card) -> float:
    """The whole file by short commands, then by one extended command. Seconds that the latter took."""
    select_file(card, CONTENT_FILE)
    found = b""
    while len(found) < len(CONTENT):
        found += card.ask(struct.pack(">BBHB", 0x00, 0xB0, len(found), 0))
    expect(found == CONTENT, "short reads give other data than the card has")
    begun = time.monotonic()
    expect(card.ask(bytes.fromhex("00b00000 000000")) == CONTENT, "a long read gives other data than the card has")
    return time.monotonic() - begun


def write_notes(card: Card) -> int:
    """What is written is read back. Bytes written."""
    select_file(card, NOTES_FILE)
    notes = os.urandom(1500)
    card.ask(bytes.fromhex("00d60000 00") + len(notes).to_bytes(2) + notes)
    expect(card.ask(bytes.fromhex("00b00000 00") + len(notes).to_bytes(2)) == notes, "notes are read back changed")
    return len(notes)


def authenticate(card: Card) -> None:
    """A challenge of ours is answered with the card's key; two of the card's differ."""
    challenge = os.urandom(32)
    answer = card.ask(bytes((0x00, 0x88, 0, 0, len(challenge))) + challenge + b"\0")
    expect(answer == hmac.digest(KEY, challenge, hashlib.sha256), "the challenge is answered with another key")
    first, second = (card.ask(bytes.fromhex("0084000010")) for _ in range(2))
    expect(len(first) == 16 and first != second, "GET CHALLENGE gives the same twice")


def refusals(card: Card) -> None:
    """What the card refuses is refused in its words."""
    for apdu, word in (("00a40400 02 a000", 0x6A82), ("00ff0000", 0x6D00), ("00b07fff 00", 0x6B00)):
        found = card.transmit(bytes.fromhex(apdu))[1]
        expect(found == word, f"{apdu} is answered {found:04x}, not {word:04x}")


def pull_card(library: Pcsc, reader: str, card: Card) -> float:
    """The card goes and comes back, and the reader says so of itself. Seconds that this took."""
    before, begun = wait_card(library, reader), time.monotonic()
    card.ask(bytes.fromhex("80ee0000"))
    wait_card(library, reader, before + 2)
    seconds = time.monotonic() - begun
    card.transmit(bytes.fromhex("0084000010"), ok=(W_REMOVED_CARD, W_RESET_CARD))
    return seconds


def main() -> None:
    """See the top."""
    serial = (usb_device(VENDOR, PRODUCT) / "serial").read_text().strip()
    with daemon():
        library = Pcsc()
        reader = find_reader(library, serial)
        wait_card(library, reader)
        card = library.connect(reader)
        expect(card.status() == ATR, f"the ATR is {card.status().hex()}")
        select(card)
        seconds = read_content(card)
        written = write_notes(card)
        authenticate(card)
        refusals(card)
        away = pull_card(library, reader, card)
        card = library.connect(reader)
        select(card)
        card.disconnect()
    report(
        check="ccid",
        reader=reader,
        atr=ATR.hex(),
        content_bytes=len(CONTENT),
        long_read_seconds=round(seconds, 3),
        notes_bytes=written,
        card_away_seconds=round(away, 3),
    )


if __name__ == "__main__":
    main()
