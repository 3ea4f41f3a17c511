"""Coverage-guided fuzzing of what strangers can send: `python -m tools.fuzz [TARGET ...] --seconds N`.

A target is a module of tests/fuzz with `one(data)`, which raises only for a defect, `seeds()`, inputs to begin with,
and `DICTIONARY`, pieces of inputs. The fuzzer is libFuzzer, through atheris (`pip install -e '.[fuzz]'`); the tests run
the same targets without it.

    build/fuzz/TARGET/found     all inputs that reached something new, over all runs
    build/fuzz/TARGET/log       what libFuzzer said
    tests/fuzz/corpus/TARGET    the few of them that reach as much, by `--minimize`
    tests/fuzz/crashes/TARGET   inputs that `one` raised for: to be kept once mended
"""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
TARGETS: Final = ("redirect", "spice", "descriptors", "messages", "rules")

MAX_INPUT: Final = 2048
"Bytes of an input: every target reads far less for all that it can do."
MAX_KEPT: Final = 200
"Inputs of a target in the tree: the tests go through all of them."


def corpus(target: str) -> Path:
    """Inputs in the tree."""
    return ROOT / "tests/fuzz/corpus" / target


def crashes(target: str) -> Path:
    """Inputs that found a defect."""
    return ROOT / "tests/fuzz/crashes" / target


def work(target: str) -> Path:
    """What runs leave behind."""
    return ROOT / "build/fuzz" / target
