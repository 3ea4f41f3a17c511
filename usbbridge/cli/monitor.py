"""`usbbridge monitor`: the privileged part of the service, in the foreground."""

import click

from usbbridge.errors import NotPermittedError


@click.command("monitor")
def command() -> int:
    """Run the monitor: hotplug, the compatibility list, and the device nodes.

    It needs to be root to open devices; without, it serves the devices that this user may open. It runs until SIGTERM
    or Ctrl-C, and reads the rules again on SIGHUP. The service manager runs it; `usbbridge service` runs everything
    where there is none.
    """
    from usbbridge.config import load
    from usbbridge.monitor.main import run

    try:
        return run(load())
    except PermissionError as error:
        raise NotPermittedError(f"{error.filename}: {error.strerror}", hint="run it as root") from error
