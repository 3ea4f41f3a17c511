"""Runs in the client machine: follows control's API from one start of the service to the next, a JSON line an event.

    python -I -S api_watch.py SOCKET

Each line is an event of `usbbridge.ipc.api` with the machine's own time beside it, and three that the API does not
have: `status`, with all there is, when a service has been found, `ended` when it has gone, and `error` if it refuses.
"""

import json
import select
import socket
import sys
import time
from typing import Any

# How long after a service that is not there yet it is looked for again: nothing announces that one listens.
AGAIN_SECONDS = 0.02


def say(event: str, data: Any) -> None:
    """One line."""
    print(json.dumps({"at": time.monotonic(), "event": event, "data": data}), flush=True)


def connect(path: str) -> socket.socket:
    """A connection, as soon as there is a service."""
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            select.select([], [], [], AGAIN_SECONDS)
        else:
            return connection


def follow(connection: socket.socket) -> None:
    """Say what this service says, until it ends."""
    with connection, connection.makefile("rw") as stream:
        try:
            stream.readline()
            stream.write(json.dumps({"id": 1, "method": "subscribe", "params": {}}) + "\n")
            stream.flush()
            for line in stream:
                message = json.loads(line)
                if "event" in message:
                    say(message["event"], message["data"])
                elif "error" in message:
                    say("error", message["error"])
                else:
                    say("status", message["result"])
        except ConnectionError:
            pass
    say("ended", None)


if __name__ == "__main__":
    while True:
        follow(connect(sys.argv[1]))
