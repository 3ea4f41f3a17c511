"""The command line as a whole: verbs, errors and exit statuses, completion."""

import errno
import os
import subprocess
import sys

import click
import pytest

from tests.unit.cli.conftest import Run
from tests.unit.monitor.fake_sysfs import FakeSysfs
from usbbridge import __version__
from usbbridge.cli import main as cli
from usbbridge.cli.completion import INSTALL
from usbbridge.errors import NotFoundError, UsbBridgeError

SCRIPT = "import sys; from usbbridge.cli.main import main; sys.exit(main())"


def test_the_version_is_printed(run: Run) -> None:
    assert run(["--version"]) == (0, f"usbbridge {__version__}\n", "")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_every_verb(run: Run, option: str) -> None:
    status, out, _ = run([option])
    assert status == 0
    for verb, line in cli.VERBS.items():
        assert f"  {verb} " in out
        assert line in " ".join(out.split())


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself(run: Run, verb: str) -> None:
    status, out, _ = run([verb, "--help"])
    assert status == 0
    assert out.startswith(f"Usage: usbbridge {verb} ")


@pytest.mark.parametrize("arguments", [["nope"], ["list", "--nope"], ["list", "extra"], ["completion", "tcsh"]])
def test_wrong_usage_is_status_2(run: Run, arguments: list[str]) -> None:
    status, out, err = run(arguments)
    assert (status, out) == (2, "")
    assert err.startswith("Usage: usbbridge")




def behave(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr("usbbridge.cli.list.command", command)


def test_an_error_is_a_line_a_hint_and_its_own_status(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, NotFoundError("no such VM", hint="start it"))
    assert run(["list"]) == (4, "", "usbbridge: no such VM\n  start it\n")


def test_an_error_without_a_hint_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, UsbBridgeError("it broke"))
    assert run(["list"]) == (1, "", "usbbridge: it broke\n")


def test_ctrl_c_is_status_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, KeyboardInterrupt())
    status, out, _ = run(["list"])
    assert (status, out) == (130, "")


def test_a_reader_that_has_gone_is_no_reason_for_a_traceback(sysfs: FakeSysfs) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", SCRIPT, "list", "--json", "--root", str(sysfs.root)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("shell", INSTALL)
def test_completion_scripts_ask_the_command(run: Run, shell: str) -> None:
    status, out, _ = run(["completion", shell])
    assert status == 0
    assert f"_USBBRIDGE_COMPLETE={shell}_complete" in out


def test_the_bash_script_is_good_bash(run: Run) -> None:
    _, out, _ = run(["completion", "bash"])
    subprocess.run(["bash", "-n"], input=out, text=True, check=True)


ASKED = [("usbbridge li", "plain,list"), ("usbbridge list --j", "plain,--json"), ("usbbridge --v", "plain,--version")]


@pytest.mark.parametrize(("words", "completed"), ASKED)
def test_verbs_and_options_are_completed(words: str, completed: str) -> None:
    asking = {"_USBBRIDGE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=os.environ | asking, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [completed]


def test_listing_loads_nothing_that_attaching_needs() -> None:
    code = f"import sys; sys.argv[1:] = ['list']; {SCRIPT.replace('sys.exit(main())', 'main()')}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"rich", "usb1", "construct", "cryptography", "asyncio", "ssl", "lz4", "sqlite3"}


def test_an_error_of_the_system_names_the_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/some/file")

    monkeypatch.setattr(cli.usbbridge, "main", fails)
    assert run([]) == (1, "", "usbbridge: /some/file: Input/output error\n")


@pytest.mark.parametrize("verb", ["config", "rules", "vm"])
def test_no_line_of_a_groups_help_is_cut_off(run: Run, verb: str) -> None:
    assert "..." not in run([verb, "--help"])[1].partition("Commands:")[2].partition("Examples:")[0]
