"""`usbbridge completion`: a script that completes verbs, options and devices in a shell; and what completes devices."""

from typing import Final

import click
from click.shell_completion import CompletionItem, get_completion_class

VARIABLE: Final = "_USBBRIDGE_COMPLETE"
"Set by the scripts when they ask `usbbridge` for completions; the name is click's convention."

INSTALL: Final = {
    "bash": 'eval "$(usbbridge completion bash)"  in ~/.bashrc',
    "zsh": 'eval "$(usbbridge completion zsh)"  in ~/.zshrc',
    "fish": "usbbridge completion fish | source  in ~/.config/fish/config.fish",
}


def complete_device(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Places (else ids) of devices that could be attached: `shell_complete` of every argument that names a device."""
    from usbbridge.monitor.inventory import devices

    free = [entry for entry in devices() if entry.obstacle is None]
    places = [(entry.bus_port, entry.name) for entry in free if entry.bus_port.startswith(incomplete)]
    ids = [(entry.ids, entry.name) for entry in free if entry.ids.startswith(incomplete)]
    return [CompletionItem(word, help=name) for word, name in places or ids]


@click.command("completion", epilog="\b\n" + "\n".join(INSTALL.values()))
@click.argument("shell", type=click.Choice(list(INSTALL)))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    To have completion in every shell, put the line below into your shell's start-up file.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    completion = kind(ctx.find_root().command, {}, "usbbridge", VARIABLE)
    click.echo(completion.source_template % completion.source_vars())
