"""The units, held against systemd's own judgement, and against what the processes that they start need."""

import ctypes.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import usbbridge.units
from usbbridge.units.files import SYSTEM_UNITS, USER_UNITS, Kind, system_files, user_files
from usbbridge.units.install import ALL_KINDS

TEMPLATES = Path(usbbridge.units.__file__).parent
SANDBOX = Path(__file__).parent / "unit_sandbox.py"
EXPOSURE = {"usbbridge-monitor.service": 1.6, "usbbridge-control.service": 1.2, "usbbridge-sleep.service": 0.2}
"As `systemd-analyze security` counts: 0 is a process that can't do anything, 10 one that may do everything."

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze: apt install systemd"
)
needs_libseccomp = pytest.mark.skipif(
    ctypes.util.find_library("seccomp") is None, reason="libseccomp: apt install libseccomp2"
)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A folder with the units as they are installed; they start `/bin/true`, which is there on every system."""
    for file in system_files(Path("/bin/true"), tmp_path, frozenset({Kind.UNIT})):
        file.place.parent.mkdir(parents=True, exist_ok=True)
        file.place.write_text(file.text)
    return tmp_path / "etc/systemd/system"


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", **environment}
    )


@needs_systemd
@pytest.mark.parametrize("unit", SYSTEM_UNITS)
def test_systemd_finds_nothing_wrong_with_a_unit(units: Path, unit: str) -> None:
    done = run("systemd-analyze", "verify", "--man=no", units / unit)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_users_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    unit = tmp_path / USER_UNITS[0]
    unit.write_text(next(file.text for file in user_files(Path("/bin/true"), ALL_KINDS) if file.kind is Kind.UNIT))
    done = run("systemd-analyze", "--user", "verify", "--man=no", unit, XDG_RUNTIME_DIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("unit", SYSTEM_UNITS)
def test_a_unit_exposes_no_more_than_it_is_known_to(units: Path, unit: str) -> None:
    threshold = f"--threshold={EXPOSURE[unit] * 10:.0f}"
    done = run("systemd-analyze", "security", "--offline=true", threshold, units / unit)
    assert done.returncode == 0, done.stdout


@needs_systemd
@pytest.mark.parametrize("unit", SYSTEM_UNITS)
def test_each_point_that_is_left_has_its_reason_in_the_unit(units: Path, unit: str) -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--json=short", units / unit)
    left = [point["name"] for point in json.loads(done.stdout) if point["set"] is False and point["exposure"]]
    _, _, reasons = (units / unit).read_text().partition("\n# What is left")
    missing = [name for name in left if re.split(r"[/~]", name)[0].rstrip("=") + "=" not in reasons]
    assert (bool(reasons), missing) == (True, [])


@needs_systemd
def test_sysusers_takes_the_user(tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("systemd-sysusers: apt install systemd")
    files = system_files(Path("/bin/true"), tmp_path, frozenset({Kind.SYSUSERS}))
    files[0].place.parent.mkdir(parents=True)
    files[0].place.write_text(files[0].text)
    done = run("systemd-sysusers", f"--root={tmp_path}", "--dry-run", files[0].place.name)
    assert done.returncode == 0, done.stderr
    assert "Would create user usbbridge" in done.stdout + done.stderr or "usbbridge" in done.stderr


# ---- what the processes do works under what the units permit

WHAT_PROCESSES_DO = """
import ctypes, lz4.block, os, ssl
from usbbridge.backend import libusb  # the library is chosen and loaded
import usb1
Compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
numbers = (ctypes.c_int * 3)(3, 1, 2)
ctypes.CDLL(None).qsort(numbers, 3, 4, Compare(lambda a, b: a[0] - b[0]))
assert list(numbers) == [1, 2, 3]
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
key = rsa.generate_private_key(65537, 2048).public_key()
key.encrypt(b"ticket", padding.OAEP(padding.MGF1(SHA1()), SHA1(), None))
ssl.create_default_context()
"""
WHAT_THEY_MUST_NOT = """
import mmap, os
for forbidden in (
    lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
    lambda: os.sched_setaffinity(0, {0}),
    lambda: os.setuid(0),
    lambda: os.chroot("/"),
):
    try:
        forbidden()
    except PermissionError:
        continue
    raise SystemExit("was permitted")
"""


@needs_systemd
@needs_libseccomp
@pytest.mark.parametrize("unit", ["usbbridge-monitor.service", "usbbridge-control.service"])
@pytest.mark.parametrize("code", [WHAT_PROCESSES_DO, WHAT_THEY_MUST_NOT])
def test_system_calls_are_permitted_as_they_are_needed(unit: str, code: str) -> None:
    done = run(sys.executable, SANDBOX, TEMPLATES / unit, sys.executable, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@needs_libseccomp
def test_a_session_and_its_encoder_work_under_the_filter_of_control() -> None:
    unit = TEMPLATES / "usbbridge-control.service"
    done = run(sys.executable, SANDBOX, unit, sys.executable, "-m", "usbbridge", "demo", "--size", "1")
    assert done.returncode == 0, done.stderr
    assert "Everything was right" in done.stdout
