"""Having a running monitor read its rules again."""

import os
import socket
from pathlib import Path
from typing import Final

from usbbridge.errors import ConnectionLostError, NotFoundError, NotPermittedError
from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.monitoring import ANSWERS, VERSION, Hello, Listed, Reload

MAX_DEVICES_TOLD: Final = 4096
"Messages read until the monitor's list is over: USB has room for 127 devices on a bus."


def judge_anew(path: Path, seconds: float) -> None:
    """Tell the monitor at this socket to read the rules again, and wait until it has heard that.

    Raises NotFoundError if none runs, NotPermittedError to all but root and its own user, ConnectionLostError if it
    does not answer within `seconds`, RemoteProtocolError for what is no monitor.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(seconds)
        try:
            sock.connect(os.fspath(path))
        except PermissionError as error:
            raise NotPermittedError(f"no permission to talk to the monitor at {path}", hint="run it as root") from error
        except OSError as error:
            raise NotFoundError(f"no monitor runs at {path}") from error
        try:
            _ask(sock)
        except OSError as error:
            raise ConnectionLostError("the monitor did not answer") from error


def _ask(sock: socket.socket) -> None:
    """Its list has to be read first: a monitor that can't send hears no more of what it was told."""
    channel = MessageChannel(sock, ANSWERS)
    channel.send(Hello(VERSION))
    for _ in range(MAX_DEVICES_TOLD):
        received = channel.receive()
        if received is None:
            raise NotPermittedError("the monitor takes no requests from this user", hint="run it as root")
        if isinstance(received[0], Listed):
            break
    channel.send(Reload())
    sock.shutdown(socket.SHUT_WR)
    while channel.receive() is not None:
        pass  # devices that are judged otherwise now; the end says that it has heard
