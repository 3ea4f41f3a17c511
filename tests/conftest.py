"""What all tests share: how Hypothesis looks for examples, and how long each kind of test took."""

import os
from collections import Counter

import pytest
from hypothesis import settings

# No deadline: on a shared machine slow is not wrong. CI must not fail by chance: there, the same examples each time.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_terminal_summary(terminalreporter) -> None:
    """The seconds that each of unit, property, interop ... took."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.split("/")[1]] += report.duration
    times = ", ".join(f"{suite} {total:.1f} s" for suite, total in seconds.items())
    terminalreporter.write_line(f"time in tests: {times}")
