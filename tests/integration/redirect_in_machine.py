"""Runs inside a machine with dummy_hcd and configfs gadgets, as root: real devices through the libusb backend and
`usbbridge attach`. Prints what happened, as JSON by name; `test_redirect_usbfs.py` judges it."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.fakes.guest import Rig
from usbbridge.backend import libusb
from usbbridge.backend.base import Status, Transfer
from usbbridge.errors import DeviceLostError
from usbbridge.loopback.vm import LoopbackVm
from usbbridge.usbredir.packets import InterruptPacket, StartInterruptReceiving

GADGETS = Path("/sys/kernel/config/usb_gadget")
INTERFACE = Path("/sys/bus/usb/devices/1-1:1.0")
NODES = Path("/dev/bus/usb/001")
IMAGE = Path("/dev/shm/image")
SIZE = 8 << 20
NOBODY = 65534
REPORT_DESCRIPTOR = bytes.fromhex(
    "05010906a101050719e029e715002501750195088102750895018101" + "95067508150025650507190029658100c0"
)
"A boot keyboard's (HID 1.11 appendix B.1)."


def wait(what: Callable[[], object], seconds: float = 20.0) -> object:
    """Poll until it is true; there is no udev here to wait for."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
    return found


def gadget(name: str, function: str, attributes: dict[str, str | bytes]) -> Path:
    folder = GADGETS / name
    for part in ("strings/0x409", "configs/c.1", f"functions/{function}"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    words = {"idVendor": "0x1d6b", "idProduct": "0x0104", "strings/0x409/serialnumber": name}
    for attribute, value in words.items() | {(f"functions/{function}/{k}", v) for k, v in attributes.items()}:
        (folder / attribute).write_bytes(value if isinstance(value, bytes) else value.encode())
    (folder / f"configs/c.1/{function}").symlink_to(folder / f"functions/{function}")
    return folder


def plug_in(folder: Path, driver_name: str) -> None:
    (folder / "UDC").write_text("dummy_udc.0")
    wait(lambda: driver() == driver_name)


def unplug(folder: Path) -> None:
    (folder / "UDC").write_text("\n")
    wait(lambda: not INTERFACE.exists())


def driver() -> str:
    """The driver of the device's interface; "" for none."""
    try:
        return (INTERFACE / "driver").readlink().name
    except OSError:
        return ""


def node() -> Path:
    number = int((INTERFACE.parent / "1-1/devnum").read_text())
    return NODES / f"{number:03}"


def holders() -> list[str]:
    """Processes that have a USB device open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.readlink().is_relative_to(NODES.parent):
                found.append(link.parts[2])
    return found


def children(pid: int) -> list[int]:
    """Process ids; the fourth field of /proc/PID/stat is the parent's."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return [child for child, parent in parents.items() if parent == pid]


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
    wait(lambda: device.reap() or ended)
    result = int(t.status), bytes(t.data[: t.actual])
    device.give_back(t)
    return result


def get_descriptor(t: Transfer) -> None:
    t.setup[:] = bytes.fromhex("8006000100001200")


def in_an_unprivileged_process(work: Callable[[int], object]) -> object:
    """Run `work` as nobody, with the device's node opened by root; what it returned."""
    fd = os.open(node(), os.O_RDWR)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            answer = work(fd)
        except BaseException:
            answer = traceback.format_exc()
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    os.close(fd)
    answer = json.loads(os.read(reader, 1 << 16))
    os.waitpid(pid, 0)
    os.close(reader)
    return answer


def unprivileged(fd: int) -> dict[str, object]:
    """Open, claim, use and close the drive."""
    facts: dict[str, object] = {"may open": os.access(node(), os.R_OK)}
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
        wait(lambda: not Path(f"/proc/{self.encoder}").exists())
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
        wait(lambda: Path("/dev/sda").exists())
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


def digest() -> str:
    return hashlib.sha256(IMAGE.read_bytes()).hexdigest()


# ---- reports


def keyboard(hid: Path) -> dict[str, object]:
    """Reports of an interrupt endpoint, then the keyboard is unplugged while it is being received from."""
    device = libusb.open_fd(os.open(node(), os.O_RDWR), "1-1 keyboard")
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

    wait(all_there)
    facts["numbered"] = [number for number, _ in got] == list(range(len(got)))
    facts["reports"] = [data for _, data in got if data] == sent
    unplug(hid)
    facts["error"] = "none"
    try:
        wait(lambda: rig.settle() or False, 5.0)
    except DeviceLostError as error:
        facts["error"] = str(error)
    facts["all back"] = [device.drain(0.0), device.in_flight()]
    rig.host.disconnect()
    rig.host.close()
    return facts | {"pending": rig.host.pending_bytes, "holders": holders()}


def keyboard_given_back() -> dict[str, object]:
    device = libusb.open_fd(os.open(node(), os.O_RDWR), "1-1 keyboard")
    rig = Rig(device).attach()
    endpoint = next(e.address for i in device.configuration().interfaces for e in i.endpoints if e.address & 0x80)
    rig.guest.say(StartInterruptReceiving(endpoint))
    rig.settle()
    facts = {"driver attached": driver(), "in flight": device.in_flight()}
    rig.host.disconnect()
    rig.host.close()
    return facts | {"driver": driver(), "holders": holders()}


def steps() -> dict[str, object]:
    facts: dict[str, object] = {}

    def step(name: str, work: Callable[[], object]) -> None:
        try:
            facts[name] = work()
        except BaseException:
            facts[name] = traceback.format_exc()

    IMAGE.write_bytes(os.urandom(SIZE))
    stick = gadget("stick", "mass_storage.0", {"lun.0/file": str(IMAGE)})
    plug_in(stick, "usb-storage")
    wait(lambda: Path("/dev/sda").exists())
    step("unprivileged", lambda: in_an_unprivileged_process(unprivileged))
    step("whole drive", whole_drive)
    for whom in ("encoder", "command", "vm"):
        step(f"{whom} killed", lambda whom=whom: killed(whom))
    step("unplugged", lambda: unplugged(stick))
    if (stick / "UDC").read_text().strip():
        unplug(stick)
    attributes = {"protocol": "1", "subclass": "1", "report_length": "8", "report_desc": REPORT_DESCRIPTOR}
    hid = gadget("keys", "hid.usb0", attributes)
    step("keyboard plugged in", lambda: plug_in(hid, "usbhid"))
    step("keyboard given back", keyboard_given_back)
    step("keyboard", lambda: keyboard(hid))
    return facts


if __name__ == "__main__":
    print(json.dumps(steps()))
