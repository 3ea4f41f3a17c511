"""The manual page names everything that there is to use."""

import re
from importlib import import_module
from pathlib import Path

import click
import pytest

from usbbridge import __version__
from usbbridge.cli.main import VERBS

ROOT = Path(__file__).parents[3]
MANUAL = (ROOT / "usbbridge/man/usbbridge.1").read_text()
WORDS = MANUAL.replace("\\-", "-")


def section(verb: str) -> str:
    """The part of the page that is about `verb`."""
    return WORDS.partition(f".SS usbbridge {verb}\n")[2].partition("\n.S")[0]


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_and_each_of_its_options_is_described(verb: str) -> None:
    command = import_module(f"usbbridge.cli.{verb}").command
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    names = {max(option.opts, key=len) for option in options}
    assert {name for name in names if name not in section(verb)} == set()


def test_the_page_is_of_this_version() -> None:
    assert f'"usbbridge {__version__}"' in MANUAL


def test_every_environment_variable_is_described() -> None:
    sources = [path.read_text() for path in ROOT.glob("usbbridge/**/*.py")]
    used = {name for source in sources for name in re.findall(r"\bUSBBRIDGE_[A-Z]+", source)}
    assert {name for name in used if f".B {name}\n" not in MANUAL} == set()


def test_hyphens_that_are_typed_are_written_so() -> None:
    """Else a reader who copies an option gets a typographic hyphen."""
    assert re.findall(r"(?<![\w\\-])--?[a-z]+", re.sub(r'^\.\\".*$', "", MANUAL, flags=re.MULTILINE)) == []
