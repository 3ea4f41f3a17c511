"""User-mode Linux, for the tests of this folder: each runs a program of its own in a machine with a real USB stack, and
judges what that prints.

The launcher is the path in USBBRIDGE_UML, or ../shared/lab/uml beside the repository.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tools.lab.native import REPOSITORY, UML

HERE = Path(__file__).resolve().parent
TAIL = 20_000
"Characters at the end of what was printed that are shown after a failure."

needs_uml = pytest.mark.skipif(not UML.exists(), reason=f"no user-mode Linux at {UML}; set USBBRIDGE_UML")


def run(script: str, *arguments: object, patience: int) -> dict[str, Any]:
    """What a program of this folder says in a machine, which is the last object of JSON that it prints. `patience` is
    how many seconds it has."""
    return run_lines(script, *arguments, patience=patience)[-1]


def run_lines(script: str, *arguments: object, patience: int) -> list[dict[str, Any]]:
    """The same: every object of JSON that it prints, one a line. What programs complain of may stand in between."""
    command = [str(UML), "--", sys.executable, str(HERE / script), *map(str, arguments)]
    environment = os.environ | {"UML_OUT": str(_shown()), "UML_TIMEOUT": str(patience), "PYTHONPATH": str(REPOSITORY)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    began = time.monotonic()
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    printed = f"after {seconds:.0f} s of {patience}, having printed:\n{done.stdout[-TAIL:]}{done.stderr[-TAIL:]}"
    if done.returncode:
        pytest.fail(f"{script} ended in its machine with status {done.returncode}, {printed}", pytrace=False)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not found:
        pytest.fail(f"{script} said nothing in its machine, {printed}", pytrace=False)
    return found


def _shown() -> Path:
    """The machine has this one's files, but a /tmp of its own in which it shows one folder of ours."""
    hidden = [path for path in (REPOSITORY, Path(sys.prefix)) if path.is_relative_to("/tmp")]
    return Path(os.path.commonpath(hidden)) if hidden else REPOSITORY


def of(*names: str) -> pytest.MarkDecorator:
    """The steps of `said` whose facts the test gets as its `step`."""
    return pytest.mark.parametrize("step", names, indirect=True, ids=[""] if len(names) == 1 else names)
