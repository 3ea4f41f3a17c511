"""`python -m tools.lab`: the lab at the prompt."""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

import click

from tools.lab.control import Rig, ask, require_none_up
from tools.lab.host import LabError, apt_line, missing_packages
from tools.lab.kernel import kernel
from tools.lab.lab import Lab
from tools.lab.vm import VmOptions

MACHINE = click.Choice(["client", "vm"])
DEFAULTS = VmOptions()


@click.group()
def lab() -> None:
    """A client machine and a virtual machine in QEMU, without any hardware.

    Start them with `up`, which stays; ask for things from another terminal:

    \b
      python -m tools.lab up
      python -m tools.lab plug usb-storage
      python -m tools.lab run client -- usbredirect --device 46f4:0001 --to 10.0.2.2:PORT
      python -m tools.lab shell vm
    """


@lab.command()
def check() -> None:
    """Say which Debian packages are missing."""
    missing = missing_packages()
    if missing:
        raise LabError(f"missing: {' '.join(missing)}; as root: {apt_line()}")
    click.echo("everything is installed")


@lab.command()
def prepare() -> None:
    """Download and unpack the kernel, if that has not been done."""
    click.echo(kernel().image)


@lab.command()
@click.option("--channels", default=DEFAULTS.channels, show_default=True, help="USB channels of the SPICE session.")
@click.option("--raw-ports", default=DEFAULTS.raw_ports, show_default=True, help="Raw usbredir ports.")
@click.option(
    "--ticket", default=DEFAULTS.ticket, show_default=True, help="Password of the SPICE server; empty for none."
)
@click.option(
    "--visible",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="A folder below /tmp or /run that the machines are to see.",
)
@click.option("--systemd", is_flag=True, help="Boot the client with systemd and udevd.")
def up(channels: int, raw_ports: int, ticket: str, visible: tuple[Path, ...], systemd: bool) -> None:
    """Boot both machines and hold them until Ctrl-C or `down`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    require_none_up()
    options = dataclasses.replace(DEFAULTS, channels=channels, raw_ports=raw_ports, ticket=ticket or None)
    with Lab(visible=visible) as made, contextlib.suppress(KeyboardInterrupt):
        rig = Rig(made, options, systemd=systemd)
        for machine in (rig.client, rig.vm):
            click.echo(f"{machine.name} is up after {machine.wait_ready():.1f} s")
        click.echo(rig.status())
        rig.serve()


@lab.command()
def down() -> None:
    """End the machines."""
    sys.exit(ask("down"))


@lab.command()
def status() -> None:
    """Show the machines, their addresses, and what is plugged in."""
    sys.exit(ask("status"))


@lab.command(context_settings={"ignore_unknown_options": True})
@click.argument("machine", type=MACHINE)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(machine: str, command: tuple[str, ...]) -> None:
    """Run a command in a machine, as root, with this terminal's input and output."""
    sys.exit(ask("run", machine=machine, argv=command, tty=None))


@lab.command()
@click.argument("machine", type=MACHINE)
def shell(machine: str) -> None:
    """Open a shell in a machine."""
    columns, rows = os.get_terminal_size()
    with _raw_terminal():
        status = ask("run", machine=machine, argv=["/bin/bash", "-i"], tty=(rows, columns))
    sys.exit(status)


@lab.command()
@click.argument("kind")
@click.option("--image", type=click.Path(exists=True, dir_okay=False, resolve_path=True), help="Its disk image.")
@click.option("--size", default=64, show_default=True, help="MiB of a disk of random bytes, where no image is given.")
@click.option("--speed", default="high", type=click.Choice(["high", "super"]), show_default=True)
@click.option(
    "--line", type=click.Path(exists=True, resolve_path=True), help="Listening unix socket, for a usb-serial."
)
def plug(kind: str, image: str | None, size: int, speed: str, line: str | None) -> None:
    """Plug a device of QEMU's into the client: usb-storage, usb-uas, usb-kbd, usb-tablet, usb-serial, ..."""
    sys.exit(ask("plug", kind=kind, image=image, size=size, speed=speed, line=line))


@lab.command()
@click.argument("device")
def unplug(device: str) -> None:
    """Pull a device out, by its name or bus and port, or "all"."""
    sys.exit(ask("unplug", name=device))


@lab.command()
@click.argument("device")
@click.argument("port", type=int)
def move(device: str, port: int) -> None:
    """Pull a disk out of the client and plug it in at another port of its controller, from 5 to 12."""
    sys.exit(ask("move", name=device, port=port))


@lab.command()
@click.argument("keys", nargs=-1, required=True)
def press(keys: tuple[str, ...]) -> None:
    """Press keys together on the keyboard that is plugged in (QEMU's names: a, ret, shift, ...)."""
    sys.exit(ask("press", keys=keys))


@lab.command()
@click.argument("state", type=click.Choice(["on", "off"]))
def network(state: str) -> None:
    """Connect or cut the client's network."""
    sys.exit(ask("network", up=state == "on"))


@lab.command()
@click.argument("action", type=click.Choice(["pause", "resume", "kill", "boot"]))
def vm(action: str) -> None:
    """Pause, resume, kill or boot the virtual machine."""
    sys.exit(ask("power", action=action))


@lab.command()
@click.argument("machine", type=MACHINE)
def console(machine: str) -> None:
    """Show what a machine's kernel has written."""
    sys.exit(ask("console", machine=machine))


@lab.command()
@click.argument("machine", type=MACHINE)
@click.argument("command")
@click.argument("arguments", default="{}")
def qmp(machine: str, command: str, arguments: str) -> None:
    """Give QEMU a command: python -m tools.lab qmp vm query-spice '{}'."""
    sys.exit(ask("qmp", machine=machine, command=command, arguments=json.loads(arguments)))


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the machine, Ctrl-C too."""
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def main() -> None:
    """Run a verb; what the lab cannot do is one line on standard error and status 1."""
    try:
        lab(prog_name="python -m tools.lab")
    except LabError as error:
        click.echo(f"lab: {error}", err=True)
        sys.exit(1)
