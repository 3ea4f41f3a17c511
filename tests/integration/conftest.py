"""What the tests share of which each judges one step of a program that ran in a machine."""

from typing import Any

import pytest


@pytest.fixture
def step(said: dict[str, Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    """The facts of the step that `uml.of` names, out of all that the test's module has `said`; if it failed, its
    traceback and the log, where there is one."""
    facts = said[request.param]
    assert isinstance(facts, dict), f"{facts}\n{said.get('log', '')}"
    return facts
