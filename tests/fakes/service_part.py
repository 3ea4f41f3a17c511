"""A part of the service that does what it is told: `python service_part.py NAME LOG [ORDER ...]`.

It tells the datagram socket LOG what happens to it, and is ready at once unless an order says otherwise.
"""

import os
import signal
import socket
import sys

from usbbridge.ipc.notify import notify


def main(name: str, log: str, *orders: str) -> int:
    out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def say(what: str) -> None:
        out.sendto(f"{name} {what}".encode(), log)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    say(f"started {os.getpid()}")
    if "fails" in orders:
        return 5
    if "lies" in orders:  # for another process
        pid = os.fork()
        if not pid:
            notify("READY=1")
            os._exit(0)
        os.waitpid(pid, 0)
    else:
        notify("STATUS=well\nREADY=1")
    while True:
        heard = signal.sigwait({signal.SIGTERM, signal.SIGHUP})
        say(signal.Signals(heard).name)
        if heard == signal.SIGTERM and "stays" not in orders:
            return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
