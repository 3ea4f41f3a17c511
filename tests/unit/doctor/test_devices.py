"""What is said of devices: by rules, obstacles, descriptors, and the service."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.fakes.service import FakeService, device, status, stick
from tests.unit.doctor.conftest import ROOT, SOMEBODY, Look
from tests.unit.monitor.fake_sysfs import FakeSysfs
from tests.unit.usb.test_controllers import BULK, LARGE_REPORT
from tests.unit.usb.test_controllers import device as configuration
from usbbridge.compat.rule import Verdict
from usbbridge.doctor.devices import findings
from usbbridge.doctor.finding import Finding, Level
from usbbridge.ipc.api import State
from usbbridge.usb.descriptors import DeviceDescriptor, Endpoint, configuration_bytes, device_bytes
from usbbridge.usb.entry import Obstacle, Reason

DESCRIPTOR = DeviceDescriptor(0x200, 0, 0, 0, 64, 0x0781, 0x5567, 0x100)


def rules(config: Path, text: str) -> None:
    """Make these the rules, and let what is shipped not matter."""
    folder = config.parent / "rules.d"
    folder.mkdir()
    (folder / "00-test.toml").write_text(text)


def describe(sysfs: FakeSysfs, *endpoints: Endpoint, place: str = "1-2") -> None:
    data = device_bytes(DESCRIPTOR) + configuration_bytes(configuration(*endpoints))
    (sysfs.root / "sys/bus/usb/devices" / place / "descriptors").write_bytes(data)


def wrong(found: list[Finding]) -> list[tuple[Level, str]]:
    return [(finding.level, finding.found) for finding in found if finding.level is not Level.OK]


@contextlib.contextmanager
def open_elsewhere(fd: int) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the file open."""
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[fd]) as process:
        yield process
        process.communicate(b"\n")


def test_a_machine_with_nothing_plugged_in_is_well(look: Look) -> None:
    assert [(finding.level, finding.found) for finding in findings(look())] == [(Level.OK, "nothing is plugged in")]


def test_a_device_that_is_not_there_is_said_to_be_not_there(look: Look, sysfs: FakeSysfs) -> None:
    sysfs.stick()
    (finding,) = findings(look(device="1-7"))
    assert (finding.level, finding.found) == (Level.PROBLEM, "no USB device is known as 1-7")
    assert "usbbridge list" in finding.remedy


def test_a_mounted_stick_is_told_with_its_places_and_how_to_free_it(look: Look, sysfs: FakeSysfs) -> None:
    sysfs.stick()
    sysfs.mount("8:1", "/media/stick", "/dev/sda1")
    (finding,) = [each for each in findings(look(user=SOMEBODY)) if each.level is not Level.OK]
    assert (finding.level, finding.subject) == (Level.WARNING, "1-2 0781:5567 SanDisk Cruzer Blade")
    assert finding.found == "is in use: sda1 is mounted at /media/stick"
    assert finding.commands == ("sudo umount /media/stick",)


def test_what_was_asked_about_and_is_in_use_is_a_problem(look: Look, sysfs: FakeSysfs) -> None:
    sysfs.stick()
    sysfs.append("proc/swaps", "/dev/sda1 partition 1024 0 -2")
    (finding,) = [each for each in findings(look(device="1-2", user=ROOT)) if each.level is not Level.OK]
    assert (finding.level, finding.commands) == (Level.PROBLEM, ("swapoff /dev/sda1",))


def test_with_the_service_a_mounted_stick_can_be_unmounted_in_one_go(
    look: Look, sysfs: FakeSysfs, service: FakeService
) -> None:
    sysfs.stick()
    sysfs.mount("8:1", "/media/stick", "/dev/sda1")
    obstacle = Obstacle(Reason.IN_USE, "1-2 0781:5567 SanDisk Cruzer Blade is in use: sda1 is mounted at /media/stick")
    service.serve(status(device(plugged=stick(obstacle=obstacle))))
    (finding,) = [each for each in findings(look(device="1-2", vm="my desk", user=SOMEBODY)) if each.commands]
    assert finding.commands == ("usbbridge attach 1-2 --vm 'my desk' --unmount", "sudo umount /media/stick")


def test_rules_that_deny_are_a_problem_only_if_the_device_was_asked_about(
    look: Look, sysfs: FakeSysfs, config: Path
) -> None:
    rules(config, '[[rule]]\nid = "046d:c31c"\nverdict = "deny"\nnote = "the only keyboard"\n')
    sysfs.device("1-3", "046d:c31c", product="Keys")
    sysfs.interface("1-3", 0, "03/01/01", "usbhid")
    assert wrong(list(findings(look()))) == []
    (finding,) = [each for each in findings(look(device="1-3")) if each.level is Level.PROBLEM]
    assert finding.found.startswith("the rules say deny: interface 0 (keyboard, 03/01/01) is denied by 00-test.toml:1")
    assert "the only keyboard" in finding.found
    assert "usbbridge rules explain 1-3" in finding.commands


def test_the_rules_of_the_running_service_are_the_ones_that_count(
    look: Look, sysfs: FakeSysfs, service: FakeService
) -> None:
    sysfs.stick()
    service.serve(status(device(plugged=stick(verdict=Verdict.DENY, because="no sticks here"))))
    assert "the rules say deny: no sticks here" in [each.found for each in findings(look())]


def test_a_device_that_is_attached_has_nothing_in_its_way(look: Look, sysfs: FakeSysfs, service: FakeService) -> None:
    sysfs.stick()
    sysfs.interface("1-2", 1, "ff/00/00", "usbfs")
    service.serve(status(device(State.ATTACHED, channel=0)))
    found = list(findings(look(device="1-2")))
    assert wrong(found) == []
    assert "attached, VM desk, channel 0" in [each.found for each in found]


def test_what_the_service_could_not_do_is_told_as_it_tells_it(
    look: Look, sysfs: FakeSysfs, service: FakeService
) -> None:
    sysfs.stick()
    service.serve(status(device(State.FAILED, message="the VM rejected it", hint="its filter denies it")))
    (finding,) = [each for each in findings(look()) if each.level is Level.PROBLEM]
    assert (finding.found, finding.remedy) == ("failed, VM desk: the VM rejected it", "its filter denies it")
    service.serve(status(device(State.WAITING, message="no answer", retry_in=4.0)))
    assert (Level.WARNING, "waiting, VM desk: no answer; next try in 4 s") in wrong(list(findings(look())))


def test_who_has_a_device_open_is_named(look: Look, sysfs: FakeSysfs) -> None:
    sysfs.device("1-2", "0781:5567", product="Reader")
    sysfs.interface("1-2", 0, "0b/00/00", "usbfs")
    node = sysfs.root / "dev/bus/usb/001/002"
    with node.open() as held, open_elsewhere(held.fileno()) as holder:
        (sysfs.root / f"proc/{holder.pid}").symlink_to(f"/proc/{holder.pid}")
        (finding,) = [each for each in findings(look(device="1-2")) if each.level is Level.PROBLEM]
    assert f"(process {holder.pid})" in finding.found
    assert finding.commands == (f"ps -fp {holder.pid}",)


def test_a_device_open_in_a_program_that_is_not_shown_is_in_use_all_the_same(look: Look, sysfs: FakeSysfs) -> None:
    sysfs.device("1-2", "0781:5567", product="Reader")
    sysfs.interface("1-2", 0, "0b/00/00", "usbfs")
    assert wrong(list(findings(look()))) == [(Level.WARNING, "is in use by another program")]


def test_a_blocked_device_is_authorized_where_it_was_blocked(look: Look, sysfs: FakeSysfs) -> None:
    sysfs.device("1-2", "0781:5567", product="Stick", authorized="0")
    (finding,) = [each for each in findings(look(user=SOMEBODY)) if each.level is Level.WARNING]
    assert finding.commands == (f"echo 1 | sudo tee {sysfs.root}/sys/bus/usb/devices/1-2/authorized",)
    sysfs.write("proc/77/comm", "usbguard-daemon")
    (finding,) = [each for each in findings(look(user=SOMEBODY)) if each.level is Level.WARNING]
    assert finding.commands == ("usbguard list-devices --blocked", "sudo usbguard allow-device NUMBER")


def test_a_hub_is_a_problem_only_if_it_was_asked_about(look: Look, sysfs: FakeSysfs) -> None:
    sysfs.device("1-2", "05e3:0608", class_="09", product="Hub")
    assert wrong(list(findings(look()))) == []
    assert (Level.PROBLEM, "is a hub") in wrong(list(findings(look(device="1-2"))))


def test_speeds_that_a_vm_may_refuse_are_said_before_it_is_tried(look: Look, sysfs: FakeSysfs) -> None:
    sysfs.device("1-2", "0781:5567", product="Gauge")
    describe(sysfs, LARGE_REPORT)
    (finding,) = [each for each in findings(look(device="1-2")) if "refuses" in each.found]
    assert finding.level is Level.WARNING
    assert finding.found.startswith("is a high speed device: a VM whose USB controller is UHCI or OHCI alone")
    assert "qemu-xhci" in finding.remedy
    assert wrong(list(findings(look()))) == []


def test_a_device_for_any_controller_is_said_to_be_one(look: Look, sysfs: FakeSysfs) -> None:
    sysfs.device("1-2", "0781:5567", product="Stick", speed="5000")
    describe(sysfs, BULK)
    found = [each.found for each in findings(look(device="1-2"))]
    assert "is a SuperSpeed device that any USB controller of a VM takes" in found


def test_descriptors_that_make_no_sense_are_said_so_and_the_rest_is_looked_at(look: Look, sysfs: FakeSysfs) -> None:
    sysfs.device("1-2", "0781:5567", product="Liar")
    (sysfs.root / "sys/bus/usb/devices/1-2/descriptors").write_bytes(device_bytes(DESCRIPTOR) + b"\x09\x02\xff\xff")
    found = list(findings(look()))
    assert any("could not be looked at" in finding.found for finding in found)
    assert any(finding.found.startswith("the rules say") for finding in found)
