"""`usbbridge vm`: which virtual machines there are, whether they can be reached; adds them and takes them away."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from usbbridge.cli import tables
from usbbridge.cli.completion import complete_vm
from usbbridge.errors import NotFoundError, UsbBridgeError
from usbbridge.ipc.api import SessionState, VmStatus
from usbbridge.ipc.client import ServiceClient, connected, read

EXAMPLES: Final = """\b
Examples:
  usbbridge vm                                which there are
  usbbridge vm check desk                     can it be reached?
  usbbridge vm add desk spice://vmhost:5900   add one
  usbbridge vm remove desk
"""
CHECK_EXAMPLES: Final = """\b
Examples:
  usbbridge vm check
  usbbridge vm check spice://vmhost:5900
"""
ADD_EXAMPLES: Final = """\b
Examples:
  usbbridge vm add desk spice+tls://vmhost:5901 --ca-file ca.pem --default
  usbbridge vm add lab tcp://host:4000 tcp://host:4001
"""
CHECK_SECONDS: Final = 60.0
"A VM's host that does not answer is given up by TCP or by the session before that."
OTHER_SERVICE: Final = (
    "that is the configuration of a service of your own, which does not run; the system's is changed by root"
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON (see usbbridge-api(7)).")


@click.group("vm", invoke_without_command=True, epilog=EXAMPLES)
@_as_json
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show the virtual machines that devices can go to, and how it stands with them; add and remove some."""
    if ctx.invoked_subcommand is None:
        show(as_json=as_json)


@command.command("list", short_help="Show them, as `usbbridge vm` alone does.")
@_as_json
def list_(as_json: bool) -> None:
    """Show the virtual machines, as `usbbridge vm` alone does."""
    show(as_json=as_json)


@command.command("check", epilog=CHECK_EXAMPLES, short_help="Connect to one, and tell how it went.")
@click.argument("vm", required=False, metavar="[NAME|TARGET]", shell_complete=complete_vm)
@_as_json
def check(vm: str | None, as_json: bool) -> int:
    """Connect to a virtual machine, or use the connection there is, and tell how it went.

    Without a NAME it is the default one. Nothing is attached. A connection ends the session of a SPICE viewer, as
    attaching a device would. If it can't be reached, the exit status says of what kind the reason is.
    """
    with ServiceClient.connect() as service:
        service.patience = CHECK_SECONDS
        answer = service.call("vm-check", vm=vm or "")
    status = read(VmStatus, answer)
    if as_json:
        tables.print_json(answer)
    else:
        reached = status.state == SessionState.IDLE  # a raw port, which has no session
        how = tables.session(status, idle="can be reached") if reached else tables.session(status)
        click.echo(f"{status.name} ({status.target}): {how}")
        if status.hint and status.state != SessionState.CONNECTED:
            click.echo(f"  {status.hint}")
    return status.status


@command.command("add", epilog=ADD_EXAMPLES, short_help="Add one to the configuration.")
@click.argument("name")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option("--default", "is_default", is_flag=True, help="Devices go there for which nothing else is said.")
@click.option("--password-file", type=click.Path(path_type=Path), help="File whose first line is the SPICE password.")
@click.option("--ca-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CA certificates, PEM.")
@click.option("--host-subject", help="Subject that the server's certificate must have, instead of the host's name.")
@click.option("--no-compression", is_flag=True, help="Never compress with LZ4.")
def add(
    name: str,
    targets: tuple[str, ...],
    is_default: bool,
    password_file: Path | None,
    ca_file: Path | None,
    host_subject: str | None,
    no_compression: bool,
) -> None:
    """Add a virtual machine to the configuration, as a file of its own in conf.d, and have the service read it.

    TARGET is as for `usbbridge attach`: a SPICE server, or one or several raw usbredir ports, each for one device. The
    files named in options must be readable by the service, which runs as the user usbbridge.
    """
    from usbbridge.cli import dropins

    fields: dict[str, str] = {
        "password-file": str(password_file.absolute()) if password_file else "",
        "ca-file": str(ca_file.absolute()) if ca_file else "",
        "host-subject": host_subject or "",
        "compression": "never" if no_compression else "",
    }
    file = dropins.add(name, targets, {key: value for key, value in fields.items() if value}, is_default=is_default)
    click.echo(f"{name} is in {file}; {_reloaded()}")


@command.command("remove", epilog="\b\nExample:\n  usbbridge vm remove desk", short_help="Take one out of it again.")
@click.argument("name", shell_complete=complete_vm)
def remove(name: str) -> None:
    """Take a virtual machine that `usbbridge vm add` has added out of the configuration again.

    Devices that are attached to it are taken back.
    """
    from usbbridge.cli import dropins

    file = dropins.remove(name)
    click.echo(f"{file} was removed; {_reloaded()}")


def show(*, as_json: bool) -> None:
    """What the service knows of its VMs, or, without one, what the configuration says."""
    try:
        with ServiceClient.connect() as service:
            objects = service.call("status")["vms"]
    except NotFoundError as error:
        objects = configured()
        click.echo(f"usbbridge: {error.message}; this is what the configuration says", err=True)
    if as_json:
        tables.print_json(objects)
    elif objects:
        click.echo(as_text([read(VmStatus, found) for found in objects]))
    else:
        click.echo("No VM is configured: usbbridge vm add NAME TARGET adds one.", err=True)


def configured() -> list[Any]:
    """The VMs of the configuration, as the API would show them."""
    from usbbridge import config
    from usbbridge.ipc.codec import to_json

    found = config.load()
    return [to_json(VmStatus(vm.name, " ".join(vm.targets), vm.name == found.default_vm)) for vm in found.vms]


def as_text(vms: Sequence[VmStatus]) -> str:
    """Columns, and below a VM that can't be reached what to do."""
    rows = [("NAME", "TARGET", "DEFAULT", "SESSION")]
    rows += [(vm.name, vm.target, "yes" if vm.default else "-", tables.session(vm)) for vm in vms]
    heading, *lines = tables.columns(rows).split("\n")
    hints = [f"\n  {vm.hint}" if vm.hint and vm.state != SessionState.CONNECTED else "" for vm in vms]
    return "\n".join([heading, *(line + hint for line, hint in zip(lines, hints, strict=True))])


def _reloaded() -> str:
    """Have the service of this configuration read it again; what to say of that."""
    from usbbridge import config

    paths = config.load().paths
    try:
        with ServiceClient(connected([paths.control_socket])) as service:
            service.call("reload")
    except NotFoundError:
        others = [path for path in paths.client_sockets() if path != paths.control_socket and path.exists()]
        return OTHER_SERVICE if others else "the service reads it when it starts"
    except UsbBridgeError as error:
        error.message = f"it is written, but the service has not read it: {error.message}"
        raise
    return "the service has read it"
