"""A FIDO2 security key, used through hidraw by libfido2's tools and by CTAPHID messages of our own.

python -m tests.e2e.checks.fido
"""

import base64
import hashlib
import os
import re
import select
import struct
import tempfile
import time
from pathlib import Path

from tests.e2e.checks.common import PATIENCE, expect, fail, load, program, report, usb_device, wait_for

VENDOR, PRODUCT = 0x46F4, 0xF1D0
PARTY = "usbbridge.example"

REPORT_SIZE = 64
BROADCAST = 0xFFFFFFFF
PING, INIT, WINK, ERROR = 0x01, 0x06, 0x08, 0x3F
CHANNEL_BUSY = 0x06
PING_SIZE = 57 + 60 * 59
"61 reports: the kernel keeps 63 for a reader who is late (HIDRAW_BUFFER_SIZE in Linux, include/linux/hidraw.h)."


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def find_key() -> str:
    """Its hidraw node, as the tools list it."""
    usb_device(VENDOR, PRODUCT)
    pattern = rf"^(/dev/hidraw\d+): vendor=0x{VENDOR:04x}, product=0x{PRODUCT:04x}"

    def look() -> re.Match[str] | None:
        return re.search(pattern, program(["fido2-token", "-L"]).stdout, re.MULTILINE)

    found = wait_for(look, "key in the list of fido2-token")
    assert found is not None
    return found[1]


def information(path: str) -> dict[str, object]:
    """What the key says of itself."""
    printed = program(["fido2-token", "-I", path]).stdout
    lines = dict(line.split(": ", 1) for line in printed.splitlines() if ": " in line)
    expect("FIDO_2_0" in lines.get("version strings", ""), f"the key tells of no FIDO2:\n{printed}")
    return {"versions": lines["version strings"], "aaguid": lines["aaguid"], "options": lines["options"]}


def make_credential(path: str) -> tuple[str, str]:
    """A new credential, checked by the tools: its id and its public key."""
    digest = hashlib.sha256(os.urandom(32)).digest()
    asked = "\n".join((text(digest), PARTY, "somebody", text(os.urandom(32)), ""))
    made = program(["fido2-cred", "-M", path], input=asked).stdout
    verified = program(["fido2-cred", "-V"], input=made).stdout
    credential, _, key = verified.partition("\n")
    expect("BEGIN PUBLIC KEY" in key, f"fido2-cred gives no public key:\n{verified}")
    return credential, key


def assertion(path: str, credential: str, key: str) -> None:
    """The key signs; the signature fits its public key, and no other message."""
    digest = hashlib.sha256(os.urandom(32)).digest()
    asked = "\n".join((text(digest), PARTY, credential, ""))
    signed = program(["fido2-assert", "-G", path], input=asked).stdout
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(key)
        file.flush()
        program(["fido2-assert", "-V", "-p", file.name, "es256"], input=signed)
        other = "\n".join((text(os.urandom(32)), *signed.splitlines()[1:], ""))
        program(["fido2-assert", "-V", "-p", file.name, "es256"], input=other, ok=(1,))


def stranger(path: str, credential: str) -> None:
    """A credential is of no use to another relying party."""
    asked = "\n".join((text(os.urandom(32)), f"other.{PARTY}", credential, ""))
    done = program(["fido2-assert", "-G", path], input=asked, ok=(1,))
    expect("NO_CREDENTIALS" in done.stderr, f"fido2-assert fails for another reason: {done.stderr}")


class Channel:
    """CTAPHID messages through hidraw."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._number = BROADCAST
        nonce = os.urandom(8)
        answer = self.ask(INIT, nonce)
        expect(answer[:8] == nonce, "the key answers INIT with another nonce")
        self._number = int.from_bytes(answer[8:12])

    def ask(self, command: int, data: bytes) -> bytes:
        """What the key answers to one message."""
        for packet in self.packets(command, data):
            self.write(packet)
        return self.answer(command)

    def packets(self, command: int, data: bytes) -> list[bytes]:
        found = [struct.pack(">IBH", self._number, 0x80 | command, len(data)) + data[:57]]
        for number, start in enumerate(range(57, len(data), 59)):
            found.append(struct.pack(">IB", self._number, number) + data[start : start + 59])
        return found

    def write(self, packet: bytes) -> None:
        """A report, behind its number, which a device with one kind only doesn't see (Documentation/hid/hidraw)."""
        os.write(self._fd, b"\0" + packet.ljust(REPORT_SIZE, b"\0"))

    def answer(self, command: int) -> bytes:
        """The next message on this channel."""
        channel, first, size = struct.unpack_from(">IBH", report_ := self._read())
        expect(channel == self._number, f"a message on channel {channel:#x}, not {self._number:#x}")
        expect(first == 0x80 | command, f"command {first:#x} is answered, not {command:#x}: {report_.hex()}")
        data, number = report_[7:], 0
        while len(data) < size:
            report_ = self._read()
            expect(report_[:5] == struct.pack(">IB", self._number, number), f"packet {number} is {report_[:5].hex()}")
            data, number = data + report_[5:], number + 1
        return data[:size]

    def _read(self) -> bytes:
        if not select.select([self._fd], [], [], PATIENCE)[0]:
            fail("the key doesn't answer")
        return os.read(self._fd, REPORT_SIZE)


def messages(path: str) -> dict[str, object]:
    """Long messages, a signal to the user, and two applications at a time."""
    fd = os.open(path, os.O_RDWR)
    first, second = Channel(fd), Channel(fd)
    sent, begun = os.urandom(PING_SIZE), time.monotonic()
    expect(first.ask(PING, sent) == sent, "PING comes back changed")
    seconds = time.monotonic() - begun
    expect(first.ask(WINK, b"") == b"", "the answer to WINK is not empty")
    opening, *rest = first.packets(PING, sent[:100])
    first.write(opening)
    second.write(second.packets(PING, b"x")[0])
    expect(second.answer(ERROR) == bytes((CHANNEL_BUSY,)), "the key is not busy while a message comes")
    first.write(rest[0])
    expect(first.answer(PING) == sent[:100], "the message that was interrupted comes back changed")
    os.close(fd)
    return {"ping_bytes": PING_SIZE, "ping_seconds": round(seconds, 3)}


def main() -> None:
    """See the top."""
    load("usbhid", "hid_generic")
    path = find_key()
    expect(Path(path).is_char_device(), f"{path} is no device node")
    facts = information(path)
    credential, key = make_credential(path)
    assertion(path, credential, key)
    stranger(path, credential)
    report(check="fido", path=path, **facts, **messages(path), credential_verified=True, assertion_verified=True)


if __name__ == "__main__":
    main()
