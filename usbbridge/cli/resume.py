"""`usbbridge resume`: give devices out again, because this machine is awake."""

import click

from usbbridge.ipc.client import ServiceClient


@click.command("resume")
def command() -> None:
    """Give every device out again that `usbbridge suspend` took back.

    Returns at once; `usbbridge watch` shows the devices come back to their virtual machines. It is for a hook of the
    system, and only for root.
    """
    with ServiceClient.connect() as service:
        service.call("resume")
