"""`usbbridge attach`: give a device to a VM: have the service do it, or do it all and stay until it is taken back."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from usbbridge.cli.completion import complete_device, complete_serial, complete_vm
from usbbridge.cli.main import INTERRUPTED
from usbbridge.cli.tables import detail, print_json_line, short_place
from usbbridge.errors import UsageError, UsbBridgeError
from usbbridge.ipc.api import DeviceStatus, Remember, State
from usbbridge.ipc.client import ServiceClient, read
from usbbridge.usb.selection import find

EXAMPLES: Final = """\b
Examples:
  usbbridge attach 1-2                  to the VM configured for it
  usbbridge attach kingston --vm desk   to desk, now and whenever plugged in
  usbbridge attach 0951:1666 --once     only until it is unplugged
  usbbridge attach --foreground 1-2 --vm spice://vmhost:5900
"""

ONLY_HERE: Final = ("password_file", "ca_file", "host_subject", "no_compression", "capture")
"Parameters that need --foreground; the service has these in its configuration."
ONLY_SERVICE: Final = ("once", "known_by", "unmount", "force", "no_wait")
"Parameters that make no sense with it."


@click.command("attach", epilog=EXAMPLES)
@click.argument("device", required=False, shell_complete=complete_device)
@click.option("--vm", metavar="NAME|TARGET", shell_complete=complete_vm, help="The VM; see above.")
@click.option("--serial", metavar="SERIAL", shell_complete=complete_serial, help="The device with this serial number.")
@click.option("--once", is_flag=True, help="Only this time: what was remembered of it, if anything, stays as it was.")
@click.option(
    "--by",
    "known_by",
    type=click.Choice(["serial", "port"]),
    help="Remember it by its serial number wherever it is plugged in, or by its port. Else: by serial number if it has "
    "one of its own.",
)
@click.option("--unmount", is_flag=True, help="Unmount its file systems first.")
@click.option("--force", is_flag=True, help="Take it although its disks are in use. May lose data.")
@click.option("--no-wait", is_flag=True, help="Don't wait until it is attached.")
@click.option("--foreground", is_flag=True, help="Do it all in this command, until Ctrl-C takes the device back.")
@click.option(
    "--password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File whose first line is the SPICE password. Or set USBBRIDGE_PASSWORD; else it is asked for if needed.",
)
@click.option("--ca-file", type=click.Path(exists=True, dir_okay=False), help="CA certificates to trust, PEM.")
@click.option("--host-subject", help="Subject that the server's certificate must have, instead of the host's name.")
@click.option("--no-compression", is_flag=True, help="Never compress with LZ4, nor ask the server to.")
@click.option(
    "--capture", metavar="FILE", help="Write what goes over its endpoints to FILE, as `usbbridge capture` does."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line, one for each step.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> int:
    """Give DEVICE to a virtual machine.

    The service does it, and does it again after a replug or a restart of the VM. With --foreground, no service is
    needed; the device stays attached while the command runs.

    DEVICE is a place (1-2.3), an id (0951:1666) or a unique part of a name, as `usbbridge list` shows them; with
    --foreground also disk:IMAGE[,ro], a disk image as a USB flash drive (an .iso as a CD-ROM).

    The VM is one of the configuration, by its name as `usbbridge vm` shows it, or a target. Without --vm, it is where
    the device was remembered or is configured to go. --foreground always needs a target, and has its own options for
    passwords and certificates (--password-file and those after it), which the service has in its configuration; and
    --capture, which sees the first transfers too.

    \b
    A target is one of
      spice://HOST:PORT        a SPICE server
      spice+tls://HOST:PORT    the same on its TLS port
      spice+unix:PATH          the same on a UNIX socket
      tcp://HOST:PORT          a raw usbredir port (QEMU: -chardev socket)
      unix:PATH                the same on a UNIX socket
    """
    if given["foreground"]:
        _refuse(ctx, ONLY_SERVICE, "can't be used with --foreground", "it is for the service")
        return _in_foreground(given)
    _refuse(ctx, ONLY_HERE, "needs --foreground", "the service has it in its configuration: usbbridge vm add --help")
    return _by_service(_parameters(given), Progress(as_json=given["as_json"]))


def _refuse(ctx: click.Context, names: tuple[str, ...], what: str, hint: str) -> None:
    """Raises UsageError if one of the parameters called `names` was given."""
    for param in ctx.command.params:
        if param.name in names and ctx.params[param.name] not in (None, False):
            raise UsageError(f"{param.opts[0]} {what}", hint=hint)


# ---- in the foreground


def _in_foreground(given: dict[str, Any]) -> int:
    from usbbridge.cli import foreground as here
    from usbbridge.control.foreground import Request
    from usbbridge.spice.targets import parse_target

    if not given["vm"]:
        raise UsageError("--foreground needs --vm TARGET", hint="for instance --vm spice://HOST:5900")
    ca_file, subject, password_file = given["ca_file"], given["host_subject"], given["password_file"]
    here.check_tls(parse_target(given["vm"]), ca_file or subject)  # before anything is opened
    if given["capture"]:
        from usbbridge.cli.capture_file import STDOUT, check

        check(given["capture"], force=False)
        if given["capture"] == STDOUT:
            raise UsageError("--capture and the progress both want the standard output", hint="name a file")
    display = here.display_for(as_json=given["as_json"])
    request = Request(
        **here.choose(given["device"], given["serial"]),
        target=given["vm"],
        password=here.password_of(password_file),
        ca_file=str(Path(ca_file).absolute()) if ca_file else "",
        host_subject=subject or "",
        compression="never" if given["no_compression"] else "auto",
        watch=display.watches,
    )
    may_ask = password_file is None and here.PASSWORD_VARIABLE not in os.environ
    try:
        if not given["capture"]:
            return here.attach(request, display, may_ask=may_ask)
        return _captured(request, given["capture"], lambda wish: here.attach(wish, display, may_ask=may_ask))
    finally:
        display.close()


def _captured(request: Any, name: str, attach: Callable[[Any], int]) -> int:
    """`attach` the request, and write to a file what is captured meanwhile."""
    from usbbridge.cli.capture_file import Recording
    from usbbridge.ipc.messages import Capture

    with Recording(name) as recording:
        capture = request.capture or Capture()
        return attach(replace(request, capture=capture, capture_fd=recording.fileno()))


# ---- by the service


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    """Those of the API's `attach`. Raises UsageError if they name no device or contradict each other."""
    if (given["device"] or "").startswith("disk:"):
        raise UsageError("the service attaches USB devices, no disk images", hint="add --foreground and --vm TARGET")
    if not given["device"] and not given["serial"]:
        raise UsageError("no device was named", hint="`usbbridge list` shows what there is")
    if given["once"] and given["known_by"]:
        raise UsageError("--once and --by contradict each other: not remembered, and remembered by something")
    remember = Remember.NO if given["once"] else Remember(given["known_by"] or "auto")
    return {
        "device": given["device"] or "",
        "serial": given["serial"] or "",
        "vm": given["vm"] or "",
        "remember": remember.value,
        "unmount": given["unmount"],
        "force": given["force"],
        "wait": not given["no_wait"],
    }


class Progress:
    """Shows the way of one device to its VM."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._shown: tuple[str | None, ...] = ()
        self.device: DeviceStatus | None = None
        "As last shown."

    def show(self, device: DeviceStatus) -> None:
        """Something may have changed."""
        self.device = device
        state = device.state.value if self._as_json else short_place(device)
        shown = (state, device.vm, device.message)
        if shown == self._shown:
            return
        self._shown = shown
        if self._as_json:
            fields = {"device": device.device.id, "vm": device.vm, "channel": device.channel}
            print_json_line({"event": device.state.value, "detail": device.message, **fields})
        else:
            why = detail(device)
            click.echo(f"{device.device.entry}: {short_place(device)}" + (f": {why}" if why else ""))

    def end(self, device: DeviceStatus) -> None:
        """The answer."""
        self.show(device)
        if device.state not in (State.ATTACHED, State.LOCAL) and device.hint and not self._as_json:
            click.echo(f"  {device.hint}")

    def failed(self, error: UsbBridgeError) -> None:
        """It is over, and `error` is raised."""
        if self._as_json:
            fields = {"status": error.exit_status, "error": type(error).__name__, "message": error.message}
            print_json_line({"event": "ended", **fields, "hint": error.hint or None})

    def left(self) -> None:
        """Nobody watches any longer."""
        if self.device is not None:
            place = self.device.device.entry.bus_port
            going = f"usbbridge: the service goes on ({short_place(self.device)})"
            below = "\n" if sys.stderr.isatty() else ""  # which shows ^C in this line
            click.echo(f"{below}{going}; `usbbridge detach {place}` ends it", err=True)


def _by_service(parameters: dict[str, Any], progress: Progress) -> int:
    try:
        with ServiceClient.connect() as service:
            _follow(service, parameters, progress)
            service.patience = None  # a VM may take its time, and there is Ctrl-C
            progress.end(read(DeviceStatus, service.call("attach", **parameters)))
    except UsbBridgeError as error:
        progress.failed(error)
        raise
    except KeyboardInterrupt:
        progress.left()
        return INTERRUPTED
    return 0


def _follow(service: ServiceClient, parameters: dict[str, Any], progress: Progress) -> None:
    """Show what happens to the device from now on. Which one is meant if that is in doubt, the service says."""
    from usbbridge.ipc.api import Status

    present = {device.device.entry: device for device in read(Status, service.call("subscribe")).devices}
    try:
        meant = present[find(list(present), parameters["device"], serial=parameters["serial"])]
    except UsbBridgeError:
        return

    def heard(event: str, data: Any) -> None:
        if event == "device":
            device = read(DeviceStatus, data)
            if device.device.id == meant.device.id and device.state != State.LOCAL:
                progress.show(device)

    progress.device = meant
    service.on_event = heard
