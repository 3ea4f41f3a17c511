"""The fuzzing targets, without a fuzzer: what it has found before, and some changes of that, the same every time."""

import importlib
from types import ModuleType

import pytest

from tests.fuzz.mutation import mutations
from tools.fuzz import MAX_INPUT, MAX_KEPT, TARGETS, corpus, crashes
from tools.fuzz.minimizing import reached, smallest
from tools.fuzz.running import input_name

MUTATIONS = 400
"A second or so of each target: the fuzzer itself is for finding things, this is for noticing what a change has broken."

targets = pytest.mark.parametrize("target", TARGETS)


def module(target: str) -> ModuleType:
    return importlib.import_module(f"tests.fuzz.{target}")


def inputs(target: str) -> dict[str, bytes]:
    """All that is kept, by a name to find it by."""
    found = {f"seed {number}": data for number, data in enumerate(module(target).seeds())}
    for folder in (corpus(target), crashes(target)):
        found |= {str(file): file.read_bytes() for file in sorted(folder.glob("*"))}
    return found


@targets
def test_what_was_found_before_is_harmless(target: str) -> None:
    for name, data in inputs(target).items():
        try:
            module(target).one(data)
        except Exception as error:
            raise AssertionError(f"{name}: {data.hex():.600}") from error


@targets
def test_changes_of_it_are_harmless(target: str) -> None:
    known = list(inputs(target).values())
    for number, data in enumerate(mutations(known, module(target).DICTIONARY, MUTATIONS, seed=1)):
        try:
            module(target).one(data)
        except Exception as error:
            raise AssertionError(f"change {number}: {data.hex():.600}") from error


@targets
def test_what_is_kept_is_small(target: str) -> None:
    files = list(corpus(target).iterdir())
    assert 0 < len(files) <= MAX_KEPT
    assert all(file.name == input_name(file.read_bytes()) for file in files)
    assert all(file.stat().st_size <= MAX_INPUT for file in files)


@targets
def test_bytes_that_mean_nothing_are_an_input_too(target: str) -> None:
    for data in (b"", b"\0", b"\xff", b"\xff" * 300):
        module(target).one(data)


def test_the_same_seed_makes_the_same_changes() -> None:
    first, again, other = (list(mutations([b"some input"], [b"word"], 50, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_what_a_smaller_input_reaches_needs_no_larger_one() -> None:
    one = module("spice").one
    small, same, other = b"\0\0", b"\0\0" + bytes(40), b"\2\0\x67\0\0\0\0\0"
    kept, steps = smallest(one, [same, other, small])
    assert small in kept
    assert other in kept
    again, _ = smallest(one, [small])
    assert again == [small]
    assert steps >= len(reached(one, small)) > 0
