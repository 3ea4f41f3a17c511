"""Waiting without going to sleep, for as long as that pays: what a small URB waits for is often there at once.

To be woken takes a processor 20 to 60 us, as much as all the rest of a small URB. So the descriptors are looked at
again and again for a moment before the encoder sleeps, as long as guest or device answer within it. Who takes longer
is left alone, each by itself, but for a look now and then; an idle encoder sleeps.
"""

import time
from collections.abc import Callable, Container

MAX_EVENTS = 8
"Events of one epoll: the socket, a few of libusb, ours. The default would allocate room for 1023 each time."

SPIN_SECONDS = 100e-6
"How long to look. QEMU's event loop (32 us) and KVM (200 us) poll likewise."

Events = list[tuple[int, int]]
"What epoll gives: descriptors and their events."


class Bet:
    """Whether something that may pay is worth a try: always while it does, ever more seldom while it does not."""

    MOST = 1024
    "Chances let pass between two tries, at the most."

    __slots__ = ("_pass", "_penalty")

    def __init__(self) -> None:
        self._pass, self._penalty = 0, 1

    def worth_it(self) -> bool:
        """A chance is there: whether to try."""
        if self._pass:
            self._pass -= 1
            return False
        return True

    def hit(self) -> None:
        """It paid."""
        self._penalty = 1

    def missed(self) -> None:
        """It did not pay."""
        self._pass = self._penalty
        self._penalty = min(2 * self._penalty, self.MOST)


class Spin:
    """Looks at descriptors through `poll`, as that of select.epoll; `clock` gives seconds."""

    def __init__(self, poll: Callable[[float, int], Events], clock: Callable[[], float] = time.monotonic) -> None:
        self._poll, self._clock = poll, clock

    def __call__(self, bet: Bet, awaited: Container[int], welcome: Container[int]) -> Events:
        """What happens within SPIN_SECONDS, possibly nothing. The bet is on `awaited`: a report that nobody has asked
        for comes when it comes, and a processor is not to be held for that. Nothing is won or lost by what is only
        `welcome`."""
        poll, clock = self._poll, self._clock
        until = clock() + SPIN_SECONDS
        events: Events = []
        while not events and clock() < until:
            events = poll(0, MAX_EVENTS)
        first = events[0][0] if events else -1
        if first in awaited:
            bet.hit()
        elif first not in welcome:
            bet.missed()
        return events
