"""A host with a security key, and the applications on it that talk to the key."""

import struct

from tests.unit.lab.usb_host import Host
from tools.lab.devices import cbor, fido
from tools.lab.devices.ctaphid import BROADCAST, packets
from usbbridge.backend.base import Status
from usbbridge.usb.ch9 import Speed

PING, INIT, WINK, CBOR, CANCEL, KEEPALIVE, ERROR = 0x01, 0x06, 0x08, 0x10, 0x11, 0x3B, 0x3F
UP_NEEDED = b"\x02"
NONCE = b"nonce 01"


class Application:
    """One that talks to the key over a channel of its own."""

    def __init__(self, key: "KeyHost") -> None:
        self._key = key
        self.channel = BROADCAST
        answer = self.ask(INIT, NONCE)
        assert answer[:8] == NONCE
        self.about = answer[8:]
        self.channel = int.from_bytes(answer[8:12])

    def send(self, command: int, data: bytes = b"") -> None:
        for report in packets(self.channel, command, data):
            self._key.put(report)

    def receive(self) -> tuple[int, bytes]:
        """Command and data of the next message, which must be for this application."""
        report = self._key.get()
        assert report is not None
        channel, command, size = struct.unpack_from(">IBH", report)
        assert channel == self.channel
        data, number = report[7:], 0
        while len(data) < size:
            report = self._key.get()
            assert report is not None
            assert report[:5] == struct.pack(">IB", channel, number)
            data, number = data + report[5:], number + 1
        return command & 0x7F, data[:size]

    def ask(self, command: int, data: bytes = b"") -> bytes:
        self.send(command, data)
        answered, answer = self.receive()
        assert answered == command
        return answer

    def error(self) -> int:
        command, data = self.receive()
        assert command == ERROR
        return data[0]

    def command(self, message: bytes, request: dict | None = None) -> tuple[int, dict]:
        """Status and result of a CTAP2 command; that a touch is waited for is passed over."""
        self.send(CBOR, message + (cbor.encode(request) if request is not None else b""))
        command, answer = self.receive()
        if command == KEEPALIVE:
            assert answer == UP_NEEDED
            command, answer = self.receive()
        assert command == CBOR
        return answer[0], cbor.decode(answer[1:]) if answer[1:] else {}


class KeyHost(Host):
    """A host whose key is plugged in."""

    def __init__(self, speed: Speed = Speed.HIGH, **options: str) -> None:
        self.key = fido.create(speed, options)
        super().__init__(self.key)

    def put(self, report: bytes) -> None:
        assert self.write(1, report) is Status.COMPLETED

    def get(self) -> bytes | None:
        return self.read(1, 64)
