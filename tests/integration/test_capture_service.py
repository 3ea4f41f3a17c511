"""`usbbridge capture` of a drive of a real kernel that the whole service has given to a VM, and what tshark says of it.

Needs the user-mode Linux launcher: the path in USBBRIDGE_UML, or ../shared/lab/uml beside the repository.
"""

import base64
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.uml import needs_uml, run

STICK = "1-1 1d6b:0104 Linux Foundation Multifunction Composite Gadget"

pytestmark = [
    needs_uml,
    pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed"),
    pytest.mark.timeout(530),
]


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """What happened, in one boot."""
    return run("capture_in_machine.py", patience=500)


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
