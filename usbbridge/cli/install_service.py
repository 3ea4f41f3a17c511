"""`usbbridge install-service`: the service becomes part of the system, and stops being it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from usbbridge.config.paths import SERVICE_USER, Paths
from usbbridge.config.reach import Reader
from usbbridge.errors import NotFoundError, NotPermittedError, RefusedError, UsageError
from usbbridge.units.command import demand_reach, installed_command
from usbbridge.units.files import STATE, File, Kind, system_files, user_files
from usbbridge.units.install import ALL_KINDS, Where, commands, demand_untouched, install, purge, uninstall, units

_FOLDER: Final = click.Path(path_type=Path, file_okay=False, exists=True, resolve_path=True)


@click.command("install-service")
@click.option("--print", "print_only", is_flag=True, help="Show every file, and write none.")
@click.option("--uninstall", "remove", is_flag=True, help="Stop the service and remove its files.")
@click.option("--purge", "with_state", is_flag=True, help="With --uninstall: configuration and state too.")
@click.option("--user", "for_user", is_flag=True, help="A service of your own, under `systemctl --user`.")
@click.option("--force", is_flag=True, help="Do what it would refuse to do, and warn; see above.")
@click.option("--root", type=_FOLDER, default="/", metavar="DIR", help="Install into the system image in DIR.")
@click.option("--command", "path", type=click.Path(path_type=Path), metavar="PATH", help="What the units start.")
def command(
    print_only: bool, remove: bool, with_state: bool, for_user: bool, force: bool, root: Path, path: Path | None
) -> None:
    """Make usbbridge a service of this system, or take it out again.

    It writes the units of monitor and control, a hook that takes devices back before this machine sleeps, the system
    user `usbbridge`, udev rules, and an example configuration if there is none; all in /etc. Neither starts nor enables
    anything: it says how. It may be run again at any time, and has to be when usbbridge has moved.

    It refuses if the service's user could not run this command, or the units hide it, as they do /home, /root and /tmp;
    and to replace or remove files that were changed by hand. --force does it nevertheless.

    --uninstall stops and disables the service and removes what was written. Configuration and state stay, unless
    --purge is given; the user stays in any case, as files may belong to it.
    """
    where = Where(root, for_user)
    _check_usage(where, remove=remove, with_state=with_state)
    if not (print_only or for_user) and where.is_running and os.geteuid() != 0:
        _complain_of_rights(remove=remove)
    kinds = ALL_KINDS if remove else where.kinds()  # what was there when it was installed may have gone
    program = _command(path)
    files = _files(where, program, kinds)
    if print_only:
        _print(files, where, remove=remove)
        return
    if not force:
        demand_untouched(files)
    if remove:
        uninstall(files, where, click.echo)
        _clear_up(where, with_state=with_state)
    else:
        if where.is_running and not for_user:
            _check_reach(program, force=force)
        install(files, where, click.echo)
        click.echo("\n" + _next_steps(files, where))


def _check_usage(where: Where, *, remove: bool, with_state: bool) -> None:
    if with_state and not remove:
        raise UsageError("--purge goes with --uninstall")
    if where.user and not where.is_running:
        raise UsageError("--user and --root exclude each other: an image has no users yet")


def _complain_of_rights(*, remove: bool) -> None:
    try:
        again = f"sudo {installed_command()} install-service{' --uninstall' if remove else ''}"
    except NotFoundError:
        again = "run it as root"
    raise NotPermittedError("only root can change the system's service", hint=f"{again}, or --user for your own")


def _command(path: Path | None) -> Path:
    """What the units start."""
    found = path or installed_command()
    if not found.is_absolute():
        raise UsageError(f"--command {found}: must be an absolute path, as units have it")
    return found


def _check_reach(program: Path, *, force: bool) -> None:
    try:
        demand_reach(program)
    except RefusedError as error:
        if not force:
            raise
        click.echo(f"warning: {error.message}", err=True)


def _files(where: Where, path: Path, kinds: frozenset[Kind]) -> list[File]:
    return user_files(path, kinds) if where.user else system_files(path, where.root, kinds)


def _print(files: Sequence[File], where: Where, *, remove: bool) -> None:
    """The files with their places in front, and what is run afterwards."""
    if remove:
        there = [file for file in files if file.kind is not Kind.CONFIG and file.place.exists()]
        click.echo("\n".join(f"would remove {file.place}" for file in there) or "There is nothing to remove.")
        return
    for file in files:
        click.echo(f"==> {file.place} <==\n{file.text}")
    for line in commands(files, where):
        click.echo(f"would run: {' '.join(line)}")


def _clear_up(where: Where, *, with_state: bool) -> None:
    paths = Paths.of_user() if where.user else Paths.of_system()
    config = where.root / paths.config.parent.relative_to("/")
    state = [paths.choices.parent] if where.user else [where.root / folder.relative_to("/") for folder in STATE]
    if with_state:
        purge([config, *state], click.echo)
        if not where.user:
            click.echo(f"left       the user {SERVICE_USER}, if there is one (userdel {SERVICE_USER})")
    elif left := [str(folder) for folder in (config, *state) if folder.is_dir()]:
        click.echo(f"left       {', '.join(left)} (--purge removes them)")


def _next_steps(files: Sequence[File], where: Where) -> str:
    """What is left to the administrator."""
    config = next(file.place for file in files if file.kind is Kind.CONFIG)
    steps = [f"Say in {config} where the VMs are, and check it: usbbridge config check"]
    if any(file.kind is Kind.UNIT for file in files):
        names = " ".join(name.removesuffix(".service") for name in units(where) if "sleep" not in name)
        steps.append(f"Then start it, now and at every boot: {' '.join(where.systemctl('enable', '--now', names))}")
        steps.append("If it is running already, have it use the new files: the same with restart.")
        if not where.runs_systemd:
            steps[1:] = [f"Then have it started at every boot: {' '.join(where.systemctl('enable', names))}"]
    if not where.user and where.is_running and not where.runs_systemd:
        steps += _without_systemd()
    return "\n".join(steps)


def _without_systemd() -> list[str]:
    steps = [
        "systemd does not run here. Any other init does as well: have it run, as root and in the foreground,",
        f"  {installed_command()} service",
        "and end it with SIGTERM.",
    ]
    if Reader.named(SERVICE_USER) is None:
        user = f"useradd --system --user-group --home-dir /var/lib/usbbridge --shell /usr/sbin/nologin {SERVICE_USER}"
        steps += ["Control and the encoders run as a user of their own, which you have to make:", f"  {user}"]
    return steps
