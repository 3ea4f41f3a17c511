"""Telling the service manager how we are: the datagrams of sd_notify(3), without its library.

Where no service manager wants to know ($NOTIFY_SOCKET is not set), nothing happens.
"""

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Send `state`, lines of NAME=VALUE: `READY=1`, `STATUS=…`, `WATCHDOG=1`, `STOPPING=1`, `RELOADING=1`, ….

    A service manager that is gone, or does not read, is no error of ours: nothing is raised.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # the abstract namespace of unix(7)
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.sendto(state.encode(), address)
        except OSError:
            return


def watchdog_seconds() -> float | None:
    """Seconds after which the service manager takes us for hung unless it was sent `WATCHDOG=1`; None if it never
    does. It wants to hear that at half of it (sd_watchdog_enabled(3))."""
    text = os.environ.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        return None
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):  # it was meant for who started us
        return None
    return int(text) / 1e6


def is_journal() -> bool:
    """Whether standard error is the journal. The variable alone says little: terminals inherit it from the desktop, so
    it names what it is about by device and inode (systemd.exec(5))."""
    with contextlib.suppress(OSError):
        status = os.fstat(2)
        return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return False
