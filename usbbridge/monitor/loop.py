"""The monitor's loop: one epoll, deadlines, and the signals that end it. Nothing wakes it up but what happens.

select.epoll is used by itself because the kernel announces changes of mounts and swaps by EPOLLPRI on files that are
readable all the time (proc_pid_mountinfo(5)), which Python's `selectors` can't ask for.
"""

import heapq
import os
import select
import signal
import time
from collections.abc import Callable
from itertools import count
from typing import Final

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
CHANGED: Final = select.EPOLLPRI
"Something about a kernel file has changed."
ENDED: Final = select.EPOLLRDHUP
"The other end of a socket has closed it; what it may have sent is of no interest."

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

OnEvent = Callable[[], None]


class Timer:
    """Something that is to happen at a time, unless it is cancelled."""

    def __init__(self, at: float, what: OnEvent) -> None:
        self.at, self.what = at, what
        self.cancelled = False

    def cancel(self) -> None:
        """It shall not happen. May be called again, and after it has happened."""
        self.cancelled = True


class Loop:
    """Calls what is registered for a descriptor when something happens there, and what is due when it is due."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, OnEvent] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._stopped = False

    def watch(self, fd: int, what: OnEvent, events: int = READ) -> None:
        """Call `what` whenever one of `events`, or the other end's end, is there; for as long as it is."""
        self._epoll.register(fd, events)
        self._watched[fd] = what

    def expect(self, fd: int, events: int) -> None:
        """Wait for other events at a descriptor that is watched."""
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """To be called before it is closed."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def after(self, seconds: float, what: OnEvent) -> Timer:
        """Call `what` once, so many seconds from now."""
        timer = Timer(time.monotonic() + seconds, what)
        heapq.heappush(self._timers, (timer.at, next(self._order), timer))
        return timer

    def run(self) -> None:
        """Until `stop` is called."""
        while not self._stopped:
            self.turn()

    def turn(self) -> None:
        """Wait until something happens, and do what is to be done about it."""
        ready = self._epoll.poll(self._timeout())
        for fd, what in [(fd, self._watched.get(fd)) for fd, _ in ready]:
            if what is not None and self._watched.get(fd) is what:  # else it was closed a moment ago, in this turn
                what()
        while (timer := self._first()) is not None and timer.at <= time.monotonic():
            heapq.heappop(self._timers)
            timer.what()

    def stop(self) -> None:
        """Return from `run` after this turn."""
        self._stopped = True

    def close(self) -> None:
        """Let go of epoll's descriptor; those watched are their owners'."""
        self._epoll.close()

    def _timeout(self) -> float | None:
        timer = self._first()
        return None if timer is None else max(0.0, timer.at - time.monotonic())

    def _first(self) -> Timer | None:
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][2] if self._timers else None


class Signals:
    """Signals as events of a loop: SIGHUP is one thing, SIGTERM and SIGINT another."""

    def __init__(self, loop: Loop, on_hangup: OnEvent, on_end: OnEvent) -> None:
        self._loop, self._on_hangup, self._on_end = loop, on_hangup, on_end
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        self._wakeup_before = signal.set_wakeup_fd(self._writer)
        loop.watch(self._reader, self._arrived)

    def _arrived(self) -> None:
        for number in os.read(self._reader, 64):
            if number == signal.SIGHUP:
                self._on_hangup()
            elif number in SIGNALS:
                self._on_end()

    def close(self) -> None:
        """As it was before."""
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._loop.unwatch(self._reader)
        os.close(self._reader)
        os.close(self._writer)
