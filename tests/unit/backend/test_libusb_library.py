"""Which libusb is used. Each choice is made in a process of its own: a library is loaded once and for all."""

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from usbbridge.backend import libusb_library
from usbbridge.errors import DeviceError

ROOT = Path(__file__).parents[3]
PACKAGED = libusb_library._packaged()
LIBC = ctypes.util.find_library("c")

pytestmark = pytest.mark.skipif(PACKAGED is None, reason="libusb-package is not installed")


@pytest.fixture(autouse=True)
def no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USBBRIDGE_LIBUSB", raising=False)


@pytest.fixture
def system_is_packaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's libusb is the one of the package, so that its version is known."""
    monkeypatch.setattr(libusb_library, "SYSTEM_NAMES", ("no-such-library.so", PACKAGED))


def test_a_version_is_read() -> None:
    library = libusb_library._open(str(PACKAGED))
    assert library is not None
    assert libusb_library.version(library) >= libusb_library.MINIMUM
    assert not libusb_library.needs_discovery(library)


@pytest.mark.usefixtures("system_is_packaged")
def test_the_systems_library_is_used_if_it_is_new_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libusb_library, "_packaged", lambda: None)
    assert libusb_library.choose()._name == PACKAGED


@pytest.mark.usefixtures("system_is_packaged")
def test_the_packaged_one_is_used_if_the_systems_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libusb_library, "version", lambda library: (1, 0, 26))
    assert libusb_library.choose()._name == PACKAGED
    monkeypatch.setattr(libusb_library, "_packaged", lambda: None)
    with pytest.raises(DeviceError, match=r"no libusb 1\.0\.27 or newer") as caught:
        libusb_library.choose()
    assert "pip install libusb-package" in caught.value.hint


def test_the_packaged_one_is_used_if_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libusb_library, "SYSTEM_NAMES", ("no-such-library.so",))
    assert libusb_library.choose()._name == PACKAGED


def test_a_package_that_is_not_installed_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert libusb_library._packaged() is None


@pytest.mark.usefixtures("system_is_packaged")
def test_an_override_comes_before_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libusb_library, "SYSTEM_NAMES", ("no-such-library.so",))
    monkeypatch.setattr(libusb_library, "_packaged", lambda: None)
    monkeypatch.setenv("USBBRIDGE_LIBUSB", str(PACKAGED))
    assert libusb_library.choose()._name == PACKAGED


@pytest.mark.parametrize("override", ["/nowhere/libusb-1.0.so", __file__, LIBC])
def test_an_override_that_is_no_libusb_is_told(override: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USBBRIDGE_LIBUSB", override)
    with pytest.raises(DeviceError, match=f"USBBRIDGE_LIBUSB={override} cannot be loaded"):
        libusb_library.choose()


OPEN = """
import os
from usbbridge.backend import libusb, libusb_library
if {old}:
    libusb_library.needs_discovery = lambda library: True
try:
    {call}
except Exception as error:
    print(type(error).__name__, error)
"""


def opening(call: str, *, old: bool = False) -> str:
    """What opening a device in a fresh process says."""
    environment = {name: value for name, value in os.environ.items() if name != "USBBRIDGE_LIBUSB"}
    command = [sys.executable, "-c", OPEN.format(call=call, old=old)]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def test_a_descriptor_that_is_no_device_is_told() -> None:
    said = opening("libusb.open_fd(os.open('/dev/null', os.O_RDWR))")
    assert said.startswith("DeviceError the device: its descriptors contradict themselves, or it is none that answers")


def test_a_library_that_cannot_take_over_a_device_is_told() -> None:
    said = opening("libusb.open_fd(0)", old=True)
    assert said.startswith("DeviceError this libusb is older than 1.0.27")


def test_a_device_that_is_not_there_is_told() -> None:
    assert opening("libusb.open_selected('99-1')") == "NotFoundError no USB device 99-1\n"
