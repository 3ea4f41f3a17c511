"""Words, sizes and times for people."""

from dataclasses import replace

import pytest

from tests.fakes.service import DESK, device
from usbbridge.cli.tables import columns, count, one_line, place, seconds_text, session, size_text
from usbbridge.ipc.api import SessionState, State


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1.5e6, "1.5 MB"), (2.25e9, "2.2 GB"), (5e12, "5.0 TB")],
)
def test_sizes_are_written_for_people(size: float, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (200_000, "2 days")],
)
def test_times_are_written_in_their_largest_unit(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_one_is_not_many() -> None:
    assert [count(n, "channel") for n in (0, 1, 2)] == ["0 channels", "1 channel", "2 channels"]


def test_columns_are_aligned_and_have_no_spaces_at_the_end() -> None:
    assert columns([("a", "bb", ""), ("ccc", "d", "e")], indent="  ") == "  a    bb\n  ccc  d   e"


def test_what_a_vm_says_does_nothing_to_a_terminal() -> None:
    assert one_line("a\x1b[31m\n\tb  c\u202e") == "a [31m b c"
    assert place(device(State.FAILED, message="\x07no\n")) == "failed for desk: no"
    assert session(replace(DESK, state=SessionState.FAILED, message="\x07no\n")) == "failed: no"
