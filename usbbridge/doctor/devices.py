"""Devices: what the rules say of each, what stands in its way, and what the VM's USB controller will say to it."""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from usbbridge.compat.rule import Verdict
from usbbridge.doctor import remedies
from usbbridge.doctor.case import Case
from usbbridge.doctor.database import Judge
from usbbridge.doctor.examination import guarded
from usbbridge.doctor.finding import Finding, Level, ok
from usbbridge.errors import UsbBridgeError
from usbbridge.ipc.api import DeviceStatus, State
from usbbridge.monitor.blockuse import BlockUse, resolved
from usbbridge.monitor.inventory import DEVICES, descriptors
from usbbridge.usb import controllers
from usbbridge.usb.ch9 import ClassCode
from usbbridge.usb.descriptors import Configuration, parse_all
from usbbridge.usb.entry import DeviceEntry, Obstacle, Reason
from usbbridge.usb.selection import find

MAX_COMMANDS: Final = 8
"To free one device: as many as uses of it are named."
_THERE: Final = (State.ATTACHED, State.ATTACHING, State.OPENING, State.DETACHING)


def findings(case: Case) -> Iterator[Finding]:
    """The device that was asked about, or all but hubs."""
    entries = case.devices.got
    if case.device or case.serial:
        try:
            chosen = [find(entries, case.device or None, serial=case.serial or None)]
        except UsbBridgeError as error:
            yield Finding(case.device or case.serial, Level.PROBLEM, error.message, remedy=error.hint)
            return
    else:
        chosen = [entry for entry in entries if entry.class_ != ClassCode.HUB]
    if not chosen:
        yield ok("devices", "nothing is plugged in")
    with Judge(case) as judge:
        for entry in chosen:
            yield from _Examined(case, entry, judge, asked=bool(case.device or case.serial)).findings()


class _Examined:
    """One device. What keeps it from being attached is a problem if it was asked about, and a warning otherwise."""

    def __init__(self, case: Case, entry: DeviceEntry, judge: Judge, *, asked: bool) -> None:
        self._case, self._entry, self._judge, self._asked = case, entry, judge, asked
        self._status: DeviceStatus | None = case.served.device(entry) if case.served else None
        self._bad = Level.PROBLEM if asked else Level.WARNING

    def findings(self) -> Iterator[Finding]:
        for check in (self._state, self._verdict, self._obstacle, self._drivers, self._speed):
            yield from guarded(str(self._entry), check)

    def _say(self, level: Level, found: str, why: str = "", remedy: str = "", *commands: str) -> Finding:
        return Finding(str(self._entry), level, found, why, remedy, commands)

    # ---- what the service is doing with it

    def _state(self) -> Iterator[Finding]:
        status = self._status
        if status is None or status.state is State.LOCAL:
            return
        where = f"{status.state.value}{f', VM {status.vm}' if status.vm else ''}"
        where += f", channel {status.channel}" if status.channel is not None else ""
        again = f"; next try in {status.retry_in:.0f} s" if status.retry_in is not None else ""
        found = f"{where}{': ' if status.message else ''}{status.message}{again}"
        level = {State.FAILED: Level.PROBLEM, State.WAITING: Level.WARNING, State.QUEUED: Level.WARNING}
        yield self._say(level.get(status.state, Level.OK), found, remedy=status.hint)

    # ---- the rules

    def _verdict(self) -> Iterator[Finding]:
        plugged = self._status.device if self._status else self._judge.decide(self._entry)
        said = f"the rules say {plugged.verdict.value}" + (f": {plugged.because}" if plugged.because else "")
        if plugged.verdict is not Verdict.DENY:
            yield self._say(Level.OK, said)
            return
        level = Level.PROBLEM if self._asked else Level.OK  # of all devices, some are to stay here
        why = "the monitor hands it to nobody, whoever asks"
        remedy = "if it is meant to be given away, add a rule of your own, which comes before those that are shipped"
        commands = [f"usbbridge rules explain {self._entry.bus_port}", self._case.sudo(_allow(self._entry))]
        yield self._say(level, said, why, remedy, *commands)

    # ---- what stands in its way

    def _obstacle(self) -> Iterator[Finding]:
        if self._status is not None and self._status.state in _THERE:
            return  # what stands in the way now is that it is there already
        obstacle = self._status.device.entry.obstacle if self._status else self._entry.obstacle
        if obstacle is None or (obstacle.reason is Reason.HUB and not self._asked):
            return
        if obstacle.reason is Reason.IN_USE:
            yield self._in_use(obstacle)
        elif obstacle.reason is Reason.NOT_AUTHORIZED:
            yield self._not_authorized(obstacle)
        elif obstacle.reason is not Reason.NO_PERMISSION or self._case.served is None:
            yield self._say(self._bad, self._short(obstacle), "", obstacle.hint)

    def _short(self, obstacle: Obstacle) -> str:
        """Its message without the device's name, which stands before it."""
        return obstacle.message.removeprefix(str(self._entry)).removeprefix(":").strip()

    def _in_use(self, obstacle: Obstacle) -> Finding:
        use, folder = BlockUse(self._case.root), resolved(self._case.root / DEVICES / self._entry.bus_port)
        uses = use.of(folder)
        if uses:
            return self._disks_in_use(obstacle, uses, [mount.place for mount in use.mounts(folder)])
        holders = holding(self._case, self._entry)
        if holders:
            pids = " ".join(str(pid) for pid, _ in holders)
            found = f"is in use by {', '.join(f'{name} (process {pid})' for pid, name in holders)}"
            why = "only one program can have a device at a time"
            remedy = "end that program, or take the device from it there"
            return self._say(self._bad, found, why, remedy, f"ps -fp {pids}")
        return self._say(self._bad, self._short(obstacle), "", obstacle.hint)

    def _disks_in_use(self, obstacle: Obstacle, uses: Sequence[str], places: Sequence[str]) -> Finding:
        vm = f" --vm {shlex.quote(self._case.vm)}" if self._case.vm else ""
        unmount = f"usbbridge attach {self._entry.bus_port}{vm} --unmount"
        attach = (unmount,) if places and len(places) == len(uses) and self._case.served else ()
        folder = self._case.root / "sys/class/block"
        commands = remedies.freeing(uses, places, lambda name: _text(folder / name / "dm/uuid"))
        why = "taking it away while it is in use could lose data"
        remedy = "unmount it in one go with attaching it, or by itself:" if attach else "free it first:"
        sudo = [self._case.sudo(command) for command in commands[:MAX_COMMANDS]]
        return self._say(self._bad, self._short(obstacle), why, remedy, *attach, *sudo)

    def _not_authorized(self, obstacle: Obstacle) -> Finding:
        file = self._case.root / DEVICES / self._entry.bus_port / "authorized"
        if _guard_runs(self._case.root):
            commands = ["usbguard list-devices --blocked", self._case.sudo("usbguard allow-device NUMBER")]
            why, remedy = "USBGuard runs here: its policy says that the device stays blocked", "allow it there"
        else:
            commands = [f"echo 1 | {self._case.sudo(f'tee {file}')}"]
            why, remedy = "the kernel configures no device that it was told not to authorize", ""
        return self._say(self._bad, self._short(obstacle), why, remedy, *commands)

    # ---- what it is

    def _drivers(self) -> Iterator[Finding]:
        drivers = [driver for driver in self._entry.drivers if driver != "usbfs"]
        if drivers and self._asked:
            yield self._say(Level.OK, f"is with the kernel driver {', '.join(drivers)}, until it is attached")

    def _speed(self) -> Iterator[Finding]:
        refusing = controllers.refusing(self._entry.speed, self._configuration())
        what = controllers.in_words(self._entry.speed)
        if not refusing:
            if self._asked:
                yield self._say(Level.OK, f"is a {what} device that any USB controller of a VM takes")
            return
        names = " and ".join(f"{each.name} ({each.models})" for each in refusing)
        found = f"is a {what} device: a VM whose USB controller is {names} refuses it"
        why = "QEMU attaches a device only to a port that carries its speed, and all that its endpoints need"
        remedy = "give the VM an xHCI controller, which takes everything: <controller type='usb' model='qemu-xhci'/>"
        yield self._say(Level.WARNING if self._asked else Level.OK, found, why, remedy, "-device qemu-xhci,id=usb")

    def _configuration(self) -> Configuration | None:
        """The active one, by sysfs, or else by what the service tells."""
        data = descriptors(self._case.root, self._entry.bus_port)
        if not data and self._status:
            data = bytes.fromhex(self._status.device.descriptors)
        if not data:
            return None
        _, configurations = parse_all(data)
        active = [each for each in configurations if each.value == self._entry.configuration]
        return active[0] if active else None


def _allow(entry: DeviceEntry) -> str:
    return f"usbbridge rules add id={entry.ids} verdict=allow"


def _guard_runs(root: Path) -> bool:
    """Whether USBGuard's daemon runs."""
    return any(_text(file) == "usbguard-daemon" for file in root.glob("proc/[0-9]*/comm"))


def holding(case: Case, entry: DeviceEntry) -> list[tuple[int, str]]:
    """(Process id, name) of the programs that have the device's node open, as far as this user is shown them."""
    wanted = str(entry.node)
    folders = [folder.parent for folder in case.root.glob("proc/[0-9]*/fd") if _has_open(str(folder), wanted)]
    return sorted((int(folder.name), _text(folder / "comm") or "a program") for folder in folders)


def _has_open(folder: str, wanted: str) -> bool:
    try:
        return any(os.readlink(f"{folder}/{name}") == wanted for name in os.listdir(folder))  # noqa: PTH208, PTH115  # thousands
    except OSError:  # another user's, or it has ended
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
