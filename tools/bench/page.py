"""`python -m tools.bench.page FILE.json ...`: RESULTS.md's tables and its plots from the figures of runs."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl

from tools.bench import summary, table
from tools.bench.summary import MODEL, OURS, ROUND_TRIPS, Row

mpl.use("agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
TABLES = re.compile("(?<=<!-- tables -->\n).*(?=<!-- end of tables -->)", re.DOTALL)
STYLES = {OURS: "o-", "usbredirect": "s--", "chost": "^--", "spicy": "v--", "local": "x:", MODEL: "k:"}
LATENCIES = ("control", "random_4k", "hid_1khz", "hid_8khz")
TAILS = {"p10_us": 0.9, "p50_us": 0.5, "p90_us": 0.1, "p99_us": 0.01, "p999_us": 0.001}
"Share of the answers that are later."


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def page(files: Sequence[Path]) -> None:
    """Put the figures of FILES, what `python -m tools.bench --json` wrote, into RESULTS.md and its plots."""
    rows: dict[str, Row] = {}
    tables = ""
    for file in files:
        found = json.loads(file.read_text())
        if "instructions" in found:
            tables += "\n".join(
                ("", "Counted by valgrind, user space only:", "", *table.instructions(found["instructions"]), "")
            )
            continue
        new = {row["name"]: summary.from_json(row) for row in found["rows"]}
        summary.judge(new)
        rows |= new
        tables += "\n".join(("", found["title"] + ":", "", *table.lines(new.values()), ""))
    if round_trips(rows, HERE / "rtt.png"):
        tables += "\n![Rate against round-trip time](rtt.png)\n"
    if latencies(rows, HERE / "latency.png"):
        tables += "\n![How late answers are](latency.png)\n"
    results = HERE / "RESULTS.md"
    results.write_text(TABLES.sub(lambda _: tables + "\n", results.read_text()))


def round_trips(rows: Mapping[str, Row], file: Path) -> bool:
    """Rate against round-trip time, beside `S / (3·RTT + S/rate without)`. False if there is nothing to draw."""
    chosen = {name: row for name, row in rows.items() if row.workload.rtt is not None}
    sizes = [name.rpartition("_")[2] for name in chosen if name.startswith("rtt0")]
    if not sizes:
        return False
    figure, axes = _axes(len(sizes))
    for axis, size in zip(axes, sizes, strict=True):
        found = [row for name, row in chosen.items() if name.endswith(f"_{size}")]
        for peer in ("usbbridge", "usbredirect"):
            points = [((row.workload.rtt or 0) / 1e3, row.peers[peer].value) for row in found if peer in row.peers]
            axis.plot(*zip(*points, strict=True), STYLES[peer], label=peer)
        _draw_model(axis, found)
        axis.set(title=f"reads of {size}", xlabel="round trip, ms", ylabel="MB/s", yscale="log")
        axis.legend()
    figure.savefig(file, dpi=100)
    return True


def _draw_model(axis: Any, found: Sequence[Row]) -> None:
    megabytes = int(found[0].workload.devices[0].ops.split()[1]) * 1024 / 1e6
    without = found[0].peers[OURS].value
    times = [step / 10 for step in range(101)]  # ms
    rates = [megabytes / (ROUND_TRIPS * ms / 1e3 + megabytes / without) for ms in times]
    axis.plot(times, rates, STYLES[MODEL], label="three round trips a command")


def latencies(rows: Mapping[str, Row], file: Path) -> bool:
    """How late the answers are: the share that is later than so many microseconds, for each peer. False if there is
    nothing to draw."""
    chosen = [name for name in LATENCIES if name in rows and TAILS.keys() <= rows[name].peers[OURS].quantiles.keys()]
    if not chosen:
        return False
    figure, axes = _axes(len(chosen))
    for axis, name in zip(axes, chosen, strict=True):
        for peer, found in rows[name].peers.items():
            points = [(found.quantiles[quantile], share) for quantile, share in TAILS.items() if found.quantiles]
            axis.plot(*zip(*points, strict=True), STYLES[peer], label=peer)
        axis.set(title=name, xlabel="us", ylabel="share that is later", xscale="log", yscale="log")
        axis.legend()
    figure.savefig(file, dpi=100)
    return True


def _axes(number: int) -> tuple[Any, Any]:
    figure, axes = plt.subplots(1, number, figsize=(4.2 * number, 3.4), layout="constrained", squeeze=False)
    return figure, axes[0]


if __name__ == "__main__":
    page()
