"""`usbbridge control`: the unprivileged part of the service, in the foreground."""

import click


@click.command("control")
def command() -> int:
    """Run control: sessions to the VMs, encoders, the API. It sees devices through a running monitor.

    Started by root it becomes the user that the configuration names ([monitor] user, by default usbbridge) before it
    connects to anything. SIGTERM and Ctrl-C take every device back and end it, a second one at once; SIGHUP has it read
    its configuration again. The service manager runs it; `usbbridge service` runs everything where there is none.
    """
    from usbbridge.config import load
    from usbbridge.control.main import run

    return run(load())
