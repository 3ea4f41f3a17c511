"""`usbbridge completion`: a script that completes in a shell; and what completes devices, serial numbers and VMs.

Completion must be quick, and silent whatever happens: somebody is typing.
"""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import click
from click.shell_completion import CompletionItem, get_completion_class

VARIABLE: Final = "_USBBRIDGE_COMPLETE"
"Set by the scripts when they ask `usbbridge` for completions; the name is click's convention."

INSTALL: Final = {
    "bash": 'eval "$(usbbridge completion bash)"  in ~/.bashrc',
    "zsh": 'eval "$(usbbridge completion zsh)"  in ~/.zshrc',
    "fish": "usbbridge completion fish | source  in ~/.config/fish/config.fish",
}
PATIENCE_SECONDS: Final = 0.5
"For which a key press waits for a service that hangs."
MIN_WORD: Final = 3
"Characters of a word of a name that are worth completing."

_SAFE_WORD: Final = re.compile(r"[A-Za-z0-9][\w.+-]*")
"No shell has to be told that such a word is one."

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _quietly(complete: Complete) -> Complete:
    """Whatever goes wrong, nothing is completed, and nothing is said."""

    @functools.wraps(complete)
    def quiet(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            return complete(ctx, param, incomplete)
        except Exception:
            return []

    return quiet


@_quietly
def complete_device(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Places, else ids, else words of the names of devices that could be attached."""
    from usbbridge.compat.rule import Verdict
    from usbbridge.ipc.api import State

    status = _status()
    if status is None:
        return _devices(_in_system(), incomplete)
    free = [d.device for d in status.devices if d.state != State.ATTACHED and d.device.verdict != Verdict.DENY]
    return _devices([plugged.entry for plugged in free if plugged.entry.obstacle is None], incomplete)


@_quietly
def complete_attached(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The same of devices that are at a VM, or on their way."""
    from usbbridge.ipc.api import State

    status = _status()
    away = [device.device.entry for device in status.devices if device.state != State.LOCAL] if status else []
    return _devices(away, incomplete)


@_quietly
def complete_remembered(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ports, else ids, of what is remembered."""
    status = _status()
    choices = status.choices if status else ()
    ports = [(choice.port, choice.name) for choice in choices if choice.port]
    ids = [(f"{choice.vendor:04x}:{choice.product:04x}", choice.name) for choice in choices]
    return _starting(ports, incomplete) or _starting(ids, incomplete)


@_quietly
def complete_serial(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Serial numbers of the devices that are there."""
    status = _status()
    entries = _in_system() if status is None else [device.device.entry for device in status.devices]
    serials = [(entry.serial, entry.name) for entry in entries if _SAFE_WORD.fullmatch(entry.serial)]
    return _starting(serials, incomplete)


@_quietly
def complete_vm(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of VMs."""
    status = _status()
    if status is None:
        from usbbridge import config

        return _starting([(vm.name, " ".join(vm.targets)) for vm in config.load().vms], incomplete)
    return _starting([(vm.name, vm.target) for vm in status.vms], incomplete)


def _status() -> Any:
    """An `api.Status`, or None if no service tells."""
    from usbbridge.errors import UsbBridgeError
    from usbbridge.ipc.client import ServiceClient

    try:
        with ServiceClient.connect(greeting_seconds=PATIENCE_SECONDS) as service:
            service.patience = PATIENCE_SECONDS
            return service.status()
    except (UsbBridgeError, OSError):
        return None


def _in_system() -> list[Any]:
    from usbbridge.monitor.inventory import devices

    return [entry for entry in devices() if entry.obstacle is None]


def _devices(entries: list[Any], incomplete: str) -> list[CompletionItem]:
    places = _starting([(entry.bus_port, entry.name) for entry in entries], incomplete)
    ids = _starting([(entry.ids, entry.name) for entry in entries], incomplete)
    return places or ids or _words(entries, incomplete)


def _words(entries: list[Any], incomplete: str) -> list[CompletionItem]:
    """Words that one device alone has in its name, in upper or lower case as they were begun."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        for word in {word.casefold(): word for word in entry.name.split()}.values():
            if len(word) >= MIN_WORD and _SAFE_WORD.fullmatch(word):
                found.setdefault(word.casefold(), []).append(entry.name)
    begun = [word for word, names in found.items() if len(names) == 1 and word.startswith(incomplete.casefold())]
    return [CompletionItem(incomplete + word[len(incomplete) :], help=found[word][0]) for word in begun]


def _starting(words: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    """Each (word, what it is), once, if it goes on from what was typed."""
    different = {word: text for word, text in words if word.startswith(incomplete)}
    return [CompletionItem(word, help=text) for word, text in different.items()]


@click.command("completion", epilog="\b\n" + "\n".join(INSTALL.values()))
@click.argument("shell", type=click.Choice(list(INSTALL)))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell: verbs, options, and the devices and VMs that there are.

    To have completion in every shell, put the line below into your shell's start-up file.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    completion = kind(ctx.find_root().command, {}, "usbbridge", VARIABLE)
    click.echo(completion.source_template % completion.source_vars())
