"""`python -m tools.fuzz`: the fuzzer at the prompt."""

import importlib.util
import sys

import click

from tools.fuzz import TARGETS
from tools.fuzz.minimizing import minimize as minimized
from tools.fuzz.running import fuzz


@click.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--seconds", default=60, show_default=True, help="How long each is fuzzed; 0: not at all.")
@click.option("--jobs", default=1, show_default=True, help="How many at a time.")
@click.option("--minimize", is_flag=True, help="Then renew the corpus in the tree from all that was found.")
def main(targets: tuple[str, ...], seconds: int, jobs: int, minimize: bool) -> None:
    """Fuzz TARGETs, all by default: redirect, spice, descriptors, messages, rules.

    Inputs that found a defect are saved below tests/fuzz/crashes, where the tests run them from then on.
    """
    unknown = set(targets) - set(TARGETS)
    if unknown:
        raise click.UsageError(f"there is no {sorted(unknown)[0]}; there are {', '.join(TARGETS)}")
    chosen = targets or TARGETS
    failed = False
    if seconds:
        _require_atheris()
        for result in fuzz(chosen, seconds, jobs):
            click.echo(str(result))
            failed |= result.failed
    if minimize and not failed:
        for target in chosen:
            click.echo(minimized(target))
    sys.exit(failed)


def _require_atheris() -> None:
    if importlib.util.find_spec("atheris") is None:
        raise click.ClickException("atheris is not installed: .venv/bin/pip install -e '.[fuzz]'")
