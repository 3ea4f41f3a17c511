"""`usbbridge suspend`: take every device back, because this machine is about to sleep."""

import click

from usbbridge.ipc.client import ServiceClient

PATIENCE_SECONDS = 30.0
"""For all devices at the same time: encoders are killed after 8 s, the kernel probes its drivers then. logind waits for
a sleep hook for as long as it takes, and so does whoever has closed the lid."""


@click.command("suspend")
def command() -> None:
    """Take every device back from its virtual machine, because this machine is about to sleep.

    Returns when all are back. What was where is kept in mind until `usbbridge resume`. It is for a hook of the system,
    such as a unit before sleep.target, and only for root. Nothing is given out in between, asked for or not.
    """
    with ServiceClient.connect() as service:
        service.patience = PATIENCE_SECONDS
        service.call("suspend")
