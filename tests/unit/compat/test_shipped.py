"""The list that comes with usbbridge."""

import tomllib
from pathlib import Path

import pytest

from tests.unit.compat.devices import HEADSET, HUB, KEYBOARD, STICK, device
from usbbridge.compat.ruleset import RuleSet
from usbbridge.compat.source import read, shipped_rules
from usbbridge.redirect.quirks import NEVER_RESET, NO_RESET
from usbbridge.usb.entry import DeviceEntry

SHIPPED = read([shipped_rules()])
RULES = RuleSet(SHIPPED.rules, SHIPPED.identities)


def test_it_has_no_mistakes() -> None:
    assert SHIPPED.problems == ()


def test_every_rule_and_identity_says_why_and_where_that_is_known_from() -> None:
    bare = [each.where for each in (*SHIPPED.rules, *SHIPPED.identities) if not (each.note and each.source)]
    assert bare == []


@pytest.mark.parametrize(
    ("what", "entry", "verdict"),
    [
        ("flash drive", STICK, "allow"),
        ("UAS disk", device("174c:55aa", "08/06/62"), "allow"),
        ("hub", HUB, "deny"),
        ("keyboard", KEYBOARD, "deny"),
        ("boot mouse", device("046d:c077", "03/01/02"), "deny"),
        ("receiver of a keyboard and a mouse", device("046d:c52b", "03/01/01", "03/01/02", "03/00/00"), "deny"),
        ("keyboard without boot protocol", device("1:2", "03/00/00@0001:0006"), "deny"),
        ("stick that also types", device("1:2", "08/06/50", "03/01/01"), "deny"),
        ("stick that also types, without boot protocol", device("1:2", "08/06/50", "03/00/00@0001:0006"), "deny"),
        ("security key that also types", device("1:2", "03/00/00@f1d0:0001,0001:0006"), "deny"),
        ("HID of no known use", device("1:2", "03/00/00@ff00:0001"), "ask"),
        ("HID whose use was not read", device("1:2", "03/00/00"), "ask"),
        ("headset with volume keys", HEADSET, "allow"),
        ("webcam with microphone and button", device("1:2", "0e/01/00", "0e/02/00", "01/01/00", "03/00/00"), "allow"),
        ("webcam that can be updated", device("1:2", "0e/01/00", "0e/02/00", "fe/01/01", class_="ef/02/01"), "allow"),
        ("security key", device("1:2", "03/00/00@f1d0:0001"), "allow"),
        ("YubiKey with all functions", device("1050:0407", "03/01/01@0001:0006", "03/00/00", "0b/00/00"), "allow"),
        ("YubiKey for FIDO only", device("1050:0402", "03/00/00"), "allow"),
        ("smart card reader", device("076b:3031", "0b/00/00"), "allow"),
        ("printer", device("03f0:012a", "07/01/02"), "allow"),
        ("printer, scanner and its vendor's interface", device("03f0:012a", "07/01/02", "ff/cc/00"), "ask"),
        ("Arduino", device("2341:0043", "02/02/01", "0a/00/00", class_="02/00/00"), "allow"),
        ("network adapter of class 02", device("1:2", "02/06/00", "0a/00/00", class_="02/00/00"), "deny"),
        ("CDC modem", device("1:2", "02/02/01", "0a/00/00"), "allow"),
        ("CDC data alone", device("1:2", "0a/00/00"), "ask"),
        ("FTDI adapter", device("0403:6001", "ff/ff/ff"), "allow"),
        ("FTDI adapter with USB PD", device("0403:6048", "ff/ff/ff"), "allow"),
        ("CDC network adapter", device("1:2", "02/06/00", "0a/00/00"), "deny"),
        ("RNDIS phone", device("18d1:4ee3", "e0/01/03", "0a/00/00"), "deny"),
        ("ActiveSync, RNDIS too", device("1:2", "ef/01/01", "0a/00/00"), "deny"),
        ("Realtek network adapter", device("0bda:8153", "ff/ff/00"), "deny"),
        ("Realtek network adapter of ASUS", device("0b05:1976", "ff/ff/00"), "deny"),
        ("Bluetooth adapter", device("0a12:0001", "e0/01/01", "e0/01/01", class_="e0/01/01"), "deny"),
        ("phone, MTP", device("18d1:4ee1", "06/01/01"), "allow"),
        ("phone, fastboot", device("18d1:4ee0", "ff/42/03"), "allow"),
        ("game pad", device("1:2", "03/00/00@0001:0005"), "allow"),
        ("touch screen", device("1:2", "03/00/00@000d:0004"), "ask"),
        ("UPS", device("051d:0002", "03/00/00@0084:0004"), "ask"),
        ("oscilloscope", device("1:2", "fe/03/01"), "allow"),
        ("vendor specific", device("1:2", "ff/00/00"), "ask"),
        ("unconfigured", device("1:2"), "ask"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_it_says(what: str, entry: DeviceEntry, verdict: str) -> None:
    assert RULES.judge(entry).verdict.value == verdict, what


def test_devices_that_are_never_reset_are_in_it() -> None:
    for vendor, product in NEVER_RESET:
        assert NO_RESET in RULES.judge(device(f"{vendor:x}:{product:x}", "ff/00/00")).quirks


def test_a_device_in_firmware_update_mode_is_not_reset_out_of_it() -> None:
    decision = RULES.judge(device("0483:df11", "fe/01/02"))
    assert (decision.verdict.value, decision.quirks) == ("allow", ("no-reset",))


def test_a_board_is_known_in_its_boot_loader_too() -> None:
    (identity,) = RULES.judge(device("2341:0036", "02/02/01")).identities
    assert (0x2341, 0x8036) in identity.ids


def test_it_is_installed_where_it_is_looked_for() -> None:
    root = Path(__file__).parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["data-files"]["share/usbbridge/rules/compat"]
    installed = {file for pattern in patterns for file in root.glob(pattern)}
    assert installed == set(shipped_rules().iterdir()) == set((root / "rules/compat").iterdir())
    assert len(installed) >= 4


def test_where_there_is_no_source_tree_the_installed_list_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usbbridge.__file__", str(tmp_path / "lib/python3/site-packages/usbbridge/__init__.py"))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    folder = tmp_path / "share/usbbridge/rules/compat"
    assert shipped_rules() == folder  # not there: what is missing is named
    folder.mkdir(parents=True)
    assert shipped_rules() == folder
