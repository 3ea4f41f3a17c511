"""The lab's end of the connection to the agent in a machine."""

import contextlib
import functools
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tools.lab.guest.frames import CHUNK, Kind, Splitter, pack
from tools.lab.host import LabError
from tools.lab.process import PATIENCE, Process

T = TypeVar("T")


class AgentLink:
    """Starts processes, asks questions, and waits for events of one machine.

    A thread of its own receives; any thread may ask. Everything waits, on first use, for the machine to be up.
    """

    def __init__(self, name: str, connection: socket.socket) -> None:
        self._name = name
        self._connection = connection
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._processes: dict[int, Process] = {}
        self._answers: dict[int, tuple[Kind, float, bytes]] = {}
        self._uevents: list[tuple[float, dict[str, str]]] = []
        self._numbers = 0
        self._reports = 0
        self._ready = False
        self._ended = False
        threading.Thread(target=self._receive, name=f"agent of {name}", daemon=True).start()

    def wait_ready(self, timeout: float = PATIENCE) -> None:
        """Wait for the machine to have booted; LabError if it dies first."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended, timeout)
            if not self._ready or self._ended:
                raise LabError(f"the machine {self._name} " + ("is gone" if self._ended else "does not come up"))

    def start(
        self,
        argv: Sequence[str],
        *,
        env: dict[str, str],
        cwd: str,
        tty: tuple[int, int] | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Process:
        """Start a process; LabError when it cannot be executed."""
        self.wait_ready()
        number = self._number()
        process = Process(argv, lambda what, body: self._process_request(number, what, body))
        process.on_output = on_output
        with self._changed:
            self._processes[number] = process
        request = {"argv": list(argv), "env": env, "cwd": cwd, "tty": tty}
        self._send(Kind.SPAWN, number, json.dumps(request).encode())
        process.wait_spawned()
        return process

    def query(self, op: str, path: str) -> tuple[float, Any]:
        """The agent's answer and the machine's time of it; OSError when the agent met one."""
        self.wait_ready()
        number = self._number()
        self._send(Kind.QUERY, number, json.dumps({"op": op, "path": path}).encode())
        with self._changed:
            self._changed.wait_for(lambda: number in self._answers or self._ended, PATIENCE)
            if number not in self._answers:
                raise LabError(f"{self._name} does not answer")
            kind, at, body = self._answers.pop(number)
        if kind is Kind.FAILED:
            raise OSError(json.loads(body))
        return at, json.loads(body)

    def wait_until(self, look: Callable[[], T], what: str, timeout: float) -> T:
        """The first true result of `look`, which is called now and again after each thing the machine reports."""
        deadline = time.monotonic() + timeout
        seen = -1
        while True:
            with self._changed:
                news = functools.partial(self._news_since, seen)
                if not self._changed.wait_for(news, deadline - time.monotonic()) or self._ended:
                    reason = "it is gone" if self._ended else f"{timeout:.0f} s have passed"
                    raise LabError(f"{self._name}: no {what}, and {reason}")
                seen = self._reports
            result = look()
            if result:
                return result

    def _news_since(self, seen: int) -> bool:
        return self._reports != seen or self._ended

    @property
    def uevents(self) -> list[tuple[float, dict[str, str]]]:
        """The kernel's uevents so far, each with the machine's time."""
        with self._changed:
            return list(self._uevents)

    def close(self) -> None:
        """End the connection and its thread."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _number(self) -> int:
        with self._changed:
            self._numbers += 1
            return self._numbers

    def _process_request(self, number: int, what: str, body: object) -> None:
        if isinstance(body, bytes):
            pieces = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)] or [b""]
            for piece in pieces:
                self._send(Kind.STDIN, number, piece)
        elif what == "signal":
            self._send(Kind.SIGNAL, number, json.dumps(body).encode())

    def _send(self, kind: Kind, number: int, body: bytes) -> None:
        with self._sending, contextlib.suppress(OSError):  # the receiver sees the end, and says so to whoever waits
            self._connection.sendall(pack(kind, number, body))

    def _receive(self) -> None:
        frames = Splitter()
        with contextlib.suppress(OSError):
            while data := self._connection.recv(CHUNK):
                for frame in frames.feed(data):
                    self._received(*frame)
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            processes = list(self._processes.values())
        for process in processes:
            process.lost(f"the machine {self._name} is gone")

    def _received(self, kind: Kind, number: int, at: float, body: bytes) -> None:
        process = self._processes.get(number)
        if process is not None:
            self._report(process, kind, at, body)
        with self._changed:
            if kind is Kind.READY:
                self._ready = True
            elif kind is Kind.UEVENT:
                self._uevents.append((at, json.loads(body)))
            elif kind is Kind.REAPED:
                pass
            elif process is None:
                self._answers[number] = (kind, at, body)
            elif kind in (Kind.EXITED, Kind.FAILED):
                del self._processes[number]
            if kind in (Kind.READY, Kind.UEVENT, Kind.EXITED, Kind.REAPED):
                self._reports += 1
            self._changed.notify_all()

    @staticmethod
    def _report(process: Process, kind: Kind, at: float, body: bytes) -> None:
        match kind:
            case Kind.SPAWNED:
                process.spawned(json.loads(body), at)
            case Kind.STDOUT | Kind.STDERR:
                process.wrote(kind.name.lower(), body)
            case Kind.EXITED:
                process.ended(json.loads(body), at)
            case Kind.FAILED:
                process.lost(f"it cannot be started: {json.loads(body)}")
