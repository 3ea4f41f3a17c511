"""A device of several functions, each through its own driver: serial port, disk, printer, security key; or others.

python -m tests.e2e.checks.composite [--parts acm+keyboard+ethernet+disk] [--serial X]
"""

import argparse
import hashlib
import os
import select
import struct
from pathlib import Path

from tests.e2e.checks import acm, ethernet
from tests.e2e.checks.common import PATIENCE, expect, fail, load, report, wait_for
from tests.e2e.checks.drivers import child, identity, interface_of
from tests.e2e.checks.printer import Line
from tests.e2e.checks.serialport import SerialPort
from tests.machine.usb import DEVICES
from tools.lab.devices.composite import DEFAULT_PARTS, DISK_BYTES, disk_content
from tools.lab.devices.keyboard import WORD
from tools.lab.devices.printer import EXIT_LANGUAGE

EVENT = struct.Struct("@llHHi")
"struct input_event (Linux, include/uapi/linux/input.h): time, type, code, value."
EV_KEY, EV_LED, LED_CAPS_LOCK = 0x01, 0x11, 0x01
LETTERS = {22: "u", 31: "s", 48: "b", 19: "r", 23: "i", 32: "d", 34: "g", 18: "e"}
"Key codes of `WORD`'s letters (Linux, include/uapi/linux/input-event-codes.h)."
BLOCK = 4096
JOB_BYTES = 20_000
INIT = bytes.fromhex("ffffffff 86 0008")
"Broadcast channel, command, length."


def check_acm(serial: str) -> dict[str, object]:
    interface = interface_of("cdc_acm", acm.port_of, serial)
    with SerialPort(f"/dev/{acm.port_of(interface)}") as port:
        return {"interface": interface.name, **acm.loop(port), **acm.switch(port)}


def check_ethernet(serial: str) -> dict[str, object]:
    interface = interface_of("cdc_ether", ethernet.link_of, serial)
    mac = ethernet.bring_up(ethernet.link_of(interface))
    return {"interface": interface.name, "mac": mac, "pings": ethernet.ping(56), **ethernet.datagrams()}


def event_of(interface: Path) -> str:
    """The input device that usbhid has made of an interface."""
    return child(interface, "0003:*/input/input*/event*")


def check_keyboard(serial: str) -> dict[str, object]:
    """Its Caps Lock lamp is lit; it answers with a word."""
    interface = interface_of("usbhid", event_of, serial)
    node = Path("/dev/input") / event_of(interface)
    wait_for(node.exists, str(node))
    fd = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    for state in (0, 1):
        os.write(fd, EVENT.pack(0, 0, EV_LED, LED_CAPS_LOCK, state) + EVENT.pack(0, 0, 0, 0, 0))
    typed = ""
    while len(typed) < len(WORD):
        if not select.select([fd], [], [], PATIENCE)[0]:
            fail(f"of {WORD} the keyboard has typed {typed!r}")
        events = EVENT.iter_unpack(os.read(fd, EVENT.size * 64))
        typed += "".join(LETTERS.get(code, "?") for _, _, kind, code, value in events if kind == EV_KEY and value == 1)
    os.close(fd)
    expect(typed == WORD, f"instead of {WORD} the keyboard has typed {typed}")
    return {"interface": interface.name, "typed": typed}


def disk_of(interface: Path) -> str:
    """The disk that usb-storage has made of an interface."""
    return child(interface, "host*/target*/*/block/sd*")


def check_disk(serial: str) -> dict[str, object]:
    """It is read whole; then a block is written and read again, past the page cache."""
    interface = interface_of("usb-storage", disk_of, serial)
    node = Path("/dev") / disk_of(interface)
    wait_for(lambda: node.exists() and node.is_block_device(), str(node))
    block = os.urandom(BLOCK)
    fd = os.open(node, os.O_RDWR)
    content = os.pread(fd, DISK_BYTES, 0)
    expect(content == disk_content(), "the disk's content is not what was put on it")
    os.pwrite(fd, block, DISK_BYTES - BLOCK)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    expect(os.pread(fd, BLOCK, DISK_BYTES - BLOCK) == block, "the block that was written is not there")
    os.pwrite(fd, content[-BLOCK:], DISK_BYTES - BLOCK)
    os.close(fd)
    return {"interface": interface.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def line_of(interface: Path) -> str:
    """The printer that usblp has made of an interface."""
    return child(interface, "usbmisc/lp*")


def check_printer(serial: str) -> dict[str, object]:
    """It says what it has printed, and who it is."""
    interface = interface_of("usblp", line_of, serial)
    node = Path("/dev/usb") / line_of(interface)
    wait_for(node.exists, str(node))
    line, data = Line(node), os.urandom(JOB_BYTES).replace(b"\x1b", b".")
    line.write(data + EXIT_LANGUAGE)
    said, digest = line.read_line(), hashlib.sha256(data).hexdigest()
    expect(said.endswith(f"LENGTH {JOB_BYTES} SHA256 {digest}"), f"the printer says {said!r}")
    expect("SN:" in line.device_id(), f"the printer calls itself {line.device_id()!r}")
    os.close(line.fd)
    return {"interface": interface.name, "bytes": JOB_BYTES, "sha256": digest}


def raw_of(interface: Path) -> str:
    """The raw node that the HID core has made of an interface."""
    return child(interface, "0003:*/hidraw/hidraw*")


def check_fido(serial: str) -> dict[str, object]:
    """A channel is asked for, by CTAPHID_INIT (CTAP 2.1 §11.2.9.1.3)."""
    interface = interface_of("usbhid", raw_of, serial)
    node = Path("/dev") / raw_of(interface)
    wait_for(node.exists, str(node))
    nonce, fd = os.urandom(8), os.open(node, os.O_RDWR)
    os.write(fd, bytes(1) + (INIT + nonce).ljust(64, b"\0"))
    if not select.select([fd], [], [], PATIENCE)[0]:
        fail("the security key does not answer")
    answer = os.read(fd, 64)
    os.close(fd)
    expect((answer[:5], answer[7:15]) == (INIT[:5], nonce), f"the security key answers {answer.hex()}")
    return {"interface": interface.name, "channel": answer[15:19].hex()}


CHECKS = {
    "acm": check_acm,
    "disk": check_disk,
    "ethernet": check_ethernet,
    "fido": check_fido,
    "keyboard": check_keyboard,
    "printer": check_printer,
}
DRIVERS = ("cdc_acm", "cdc_ether", "usbhid", "hid_generic", "evdev", "usb_storage", "sd_mod", "usblp")


def main() -> None:
    """`--parts` as the device was made with; those that are not in CHECKS are left out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serial", default="COMPOSITE1")
    parser.add_argument("--parts", default=DEFAULT_PARTS)
    options = parser.parse_args()
    load(*DRIVERS)
    names = [name for name in options.parts.split("+") if name in CHECKS]
    facts = {name: CHECKS[name](options.serial) for name in names}
    any_interface = DEVICES / str(facts[names[0]]["interface"])
    report(**identity(any_interface.resolve()), **facts)


if __name__ == "__main__":
    main()
