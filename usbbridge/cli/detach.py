"""`usbbridge detach`: take a device back from its VM."""

from typing import Any, Final

import click

from usbbridge.cli.completion import complete_attached, complete_serial
from usbbridge.cli.main import complain
from usbbridge.cli.tables import place, print_json
from usbbridge.errors import UsageError, UsbBridgeError
from usbbridge.ipc.api import DeviceStatus, State
from usbbridge.ipc.client import ServiceClient, read

EXAMPLES: Final = """\b
Examples:
  usbbridge detach 1-2
  usbbridge detach datatraveler --keep
  usbbridge detach --all
"""
PATIENCE_SECONDS: Final = 60.0
"The VM is given some seconds to let go of a device, an encoder a few more to end; the kernel probes its driver then."


@click.command("detach", epilog=EXAMPLES)
@click.argument("device", required=False, shell_complete=complete_attached)
@click.option("--serial", metavar="SERIAL", shell_complete=complete_serial, help="The device with this serial number.")
@click.option("--all", "everything", is_flag=True, help="Every device that is at a VM, or on its way to one.")
@click.option("--keep", is_flag=True, help="Go on remembering where it goes: attached again when it is replugged.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object a device (see usbbridge-api(7)).")
def command(device: str | None, serial: str | None, everything: bool, keep: bool, as_json: bool) -> int:
    """Take DEVICE back from its virtual machine, and give it to this machine's own driver.

    DEVICE is a place (1-2.3), an id (0951:1666) or a unique part of a name, as `usbbridge list` shows them. It stays
    here until somebody attaches it again; with --keep, until it is plugged in again.
    """
    check_choice(device, serial, everything=everything)
    with ServiceClient.connect() as service:
        service.patience = PATIENCE_SECONDS
        asked = _away(service) if everything else [{"device": device or "", "serial": serial or ""}]
        if not everything:
            objects = [service.call("detach", **asked[0], keep=keep)]
            status = 0
        else:
            objects, status = _each(service, asked, keep=keep)
    _show(objects, as_json=as_json)
    return status


def check_choice(device: str | None, serial: str | None, *, everything: bool) -> None:
    """Either a device or everything has to be named. Raises UsageError."""
    if everything and (device or serial):
        raise UsageError("--all and a device contradict each other: name either")
    if not everything and not device and not serial:
        raise UsageError("no device was named", hint="name one as `usbbridge list` shows it, or use --all")


def _away(service: ServiceClient) -> list[dict[str, str]]:
    away = [device for device in service.status().devices if device.state != State.LOCAL]
    return [{"device": device.device.id} for device in away]


def _each(service: ServiceClient, asked: list[dict[str, str]], *, keep: bool) -> tuple[list[Any], int]:
    """Detach them all, whatever happens to one; the answers, and the first exit status that is not 0."""
    objects, status = [], 0
    for one in asked:
        try:
            objects.append(service.call("detach", **one, keep=keep))
        except UsbBridgeError as error:
            complain(error)
            status = status or error.exit_status
    return objects, status


def _show(objects: list[Any], *, as_json: bool) -> None:
    if as_json:
        print_json(objects)
        return
    for device in [read(DeviceStatus, found) for found in objects]:
        where = "is back" if device.state == State.LOCAL else place(device)
        kept = "; it is attached again when it is replugged" if device.remembered else ""
        click.echo(f"{device.device.entry} {where}{kept}")
    if not objects:
        click.echo("No device is at a VM.", err=True)
