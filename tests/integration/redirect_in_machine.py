"""Runs inside a machine with dummy_hcd and configfs gadgets, as root: real devices through the libusb backend and
`usbbridge attach`. Prints what happened, as JSON by name; `test_redirect_usbfs.py` judges it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.fakes.guest import Rig
from tests.machine.gadgets import DEVICE, IMAGE, KEYBOARD, digest, driver, gadget, plug_in, plug_in_stick, unplug
from tests.machine.processes import NOBODY, as_user, children
from tests.machine.steps import Facts
from tests.machine.usb import holders, node
from tests.machine.waiting import reap_until, wait, wait_end
from usbbridge.backend import libusb
from usbbridge.backend.base import Status, Transfer
from usbbridge.errors import DeviceLostError
from usbbridge.loopback.vm import LoopbackVm
from usbbridge.usbredir.packets import InterruptPacket, StartInterruptReceiving

# ---- the backend


def transfer(device: libusb.LibusbDevice, start: Callable[[Transfer], Status], data: bytes = b"") -> tuple[int, bytes]:
    """One transfer, waited for: its status and what it brought."""
    t = device.take(512)
    ended: list[Transfer] = []
    t.on_done = ended.append
    t.data[: len(data)] = data
    started = start(t)
    if started is not Status.COMPLETED:
        device.give_back(t)
        return int(started), b""
    assert reap_until(lambda: ended, device), "the transfer does not end"
    result = int(t.status), bytes(t.data[: t.actual])
    device.give_back(t)
    return result


def get_descriptor(t: Transfer) -> None:
    t.setup[:] = bytes.fromhex("8006000100001200")


def in_an_unprivileged_process(work: Callable[[int], object]) -> object:
    """Run `work` as nobody, with the device's node opened by root; what it returned."""
    fd = os.open(node(DEVICE), os.O_RDWR)
    return as_user(NOBODY, lambda: work(fd), fd)


def unprivileged(fd: int) -> dict[str, object]:
    """Open, claim, use and close the drive."""
    facts: dict[str, object] = {"may open": os.access(node(DEVICE), os.R_OK)}
    device = libusb.open_fd(fd, "1-1 the stick")
    configuration = device.configuration()
    assert configuration is not None
    facts["name"] = device.name
    facts["ids"] = [device.descriptor.vendor, device.descriptor.product, device.speed.name, configuration.value]
    addresses = {e.address: e.transfer_type.name for i in configuration.interfaces for e in i.endpoints}
    facts["endpoints"] = sorted(addresses.values())
    inwards = next(a for a in addresses if a & 0x80)
    outwards = next(a for a in addresses if not a & 0x80)
    facts["driver before"] = driver()
    device.claim()
    facts["driver claimed"] = driver()

    def control(t: Transfer) -> Status:
        get_descriptor(t)
        return device.submit_control(t, 18)

    status, data = transfer(device, control)
    facts["descriptor"] = [status, data[8:12].hex()]
    ready = b"USBC" + b"tag!" + bytes(4) + b"\0\0\6" + bytes(16)  # TEST UNIT READY
    status, _ = transfer(device, lambda t: device.submit_bulk(t, outwards, 31), ready)
    answer = transfer(device, lambda t: device.submit_bulk(t, inwards, 13))
    facts["command"] = [status, answer[0], answer[1][:8].decode()]
    device.reset()
    facts["driver after a reset"] = driver()
    status, _ = transfer(device, lambda t: device.submit_bulk(t, outwards, 31), b"nonsense" * 4)
    facts["stall"] = [status, transfer(device, lambda t: device.submit_bulk(t, inwards, 13))[0]]
    device.clear_halt(inwards)
    facts["unknown endpoint"] = transfer(device, lambda t: device.submit_bulk(t, 0x8F, 13))[0]
    device.reset()
    facts["cancel"] = cancelled(device, inwards)
    device.set_interface(0, 0)
    device.set_configuration(configuration.value)
    facts["driver configured"] = driver()
    device.close()
    device.close()
    facts["driver closed"] = driver()
    return facts


def cancelled(device: libusb.LibusbDevice, endpoint: int) -> list[object]:
    """Three transfers that wait for data; the second is cancelled, then the others."""
    ended: list[int] = []
    flying = []
    for number in range(3):
        t = device.take(13)
        t.id, t.on_done = number, lambda t: ended.append(t.id)
        device.submit_bulk(t, endpoint, 13)
        flying.append(t)
    device.cancel(flying[1])
    drained = device.drain(5.0)
    second = list(ended)
    for t in (flying[0], flying[2]):
        device.cancel(t)
        device.cancel(t)
    return [drained, second, device.drain(5.0), sorted(ended), device.in_flight(), [t.status for t in flying]]


# ---- the command


class Attached:
    """`usbbridge attach` on the drive, and its VM."""

    def __init__(self, vm: LoopbackVm) -> None:
        self.vm = vm
        command = [sys.executable, "-m", "usbbridge", "attach", "--foreground", "1-1", "--vm", vm.target]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        vm.mount(timeout=60)
        (self.encoder,) = children(self.process.pid)

    def read(self, half_way: Callable[[], None] = lambda: None) -> str:
        """Read the drive; its digest, or why that ended."""
        done_it: list[bool] = []

        def progress(done: int, size: int) -> None:
            if done > size // 2 and not done_it:
                done_it.append(True)
                half_way()

        try:
            return self.vm.read_all(progress, timeout=60).sha256
        except Exception as error:
            return type(error).__name__

    def end(self) -> dict[str, object]:
        out, _ = self.process.communicate(timeout=60)
        assert wait_end(self.encoder), "the encoder outlives its command"
        return {"status": self.process.returncode, "lines": out.splitlines()}


def whole_drive() -> dict[str, object]:
    with LoopbackVm(transport="raw") as vm:
        attached = Attached(vm)
        facts: dict[str, object] = {"driver attached": driver(), "same": attached.read() == digest()}
        data = os.urandom(256 << 10)
        vm.write(64, data)
        attached.process.send_signal(signal.SIGINT)
        vm.wait_for_detach(timeout=60)
        facts |= attached.end() | {"driver": driver(), "violations": vm.violations, "holders": holders()}
        facts["written"] = IMAGE.read_bytes()[32768 : 32768 + len(data)] == data
        wait(Path("/dev/sda").exists)
        return facts


def killed(whom: str) -> dict[str, object]:
    """Something dies in the middle of a read."""
    with LoopbackVm(transport="raw") as vm:
        attached = Attached(vm)
        do = {
            "encoder": lambda: os.kill(attached.encoder, signal.SIGKILL),
            "command": attached.process.kill,
            "vm": vm.kill,
        }[whom]
        facts: dict[str, object] = {"read": attached.read(do)}
        facts |= attached.end()
        wait(lambda: driver() == "usb-storage")
        return facts | {"driver": driver(), "holders": holders()}


def unplugged(stick: Path) -> dict[str, object]:
    with LoopbackVm(transport="raw") as vm:
        attached = Attached(vm)
        facts: dict[str, object] = {"read": attached.read(lambda: (stick / "UDC").write_text("\n"))}
        vm.wait_for_detach(timeout=60)
        return facts | attached.end() | {"holders": holders()}


# ---- reports


def keyboard(hid: Path) -> dict[str, object]:
    """Reports of an interrupt endpoint, then the keyboard is unplugged while it is being received from."""
    device = libusb.open_fd(os.open(node(DEVICE), os.O_RDWR), "1-1 keyboard")
    rig = Rig(device).attach()
    facts: dict[str, object] = {"driver attached": driver()}
    endpoint = next(e.address for i in device.configuration().interfaces for e in i.endpoints if e.address & 0x80)
    rig.guest.say(StartInterruptReceiving(endpoint))
    rig.settle()
    sent = [bytes((0, 0, key)) + bytes(5) for key in range(4, 24)]
    with Path("/dev/hidg0").open("wb", buffering=0) as gadget_end:
        for report in sent:
            gadget_end.write(report)
            rig.settle()
    got: list[tuple[int, bytes]] = []

    def all_there() -> bool:
        rig.settle()
        got.extend((n, p.data) for n, p in rig.guest.ear.take() if isinstance(p, InterruptPacket))
        return sum(bool(data) for _, data in got) == len(sent)  # dummy_hcd adds an empty packet to each

    assert reap_until(all_there, device), "some reports are missing"
    facts["numbered"] = [number for number, _ in got] == list(range(len(got)))
    facts["reports"] = [data for _, data in got if data] == sent
    unplug(hid)
    facts["error"] = "none"
    try:
        reap_until(rig.settle, device, 5.0)
    except DeviceLostError as error:
        facts["error"] = str(error)
    facts["all back"] = [device.drain(0.0), device.in_flight()]
    rig.host.disconnect()
    rig.host.close()
    return facts | {"pending": rig.host.pending_bytes, "holders": holders()}


def keyboard_given_back() -> dict[str, object]:
    device = libusb.open_fd(os.open(node(DEVICE), os.O_RDWR), "1-1 keyboard")
    rig = Rig(device).attach()
    endpoint = next(e.address for i in device.configuration().interfaces for e in i.endpoints if e.address & 0x80)
    rig.guest.say(StartInterruptReceiving(endpoint))
    rig.settle()
    facts = {"driver attached": driver(), "in flight": device.in_flight()}
    rig.host.disconnect()
    rig.host.close()
    return facts | {"driver": driver(), "holders": holders()}


def steps() -> dict[str, object]:
    facts = Facts()
    stick = plug_in_stick()
    facts.step("unprivileged", lambda: in_an_unprivileged_process(unprivileged))
    facts.step("whole drive", whole_drive)
    for whom in ("encoder", "command", "vm"):
        facts.step(f"{whom} killed", lambda whom=whom: killed(whom))
    facts.step("unplugged", lambda: unplugged(stick))
    if (stick / "UDC").read_text().strip():
        unplug(stick)
    hid = gadget("keys", "hid.usb0", KEYBOARD)
    facts.step("keyboard plugged in", lambda: plug_in(hid, "usbhid"))
    facts.step("keyboard given back", keyboard_given_back)
    facts.step("keyboard", lambda: keyboard(hid))
    return facts


if __name__ == "__main__":
    print(json.dumps(steps()))
