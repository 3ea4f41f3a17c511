"""Runs inside a machine with dummy_hcd and configfs gadgets, as root: a drive that the whole service has given to a VM
of the loopback kind, and `usbbridge capture` of it. Prints what happened, as JSON; `test_capture_service.py` judges."""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

from tests.integration.service_in_machine import PASSWORD, RUN, Service, configure, reachable
from tests.machine.gadgets import IMAGE, plug_in_stick
from usbbridge.loopback.vm import LoopbackVm

FILE = RUN / "stick.pcapng"
BLOCKS = 2048


def capture(*options: str) -> "subprocess.Popen[str]":
    """The command, once it captures."""
    environment = os.environ | {"USBBRIDGE_CONFIG": str(RUN / "usbbridge.toml"), "USBBRIDGE_MODE": "system"}
    command = [sys.executable, "-P", "-m", "usbbridge", "capture", "1-1", "--force", *options]
    process = subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "is captured to" in line, line + process.stderr.read()
    return process


def ended(process: "subprocess.Popen[str]") -> list[object]:
    out, err = process.communicate(timeout=60)
    return [process.returncode, out, err]


def read(vm: LoopbackVm) -> bool:
    """Whether the VM reads the beginning of the drive as it is."""
    return vm.read(0, BLOCKS) == IMAGE.read_bytes()[: 512 * BLOCKS]


def whole(vm: LoopbackVm, end: Callable[["subprocess.Popen[str]"], object]) -> dict[str, object]:
    """A capture of the drive being read, ended in some way."""
    process = capture("-o", str(FILE))
    same = read(vm)
    end(process)
    said = ended(process)
    file = base64.b64encode(FILE.read_bytes()).decode()
    return {"same": same, "said": said, "file": file, "mode": FILE.stat().st_mode & 0o777}


def slow(vm: LoopbackVm) -> dict[str, object]:
    """A reader that is stopped while the drive is read, until something has to be dropped: nothing waits for it."""
    process = capture("-o", str(FILE))
    process.send_signal(signal.SIGSTOP)
    same = [read(vm) for _ in range(48)]
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    return {"same": same, "said": ended(process)}


def main() -> dict[str, object]:
    reachable()
    plug_in_stick()
    with LoopbackVm(password=PASSWORD, channels=1) as vm:
        configure(vm)
        service = Service()
        service.wait(lambda: service.is_in("local"))
        service.call("attach", device="1-1")
        vm.mount(timeout=60)
        facts: dict[str, object] = {
            "interrupted": whole(vm, lambda process: process.send_signal(signal.SIGINT)),
            "slow": slow(vm),
            "detached": whole(vm, lambda process: service.call("detach", device="1-1")),
        }
        service.process.terminate()
        service.process.wait(60)
    return facts | {"violations": vm.violations, "log": (RUN / "log").read_text()}


if __name__ == "__main__":
    print(json.dumps(main()))
