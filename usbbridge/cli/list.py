"""`usbbridge list`: a table for people, aligned plain text for pipes, JSON for programs."""

import json
import sys
from pathlib import Path
from typing import Any, Final

import click

from usbbridge.monitor.inventory import ROOT, devices
from usbbridge.usb.entry import DeviceEntry

HEADINGS: Final = ("BUS-PORT", "ID", "CLASS", "DRIVER", "NAME", "ATTACH")
FREE: Final = "yes"
NOTHING: Final = "No USB devices here."


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object a device (see usbbridge(1)).")
@click.option("--all", "-a", "show_all", is_flag=True, help="Show root hubs too.")
@click.option("--root", type=click.Path(path_type=Path), default=ROOT, hidden=True, help="Look below this folder.")
def command(as_json: bool, show_all: bool, root: Path) -> None:
    """Show the USB devices of this machine.

    BUS-PORT is where a device is plugged in; with it, or with the ID or a unique part of the name, other commands are
    told which device is meant. If a device can't be attached to a VM as things are, it says why.
    """
    entries = [entry for entry in devices(root) if show_all or not entry.is_root_hub]
    if as_json:
        click.echo(json.dumps([as_object(entry) for entry in entries], indent=2, ensure_ascii=False))
    elif not entries:
        click.echo(NOTHING, err=True)
    elif sys.stdout.isatty():
        _print_table(entries)
    else:
        click.echo(as_text(entries))


def as_object(entry: DeviceEntry) -> dict[str, Any]:
    """The JSON object for a device, as usbbridge(1) lists it. Keys may be added, but none is changed."""
    obstacle = entry.obstacle
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
        "interfaces": [
            {
                "number": interface.number,
                "alternate": interface.alternate,
                "class": interface.class_,
                "subclass": interface.subclass,
                "protocol": interface.protocol,
                "driver": interface.driver or None,
            }
            for interface in entry.interfaces
        ],
        "obstacle": {"reason": obstacle.reason.value, "message": obstacle.message, "hint": obstacle.hint}
        if obstacle
        else None,
    }


def as_row(entry: DeviceEntry) -> tuple[str, ...]:
    """What people are shown of a device, in the order of `HEADINGS`."""
    return (
        entry.bus_port,
        entry.ids,
        ", ".join(entry.classes),
        ", ".join(entry.drivers) or "-",
        entry.name or "-",
        f"no: {_why(entry)}" if entry.obstacle else FREE,
    )


def _why(entry: DeviceEntry) -> str:
    """The obstacle without the device's name, which stands in the same row."""
    assert entry.obstacle is not None
    return entry.obstacle.message.removeprefix(str(entry)).removeprefix(":").strip()


def as_text(entries: list[DeviceEntry]) -> str:
    """Columns aligned by spaces, headings first."""
    rows = [HEADINGS, *map(as_row, entries)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _print_table(entries: list[DeviceEntry]) -> None:
    from rich.console import Console  # 50 ms that only a terminal is worth
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in HEADINGS[:-1]:
        table.add_column(heading, no_wrap=heading in HEADINGS[:2], overflow="fold")
    for entry in entries:
        *cells, name, _ = as_row(entry)
        # Text, not markup: a device may call itself "[blink]". The reason goes below the name, where there is room.
        words = Text.assemble(name, (f"\n{_why(entry)}", "yellow") if entry.obstacle else "")
        table.add_row(*map(Text, cells), words, style="dim" if entry.obstacle else "")
    Console(highlight=False).print(table)
