"""The files of the service: what is in them, and what is known of what is already there."""

from pathlib import Path

import pytest

from usbbridge.units.files import SYSTEM_UNITS, File, Found, Kind, as_word, system_files, udev_rules
from usbbridge.units.install import ALL_KINDS

COMMAND = Path("/opt/usbbridge/bin/usbbridge")


@pytest.fixture
def unit(tmp_path: Path) -> File:
    """The monitor's unit, written."""
    file = system_files(COMMAND, tmp_path, ALL_KINDS)[0]
    file.place.parent.mkdir(parents=True)
    file.place.write_text(file.text)
    return file


def test_everything_belongs_below_etc(tmp_path: Path) -> None:
    places = [str(file.place.relative_to(tmp_path)) for file in system_files(COMMAND, tmp_path, ALL_KINDS)]
    assert places == [
        *(f"etc/systemd/system/{unit}" for unit in SYSTEM_UNITS),
        "etc/sysusers.d/usbbridge.conf",
        "etc/udev/rules.d/70-usbbridge.rules",
        "etc/usbbridge/usbbridge.toml",
    ]


def test_units_start_the_command_by_its_full_path() -> None:
    units = {file.place.name: file.text for file in system_files(COMMAND, Path("/"), frozenset({Kind.UNIT}))}
    assert f"\nExecStart={COMMAND} monitor\n" in units["usbbridge-monitor.service"]
    assert f"\nExecStart={COMMAND} control\n" in units["usbbridge-control.service"]
    assert f"\nExecStart=-{COMMAND} suspend\nExecStop=-{COMMAND} resume\n" in units["usbbridge-sleep.service"]
    assert not any("@" in line.partition("ExecSt")[2] for text in units.values() for line in text.splitlines())


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/opt/usb-bridge_1.0+x/bin/usbbridge", "/opt/usb-bridge_1.0+x/bin/usbbridge"),
        ("/opt/100%/usbbridge", "/opt/100%%/usbbridge"),
        ("/opt/my bridge/usbbridge", '"/opt/my bridge/usbbridge"'),
        ('/opt/a"b\\c/usbbridge', '"/opt/a\\"b\\\\c/usbbridge"'),
    ],
)
def test_paths_are_quoted_as_systemd_wants_it(path: str, word: str) -> None:
    assert as_word(Path(path)) == word


def test_what_is_there_is_told_apart(unit: File) -> None:
    assert unit.found() is Found.SAME
    other = system_files(Path("/elsewhere/usbbridge"), unit.place.parents[3], ALL_KINDS)[0]
    assert other.found() is Found.OURS
    unit.place.write_text(unit.text + "\n")
    assert unit.found() is Found.CHANGED
    unit.place.write_text(unit.text.partition("\n")[2])
    assert unit.found() is Found.FOREIGN
    unit.place.unlink()
    assert unit.found() is Found.NOTHING


def test_the_example_configuration_carries_no_stamp() -> None:
    (example,) = system_files(COMMAND, Path("/"), frozenset({Kind.CONFIG}))
    assert example.text.startswith("# usbbridge: where devices go.")


def test_the_udev_rules_come_after_udevs_own_and_before_those_that_act_on_tags() -> None:
    """50-udev-default imports usb_id, and 73-seat-late applies what TAG+="uaccess" asks for."""
    (rules,) = udev_rules().glob("*.rules")
    assert "50-udev-default.rules" < rules.name < "73-seat-late.rules"
