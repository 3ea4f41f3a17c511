"""`usbbridge capture` of a drive of a real kernel that the whole service has given to a VM, and what tshark says of it.

Needs the user-mode Linux launcher: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the repository.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
UML = Path(os.environ.get("USBBRIDGE_UML", ROOT.parent / "shared/lab/uml"))
STICK = "1-1 1d6b:0104 Linux Foundation Multifunction Composite Gadget"

pytestmark = [
    pytest.mark.skipif(not UML.exists(), reason=f"no user-mode Linux at {UML}; set USBBRIDGE_UML"),
    pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed"),
    pytest.mark.timeout(300),
]


def shown() -> Path:
    """The machine has this one's files, but a /tmp of its own in which it shows one folder of ours."""
    hidden = [path for path in (ROOT, Path(sys.prefix)) if path.is_relative_to("/tmp")]
    return Path(os.path.commonpath(hidden)) if hidden else ROOT


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """What happened, in one boot."""
    environment = os.environ | {"UML_OUT": str(shown()), "UML_TIMEOUT": "250", "PYTHONPATH": str(ROOT)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    command = [str(UML), "--", sys.executable, str(HERE / "capture_in_machine.py")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def dissected(file: Path, show: str) -> int:
    """How many packets of a file Wireshark shows."""
    done = subprocess.run(["tshark", "-r", str(file), "-Y", show], capture_output=True, text=True, check=True)
    return len(done.stdout.splitlines())


@pytest.mark.parametrize(("how", "why"), [("interrupted", ""), ("detached", "the device is no longer at its VM")])
def test_a_drive_that_is_read_is_captured_whole(said: dict[str, Any], tmp_path: Path, how: str, why: str) -> None:
    facts, file = said[how], tmp_path / "stick.pcapng"
    file.write_bytes(base64.b64decode(facts["file"]))
    packets = dissected(file, "frame")
    code, out, err = facts["said"]
    assert (code, err, facts["same"], facts["mode"]) == (0, "", True, 0o600)
    assert out.startswith(f"{STICK}: {packets} packets, ")
    assert why in out
    assert dissected(file, "_ws.malformed") == 0
    assert dissected(file, "usb.bus_id == 1 && usb.device_address == 2") == packets
    reads = dissected(file, "scsi_sbc.opcode == 0x28 && usbms.dCBWSignature")
    assert 0 < reads == dissected(file, "scsi_sbc.opcode == 0x28 && usbms.dCSWStatus == 0")


def test_a_reader_that_does_not_read_does_not_hold_up_the_vm(said: dict[str, Any]) -> None:
    code, out, _ = said["slow"]["said"]
    assert (code, all(said["slow"]["same"])) == (0, True)
    assert "missing, as they could not be written fast enough" in out


def test_who_captures_is_in_the_log(said: dict[str, Any]) -> None:
    assert said["log"].count(f"{STICK} is captured by process ") == 3
    assert said["violations"] == []
