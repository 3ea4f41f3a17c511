"""A CDC-ACM serial port with a loopback plug, through cdc_acm."""

import hashlib
import os
import termios
from functools import partial
from pathlib import Path

from tests.e2e.checks.common import expect, load, report
from tests.e2e.checks.drivers import arguments, child, identity, interface_of
from tests.e2e.checks.serialport import RATES, SerialPort

SIZES = (1, 63, 64, 65, 511, 512, 513, 1024, 4096, 20000)
"About the size of a packet, at full and high speed; and many."


def port_of(interface: Path) -> str:
    """The terminal that cdc_acm has made of a communications interface."""
    return child(interface, "tty/ttyACM*")


def loop(port: SerialPort) -> dict[str, object]:
    """Everything that was sent comes back."""
    total = hashlib.sha256()
    for rate in RATES:
        port.configure(rate)
    for size in SIZES:
        data = os.urandom(size)
        expect(port.exchange(data) == data, f"of {size} bytes others came back")
        total.update(data)
    return {"bytes": sum(SIZES), "sha256": total.hexdigest(), "rates": [*RATES]}


def shows(port: SerialPort, lines: set[str]) -> bool:
    """Whether these lines are on and no others; the class has no CTS, of which the driver says that it is on."""
    return port.lines() - {"CTS"} == lines


def switch(port: SerialPort) -> dict[str, object]:
    """DTR is plugged to DCD, RTS to DSR, a break comes back; the driver hears of it by notifications."""
    for names, answer in (((), set()), (("RTS",), {"DSR"}), (("DTR",), {"DCD"}), (("DTR", "RTS"), {"DCD", "DSR"})):
        port.set_lines(*names)
        port.wait_lines(partial(shows, port, {*names} | answer), f"answer to {names or 'nothing'} being on")
    before = port.counters()["brk"]
    termios.tcsendbreak(port.fd, 0)
    expect(port.exchange(b"", wanted=1) == b"\0", "the break has not come as a zero byte, as a raw terminal has it")
    breaks = port.counters()["brk"] - before
    expect(breaks > 0, "the break that came is not counted")
    return {"breaks": breaks}


def main() -> None:
    """See the top."""
    options = arguments()
    load("cdc_acm")
    interface = interface_of("cdc_acm", port_of, options.serial)
    node = f"/dev/{port_of(interface)}"
    with SerialPort(node) as port:
        report(node=node, **identity(interface), **loop(port), **switch(port))


if __name__ == "__main__":
    main()
