"""The table, as Markdown: it reads as well at a prompt as on a page."""

from collections.abc import Iterable, Mapping, Sequence

from tools.bench.summary import LOCAL, OURS, Figures, Row, Verdict
from tools.bench.workloads import RATE

UNITS = {RATE: "MB/s", "mean_us": "us", "per_s": "/s", "us_per_message": "us"}
PEERS = ("usbbridge", "usbredirect", "chost", "spicy")
HEAD = ("workload", "unit", *PEERS, "local", "p99 us", "us a URB", "share", "targets")


def lines(rows: Iterable[Row]) -> list[str]:
    """The table's lines, header first, columns aligned."""
    return _aligned([HEAD, *map(_cells, rows)])


def instructions(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The lines of a table of instructions, by workload and peer."""
    names = [name for name in PEERS if any(name in row for row in found.values())]
    cells = [(name, *(f"{row[peer]:,.0f}" if peer in row else "" for peer in names)) for name, row in found.items()]
    return _aligned([("instructions a URB", *names), *cells])


def _aligned(cells: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines, the header first."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
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


def _verdict(verdict: Verdict) -> str:
    return f"{verdict}" if verdict.held else f"**{verdict}**"


def _share(ours: Figures | None) -> str:
    return f"{100 * ours.share:.0f} %" if ours and ours.share is not None else ""


def _slashed(found: Sequence[float | None]) -> str:
    return " / ".join(_number(each) if each is not None else "-" for each in found) if any(found) else ""


def _number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
