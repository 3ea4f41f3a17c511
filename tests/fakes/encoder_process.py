"""An encoder process that obeys the name of the device it is started with: `python encoder_process.py FD`.

Each word of the name is an order; a plain name attaches and waits for Stop.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path

from usbbridge.capture.pcapng import interface, packet, section_header, statistics
from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.messages import AskStats, Capture, Ended, Progressed, Start, Stats, Stop


def captured(capture: Capture, fd: int) -> None:
    """A whole capture, of one packet that says what was asked for."""
    now, asked = time.time_ns() // 1000, repr(capture).encode()
    blocks = section_header("fake") + interface("1-2", "") + packet(now, [asked], len(asked)) + statistics(now, 1, 0)
    with socket.socket(fileno=fd) as connection:
        connection.sendall(blocks)


def main() -> int:
    channel = MessageChannel(socket.socket(fileno=int(sys.argv[1])))
    received = channel.receive()
    if received is None:
        return 2
    start, fds = received
    assert isinstance(start, Start)
    if start.usbfs:
        assert Path(f"/proc/self/fd/{fds[0]}").readlink() == Path(os.devnull)
    orders = start.name.split()
    if "dies" in orders:
        os.kill(os.getpid(), signal.SIGKILL)
    if "babbles" in orders:
        channel.send(start)
        time.sleep(60)
    if "fails" in orders:
        channel.send(Ended(5, "the VM rejected it", "ask its owner", "RefusedError"))
        return 5
    for step in ("linked", "hello", "announced", "attached"):
        channel.send(Progressed(step, str(start.channels)))
    if "mute" in orders:
        socket.socket(fileno=int(sys.argv[1])).close()
        time.sleep(60)
    while (received := channel.receive()) is not None:
        if isinstance(received[0], AskStats) and "stuck" not in orders:
            channel.send(Stats(1234, 5678, 0))
        if isinstance(received[0], Capture):
            captured(received[0], received[1][0])
        if isinstance(received[0], Stop) and "stuck" not in orders:
            channel.send(Ended(0))
            return 0
    return 0


sys.exit(main())
