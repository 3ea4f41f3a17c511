"""The manual pages name everything that there is to use."""

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from tests.unit.cli.test_usage import COMMANDS
from usbbridge import __version__
from usbbridge.cli.main import VERBS
from usbbridge.config import load
from usbbridge.config.checking import SECTIONS
from usbbridge.ipc import api
from usbbridge.ipc.monitoring import PluggedDevice
from usbbridge.usb.entry import DeviceEntry, InterfaceEntry, Obstacle

ROOT = Path(__file__).parents[3]
MANUAL = (ROOT / "usbbridge/man/usbbridge.1").read_text()
WORDS = MANUAL.replace("\\-", "-")
ENTRIES = (DeviceEntry, InterfaceEntry, Obstacle)


API = (ROOT / "usbbridge/man/usbbridge-api.7").read_text()
CONFIG = (ROOT / "usbbridge/man/usbbridge.toml.5").read_text()
RULES = (ROOT / "usbbridge/man/usbbridge-rules.5").read_text()
PAGES = {"usbbridge.1": MANUAL, "usbbridge-api.7": API, "usbbridge.toml.5": CONFIG, "usbbridge-rules.5": RULES}


def section(verb: str) -> str:
    """The part of the page that is about `verb`, and what is below it."""
    return WORDS.partition(f".SS usbbridge {verb.split()[0]}\n")[2].partition("\n.S")[0]


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_and_each_of_its_options_is_described(verb: str) -> None:
    assert section(verb)
    options = [param for param in COMMANDS[verb].params if isinstance(param, click.Option) and not param.hidden]
    names = {max(option.opts, key=len) for option in options}
    assert {name for name in names if name not in section(verb)} == set()


@pytest.mark.parametrize("verb", [verb for verb in COMMANDS if " " in verb and verb != "vm list"])
def test_every_command_below_a_verb_is_named(verb: str) -> None:
    assert f"usbbridge {verb}" in section(verb)


def test_no_command_is_described_that_is_not_there() -> None:
    assert set(re.findall(r"^\.SS usbbridge (.*)$", WORDS, re.MULTILINE)) == set(VERBS)


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_is_in_the_synopsis(verb: str) -> None:
    synopsis = WORDS.partition(".SH SYNOPSIS")[2].partition(".SH DESCRIPTION")[0]
    assert all(re.search(rf"\b{re.escape(word)}\b", synopsis) for word in verb.split())


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_are_good_mandoc(page: str) -> None:
    if not shutil.which("mandoc"):
        pytest.skip("mandoc is not installed")
    lint = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", str(ROOT / "usbbridge/man" / page)], capture_output=True, text=True
    )
    assert [line for line in lint.stdout.splitlines() if "referenced manual not found" not in line] == []


def test_every_method_field_and_state_of_the_api_is_described() -> None:
    words = set(re.findall(r"[a-z_]+(?:-[a-z]+)*", API.replace("\\-", "-")))
    classes = [cls for cls in vars(api).values() if dataclasses.is_dataclass(cls)]
    fields = {field.name for cls in [*classes, PluggedDevice, *ENTRIES] for field in dataclasses.fields(cls)}
    members = {member.value for cls in (api.Right, api.State, api.SessionState, api.Remember) for member in cls}
    assert {*api.METHODS, *fields, *members} - words == set()


def test_every_key_of_the_configuration_is_described() -> None:
    text = CONFIG.replace("\\-", "-")
    for table, keys in SECTIONS.items():
        assert table in text
        assert [key for key in keys if not re.search(rf"^\.(B|BI|BR|IP|TP).*\b{key}\b", text, re.MULTILINE)] == []


def test_the_example_of_a_configuration_is_a_good_one(tmp_path: Path) -> None:
    example = CONFIG.partition(".SH EXAMPLE\n.nf\n")[2].partition(".fi\n")[0]
    (tmp_path / "usbbridge.toml").write_text(example.replace("\\-", "-"))
    assert [vm.name for vm in load(tmp_path / "usbbridge.toml").vms] == ["desk", "lab"]


def test_the_page_is_of_this_version() -> None:
    for page in PAGES.values():
        assert f'"usbbridge {__version__}"' in page


def test_every_environment_variable_is_described() -> None:
    sources = [path.read_text() for path in ROOT.glob("usbbridge/**/*.py")]
    used = {name for source in sources for name in re.findall(r"\bUSBBRIDGE_[A-Z]+", source)}
    assert {name for name in used if f".B {name}\n" not in MANUAL} == set()


def test_hyphens_that_are_typed_are_written_so() -> None:
    """Else a reader who copies an option gets a typographic hyphen."""
    for page in PAGES.values():
        assert re.findall(r"(?<![\w\\-])--?[a-z]+", re.sub(r'^\.\\".*$', "", page, flags=re.MULTILINE)) == []
