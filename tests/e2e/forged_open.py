"""Runs in the client machine under control's uid: asks the monitor for a device as a captured control would.

    python forged_open.py SOCKET DEVICE-ID KEY=VALUE...

Says what came of it, a line a message, and `end` if the monitor then ended the connection. KEY=VALUE are fields of the
`Open` message that are to be true or false.
"""

import os
import socket
import sys

from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.monitoring import ANSWERS, VERSION, Hello, Listed, Open, Opened, Refused, Synced

# Within which the monitor must have answered, and ended the connection.
PATIENCE = 20.0


def main(path: str, device: str, *fields: str) -> None:
    """Ask, and say what the answers are."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(PATIENCE)
    connection.connect(path)
    channel = MessageChannel(connection, ANSWERS)
    channel.send(Hello(VERSION))
    while (received := channel.receive()) is not None and not isinstance(received[0], Listed):
        pass
    channel.send(Synced())
    lease, _held = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    flags = {name: value == "true" for name, _, value in (field.partition("=") for field in fields)}
    channel.send(Open(1, device, **flags), lease.fileno())
    while (received := channel.receive()) is not None:
        message, fds = received
        for fd in fds:
            os.close(fd)
        if isinstance(message, Opened):
            print(f"opened with {len(fds)} descriptors", flush=True)
        elif isinstance(message, Refused):
            print(f"refused {message.status} {message.error}: {message.message}", flush=True)
    print("end", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
