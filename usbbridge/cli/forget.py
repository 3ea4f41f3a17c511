"""`usbbridge forget`: which device was to go to which VM."""

from typing import Final

import click

from usbbridge.cli import tables
from usbbridge.cli.completion import complete_remembered
from usbbridge.cli.detach import check_choice
from usbbridge.ipc.api import Choice
from usbbridge.ipc.client import ServiceClient, read

EXAMPLES: Final = """\b
Examples:
  usbbridge forget 0951:1666
  usbbridge forget --serial 4C530001
  usbbridge forget --all
"""


@click.command("forget", epilog=EXAMPLES)
@click.argument("device", required=False, shell_complete=complete_remembered)
@click.option("--serial", metavar="SERIAL", help="What is remembered by this serial number.")
@click.option("--all", "everything", is_flag=True, help="Everything that is remembered.")
@click.option("--json", "as_json", is_flag=True, help="Print what is left as a JSON array (see usbbridge-api(7)).")
def command(device: str | None, serial: str | None, everything: bool, as_json: bool) -> None:
    """Forget to which virtual machine DEVICE was to go whenever it is plugged in.

    DEVICE is a place (1-2.3), an id (0951:1666) or a part of the name of what `usbbridge status` shows as remembered;
    it need not be plugged in. A device that is attached stays so until it is unplugged or detached.
    """
    check_choice(device, serial, everything=everything)
    with ServiceClient.connect() as service:
        before = service.status().choices
        answer = service.call("forget", device=device or "", serial=serial or "", all=everything)
    if as_json:
        tables.print_json(answer)
        return
    left = {read(Choice, found) for found in answer}
    forgotten = [choice for choice in before if choice not in left]
    for choice in forgotten:
        click.echo(f"forgotten: {tables.choice(choice)}")
    if not forgotten:
        click.echo("Nothing of it was remembered.", err=True)
