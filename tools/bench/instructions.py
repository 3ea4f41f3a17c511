"""What one URB costs in instructions, which no other program disturbs: valgrind counts them.

Looks at the clock while waiting awake are among them, though fewer than at full speed. Only those of the host's own
processes are counted, not the kernel's. The same work is done twice, once with more of it: the difference is what the
work costs, without start and end.
"""

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from tools.bench.machine import Placement
from tools.bench.running import RunError, through
from tools.bench.summary import urbs
from tools.bench.workloads import Workload

COUNTS: Final = {"read_64k": (6400, 25600), "control": (200, 800), "pipelined_512_16": (200, 800)}
"""Workloads, and how much is done: KiB, or messages. Enough for what is learned on the way, such as whether waiting
awake pays, to be learned."""
PEERS: Final = ("usbbridge", "chost")
"Those that sleep while they wait, or nearly; of one that looks all the time, the looks would be counted."
PATIENCE: Final = 10.0
"How many times slower a program is under valgrind, with some to spare; the interpreter is 30 times, and starts twice."
SECONDS: Final = 120.0
VALGRIND: Final = ("valgrind", "--tool=callgrind", "--trace-children=yes", "--callgrind-out-file=/dev/null")
_COLLECTED: Final = re.compile(r"Collected : (\d+)")


def of_urb(workload: Workload, peer: str) -> float:
    """The instructions of a URB, for a workload that is in COUNTS. Raises RunError."""
    (few, least), (many, most) = (_counted(_cut(workload, count), peer) for count in COUNTS[workload.name])
    return (most - least) / (many - few)


def _cut(workload: Workload, count: int) -> Workload:
    """With so much work, and no other end."""
    (device,) = workload.devices
    return replace(workload, devices=(replace(device, ops=cut(device.ops, count)),), seconds=SECONDS)


def cut(ops: str, count: int) -> str:
    """One operation of the guest's with another amount of work: the second of its numbers, or its only one."""
    words = ops.split()
    words[min(2, len(words) - 1)] = str(count)
    return " ".join(words)


def _counted(workload: Workload, peer: str) -> tuple[int, int]:
    """URBs, and the instructions of all processes of the host. Raises RunError."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = Placement((), (*VALGRIND, f"--log-file={folder / 'valgrind.%p'}"), ())
        run = through(workload, peer, place, folder, PATIENCE)
        found = [collected(file.read_text()) for file in folder.glob("valgrind.*")]
    if not found or 0 in found:
        raise RunError(f"valgrind has not counted all processes of {peer}")
    return urbs(run), sum(found)


def collected(log: str) -> int:
    """The instructions that a process has had, as its log says; 0 if it has not come to its end."""
    return sum(map(int, _COLLECTED.findall(log)))
