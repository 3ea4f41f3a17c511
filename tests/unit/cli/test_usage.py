"""What all verbs have in common: help that reads well, and the same answers to the same mistakes."""

import importlib
from collections.abc import Iterator

import click
import pytest

from tests.unit.cli.conftest import Run
from usbbridge.cli.main import VERBS

CLIENTS = ("list", "attach", "detach", "forget", "status", "watch", "capture", "vm")
"Verbs that ask the service."
MAX_COLUMNS = 90
"A terminal's 80, and some for command lines that can't be broken."


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every verb that is there, and the verbs below it."""
    for verb in VERBS:
        try:
            command = importlib.import_module(f"usbbridge.cli.{verb.replace('-', '_')}").command
        except ModuleNotFoundError:
            continue
        yield verb, command
        if isinstance(command, click.Group):
            yield from ((f"{verb} {name}", below) for name, below in command.commands.items())


COMMANDS = dict(commands())


@pytest.mark.parametrize("verb", CLIENTS)
def test_verbs_that_ask_the_service_are_there(verb: str) -> None:
    assert verb in COMMANDS


@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_there_for_every_verb_and_fits_a_terminal(run: Run, verb: str, option: str) -> None:
    status, out, err = run([*verb.split(), option])
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: usbbridge {verb} ")
    assert [line for line in out.splitlines() if len(line) > MAX_COLUMNS] == []


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_option_says_what_it_does(verb: str) -> None:
    options = [param for param in COMMANDS[verb].params if isinstance(param, click.Option)]
    helps = {option.opts[0]: option.help or "" for option in options if not option.hidden}
    assert [name for name, text in helps.items() if not text.endswith((".", ")"))] == []


@pytest.mark.parametrize("verb", [verb for verb in COMMANDS if verb.split()[0] in CLIENTS and verb != "vm list"])
def test_help_has_examples(run: Run, verb: str) -> None:
    _, out, _ = run([*verb.split(), "--help"])
    examples = out.partition("Example")[2]
    assert f"  usbbridge {verb}" in examples


@pytest.mark.parametrize("verb", COMMANDS)
def test_an_option_that_is_not_there_is_wrong_usage(run: Run, verb: str) -> None:
    status, out, err = run([*verb.split(), "--there-is-no-such-option"])
    assert (status, out) == (2, "")
    assert err.startswith(f"Usage: usbbridge {verb} ")


def has_json(command: click.Command) -> bool:
    """Whether it has something for programs."""
    return "--json" in [name for param in command.params for name in param.opts]


@pytest.mark.parametrize("verb", [*CLIENTS, "vm list", "vm check"])
def test_what_prints_has_json(verb: str) -> None:
    assert has_json(COMMANDS[verb])
