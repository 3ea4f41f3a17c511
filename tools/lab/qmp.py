"""A small QMP client: commands with their answers, and waiting for events (QEMU's docs/interop/qmp-spec)."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from tools.lab.host import LabError

# Generous: a command is answered in milliseconds, but the emulator may be starved on a busy machine.
COMMAND_SECONDS = 60.0


class QmpError(LabError):
    """QEMU refused a command; the text is QEMU's own."""


class Qmp:
    """One QMP connection. Thread-safe: a thread of its own receives, any may ask."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._changed = threading.Condition()
        self._answers: dict[int, dict[str, Any]] = {}
        self._events: list[dict[str, Any]] = []
        self._asked = 0
        self._ended = False
        threading.Thread(target=self._receive, name="qmp", daemon=True).start()
        self.command("qmp_capabilities")

    def command(self, name: str, /, **arguments: object) -> Any:
        """QEMU's answer. Underscores in argument names stand for the hyphens that QMP likes; raises QmpError."""
        with self._changed:
            self._asked += 1
            number = self._asked
        named = {key.replace("_", "-"): value for key, value in arguments.items() if value is not None}
        request = {"execute": name, "arguments": named, "id": number}
        with contextlib.suppress(OSError):  # then the receiver sees the end too, and says so below
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        with self._changed:
            answered = self._changed.wait_for(lambda: number in self._answers or self._ended, COMMAND_SECONDS)
            if not answered or number not in self._answers:
                raise LabError(f"QEMU did not answer {name}" + (": it has ended" if self._ended else ""))
            answer = self._answers.pop(number)
        if "error" in answer:
            raise QmpError(f"{name}: {answer['error']['desc']}")
        return answer["return"]

    @property
    def mark(self) -> int:
        """The place in the row of events after all that have come so far; see `wait_event`."""
        with self._changed:
            return len(self._events)

    def wait_event(
        self, name: str, *, since: int, data: Mapping[str, object], timeout: float = COMMAND_SECONDS
    ) -> None:
        """Return once the event `name`, with at least this data, has come after the mark `since`."""

        def come() -> bool:
            return any(
                event["event"] == name and data.items() <= event.get("data", {}).items()
                for event in self._events[since:]
            )

        deadline = time.monotonic() + timeout
        with self._changed:
            self._changed.wait_for(lambda: come() or self._ended, deadline - time.monotonic())
            if not come():
                raise LabError(f"no {name} {dict(data)} from QEMU in {timeout:.0f} s")

    def close(self) -> None:
        """End the connection and its thread."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _receive(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._connection.makefile("rb") as lines:
            for line in lines:
                self._received(json.loads(line))
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _received(self, message: dict[str, Any]) -> None:
        with self._changed:
            if "event" in message:
                self._events.append(message)
            elif "id" in message:
                self._answers[message["id"]] = message
            self._changed.notify_all()
