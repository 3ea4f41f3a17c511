"""When to try again what has failed."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

STEADY_SECONDS = 60.0
"""Something that has worked for so long was not a lucky try: its earlier failures are forgotten. As long as the longest
wait by default, so that what fails again and again within it does not start from the first wait each time."""


@dataclass(slots=True)
class Pace:
    """How waits grow: from `first` seconds to `longest`, twice as long each time, each shortened by jitter."""

    jitter: Callable[[], float]
    first: float = 1.0
    longest: float = 60.0

    def seconds(self, failures: int) -> float:
        """To wait after the given number of failures in a row, 1 or more."""
        doublings = min(failures - 1, 32)  # 2**32 first waits are beyond every longest one
        return max(min(self.first * 2.0**doublings, self.longest) * self.jitter(), 1e-3)  # never a busy loop


@dataclass(slots=True)
class Backoff:
    """Counts the failures of one thing in a row, and knows when it may be tried again."""

    failures: int = 0
    until: float = -math.inf
    working_since: float | None = field(default=None)

    def waits(self, now: float) -> bool:
        """Whether it is too early for another try."""
        return now < self.until

    def works(self, now: float) -> None:
        """A try has succeeded."""
        self.working_since = now
        self.until = -math.inf

    def failed(self, now: float, pace: Pace) -> None:
        """A try has failed, or what had succeeded has ended."""
        self.ended(now)
        self.failures += 1
        self.until = now + pace.seconds(self.failures)

    def ended(self, now: float) -> None:
        """What had succeeded is over, by itself or by somebody's wish."""
        if self.working_since is not None and now - self.working_since >= STEADY_SECONDS:
            self.failures = 0
        self.working_since = None

    def hurry(self) -> None:
        """Somebody wants it now: the next try need not wait."""
        self.until = -math.inf

    def reset(self) -> None:
        """The circumstances have changed: earlier failures mean nothing any more."""
        self.failures, self.until = 0, -math.inf
