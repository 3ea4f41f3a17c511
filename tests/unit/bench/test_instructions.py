"""Counting a URB's instructions: what is made of the work, and of what valgrind says."""

import pytest

from tools.bench import instructions, table
from tools.bench.workloads import WORKLOADS

LOG = """==123== Events    : Ir
==123== Collected : 87956863
==123==
==123== I   refs:      87,956,863
"""


@pytest.mark.parametrize(
    ("ops", "less"),
    [("seq 64 1048576", "seq 64 800"), ("ctrl 1048576", "ctrl 800"), ("loop 0.5 100000 16", "loop 0.5 800 16")],
)
def test_an_operation_is_done_as_often_as_is_wanted(ops: str, less: str) -> None:
    assert instructions.cut(ops, 800) == less


def test_what_is_counted_is_among_the_workloads_and_has_one_device() -> None:
    found = {each.name: len(each.devices) for each in WORKLOADS if each.name in instructions.COUNTS}
    assert found == dict.fromkeys(instructions.COUNTS, 1)
    assert all(few < many for few, many in instructions.COUNTS.values())


def test_a_log_tells_the_instructions_of_a_process_that_has_ended() -> None:
    assert instructions.collected(LOG) == 87_956_863
    assert instructions.collected("==123== Callgrind, a call-graph generating cache profiler") == 0


def test_the_table_has_a_row_a_workload_and_a_column_a_peer() -> None:
    lines = table.instructions({"control": {"usbbridge": 12345.6, "chost": 99.0}, "read_64k": {"chost": 5.0}})
    assert [line.split() for line in lines[::2]] == [
        ["|", "instructions", "a", "URB", "|", "usbbridge", "|", "chost", "|"],
        ["|", "control", "|", "12,346", "|", "99", "|"],
    ]
    assert "| read_64k" in lines[3]
