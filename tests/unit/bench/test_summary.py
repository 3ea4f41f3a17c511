"""The benchmark's figures: what the guests print, what is made of it, and what the targets make of that."""

import json

import pytest

from tools.bench import summary, table
from tools.bench.running import Run, parse
from tools.bench.summary import LOCAL, MODEL, OURS, Figures, Row
from tools.bench.workloads import MEAN, RATE, WORKLOADS, Device, Target, Workload

SAID = """listening
peer hello: usbbridge 0.1
connect_ms=12.5 in=81 out=02 int=00
seq_64k bytes=65536000 s=1.000 MBps=65.5 verified
rand_4k n=1000 mean_us=50.0 p50_us=40.0 p99_us=90.0 max_us=100.0
done
"""


def work(name: str = "reads", metric: str = RATE, targets: tuple[Target, ...] = (), rtt: int | None = None) -> Workload:
    return Workload(name, "group", (Device("msc", "seq 64 100"),), metric, targets, rtt=rtt)


def test_the_guests_lines_are_read_by_name_and_what_is_no_number_is_left_out() -> None:
    found = parse(SAID)
    assert found["seq_64k"] == {"bytes": 65536000, "s": 1, "MBps": 65.5}
    assert found["connect_ms=12.5"] == {"out": 2, "int": 0, "in": 81}
    assert found["done"] == {}


def test_a_command_is_three_urbs_and_a_looped_message_two() -> None:
    assert summary.urbs(Run([parse("seq_64k bytes=655360")])) == 30
    assert summary.urbs(Run([parse("rand_4k n=7"), parse("ctrl n=5")])) == 26
    assert summary.urbs(Run([parse("loop_0.5k_d16 n=100 mean_us=3\nloop_0.5k_d16 us_per_message=2")])) == 200


def test_figures_are_medians_and_a_urbs_cost_is_the_processor_time_by_their_number() -> None:
    runs = [
        Run([parse(f"seq_64k bytes=655360 MBps={rate}")], cpu=cpu, seconds=1)
        for rate, cpu in ((1, 3e-4), (9, 6e-4), (5, 9e-4))
    ]
    found = summary.figures(work(), runs)
    assert (found.value, found.cpu_us) == (5, pytest.approx(20))
    assert found.values == [1, 9, 5]


def test_the_rates_of_several_devices_are_added_but_not_their_latencies() -> None:
    both = Run([parse("seq_64k bytes=1 MBps=2"), parse("hid n=3 mean_us=4 lost=1 bad=1")])
    assert summary.figures(work(), [both]).value == 2
    found = summary.figures(work(metric=MEAN), [both])
    assert (found.value, found.lost) == (4, 2)


@pytest.mark.parametrize(
    ("metric", "ours", "theirs", "held"), [(RATE, 200, 100, True), (RATE, 99, 100, False), (MEAN, 50, 100, True)]
)
def test_a_rate_is_compared_so_that_more_is_better(metric: str, ours: float, theirs: float, *, held: bool) -> None:
    row = Row(work(metric=metric, targets=(Target("chost", "rate", 1.0),)), {})
    row.peers = {OURS: Figures(ours, []), "chost": Figures(theirs, [])}
    summary.judge({"reads": row})
    assert [verdict.held for verdict in row.verdicts] == [held]
    assert ("**" in table.lines([row])[-1]) is not held


def test_cost_and_tail_have_upper_limits() -> None:
    targets = (Target("chost", "cpu", 1.5), Target("chost", "p99", 1.3))
    row = Row(work(targets=targets), {})
    row.peers = {
        OURS: Figures(1, [], cpu_us=15, quantiles={"p99_us": 140}),
        "chost": Figures(1, [], cpu_us=10, quantiles={"p99_us": 100}),
    }
    summary.judge({"reads": row})
    assert [(verdict.got, verdict.held) for verdict in row.verdicts] == [(1.5, True), (1.4, False)]


def test_the_model_takes_three_round_trips_from_the_rate_without_any() -> None:
    target = Target(MODEL, "rate", 0.95)
    rows = {name: Row(work(name, targets=(target,), rtt=rtt), {}) for name, rtt in (("rtt0_r", 0), ("rtt1_r", 1000))}
    rows["rtt0_r"].peers = {OURS: Figures(65.536, [])}  # MB/s: a command takes 1 ms
    rows["rtt1_r"].peers = {OURS: Figures(16.384, [])}
    summary.judge(rows)
    assert rows["rtt1_r"].peers[MODEL].value == pytest.approx(16.384)
    assert [verdict.got for verdict in rows["rtt1_r"].verdicts] == [pytest.approx(1)]
    assert rows["rtt0_r"].verdicts == []


def test_a_lost_report_is_said() -> None:
    row = Row(Workload("hid", "latency", (), MEAN, lossless=True), {OURS: Figures(1, [], lost=3)})
    summary.judge({"hid": row})
    assert row.notes == ["LOST 3"]


def test_every_workload_has_its_own_name_and_figures_that_machines_can_read() -> None:
    assert len({each.name for each in WORKLOADS}) == len(WORKLOADS)
    for each in WORKLOADS:
        row = Row(each, {OURS: Figures(1, [1]), LOCAL: Figures(2, [2])})
        summary.judge({each.name: row})
        again = summary.from_json(json.loads(json.dumps(summary.as_json(row))))
        summary.judge({each.name: again})
        assert (again.workload, again.peers) == (each, row.peers)
        assert again.verdicts == row.verdicts


def test_each_target_names_a_peer_that_runs() -> None:
    for each in WORKLOADS:
        running = {*each.peers, MODEL, *([LOCAL] if each.local else [])}
        assert {target.peer for target in each.targets} <= running, each.name
