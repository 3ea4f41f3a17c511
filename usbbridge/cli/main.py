"""The command `usbbridge`: finds the verb that was asked for, and turns errors into a line, a hint and an exit status.

A verb is the module of its name in this package with a click command called `command`. It is imported only when it is
used: `list` and completion must answer before a finger is off the key, and need nothing of what `attach` loads.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click
from click.shell_completion import CompletionItem

from usbbridge import __version__
from usbbridge.errors import UsbBridgeError

VERBS: Final = {
    "list": "Show the USB devices, and where they are.",
    "attach": "Give a USB device to a virtual machine.",
    "detach": "Take a USB device back from its virtual machine.",
    "forget": "Forget which device was to go to which virtual machine.",
    "status": "Show what the service does: devices, VMs, what is remembered.",
    "watch": "Show it as it changes.",
    "capture": "Write what a device and its VM say to each other to a file for Wireshark.",
    "vm": "Show the virtual machines, and whether they can be reached.",
    "rules": "Show, explain, check and change the compatibility list.",
    "doctor": "Look for what keeps a device from its virtual machine, and say what to do.",
    "service": "Run the service: monitor and control, and their encoders.",
    "monitor": "Run the monitor alone: hotplug, rules, device nodes.",
    "control": "Run control alone: sessions, encoders, the API.",
    "suspend": "Take every device back, because this machine is about to sleep.",
    "resume": "Give them out again.",
    "config": "Check the configuration, and show it with its defaults.",
    "install-service": "Install the service on this machine: units, user, udev rules.",
    "demo": "Send an emulated flash drive to a VM made for the occasion.",
    "completion": "Print the completion script for a shell.",
}
"Verb → its line in `usbbridge --help`, which so imports none of them."

INTERRUPTED: Final = 130
"What a shell expects of a command that was ended by Ctrl-C: 128 + SIGINT."


class VerbGroup(click.Group):
    """Imports a verb when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"usbbridge.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        verbs = [CompletionItem(verb, help=line) for verb, line in VERBS.items() if verb.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)  # click.Group's own would import every verb

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group("usbbridge", cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="usbbridge %(version)s")
def usbbridge() -> None:
    """Plug a USB device into this machine, use it in a virtual machine.

    \b
    With the service (see `usbbridge install-service --help`):
      usbbridge vm add desk spice://host:5900
      usbbridge list
      usbbridge attach 1-2
    \b
    Without it, until Ctrl-C:
      usbbridge attach --foreground 1-2 --vm spice://host:5900
      usbbridge attach --foreground disk:debian.iso --vm spice://host:5900
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status, as `usbbridge(1)` lists them."""
    try:
        status = usbbridge.main(arguments, prog_name="usbbridge", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        _close_stdout()
        return 1
    except UsbBridgeError as error:
        complain(error)
        return error.exit_status
    except OSError as error:  # a full disk behind the standard output, no processes or descriptors left, ...
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        complain(UsbBridgeError(where + (error.strerror or str(error))))
        return UsbBridgeError.exit_status
    return status if isinstance(status, int) else 0


def complain(error: UsbBridgeError) -> None:
    """Say on standard error what went wrong and what to do next."""
    click.echo(f"usbbridge: {error.message}", err=True)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)


def _close_stdout() -> None:
    """Whoever read our output (`head`, a pager) has gone: let the interpreter's last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
