"""From the runs to figures: medians, ratios, and which targets they meet."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.bench.running import Run
from tools.bench.workloads import RATE, WORKLOADS, Target, Workload

LOST = "LOST"
LOCAL, MODEL, OURS = "local", "model", "usbbridge"
ROUND_TRIPS = 3
"Of one Bulk-Only command, when the data stage is one URB: command, data, status."
QUANTILES = ("p10_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us")


@dataclass(slots=True)
class Figures:
    """The medians of one peer's runs of one workload."""

    value: float
    "In the workload's metric."
    values: list[float]
    "Of each run, in their order."
    cpu_us: float | None = None
    "Microseconds of the host's processor time a URB."
    share: float | None = None
    "Of one processor, that the host used while the guest worked."
    quantiles: dict[str, float] = field(default_factory=dict)
    "Of the latency, in microseconds."
    resident: float | None = None
    "MiB, of the largest process at its largest."
    connected: float | None = None
    "Seconds from a host's start to its device at the guest."
    lost: int | None = None
    "Reports or packets that did not arrive, in all runs together."


@dataclass(slots=True)
class Verdict:
    """A target, and what came out."""

    target: Target
    got: float

    @property
    def held(self) -> bool:
        """Whether the target is met; rates have a lower limit, all else an upper one."""
        return self.got >= self.target.limit if self.target.quantity == "rate" else self.got <= self.target.limit

    def __str__(self) -> str:
        sign = "≥" if self.target.quantity == "rate" else "≤"
        return f"{self.target.quantity}/{self.target.peer} {self.got:.2f} {sign} {self.target.limit:g}"


@dataclass(slots=True)
class Row:
    """All that is known of one workload."""

    workload: Workload
    peers: dict[str, Figures]
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def figures(workload: Workload, runs: list[Run]) -> Figures:
    """The medians of these runs."""
    values = [value(workload, run) for run in runs]
    of_urb = [run.cpu * 1e6 / count for run in runs if run.cpu and (count := urbs(run))]
    quantiles = {}
    for name in QUANTILES:
        found = [line[name] for run in runs for line in _lines(run) if name in line]
        if found:
            quantiles[name] = statistics.median(found)
    lost = [line for run in runs for line in _lines(run) if "lost" in line]
    return Figures(
        statistics.median(values),
        values,
        _median(of_urb),
        _median([run.cpu / run.seconds for run in runs if run.cpu]),
        quantiles,
        _median([run.resident for run in runs if run.resident]),
        _median([run.connected for run in runs if run.connected]),
        sum(int(line["lost"] + line.get("bad", 0) + line.get("underruns", 0)) for line in lost) if lost else None,
    )


def _median(found: list[float]) -> float | None:
    return statistics.median(found) if found else None


def _lines(run: Run) -> Iterable[Mapping[str, float]]:
    return (line for lines in run.lines for line in lines.values())


def value(workload: Workload, run: Run) -> float:
    """The run's result in the workload's metric; the rates of several devices are added."""
    found = [line[workload.metric] for line in _lines(run) if workload.metric in line]
    return sum(found) if workload.metric == RATE else found[0]


def urbs(run: Run) -> int:
    """How many URBs the guests of a run had done for them."""
    return sum(_urbs(name, line) for lines in run.lines for name, line in lines.items())


def _urbs(name: str, line: Mapping[str, float]) -> int:
    kind = name.split("_")[0]
    if kind in ("seq", "wseq"):
        kib = int(name.split("_")[1].removesuffix("k"))
        return int(line["bytes"] / (kib * 1024)) * ROUND_TRIPS
    each = {"rand": ROUND_TRIPS, "ctrl": 1, "hid": 1, "loop": 2}.get(kind, 0)
    return int(line.get("n", 0)) * each


def judge(rows: Mapping[str, Row]) -> None:
    """Hold our figures against the targets of each workload."""
    for row in rows.values():
        _model(row, rows)
        ours = row.peers.get(OURS)
        for target in row.workload.targets:
            theirs = row.peers.get(target.peer)
            got = _ratio(row.workload, target, ours, theirs) if ours and theirs else None
            if got is not None:
                row.verdicts.append(Verdict(target, got))
        if row.workload.lossless and ours and ours.lost:
            row.notes.append(f"{LOST} {ours.lost}")


def _ratio(workload: Workload, target: Target, ours: Figures, theirs: Figures) -> float | None:
    read: dict[str, Callable[[Figures], float | None]] = {
        "cpu": lambda each: each.cpu_us,
        "p99": lambda each: each.quantiles.get("p99_us"),
        "rate": lambda each: each.value,
    }
    a, b = (read[target.quantity](each) for each in (ours, theirs))
    if not a or not b:
        return None
    return b / a if target.quantity == "rate" and not workload.higher_is_better else a / b


def _model(row: Row, rows: Mapping[str, Row]) -> None:
    """What three round trips leave of the rate that the same path has without them: S / (3·RTT + S / rate)."""
    without = rows.get(row.workload.name.replace(f"rtt{(row.workload.rtt or 0) // 1000}_", "rtt0_"))
    if row.workload.rtt and without and OURS in without.peers:
        size = int(row.workload.devices[0].ops.split()[1]) * 1024 / 1e6  # MB
        seconds = ROUND_TRIPS * row.workload.rtt / 1e6 + size / without.peers[OURS].value
        row.peers[MODEL] = Figures(size / seconds, [])


def as_json(row: Row) -> dict[str, object]:
    """One row for machines to read."""
    peers = {name: {slot: getattr(each, slot) for slot in each.__slots__} for name, each in row.peers.items()}
    verdicts = [
        {"peer": v.target.peer, "quantity": v.target.quantity, "limit": v.target.limit, "got": v.got, "held": v.held}
        for v in row.verdicts
    ]
    work = row.workload
    return {
        "name": work.name,
        "group": work.group,
        "metric": work.metric,
        "path": work.path,
        "rtt_us": work.rtt,
        "devices": [{"model": d.model, "ops": d.ops, "settings": list(d.settings)} for d in work.devices],
        "peers": peers,
        "targets": verdicts,
        "notes": row.notes,
    }


def from_json(found: Mapping[str, Any]) -> Row:
    """A row that `as_json` made, of a workload that still exists; not judged yet. Raises KeyError."""
    workload = next((each for each in WORKLOADS if each.name == found["name"]), None)
    if workload is None:
        raise KeyError(found["name"])
    peers = {name: Figures(**figures) for name, figures in found["peers"].items()}
    return Row(workload, peers, notes=[note for note in found["notes"] if not note.startswith(LOST)])
