"""Devices of every class, each redirected to the virtual machine and used there as its user would.

The devices are those of `tools.lab.devices`, in the kernel of the quick client machine; what is done with each is a
program of `tests.e2e.checks`, run in the virtual machine on the guest's own driver.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.rig import Usbbridge, detach, with_ticket
from tests.integration.uml import needs_uml
from tools.lab import REPOSITORY, NativeClient, Vm

pytestmark = needs_uml

PYTHON = str(Path(sys.executable).absolute())


ISO_TRIES = 8
"How often this host may have been busy with something else: what is late on an isochronous endpoint is lost."


@dataclass(frozen=True)
class Case:
    """A device, and what is done with it."""

    device: str
    "A specification of `tools.lab.plug`."
    check: str
    "A module of `tests.e2e.checks`, with its arguments."
    super_speed: bool = False
    tries: int = 1

    def __str__(self) -> str:
        return self.device


CASES = [
    Case("acm", "acm"),
    Case("ftdi,speed=full", "ftdi"),
    Case("ftdi,generate=65536", "ftdi --generate 65536"),
    Case("printer", "printer"),
    Case("fido", "fido"),
    Case("ccid", "ccid"),
    Case("mtp", "mtp"),
    Case("ethernet", "ethernet"),
    Case("composite", "composite"),
    Case("camera", "camera", tries=ISO_TRIES),
    Case("headset", "headset", tries=ISO_TRIES),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_guest_uses_a_device_as_if_it_were_its_own(native: NativeClient, vm: Vm, case: Case) -> None:
    native.put("/tmp/ticket", f"{vm.options.ticket}\n".encode())
    device = native.emulate(case.device, super_speed=case.super_speed)
    began = vm.now()
    with Usbbridge(native).attach(device.bus_port, vm.spice, *with_ticket("/tmp/ticket")) as attached:
        vm.wait_until(lambda: vm.arrivals(began), case.device)
        for _ in range(case.tries):
            done = vm.run([PYTHON, "-m", *f"tests.e2e.checks.{case.check}".split()], cwd=str(REPOSITORY), check=False)
            if done.status == 0:
                break
        assert done.status == 0, done.text + done.error
        assert json.loads(done.text.splitlines()[-1])
        detach(attached)
    native.withdraw(device)
