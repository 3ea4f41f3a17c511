"""`usbbridge doctor`: look for what keeps a device from its VM, and say what to do."""

import json
import sys
from pathlib import Path
from typing import Final

import click

from usbbridge.cli.completion import complete_device

_STYLES: Final = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command("doctor")
@click.argument("device", required=False, default="", shell_complete=complete_device)
@click.option("--serial", default="", help="The device with this serial number.")
@click.option("--vm", default="", metavar="NAME", help="Look at this VM only: its name, or a target.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object (see usbbridge(1)).")
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), hidden=True, help="Look below this folder.")
def command(device: str, serial: str, vm: str, as_json: bool, root: Path) -> int:
    """Look for what keeps a device from its virtual machine.

    Everything between the two is looked at: this installation, USB, the service and your rights, the configuration,
    the compatibility list, every device and every VM. For each it says what was found, and, if that is a warning or a
    problem, why it matters and what to do. Nothing is changed, and nobody's session with a VM is disturbed.

    With DEVICE, what keeps that one from being attached is a problem; of all devices, some are meant to stay here.
    The exit status is 1 if there is a problem.
    """
    from usbbridge.doctor.case import gather
    from usbbridge.doctor.examination import examine
    from usbbridge.doctor.finding import Level, as_lines, as_object, count

    findings = examine(gather(root, device, serial, vm))
    if as_json:
        text = json.dumps(as_object(findings), indent=2, ensure_ascii=False)
        # What a file name has that is not UTF-8, written as JSON itself would.
        click.echo(text.encode(errors="backslashreplace"))
    else:
        for level, line in as_lines(findings):
            click.echo(_coloured(level, line) if sys.stdout.isatty() else line)
    return 1 if count(findings, Level.PROBLEM) else 0


def _coloured(level: str | None, line: str) -> str:
    """The level, the first word of a finding, in its colour."""
    return line if level is None else line.replace(level, click.style(level, fg=_STYLES[level]), 1)
