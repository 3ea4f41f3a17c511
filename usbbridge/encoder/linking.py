"""Linking a channel without turning deaf: name resolution, TLS and the link stage block for seconds where no VM is.

They run on a thread of their own while this one listens to whoever started us. Nothing is claimed yet, so a wish to
stop needs no goodbye: the thread is left behind, and ends with the process.
"""

import contextlib
import os
import select
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from usbbridge.errors import RemoteProtocolError
from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.messages import AskStats, Capture, Stats

T = TypeVar("T")

OnCapture = Callable[[Capture, int], None]
"Is given a wish for a capture, and the descriptor of the connection that it is to be written to."


class Stopped(Exception):  # noqa: N818  # not an error: the starter wants the end, or is gone itself
    """The attachment is to end."""


def hear(starter: MessageChannel, stats: Callable[[], Stats], capture: OnCapture) -> None:
    """Take a message of the starter's. Anything but a question for numbers or a wish for a capture, also its end or
    nonsense, means stop."""
    received = None
    with contextlib.suppress(RemoteProtocolError):  # a starter that talks nonsense is not to be trusted any more
        received = starter.receive()
    message, fds = received or (None, ())
    if isinstance(message, Capture) and fds:
        capture(message, fds[0])
        return
    for fd in fds:
        os.close(fd)
    if not isinstance(message, AskStats):
        raise Stopped
    with contextlib.suppress(OSError):  # it has died since it asked, which is noticed next
        starter.send(stats())


def unless_stopped(
    work: Callable[[], T],
    discard: Callable[[T], None],
    starter: MessageChannel,
    wakeup_fd: int,
    capture: OnCapture,
) -> T:
    """The result of `work`, which blocks; what it raises; or Stopped if that is wanted, or a signal comes, first: a
    result that comes after that is `discard`ed. `capture` keeps what is to be captured when there is something."""
    job = _Job(work, discard)
    poller = select.poll()
    for fd in (job.done, starter.fileno(), wakeup_fd):
        poller.register(fd, select.POLLIN)
    try:
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if job.done in ready:
                return job.result()
            if wakeup_fd in ready:
                raise Stopped
            hear(starter, lambda: Stats(0, 0, 0), capture)
    finally:
        job.leave()


class _Job(Generic[T]):
    """A call on a thread; `done` becomes readable at its end."""

    def __init__(self, work: Callable[[], T], discard: Callable[[T], None]) -> None:
        self.done, self._writer = os.pipe()
        self._work, self._discard = work, discard
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._left, self._lock = False, threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            result = self._work()
            with self._lock:
                if self._left:
                    self._discard(result)
                else:
                    self._results.append(result)
        except BaseException as error:
            self._error = error
        finally:
            os.close(self._writer)

    def result(self) -> T:
        """What it returned, or raised."""
        if self._error is not None:
            raise self._error
        return self._results.pop()

    def leave(self) -> None:
        """Nobody asks any more."""
        with self._lock:
            self._left = True
            for result in self._results:
                self._discard(result)
        os.close(self.done)
