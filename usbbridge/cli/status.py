"""`usbbridge status`: the service, its monitor, the VMs, the devices, and what is remembered."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import click

from usbbridge.cli import tables
from usbbridge.ipc.api import DeviceStatus, SessionState, State, Status, VmStatus
from usbbridge.ipc.client import ServiceClient, read
from usbbridge.usb.entry import Reason

MONITOR_LOST: Final = "not connected: no device can be attached until it is back, those that are attached go on"
MONITOR_HINT: Final = "systemctl status usbbridge-monitor tells why; without systemd, `usbbridge monitor` starts it"
NO_VM_HINT: Final = "usbbridge vm add NAME TARGET, for instance: usbbridge vm add desk spice://vmhost:5900"
RESUME_HINT: Final = "`usbbridge resume` gives them out again, if nothing else has after waking up"


@click.command("status", epilog="\b\nExamples:\n  usbbridge status\n  usbbridge status --json | jq .monitor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (see usbbridge-api(7)).")
def command(as_json: bool) -> None:
    """Show what the service does: its VMs, where every device is, what is remembered, and what to do where it fails.

    The exit status is 0 if the service runs, whatever else may be wrong, and 4 if it does not.
    """
    with ServiceClient.connect() as service:
        answer = service.call("status", stats=True)
    if as_json:
        tables.print_json(answer)
    else:
        click.echo("\n".join(as_lines(read(Status, answer), time.time())))


def as_lines(status: Status, now: float) -> Iterator[str]:
    """All of it for people. `now` is in seconds since the epoch."""
    yield f"service  running, version {status.version}, process {status.pid}"
    yield f"monitor  {'connected' if status.monitor else MONITOR_LOST}"
    yield from () if status.monitor else [f"         {MONITOR_HINT}"]
    yield from ["asleep   every device was taken back", f"         {RESUME_HINT}"] if status.suspended else []
    yield "VMs"
    yield from _vms(status.vms)
    yield "devices"
    yield from _devices(status.devices, now, {vm.message for vm in status.vms})
    if status.choices:
        yield "remembered"
        yield from (f"  {tables.choice(choice)}" for choice in status.choices)


def _vms(vms: tuple[VmStatus, ...]) -> Iterator[str]:
    if not vms:
        yield "  none is configured"
        yield f"    {NO_VM_HINT}"
        return
    rows = [(vm.name, vm.target, "default" if vm.default else "", tables.session(vm)) for vm in vms]
    for vm, line in zip(vms, tables.columns(rows, indent="  ").split("\n"), strict=True):
        yield line
        if vm.hint and vm.state != SessionState.CONNECTED:
            yield f"    {vm.hint}"


def _devices(devices: tuple[DeviceStatus, ...], now: float, said: set[str]) -> Iterator[str]:
    """What was `said` of VMs already is not repeated for each device that waits for one of them."""
    shown = [_shortened(device, said) for device in devices if not is_hub(device)]
    if not shown:
        yield "  none is plugged in"
        return
    rows = [(*_name(device), tables.place(device) + _numbers(device, now)) for device in shown]
    for device, line in zip(shown, tables.columns(rows, indent="  ").split("\n"), strict=True):
        yield line
        hint = _hint(device)
        if hint:
            yield f"    {hint}"


def _shortened(device: DeviceStatus, said: set[str]) -> DeviceStatus:
    return replace(device, message="", hint="") if device.state == State.WAITING and device.message in said else device


def is_hub(device: DeviceStatus) -> bool:
    """Hubs are never attached: `list` shows them, other verbs leave them out."""
    found = device.device.entry.obstacle
    return found is not None and found.reason == Reason.HUB


def _name(device: DeviceStatus) -> tuple[str, str, str]:
    entry = device.device.entry
    return entry.bus_port, entry.ids, entry.name or "-"


def _numbers(device: DeviceStatus, now: float) -> str:
    """`, channel 1, for 3 min, 2.5 MB to the VM, 1.0 kB from it` of one that is attached."""
    if device.state != State.ATTACHED:
        return ""
    channel = f", channel {device.channel}" if device.channel is not None else ""
    since = f", for {tables.seconds_text(now - device.since)}" if device.since is not None else ""
    traffic = f", {tables.size_text(device.to_vm)} to the VM, {tables.size_text(device.from_vm)} from it"
    return channel + since + traffic


def _hint(device: DeviceStatus) -> str:
    """What to do about a device that is not where it should be."""
    if device.state == State.LOCAL and not device.hint and device.remembered:
        found = device.device.entry.obstacle
        return found.hint if found else ""
    return device.hint if device.state != State.ATTACHED else ""
