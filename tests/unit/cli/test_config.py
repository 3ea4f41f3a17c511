"""`usbbridge config`: what it prints, and that what it shows can be read again."""

import json
import tomllib
from pathlib import Path

import pytest

import usbbridge.units
from tests.unit.cli.conftest import Run
from usbbridge.config import load
from usbbridge.config.checking import SECTIONS

TEXT = """\
default-vm = "desk"
[vm.desk]
target = "spice://host:5900"
[vm."büro"]
target = ["tcp://host:4000", "unix:/run/lab.sock"]
[[assign]]
vm = "desk"
serial = 'quote"backslash\\'
[retry]
longest = 30
"""


@pytest.fixture(autouse=True)
def main_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "usbbridge.toml"
    file.write_text(TEXT)
    monkeypatch.setenv("USBBRIDGE_CONFIG", str(file))
    monkeypatch.setenv("USBBRIDGE_MODE", "user")
    return file


def test_a_sound_configuration_is_called_so(run: Run, main_file: Path) -> None:
    assert run(["config", "check"]) == (
        0,
        f"The configuration is sound: {main_file} (2 VMs, desk by default).\n",
        "",
    )


def test_every_mistake_is_named_and_the_status_is_2(run: Run, main_file: Path) -> None:
    main_file.write_text("x = 1\n[retry]\nfirst = 0")
    status, out, err = run(["config", "check"])
    assert (status, out) == (2, "")
    assert f"{main_file}:1: x: " in err
    assert f"{main_file}:3: retry.first: " in err


def test_another_file_can_be_checked_and_has_to_be_there(run: Run, tmp_path: Path) -> None:
    status, _, err = run(["config", "check", str(tmp_path / "none.toml")])
    assert status == 2
    assert "none.toml: can't be read: No such file or directory" in err


def test_what_deserves_a_look_is_a_warning(run: Run, main_file: Path) -> None:
    main_file.write_text('[vm.desk]\ntarget = "spice://host:5900"\npassword-file = "none"')
    status, out, err = run(["config", "check"])
    assert (status, out.startswith("The configuration is sound: ")) == (0, True)
    assert err.startswith(f"warning: {main_file}:3: vm.desk.password-file: ")


def test_findings_for_programs(run: Run, main_file: Path) -> None:
    main_file.write_text("x = 1")
    status, out, _ = run(["config", "check", "--json"])
    assert status == 2
    problem = {"file": str(main_file), "line": 1, "key": "x"}
    found = json.loads(out)
    assert found["problems"][0].items() >= problem.items()
    assert (found["ok"], found["warnings"]) == (False, [])


def test_what_is_shown_is_the_configuration_again(run: Run, main_file: Path) -> None:
    before = load()
    _, out, _ = run(["config", "show"])
    main_file.write_text(out)
    assert load() == before


def test_every_value_is_shown_with_its_origin(run: Run, main_file: Path) -> None:
    (main_file.parent / "conf.d").mkdir()
    (main_file.parent / "conf.d/site.toml").write_text("[access]\nusers = ['anna']")
    lines = run(["config", "show"])[1].splitlines()
    assert [line.split("  # ")[1] for line in lines if line.startswith("longest = 30.0 ")] == [f"{main_file}:10"]
    assert any(line.startswith('users = ["anna"] ') and line.endswith("site.toml:2") for line in lines)
    assert any(line.startswith("first = 1.0 ") and line.endswith("# default") for line in lines)
    assert all("  # " in line for line in lines if "=" in line)


def test_the_same_for_programs(run: Run, main_file: Path) -> None:
    shown = json.loads(run(["config", "show", "--json"])[1])
    assert (shown["mode"], shown["files"]) == ("user", [str(main_file)])
    values = {(*value["table"], value["key"]): value for value in shown["settings"]}
    assert values["vm", "büro", "target"]["value"] == ["tcp://host:4000", "unix:/run/lab.sock"]
    assert values["vm", "büro", "target"]["line"] == 5
    assert values["assign", 0, "serial"]["value"] == 'quote"backslash\\'
    assert values["retry", "first"]["file"] is None


def test_path_prints_where_the_main_file_is(run: Run, main_file: Path) -> None:
    assert run(["config", "path"]) == (0, f"{main_file}\n", "")


@pytest.mark.parametrize("arguments", [["config", "check", "a", "b"], ["config", "shwo"], ["config", "path", "x"]])
def test_wrong_usage_is_status_2(run: Run, arguments: list[str]) -> None:
    assert run(arguments)[0] == 2


def test_the_example_shows_every_table_and_is_sound_with_and_without_its_comments(run: Run, main_file: Path) -> None:
    example = (Path(usbbridge.units.__file__).parent / "usbbridge.toml").read_text()
    main_file.write_text(example)
    assert load().vms == ()
    lines = [line.removeprefix("# ") for line in example.splitlines()]
    settings = "\n".join(line for line in lines if line.startswith("[") or " = " in line.partition("#")[0])
    main_file.write_text(settings)
    assert [vm.name for vm in load().vms] == ["desk", "lab"]
    tree = tomllib.loads(settings)
    assert tree.keys() == {section for section in SECTIONS if section not in ("", "paths")} | {"default-vm"}
