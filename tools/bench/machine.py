"""The machine under the benchmark: kept awake, watched for what else runs on it, and split between guest and host.

A processor of a virtual machine that goes idle takes 40 to 60 us to wake up, so that what would be measured is where
the scheduler puts the programs. A loop of the lowest class (SCHED_IDLE) on each keeps them from it: a wake-up then
costs an interrupt, as on bare metal.
"""

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Mode = Literal["cross", "same", "free", "plain"]
MODES: dict[Mode, str] = {
    "cross": "guest and server on processor 0, host on 1, both kept awake",
    "same": "everything on processor 1, both kept awake: the time of both sides in a row",
    "free": "nothing pinned, all processors kept awake",
    "plain": "nothing done about it",
}

TICKS = os.sysconf("SC_CLK_TCK")
QUIET_SECONDS = 60.0
"How long to wait for a quiet machine."
QUIET_SHARE = 0.10
"Of one processor: what a quiet machine uses at most."
LOOK_SECONDS = 0.2
NOISY_SHARE = 0.15
"Of one processor: a run beside which other programs used more is done again."


@dataclass(frozen=True, slots=True)
class Placement:
    """Words before the command of a side."""

    guest: tuple[str, ...]
    host: tuple[str, ...]
    awake: tuple[int, ...]


def placement(mode: Mode) -> Placement:
    """Where things run in this mode."""
    everywhere = tuple(sorted(os.sched_getaffinity(0)))
    if mode in ("cross", "same"):
        pins = {"cross": (0, 1), "same": (1, 1)}[mode]
        guest, host = (("taskset", "-c", str(everywhere[n])) for n in pins)
        return Placement(guest, host, everywhere[:2])
    return Placement((), (), everywhere if mode == "free" else ())


def busy() -> float:
    """Seconds of processor time that the machine has spent on anything, stolen time included."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, words[:8])
    return (user + nice + system + irq + softirq + steal) / TICKS


def ours() -> float:
    """Seconds of processor time that this process and its ended children have spent."""
    found = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in found)


def wait_until_quiet() -> bool:
    """Wait until others use next to nothing; False if they never stopped."""
    deadline = time.monotonic() + QUIET_SECONDS
    while True:
        before = busy()
        time.sleep(LOOK_SECONDS)  # a span to measure over, not a wait for something
        if busy() - before < QUIET_SHARE * LOOK_SECONDS + 1 / TICKS:
            return True
        if time.monotonic() > deadline:
            return False


class Others:
    """What other programs use while something runs, as a share of one processor. Children count when they ended."""

    def __init__(self) -> None:
        self._busy, self._ours, self._began = busy(), ours(), time.monotonic()

    def share(self) -> float:
        """Since this object was made."""
        spent = busy() - self._busy - (ours() - self._ours)
        return spent / (time.monotonic() - self._began)


@contextlib.contextmanager
def kept_awake(processors: tuple[int, ...]) -> Iterator[None]:
    """No processor of these goes idle."""
    loop = "while :; do :; done"
    spinning = [
        subprocess.Popen(["taskset", "-c", str(number), "chrt", "-i", "0", "sh", "-c", loop]) for number in processors
    ]
    try:
        yield
    finally:
        for each in spinning:
            each.kill()
        for each in spinning:
            each.wait()
