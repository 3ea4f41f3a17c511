"""The table, as Markdown: it reads as well at a prompt as on a page."""

from collections.abc import Iterable, Sequence

from tools.bench.summary import LOCAL, OURS, Figures, Row
from tools.bench.workloads import RATE

UNITS = {RATE: "MB/s", "mean_us": "us", "per_s": "/s", "us_per_message": "us"}
PEERS = ("usbbridge", "usbredirect", "chost", "spicy")
HEAD = ("workload", "unit", *PEERS, "local", "p99 us", "us a URB", "share", "targets")


def lines(rows: Iterable[Row]) -> list[str]:
    """The table's lines, header first, columns aligned."""
    cells = [HEAD, *map(_cells, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
    rule = tuple("-" * width for width in widths)
    return ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in (cells[0], rule, *cells[1:])]


def _cells(row: Row) -> tuple[str, ...]:
    found = [_number(row.peers[name].value) if name in row.peers else "" for name in PEERS]
    local = _number(row.peers[LOCAL].value) if LOCAL in row.peers else ""
    compared = [row.peers[name] for name in PEERS if name in row.peers]
    p99 = _slashed([each.quantiles.get("p99_us") for each in compared])
    cpu = _slashed([each.cpu_us for each in compared])
    return (
        row.workload.name, UNITS[row.workload.metric], *found, local, p99, cpu,
        _share(row.peers.get(OURS)), "; ".join([*map(_verdict, row.verdicts), *row.notes]),
    )  # fmt: skip


def _verdict(verdict: object) -> str:
    return f"{verdict}" if getattr(verdict, "held", False) else f"**{verdict}**"


def _share(ours: Figures | None) -> str:
    return f"{100 * ours.share:.0f} %" if ours and ours.share is not None else ""


def _slashed(found: Sequence[float | None]) -> str:
    return " / ".join(_number(each) if each is not None else "-" for each in found) if any(found) else ""


def _number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
