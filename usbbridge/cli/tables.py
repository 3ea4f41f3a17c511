"""How verbs show things to people: columns, tables, sizes, times, and in words where a device is."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import click

from usbbridge.compat.rule import Verdict
from usbbridge.ipc.api import Choice, DeviceStatus, SessionState, State, VmStatus
from usbbridge.usb.entry import DeviceEntry

_WORDS: Final = {
    State.WAITING: "waiting for",
    State.QUEUED: "queued for",
    State.OPENING: "attaching to",
    State.ATTACHING: "attaching to",
    State.ATTACHED: "attached to",
    State.DETACHING: "detaching from",
    State.FAILED: "failed for",
    State.SUSPENDED: "suspended, goes back to",
}
"State → what stands before the VM's name."

_SESSION: Final = {
    SessionState.IDLE: "not connected, as nothing needs it",
    SessionState.CONNECTING: "connecting",
    SessionState.CONNECTED: "connected",
    SessionState.WAITING: "not reachable",
    SessionState.YIELDED: "left to another SPICE client",
    SessionState.FAILED: "failed",
}

STYLES: Final = {
    State.ATTACHED: "green",
    State.FAILED: "red",
    State.WAITING: "yellow",
    State.QUEUED: "yellow",
    State.SUSPENDED: "yellow",
    State.LOCAL: "dim",
}
"State → how rich shows it; the others plainly."


def place(device: DeviceStatus) -> str:
    """Where a device is, and why: `local`, `attached to desk`, `denied: why`, `waiting for desk: why; again in 8 s`."""
    return ": ".join(part for part in (short_place(device), detail(device)) if part)


def short_place(device: DeviceStatus) -> str:
    """Where a device is, in two or three words."""
    if device.state == State.LOCAL:
        return "denied" if device.device.verdict == Verdict.DENY else "local"
    return f"{_WORDS[device.state]} {device.vm}" if device.vm else device.state.value


def detail(device: DeviceStatus) -> str:
    """Why it is there; empty if there is nothing to explain."""
    entry, message = device.device.entry, _without_name(device.device.entry, device.message)
    if device.state == State.LOCAL and device.device.verdict == Verdict.DENY:
        return device.device.because
    if device.state == State.LOCAL and entry.obstacle:
        return obstacle(entry)
    again = f"again in {seconds_text(device.retry_in)}" if device.retry_in is not None else ""
    return "; ".join(part for part in (message, again) if part)


def obstacle(entry: DeviceEntry) -> str:
    """The obstacle without the device's name, which stands in the same row."""
    assert entry.obstacle is not None
    return _without_name(entry, entry.obstacle.message)


def _without_name(entry: DeviceEntry, message: str) -> str:
    return one_line(message.removeprefix(str(entry)).removeprefix(":"))


def one_line(text: str) -> str:
    """A message made fit for a terminal, and for a place in a line: what a VM has said may be in it."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def session(vm: VmStatus, *, idle: str = _SESSION[SessionState.IDLE]) -> str:
    """How it stands with a VM: `connected, 1 of 2 channels in use, 1 device waits for one`; or `idle`."""
    used = f"{vm.used} of {count(vm.channels, 'channel')} in use" if vm.channels is not None else ""
    queued = f"{count(vm.queued, 'device')} waiting for a channel" if vm.queued else ""
    state = idle if vm.state == SessionState.IDLE else _SESSION[vm.state]
    words = ", ".join(part for part in (state, used, queued) if part)
    again = f"; again in {seconds_text(vm.retry_in)}" if vm.retry_in is not None else ""
    return words + (f": {one_line(vm.message)}" if vm.message else "") + again


def choice(chosen: Choice) -> str:
    """What is remembered: `0781:5567 SanDisk Cruzer Blade (serial number 4C53) -> desk`."""
    known_by = f"serial number {chosen.serial}" if chosen.serial else f"in port {chosen.port}"
    return f"{chosen.vendor:04x}:{chosen.product:04x} {chosen.name}".rstrip() + f" ({known_by}) -> {chosen.vm}"


def count(n: int, noun: str) -> str:
    """`1 device`, `2 devices`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def size_text(n: float) -> str:
    """`1.5 MB`: decimal units, as for rates."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def seconds_text(seconds: float) -> str:
    """A time in its largest unit: `5 s`, `3 min`, `2 h`, `4 days`."""
    for name, length in ((" days", 86400), (" h", 3600), (" min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{name}"
    return f"{max(seconds, 0):.0f} s"


def columns(rows: Iterable[Sequence[str]], *, indent: str = "") -> str:
    """Rows with their cells aligned by spaces, one a line."""
    rows = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def print_json(value: Any) -> None:
    """For programs: all of it, indented."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_line(value: Any) -> None:
    """For programs that follow what happens: one object a line, at once."""
    click.echo(json.dumps(value, ensure_ascii=False))
