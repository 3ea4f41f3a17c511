"""`usbbridge list`: a table for people, aligned plain text for pipes, JSON for programs.

The service tells where each device is; without one, the system tells which devices there are.
"""

import sys
from pathlib import Path
from typing import Any, Final

import click

from usbbridge.cli.tables import STYLES, columns, detail, obstacle, place, print_json, short_place
from usbbridge.errors import ConnectionLostError, NotFoundError, NotPermittedError
from usbbridge.ipc.api import DeviceStatus
from usbbridge.ipc.client import ServiceClient
from usbbridge.monitor.inventory import ROOT, devices
from usbbridge.usb.entry import DeviceEntry

HEADINGS: Final = ("BUS-PORT", "ID", "CLASS", "DRIVER", "NAME", "ATTACH")
"Without a service."
SERVICE_HEADINGS: Final = ("BUS-PORT", "ID", "CLASS", "NAME", "STATE")
FREE: Final = "yes"
NOTHING: Final = "No USB devices here."
PATIENCE_SECONDS: Final = 2.0
"After which a service that hangs is not waited for: which devices there are can be told without it."


@click.command("list", epilog="\b\nExamples:\n  usbbridge list\n  usbbridge list --json | jq -r '.[].bus_port'")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object a device (see usbbridge(1)).")
@click.option("--all", "-a", "show_all", is_flag=True, help="Show root hubs too.")
@click.option("--root", type=click.Path(path_type=Path), hidden=True, help="Look below this folder.")
def command(as_json: bool, show_all: bool, root: Path | None) -> None:
    """Show the USB devices of this machine, and where they are.

    BUS-PORT is where a device is plugged in; with it, or with the ID or a unique part of the name, other commands are
    told which device is meant. STATE says at which VM a device is or what it waits for; without a running service,
    ATTACH says whether it could be attached. If a device can't be attached as things are, it says why.
    """
    told = None if root else _told_by_service()
    if told is not None:
        shown = [device for device in told if show_all or not device.device.entry.is_root_hub]
        _show(as_json, shown, [as_object(device.device.entry, device) for device in shown], SERVICE_HEADINGS)
    else:
        entries = [entry for entry in devices(root or ROOT) if show_all or not entry.is_root_hub]
        _show(as_json, entries, [as_object(entry) for entry in entries], HEADINGS)


def _told_by_service() -> tuple[DeviceStatus, ...] | None:
    """What the service says; None if none runs, if it may not be asked, or if it hangs."""
    try:
        with ServiceClient.connect(greeting_seconds=PATIENCE_SECONDS) as service:
            service.patience = PATIENCE_SECONDS
            return service.status().devices
    except (NotFoundError, NotPermittedError):
        return None
    except ConnectionLostError as error:
        click.echo(f"usbbridge: {error.message}; this is what the system says", err=True)
        return None


def _show(
    as_json: bool,
    shown: list[DeviceStatus] | list[DeviceEntry],
    objects: list[dict[str, Any]],
    headings: tuple[str, ...],
) -> None:
    if as_json:
        print_json(objects)
    elif not shown:
        click.echo(NOTHING, err=True)
    elif sys.stdout.isatty():
        _print_table(headings, shown)
    else:
        click.echo(columns([headings, *map(as_row, shown)]))


def as_object(entry: DeviceEntry, device: DeviceStatus | None = None) -> dict[str, Any]:
    """The JSON object for a device, as usbbridge(1) lists it. Keys may be added, but none is changed."""
    return {
        "bus_port": entry.bus_port,
        "bus": entry.busnum,
        "device": entry.devnum,
        "node": str(entry.node),
        "vendor": f"{entry.vendor:04x}",
        "product": f"{entry.product:04x}",
        "version": f"{entry.bcd_device:04x}",
        "class": entry.class_,
        "subclass": entry.subclass,
        "protocol": entry.protocol,
        "classes": list(entry.classes),
        "speed": entry.speed.name.lower(),
        "name": entry.name,
        "manufacturer": entry.manufacturer or None,
        "product_name": entry.product_name or None,
        "serial": entry.serial or None,
        "configuration": entry.configuration,
        "interfaces": _interfaces(entry),
        "obstacle": _obstacle(entry),
        **_whereabouts(device),
    }


def _interfaces(entry: DeviceEntry) -> list[dict[str, Any]]:
    return [
        {
            "number": interface.number,
            "alternate": interface.alternate,
            "class": interface.class_,
            "subclass": interface.subclass,
            "protocol": interface.protocol,
            "driver": interface.driver or None,
        }
        for interface in entry.interfaces
    ]


def _obstacle(entry: DeviceEntry) -> dict[str, str] | None:
    found = entry.obstacle
    return {"reason": found.reason.value, "message": found.message, "hint": found.hint} if found else None


def _whereabouts(device: DeviceStatus | None) -> dict[str, Any]:
    """What only the service knows; null without it."""
    return {
        "state": device.state.value if device else None,
        "vm": device.vm if device else None,
        "message": (device.message or None) if device else None,
        "verdict": device.device.verdict.value if device else None,
        "because": (device.device.because or None) if device else None,
        "remembered": device.remembered if device else None,
    }


def as_row(shown: DeviceStatus | DeviceEntry) -> tuple[str, ...]:
    """What people are shown of a device, in the order of the headings."""
    entry = shown.device.entry if isinstance(shown, DeviceStatus) else shown
    what = (entry.bus_port, entry.ids, ", ".join(entry.classes))
    if isinstance(shown, DeviceStatus):
        return (*what, entry.name or "-", place(shown))
    drivers = ", ".join(entry.drivers) or "-"
    return (*what, drivers, entry.name or "-", f"no: {obstacle(entry)}" if entry.obstacle else FREE)


def _print_table(headings: tuple[str, ...], shown: list[DeviceStatus] | list[DeviceEntry]) -> None:
    from rich.console import Console  # 50 ms that only a terminal is worth
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings if headings is SERVICE_HEADINGS else headings[:-1]:
        table.add_column(heading, no_wrap=heading in HEADINGS[:2], overflow="fold")
    for one in shown:
        *cells, name, _ = as_row(one)
        # Text, not markup: a device may call itself "[blink]". Reasons go below the name, where there is room.
        if isinstance(one, DeviceStatus):
            words = Text.assemble(name, *_below(detail(one)))
            table.add_row(*map(Text, cells), words, Text(short_place(one), STYLES.get(one.state, "")))
        else:
            words = Text.assemble(name, *_below(obstacle(one) if one.obstacle else ""))
            table.add_row(*map(Text, cells), words, style="dim" if one.obstacle else "")
    Console(highlight=False).print(table)


def _below(reason: str) -> list[tuple[str, str]]:
    """A further line in a cell, and its style."""
    return [(f"\n{reason}", "yellow")] if reason else []
