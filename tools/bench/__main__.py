"""`python -m tools.bench`: the side-by-side benchmark."""

import datetime
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

from tools.bench import instructions, rig, summary, table
from tools.bench.machine import MODES, NOISY_SHARE, Mode, Others, Placement, kept_awake, placement, wait_until_quiet
from tools.bench.peers import PEERS
from tools.bench.running import Run, RunError, display, locally, through
from tools.bench.summary import LOCAL, Row
from tools.bench.workloads import GROUPS, WORKLOADS, Workload

TRIES = 4
"Of a run that other programs disturb, or that fails."
NOISY = "noisy"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1)
@click.option("--runs", default=5, show_default=True, help="Runs of each, of which the median counts.")
@click.option("--mode", type=click.Choice(list(MODES)), default="cross", show_default=True, help="Where things run.")
@click.option("--peer", "peers", multiple=True, type=click.Choice([*PEERS, LOCAL]), help="Only these (repeatable).")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures to this file.")
@click.option("--instructions", "counting", is_flag=True, help="Count a URB's instructions instead (ten minutes).")
@click.option("--list", "listing", is_flag=True, help="Only say what there is to run.")
def bench(
    names: Sequence[str],
    runs: int,
    mode: Mode,
    peers: Sequence[str],
    json_file: Path | None,
    *,
    counting: bool,
    listing: bool,
) -> None:
    """Run the same work through usbbridge and through its peers, in turn, and print one table.

    NAMES are workloads or groups of them, or the beginning of a name with a * behind; all, if none is given (an hour).
    What each target demands stands in the table's last column, in bold if it is not met.
    """
    chosen = _chosen(names)
    if listing:
        for each in chosen:
            click.echo(f"{each.group:10} {each.name:24} {'; '.join(device.ops for device in each.devices)}")
        return
    rig.build()
    if counting:
        _count(chosen, peers, json_file)
        return
    with ExitStack() as stack:
        if any("spicy" in each.peers for each in chosen):
            stack.enter_context(display())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = {each.name: _measure(each, runs, mode, peers, folder) for each in chosen}
    summary.judge(rows)
    title = _title(runs, mode)
    for line in (title, "", *table.lines(rows.values())):
        click.echo(line)
    if json_file is not None:
        found = [summary.as_json(row) for row in rows.values()]
        json_file.write_text(json.dumps({"title": title, "mode": mode, "runs": runs, "rows": found}, indent=1) + "\n")


def _count(chosen: Sequence[Workload], peers: Sequence[str], json_file: Path | None) -> None:
    """The instructions of a URB, of those workloads of which they can be counted."""
    found = {
        each.name: {peer: instructions.of_urb(each, peer) for peer in instructions.PEERS if not peers or peer in peers}
        for each in chosen
        if each.name in instructions.COUNTS
    }
    for line in table.instructions(found):
        click.echo(line)
    if json_file is not None:
        json_file.write_text(json.dumps({"instructions": found}, indent=1) + "\n")


def _chosen(names: Sequence[str]) -> list[Workload]:
    def matches(each: Workload, name: str) -> bool:
        start = name.removesuffix("*")
        return name in (each.name, each.group) or (start != name and each.name.startswith(start))

    for name in names:
        if not any(matches(each, name) for each in WORKLOADS):
            raise click.UsageError(f"no workload {name!r}; --list shows them all; groups: {', '.join(GROUPS)}")
    return [each for each in WORKLOADS if not names or any(matches(each, name) for name in names)]


def _title(runs: int, mode: Mode) -> str:
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    model = cpu.partition(":")[2].strip()
    here = f"{os.cpu_count()} x {model}; Linux {platform.release()}"
    return f"{when}; {here}; {MODES[mode]}; medians of {runs} alternating runs"


def _measure(workload: Workload, runs: int, mode: Mode, peers: Sequence[str], folder: Path) -> Row:
    """Each peer once, then each again, and so on: what drifts, drifts for all."""
    place, row = placement(mode), Row(workload, {})
    found: dict[str, list[Run]] = {name: [] for name in _contestants(workload, peers)}
    for _ in range(workload.runs or runs):
        for name, done in found.items():
            try:
                done.append(_undisturbed(partial(_one, workload, name, place, folder), place, row))
            except RunError as error:
                row.notes.append(f"{name} failed")
                click.echo(str(error), err=True)
    row.peers = {name: summary.figures(workload, done) for name, done in found.items() if done}
    said = ", ".join(f"{name} {figures.value:.1f}" for name, figures in row.peers.items())
    click.echo(f"{workload.name}: {said} {' '.join(row.notes)}", err=True)
    return row


def _contestants(workload: Workload, peers: Sequence[str]) -> Iterator[str]:
    for name in (*workload.peers, *([LOCAL] if workload.local else [])):
        if not peers or name in peers:
            yield name


def _one(workload: Workload, name: str, place: Placement, folder: Path) -> Run:
    return locally(workload, place, folder) if name == LOCAL else through(workload, name, place, folder)


def _undisturbed(run: Callable[[], Run], place: Placement, row: Row) -> Run:
    """One run that nothing else disturbed, or the last of some that something did. Raises RunError."""
    for attempt in range(TRIES):
        quiet = wait_until_quiet()
        others = Others()
        try:
            with kept_awake(place.awake):
                done = run()
        except RunError as error:
            if attempt == TRIES - 1:
                raise
            row.notes.append("a run failed")
            click.echo(str(error), err=True)
            continue
        if quiet and others.share() <= NOISY_SHARE:
            return done
    if NOISY not in row.notes:
        row.notes.append(NOISY)
    return done


if __name__ == "__main__":
    bench()
