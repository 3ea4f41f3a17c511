"""The files of the service: what is in them, and what is known of what is already there."""

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from usbbridge.errors import UsbBridgeError
from usbbridge.units.files import SYSTEM_UNITS, File, Found, Kind, as_word, system_files, udev_rules
from usbbridge.units.install import ALL_KINDS, Where, install

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


@pytest.mark.parametrize(
    ("interfaces", "for_everybody"),
    [
        (":020201:0a0000:", True),
        (":0b0000:", True),
        (":080650:", False),
        (":0b0000:030101:", False),
        (":0202ff:0a0000:", False),
        (":ef0401:0a0000:020201:", False),
        (":020e00:0a0002:020201:", False),
        (":020600:0a0000:020201:", False),
    ],
)
def test_the_udev_rules_give_nobody_what_this_machine_is_worked_with(interfaces: str, for_everybody: bool) -> None:
    """As udev reads them: `|` between patterns of the shell's kind (udev(7))."""
    (file,) = udev_rules().glob("*.rules")
    lines = [line for line in file.read_text().splitlines() if line.startswith('ENV{ID_USB_INTERFACES}=="*')]
    assert lines
    for line in lines:
        patterns = re.findall(r'=="([^"]*)"', line)[0].split("|")
        if any(fnmatchcase(interfaces, pattern) for pattern in patterns):
            assert ('TAG+="uaccess"' in line) is for_everybody
            return
    assert not for_everybody


def test_the_folders_that_are_made_can_be_entered_whatever_the_umask(tmp_path: Path) -> None:
    """Control reads the configuration, and is not root."""
    before = os.umask(0o077)
    try:
        files = system_files(COMMAND, tmp_path / "image", ALL_KINDS)
        install(files, Where(tmp_path / "image"), lambda words: None)
    except UsbBridgeError:  # systemd-sysusers may be there, and fail in such an image
        pass
    finally:
        os.umask(before)
    config = tmp_path / "image/etc/usbbridge"
    assert {place.stat().st_mode & 0o777 for place in (config, config.parent)} == {0o755}
    assert (config / "usbbridge.toml").stat().st_mode & 0o777 == 0o644
