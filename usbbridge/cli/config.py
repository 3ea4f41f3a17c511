"""`usbbridge config`: whether the configuration is sound, what holds, and where it is written."""

import json
from pathlib import Path

import click

from usbbridge.config import Config, ConfigError, Loaded, Paths, examine
from usbbridge.config.effective import as_object, as_toml, effective
from usbbridge.config.secrets import warnings

_FILE = click.argument("file", required=False, type=click.Path(path_type=Path))


@click.group("config")
def command() -> None:
    """Check the configuration, and show what holds.

    It is /etc/usbbridge/usbbridge.toml for root and the service, ~/.config/usbbridge/usbbridge.toml for everyone else;
    *.toml in conf.d beside it is read afterwards and overrides it key by key. USBBRIDGE_CONFIG names another main file,
    USBBRIDGE_MODE (system, user) chooses between the two.
    """


@command.command("check", short_help="Say what is wrong with it.")
@_FILE
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object (see usbbridge(1)).")
def check(file: Path | None, as_json: bool) -> int:
    """Say what is wrong with the configuration, or with FILE and the conf.d beside it.

    Every mistake is named with file, line and key, and the exit status is 2. What only deserves a look, such as a
    password that others can read, is a warning.
    """
    loaded = examine(file)
    if as_json:
        click.echo(json.dumps(_findings(loaded), indent=2, ensure_ascii=False))
        return ConfigError.exit_status if loaded.config is None else 0
    config = _demand(loaded)
    for warning in warnings(config, loaded.origins):
        click.echo(f"warning: {warning}", err=True)
    click.echo(_summary(config))
    return 0


@command.command("show", short_help="Print all that holds, and where it is written.")
@_FILE
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object (see usbbridge(1)).")
def show(file: Path | None, as_json: bool) -> None:
    """Print all that holds, defaults too, with the file and line that each value comes from.

    What it prints is a configuration file. Passwords are not in it: they are in files of their own.
    """
    loaded = examine(file)
    config = _demand(loaded)
    values = effective(config, loaded.origins)
    text = json.dumps(as_object(config, values), indent=2, ensure_ascii=False) if as_json else as_toml(values)
    click.echo(text.rstrip("\n"))


@command.command("path", short_help="Print where it is, or belongs.")
def path() -> None:
    """Print where the main configuration file is, or belongs."""
    click.echo(Paths.default().config)


def _demand(loaded: Loaded) -> Config:
    if loaded.config is None:
        raise ConfigError(loaded.problems)
    return loaded.config


def _findings(loaded: Loaded) -> dict[str, object]:
    remarks = warnings(loaded.config, loaded.origins) if loaded.config else []
    lists = {"problems": loaded.problems, "warnings": remarks}
    return {"ok": loaded.config is not None} | {
        name: [
            {
                "file": str(found.origin.file),
                "line": found.origin.line or None,
                "key": found.key,
                "reason": found.reason,
            }
            for found in findings
        ]
        for name, findings in lists.items()
    }


def _summary(config: Config) -> str:
    read = ", ".join(map(str, config.files)) if config.files else f"there is no {config.paths.config}, defaults hold"
    vms = f"{len(config.vms)} VM{'' if len(config.vms) == 1 else 's'}"
    default = f", {config.default_vm} by default" if config.default_vm else ""
    return f"The configuration is sound: {read} ({vms}{default})."
