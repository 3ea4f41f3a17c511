"""The few inputs that reach as much as all: what the tree keeps of the fuzzer's work."""

import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

from tools.fuzz import MAX_INPUT, MAX_KEPT, ROOT, corpus, work
from tools.fuzz.running import write_inputs

OBSERVED: Final = str(ROOT / "usbbridge") + "/"

Step = tuple[CodeType, int, int]
"From one line of a function to another."


def reached(one: Callable[[bytes], None], data: bytes) -> set[Step]:
    """The steps that an input takes."""
    steps: set[Step] = set()

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        code, line = frame.f_code, frame.f_lineno
        if not code.co_filename.startswith(OBSERVED):
            return None

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal line
            if event == "line":
                steps.add((code, line, frame.f_lineno))
                line = frame.f_lineno
            return trace

        return trace

    sys.settrace(call)
    try:
        one(data)
    finally:
        sys.settrace(None)
    return steps


def smallest(one: Callable[[bytes], None], inputs: Iterable[bytes]) -> tuple[list[bytes], int]:
    """The inputs that reach something which no smaller one does, those that reach most of it first; and how much all
    of them reach."""
    known: set[Step] = set()
    kept: list[tuple[int, bytes]] = []
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        new = reached(one, data) - known
        if new:
            known |= new
            kept.append((-len(new), data))
    return [data for _, data in sorted(kept)], len(known)


def minimize(target: str) -> str:
    """Make the target's corpus in the tree anew; what came of it, in words."""
    module = importlib.import_module(f"tests.fuzz.{target}")
    for data in module.seeds():  # what is done once only, such as imports, is no merit of the first input
        module.one(data)
    files = [file for folder in (work(target) / "found", corpus(target)) for file in _files(folder)]
    inputs = [data for data in map(Path.read_bytes, files) if len(data) <= MAX_INPUT]
    seeds = set(module.seeds())
    kept, steps = smallest(module.one, [*inputs, *seeds])
    found = [data for data in kept if data not in seeds][:MAX_KEPT]
    write_inputs(corpus(target), found)
    return f"{target}: {len(inputs)} inputs, {len(found)} of them and the seeds reach all {steps} steps"


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


