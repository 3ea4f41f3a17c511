"""`usbbridge rules`: what the compatibility list says, why, and how to change it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import click

from usbbridge.cli import ruling, tables
from usbbridge.cli.completion import complete_device
from usbbridge.compat.form import SPEEDS, FormError, closest, rule_of, table_of, toml_of
from usbbridge.compat.rule import Verdict
from usbbridge.compat.source import read
from usbbridge.compat.store import LOCAL
from usbbridge.errors import UsageError, UsbBridgeError
from usbbridge.usb.ch9 import Speed
from usbbridge.usb.identity import parse_ids

EXAMPLES: Final = """\b
Examples:
  usbbridge rules explain 1-2              why is it allowed, or denied?
  usbbridge rules add id=0781:* verdict=connect
  usbbridge rules add id=04d9:1702 verdict=allow note="bar code scanner"
  usbbridge rules list --local
  usbbridge rules check my-rules.toml
"""
KEYS: Final = """\b
Keys of a rule, in TOML and as KEY=VALUE; a list is [..] there, commas here:
  id            0781:5567, 0781:*, 0781:55??  vendor and product
  bcd-device    0100, 0100-01ff, 0100-        release
  class         08, 08/06, 08/06/50           of the interface judged
  usage         f1d0:0001, f1d0:*             HID usage of it
  any, all      classes                       of some interface, of every one
  device-class  09                            of the device itself
  serial, port  text with * ? [a-z]           1-2.* is all behind that hub
  speed         low full high super super-plus
  verdict       connect allow ask deny follow
  quirks        no-reset no-streams no-read-ahead delay; !delay takes it back
  note, source  why, and where that is known from
"""
FILTER_EXAMPLES: Final = """\b
Examples:
  usbbridge rules export --format qemu
  usbbridge rules import --format qemu '0x08:-1:-1:-1:1' --print
  virsh dumpxml desk | usbbridge rules import --format libvirt -
"""
FILTER_FORMATS: Final = ("usbredir", "qemu", "libvirt")
MAX_FILTER: Final = 1 << 20
"Bytes of a filter: 10,000 rules and more."

F = TypeVar("F", bound=Callable[..., Any])
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON (see usbbridge(1)).")
_format = click.option(
    "--format", "form", type=click.Choice(FILTER_FORMATS), required=True, help="Whose filter language."
)


def _places(function: F) -> F:
    """Options that say which rules are meant."""
    rules = click.option(
        "--rules",
        multiple=True,
        type=click.Path(path_type=Path, exists=True),
        help="These files or folders alone, instead of what is installed.",
    )
    return rules(click.option("--database", type=click.Path(path_type=Path), hidden=True)(function))


@click.group("rules", epilog=EXAMPLES)
def command() -> None:
    """Show, explain, check and change the compatibility list: which devices may go to a virtual machine.

    A device is judged by its own class and by each interface. For each of them the first rule that matches gives a
    verdict, and the strictest of all holds:

    \b
      connect   it is attached by itself when it is plugged in
      allow     it may be attached
      ask       only when it is asked for; so is what no rule is about
      deny      never, whoever asks

    `follow` instead of a verdict: this interface has no say, if another one has (volume keys of a headset).

    Local rules come first, in their order; then the files NN-NAME.toml that are shipped and those in
    /etc/usbbridge/rules.d, by name, where one of the same name takes the place of the shipped one.
    """


@command.command("list", short_help="Show the rules, in their order.")
@_places
@click.option("--local", is_flag=True, help="Only the rules that were added here.")
@_as_json
def list_(rules: tuple[Path, ...], database: Path | None, local: bool, as_json: bool) -> None:
    """Show the rules in the order in which they are tried."""
    with ruling.open_list(rules, database) as store:
        found = store.local_rules if local else store.rules.rules
    if as_json:
        tables.print_json([ruling.as_object(rule) for rule in found])
    elif not found:
        click.echo("No local rules: `usbbridge rules add` makes them." if local else "No rules.", err=True)
    else:
        click.echo(tables.columns([("RULE", "VERDICT", "IF", "NOTE"), *map(ruling.row, found)]))


@command.command("explain", short_help="Say why a device is allowed, or denied.")
@click.argument("device", required=False, shell_complete=complete_device)
@click.option("--serial", help="The device with this serial number.")
@click.option("--descriptors", type=click.File("rb"), help="Saved descriptors, as sysfs has them or in hexadecimal.")
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), hidden=True)
@_places
@_as_json
def explain(
    device: str | None,
    serial: str | None,
    descriptors: BinaryIO | None,
    root: Path,
    rules: tuple[Path, ...],
    database: Path | None,
    as_json: bool,
) -> None:
    """Say what the list says about a device, and which rule and which interface decided.

    DEVICE is a BUS-PORT as in `usbbridge list`, an ID (0781:5567) or a unique part of a name. Of a device that is not
    here, give its descriptors: a copy of /sys/bus/usb/devices/BUS-PORT/descriptors. What was learned from attaching
    such devices is shown too.
    """
    entry = ruling.saved(descriptors, device, serial) if descriptors else ruling.present(root, device, serial)
    with ruling.open_list(rules, database) as store:
        ruling.show(entry, store, as_json=as_json)


@command.command("test", short_help="Judge a device that is made up.")
@click.argument("ids", metavar="VID:PID")
@click.argument("interfaces", nargs=-1, metavar="[CLASS/SUBCLASS/PROTOCOL[@PAGE:USAGE]]...")
@click.option("--device-class", default="00/00/00", metavar="C/S/P", help="Class of the device itself.")
@click.option("--bcd-device", default="0000", metavar="HEX", help="Its release.")
@click.option("--serial", default="", help="Its serial number.")
@click.option("--port", default="", metavar="BUS-PORT", help="Where it is plugged in.")
@click.option("--speed", default="", metavar="SPEED", help="low, full, high, super or super-plus.")
@click.option("--expect", type=click.Choice([v.value for v in Verdict]), help="End with status 1 if it is another.")
@_places
@_as_json
def test(
    ids: str,
    interfaces: tuple[str, ...],
    device_class: str,
    bcd_device: str,
    serial: str,
    port: str,
    speed: str,
    expect: str | None,
    rules: tuple[Path, ...],
    database: Path | None,
    as_json: bool,
) -> int:
    """Say what the list would say about a device that you make up.

    \b
    A headset, and a security key whose HID usage is known:
      usbbridge rules test 046d:0a44 01/01/00 01/02/00 03/00/00 --expect allow
      usbbridge rules test 1209:beee 03/00/00@f1d0:0001 --rules my-rules.toml
    """
    from usbbridge.compat.saved import made_up

    if speed and speed not in SPEEDS:
        raise UsageError(f"there is no speed {speed!r}{closest(speed, SPEEDS)}", hint=f"there are {', '.join(SPEEDS)}")
    given = parse_ids(ids)
    if given is None:
        raise UsageError(f"{ids!r} is not VID:PID in hexadecimal")
    entry = made_up(
        given,
        [ruling.interface(number, text) for number, text in enumerate(interfaces)],
        class_=ruling.triple(device_class),
        bcd_device=ruling.release(bcd_device),
        serial=serial,
        port=port,
        speed=SPEEDS.get(speed, Speed.UNKNOWN),
    )
    with ruling.open_list(rules, database) as store:
        verdict = ruling.show(entry, store, as_json=as_json)
    if expect and verdict != expect:
        raise UsbBridgeError(f"the verdict is {verdict.value}, not {expect}")
    return 0


@command.command("check", short_help="Look for mistakes in rule files.")
@click.argument("sources", nargs=-1, type=click.Path(path_type=Path, exists=True))
@_as_json
def check(sources: tuple[Path, ...], as_json: bool) -> int:
    """Look for mistakes in rule files: in SOURCES, files or folders, or else in all that are installed.

    Unknown keys and values that mean nothing are errors: such a file is not taken, and the rules known before hold.
    Rules that are there twice or are never reached, because an earlier one of the same folder matches all they would,
    are warnings. For both the exit status is 1.
    """
    places = list(sources) or ruling.places()[1]
    found = read(places)
    if as_json:
        problems = [{"file": str(p.file), "line": p.line, "reason": p.reason, "fatal": p.fatal} for p in found.problems]
        tables.print_json({"rules": len(found.rules), "identities": len(found.identities), "problems": problems})
    else:
        for problem in found.problems:
            click.echo(f"{problem}" if problem.fatal else f"{problem} (warning)", err=True)
        click.echo(f"{tables.count(len(found.rules), 'rule')}, {tables.count(len(found.problems), 'problem')}")
    return 1 if found.problems else 0


@command.command("add", short_help="Add a local rule.", epilog=KEYS)
@click.argument("conditions", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--first", is_flag=True, help="Before the other local rules, not after them.")
@click.option("--database", type=click.Path(path_type=Path), hidden=True)
@_as_json
def add(conditions: tuple[str, ...], first: bool, database: Path | None, as_json: bool) -> None:
    """Add a local rule. It comes before all that is shipped, and holds at once.

    \b
      usbbridge rules add id=0781:5567 verdict=connect
      usbbridge rules add port=1-4.* verdict=deny note="behind the desk"
      usbbridge rules add id=1210:001c quirks=no-reset
    """
    try:
        rule = rule_of(ruling.table(conditions))
    except FormError as error:
        raise UsageError(f"this is no rule: {error}", hint="`usbbridge rules add --help` explains the keys") from error
    with ruling.open_list((), database, write=True) as store:
        added = store.add(rule, first=first)
    ruling.tell_service()
    if as_json:
        tables.print_json(ruling.as_object(added))
    else:
        click.echo(f"{added.where}: {ruling.conditions(added)} -> {ruling.result(added)}")


@command.command("remove", short_help="Remove a local rule.")
@click.argument("number", metavar="NUMBER")
@click.option("--database", type=click.Path(path_type=Path), hidden=True)
def remove(number: str, database: Path | None) -> None:
    """Remove a local rule by its NUMBER: 3 or local:3, as `usbbridge rules list --local` shows it."""
    digits = number.removeprefix(LOCAL)
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 19):
        hint = "shipped rules are overruled by a local one, or by a file of the same name in /etc/usbbridge/rules.d"
        raise UsageError(f"{number!r} is not the number of a local rule", hint=hint)
    with ruling.open_list((), database, write=True) as store:
        removed = store.remove(int(digits))
    ruling.tell_service()
    click.echo(f"removed {removed.where}: {ruling.conditions(removed)} -> {ruling.result(removed)}")


@command.command("export", short_help="Print the list as a filter for usbredir, QEMU, libvirt.", epilog=FILTER_EXAMPLES)
@_format
@click.option(
    "--ask", type=click.Choice(["allow", "deny"]), default="allow", help="What a filter does with what is asked about."
)
@_places
@_as_json
def export(form: str, ask: str, rules: tuple[Path, ...], database: Path | None, as_json: bool) -> None:
    """Print the list as a filter for a viewer (usbredir), for QEMU's usb-redir, or for a libvirt domain.

    A filter knows less than a rule. What it can't say is a warning; where there is a choice, it refuses more.
    """
    from usbbridge.compat.exchange import Format
    from usbbridge.compat.exchange import export as export_

    with ruling.open_list(rules, database) as store:
        exported = export_(store.rules.rules, Format(form), ask=Verdict(ask))
    if as_json:
        tables.print_json({"format": form, "filter": exported.text, "warnings": list(exported.warnings)})
        return
    for warning in exported.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(exported.text)


@command.command("import", short_help="Take over such a filter.", epilog=FILTER_EXAMPLES)
@_format
@click.argument("source", metavar="FILTER|FILE|-")
@click.option(
    "--otherwise", type=click.Choice([v.value for v in Verdict]), help="What holds for all the filter is not about."
)
@click.option("--print", "only_print", is_flag=True, help="Print the rules as TOML, and change nothing.")
@click.option("--database", type=click.Path(path_type=Path), hidden=True)
def import_(form: str, source: str, otherwise: str | None, only_print: bool, database: Path | None) -> None:
    """Take a filter over as local rules, after those that are there."""
    from usbbridge.compat.exchange import Format
    from usbbridge.compat.exchange import import_ as import_filter

    imported = import_filter(_filter_text(source), Format(form), otherwise=Verdict(otherwise) if otherwise else None)
    for warning in imported.warnings:
        click.echo(f"warning: {warning}", err=True)
    if only_print:
        click.echo("\n".join(toml_of(table_of(rule)) for rule in imported.rules), nl=False)
        return
    with ruling.open_list((), database, write=True) as store:
        known = [table_of(rule) for rule in store.local_rules]
        added = store.add_all([rule for rule in imported.rules if table_of(rule) not in known])
    ruling.tell_service()
    click.echo(f"{tables.count(len(added), 'rule')} added{''.join(f', from {rule.where} on' for rule in added[:1])}")


def _filter_text(source: str) -> str:
    """A filter that is given itself, by a file's name, or on standard input."""
    if source == "-":
        return sys.stdin.read(MAX_FILTER)
    file = Path(source)
    try:
        is_file = len(source) < 4096 and file.is_file()
        return file.read_text() if is_file else source
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{source} can't be read: {error}") from error
