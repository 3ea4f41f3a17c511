"""Runs of the fuzzer: what it is given, and what became of it."""

import hashlib
import importlib
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.fuzz import MAX_INPUT, ROOT, corpus, crashes, work

INPUT_SECONDS: Final = 20
"An input that takes longer is a defect: nothing here may be made to work for long by a few bytes."
MEMORY_MIB: Final = 1024
"""Resident memory that is a defect. A session may hold 64 MiB of transfers and as much again waiting to be written; an
interpreter under observation takes some 100."""

_PROGRESS: Final = re.compile(r"#[0-9]+\s+[A-Za-z]+\s+cov: ([0-9]+) ft: ([0-9]+) corp: ([0-9]+)")
_DONE: Final = re.compile(r"stat::number_of_executed_units: ([0-9]+)")


@dataclass(frozen=True, slots=True)
class Result:
    """A run of one target."""

    target: str
    seconds: float
    executions: int
    coverage: int
    "Branches of the code that were taken."
    features: int
    "Branches by how often they were taken in one input."
    inputs: int
    "That reached something new."
    crashes: tuple[Path, ...]
    failed: bool
    "The fuzzer has ended with an error."

    def __str__(self) -> str:
        how = f"{self.executions} executions in {self.seconds:.0f} s, {self.coverage} branches"
        how += f", {self.features} features"
        end = "".join(f"\n  {file}" for file in self.crashes) or (" FAILED: see its log" if self.failed else ", clean")
        return f"{self.target}: {how}, {self.inputs} inputs{end}"


class Run:
    """A target that is being fuzzed."""

    def __init__(self, target: str, seconds: int) -> None:
        self.target = target
        folder = work(target)
        for place in (folder / "found", corpus(target), crashes(target)):
            place.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log"
        self._before = set(crashes(target).iterdir())
        self._began = time.monotonic()
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", "tools.fuzz.engine", target, *_arguments(target, seconds)]
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def end(self) -> Result:
        """Wait until it is over."""
        code = self._process.wait()
        seconds = time.monotonic() - self._began
        text = self._log.read_text("utf-8", "replace")
        executions = [int(number) for number in _DONE.findall(text)]
        progress = _PROGRESS.findall(text) or [("0", "0", "0")]
        coverage, features, inputs = map(int, progress[-1])
        found = tuple(sorted(set(crashes(self.target).iterdir()) - self._before))
        return Result(self.target, seconds, sum(executions), coverage, features, inputs, found, code != 0)

    def stop(self) -> None:
        """End it before its time."""
        self._process.kill()
        self._process.wait()


def _arguments(target: str, seconds: int) -> list[str]:
    folder = work(target)
    module = importlib.import_module(f"tests.fuzz.{target}")
    dictionary = folder / "dictionary"
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in module.DICTIONARY), "ascii")
    seeds = folder / "seeds"
    write_inputs(seeds, module.seeds())
    return [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_INPUT}",
        f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-dict={dictionary}",
        f"-artifact_prefix={crashes(target)}/",
        "-print_final_stats=1",
        *map(str, (folder / "found", seeds, corpus(target))),
    ]


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def write_inputs(folder: Path, inputs: Iterable[bytes]) -> None:
    """Have these inputs in a folder, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    names = set()
    for data in inputs:
        path = folder / input_name(data)
        path.write_bytes(data)
        names.add(path.name)
    for file in folder.iterdir():
        if file.name not in names:
            file.unlink()


def input_name(data: bytes) -> str:
    """What an input is called: by its content, so that none is there twice."""
    return hashlib.sha256(data).hexdigest()[:16]


def fuzz(targets: Sequence[str], seconds: int, jobs: int) -> Iterable[Result]:
    """Fuzz these, `jobs` at a time, and tell of each when it is over."""
    waiting, running = list(targets), list[Run]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(Run(waiting.pop(0), seconds))
            yield running[0].end()
            del running[0]
    finally:
        for run in running:
            run.stop()
