"""How long the commands take that somebody waits for at a prompt: `python -m tools.bench.verbs [ROUNDS]`.

They are run one after the other, against the service that runs here, or none; what counts is the time from the start of
the process to its end.
"""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

COMMANDS = (("list",), ("list", "--json"), ("status",), ("--help",))


def measure(command: Sequence[str], rounds: int) -> tuple[list[float], float]:
    """Seconds of each round by the clock, and of the processor on average."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    clock = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        clock.append(time.perf_counter() - began)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / rounds


def main() -> None:
    """Print a line for each command."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for arguments in COMMANDS:
        clock, processor = measure([sys.executable, "-m", "usbbridge", *arguments], rounds)
        low, middle, high = min(clock) * 1e3, statistics.median(clock) * 1e3, max(clock) * 1e3
        by_clock = f"{low:4.0f} / {middle:4.0f} / {high:4.0f} ms (least / median / most)"
        print(f"usbbridge {' '.join(arguments):14} {by_clock}, of the processor {processor * 1e3:4.0f} ms")


if __name__ == "__main__":
    main()
