"""Runs inside a machine with vhci-hcd, as root: the whole service, a device with two faces, and a VM of the loopback
kind that makes it change. Prints what happened, as JSON by name; `test_service_bootloader.py` judges it."""

import contextlib
import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from tests.integration.service_in_machine import CONTROL, PASSWORD, RUN, Service, configure, reachable
from tests.machine.steps import Facts
from tests.machine.usb import DEVICES, node
from tools.lab.devices.acm import DTR, LINE_CODING, SET_CONTROL_LINE_STATE, SET_LINE_CODING
from tools.lab.devices.bootloader import START, TOUCH
from tools.lab.devices.dfu import DETACH_MILLISECONDS, DfuRequest
from usbbridge.errors import UsbBridgeError
from usbbridge.ipc.client import ServiceClient, connected
from usbbridge.ipc.reload import judge_anew
from usbbridge.loopback.tasks import Command, Control, Task
from usbbridge.loopback.vm import LoopbackVm
from usbbridge.usb.ch9 import SetupPacket
from usbbridge.usbredir.packets import Reset

BOOT_LOADER, APPLICATION = "46f4:0114", "46f4:0115"
TO_INTERFACE: Final = 0x21
"bmRequestType of a class request to an interface, OUT."
LINE, DFU = 0, 2
"Interfaces of the application."
USBDEVFS_CONTROL: Final = 0xC0185500
"Linux, include/uapi/linux/usbdevice_fs.h."
RULES = RUN / "rules.d"
IDENTITY: Final = f"""[[identity]]
name = "a board"
ids = ["{BOOT_LOADER}", "{APPLICATION}"]
note = "boot loader and application"
source = "tools/lab/devices/bootloader.py"
"""
QUIET_SECONDS: Final = 3.0
"How long something that must not happen is waited for: what is followed is attached within two."


# ---- what a guest's programs ask of the device; it leaves before or after it has answered


def start() -> Task[None]:
    yield Control(SetupPacket(*START, 0, 0, 0))


def detach_and_reset() -> Task[None]:
    yield Control(SetupPacket(TO_INTERFACE, DfuRequest.DETACH, DETACH_MILLISECONDS, DFU, 0))
    yield Command(Reset())


def touch() -> Task[None]:
    coding = LINE_CODING.pack(TOUCH, 0, 0, 8)
    yield Control(SetupPacket(TO_INTERFACE, SET_LINE_CODING, 0, LINE, len(coding)), coding)
    yield Control(SetupPacket(TO_INTERFACE, SET_CONTROL_LINE_STATE, DTR, LINE, 0))
    yield Control(SetupPacket(TO_INTERFACE, SET_CONTROL_LINE_STATE, 0, LINE, 0))


@contextlib.contextmanager
def plugged(spec: str) -> Iterator[str]:
    """BUS-PORT of a device that is plugged in until the end."""
    command = [sys.executable, "-m", "tools.lab.plug", "0", spec]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as plug:
        assert plug.stdout is not None
        try:
            yield plug.stdout.readline().split()[1]
        finally:
            plug.terminate()
            plug.wait(60)


class Steps:
    """`vm_told` is an event counter that the VM counts up whenever something happens to it."""

    def __init__(self, vm: LoopbackVm, vm_told: int) -> None:
        self.vm, self.vm_told, self.service, self.port = vm, vm_told, Service(), ""

    def now(self) -> tuple[str, str]:
        """Ids and state of what is at the port."""
        for status in self.service.call("status")["devices"]:
            entry = status["device"]["entry"]
            if entry["bus_port"] == self.port:
                return f"{entry['vendor']:04x}:{entry['product']:04x}", status["state"]
        return "", ""

    def wait_now(self, ids: str, state: str) -> None:
        self.service.wait(lambda: self.now() == (ids, state))

    def attach(self, ids: str, **how: str) -> None:
        self.wait_now(ids, "local")
        self.service.call("attach", device=self.port, **how)
        self.wait_guest(ids)

    def wait_guest(self, ids: str) -> None:
        """Until the guest has this device."""
        self.service.wait(lambda: self.guest_has() == ids, self.vm_told)

    def guest_has(self) -> str:
        with contextlib.suppress(UsbBridgeError):
            found = self.vm.wait_for_device(timeout=60).descriptor
            return f"{found.vendor:04x}:{found.product:04x}"
        return ""

    def change(self, work: Callable[[], Task[None]]) -> None:
        """The guest makes the device change its face."""
        with contextlib.suppress(UsbBridgeError):
            self.vm.run(work(), timeout=60)

    def follows(self, work: Callable[[], Task[None]], ids: str) -> dict[str, Any]:
        """The device changes, and is to be at the VM as that."""
        began = time.monotonic()
        self.change(work)
        self.wait_now(ids, "attached")
        took = time.monotonic() - began
        self.wait_guest(ids)
        return {"seconds": took, "state": self.now()[1]}

    def stays(self, ids: str) -> dict[str, Any]:
        """What was not to be attached, is not."""
        self.wait_now(ids, "local")
        until, states = time.monotonic() + QUIET_SECONDS, set()
        with ServiceClient(connected([CONTROL])) as client, contextlib.suppress(TimeoutError):

            def wait_for_more() -> None:
                if not select.select([client], [], [], max(0.0, until - time.monotonic()))[0]:
                    raise TimeoutError

            client.call("subscribe")
            states.add(self.now()[1])
            client.before_waiting = wait_for_more
            for kind, data in client.events():
                if kind == "device" and data["device"]["entry"]["bus_port"] == self.port:
                    states.add(data["state"])
                elif kind == "device-gone" and data["id"].startswith(f"{self.port}#"):
                    states.add(kind)
        return {"states": sorted(states)}

    def give_back(self, *, keep: bool = False) -> None:
        self.service.call("detach", device=self.port, keep=keep)
        self.vm.wait_for_detach(timeout=60)

    # ---- the steps

    def declared(self, **how: str) -> dict[str, Any]:
        """There and back in both ways, from one attach."""
        with plugged("bootloader") as self.port:
            self.attach(BOOT_LOADER, **how)
            faces = self.service.call("status")["devices"]
            facts = {
                "faces": next(d["device"]["faces"] for d in faces if d["device"]["entry"]["bus_port"] == self.port),
                "started": self.follows(start, APPLICATION),
                "touched": self.follows(touch, BOOT_LOADER),
                "started again": self.follows(start, APPLICATION),
                "detached": self.follows(detach_and_reset, BOOT_LOADER),
            }
            self.give_back()
        return facts | {"choices": self.service.call("status")["choices"]}

    def held(self) -> dict[str, Any]:
        """Given back for now, it is changed by this machine."""
        with plugged("bootloader") as self.port:
            self.attach(BOOT_LOADER)
            self.give_back(keep=True)
            self.wait_now(BOOT_LOADER, "local")
            self.start_here()
            facts = self.stays(APPLICATION)
            self.service.call("forget", all=True)
        return facts

    def start_here(self) -> None:
        request = struct.pack("@BBHHHIP", *START, 0, 0, 0, 5000, 0)
        fd = os.open(node(DEVICES / self.port), os.O_RDWR)
        with contextlib.suppress(OSError):  # it has gone before it answered
            fcntl.ioctl(fd, USBDEVFS_CONTROL, request)
        os.close(fd)

    def another(self) -> dict[str, Any]:
        """It is pulled, and something else put into its place."""
        with plugged("bootloader") as self.port:
            self.attach(BOOT_LOADER)
        with plugged("ftdi") as self.port:
            facts = self.stays("0403:6014")
            self.service.call("forget", all=True)
        return facts

    def undeclared(self) -> dict[str, Any]:
        """The same device, when nobody has said that the two are one, and nothing is remembered."""
        (RULES / "50-boards.toml").unlink()
        judge_anew(RUN / "monitor/monitor.sock", 60)
        with plugged("bootloader") as self.port:
            self.attach(BOOT_LOADER, remember="no")
            facts = self.follows(start, APPLICATION)
            self.give_back()
        return facts

    def not_followed(self) -> dict[str, Any]:
        """The same, when that is not wanted."""
        file = RUN / "usbbridge.toml"
        file.write_text(file.read_text() + "[auto]\nfollow = false\n")
        self.service.call("reload")
        with plugged("bootloader") as self.port:
            self.attach(BOOT_LOADER, remember="no")
            self.change(start)
            return self.stays(APPLICATION)

    def end(self) -> dict[str, Any]:
        self.service.process.terminate()
        return {"status": self.service.process.wait(60)}


def main() -> dict[str, object]:
    facts = Facts()
    reachable()
    told = os.eventfd(0, os.EFD_NONBLOCK)
    with LoopbackVm(password=PASSWORD, channels=1, on_event=lambda _: os.eventfd_write(told, 1)) as vm:
        configure(vm)
        RULES.mkdir()
        (RULES / "50-boards.toml").write_text(IDENTITY)
        file = RUN / "usbbridge.toml"
        file.write_text(file.read_text().replace("[monitor]\n", f'[monitor]\nrules = ["{RULES}"]\n'))
        steps = Steps(vm, told)
        facts.step("declared", steps.declared)
        facts.step("declared, not remembered", lambda: steps.declared(remember="no"))
        facts.step("held", steps.held)
        facts.step("another", steps.another)
        facts.step("undeclared", steps.undeclared)
        facts.step("not followed", steps.not_followed)
        facts.step("end", steps.end)
    os.close(told)
    facts["violations"] = vm.violations
    facts["log"] = (RUN / "log").read_text()
    return facts


if __name__ == "__main__":
    print(json.dumps(main()))
