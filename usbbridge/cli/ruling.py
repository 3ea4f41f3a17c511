"""What `usbbridge rules` needs besides its verbs: where the list is, what a device is, and how both are shown."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from usbbridge.cli import tables
from usbbridge.compat.form import FOLLOW, table_of
from usbbridge.compat.outcomes import Model, Outcome
from usbbridge.compat.pattern import Mask, PatternError, parse_class, parse_release, parse_usage
from usbbridge.compat.rule import Decision, Pass, Rule, Verdict
from usbbridge.compat.source import shipped_rules
from usbbridge.compat.store import Store
from usbbridge.config import Paths, load
from usbbridge.errors import NotFoundError, UsageError, UsbBridgeError
from usbbridge.usb.entry import DeviceEntry, InterfaceEntry

SYSTEM_RULES: Final = Path("/etc/usbbridge/rules.d")
_SHOWN_OUTCOMES: Final = 5
_LISTS: Final = ("id", "class", "usage", "any", "all", "device-class", "serial", "port", "speed", "quirks")
_WIDTH: Final = 60
"Columns for a rule's conditions: lists of ids are longer, and are shown in JSON."
_RELOAD_SECONDS: Final = 2.0
"A monitor that does not answer at once is not waited for: it takes the new rules in by itself."


def open_list(rules: tuple[Path, ...] = (), database: Path | None = None, *, write: bool = False) -> Store:
    """The list: of these sources alone if there are `rules`, else what is installed, for reading or for changing."""
    if rules:
        return Store.open(Path("/nonexistent/compat.db"), rules, read_only=True)
    installed, sources = places()
    store = Store.open(database or installed, sources, read_only=not write)
    for notice in store.notices:
        click.echo(f"warning: {notice}", err=True)
    return store


def places() -> tuple[Path, list[Path]]:
    """The database and the sources: a user's own, or the system's if only its service has been at work and the
    configuration names no other."""
    config = load()
    system = Paths.of_system().database
    chosen = config.paths.system or config.paths.database != Paths.of_user().database
    if not chosen and not config.paths.database.exists() and system.exists():
        return system, [shipped_rules(), SYSTEM_RULES]
    return config.paths.database, [shipped_rules(), *config.monitor.rules]


def tell_service() -> None:
    """Have the devices that are plugged in judged anew. Without a monitor, or the right to, that happens later."""
    from usbbridge.ipc.reload import judge_anew

    try:
        judge_anew(load().paths.monitor_socket, _RELOAD_SECONDS)
    except NotFoundError:
        return
    except UsbBridgeError as error:
        click.echo(f"note: devices that are plugged in are judged anew when they are used ({error.message})", err=True)


# ---- devices


def present(root: Path, device: str | None, serial: str | None) -> DeviceEntry:
    """The device of this machine that is meant. Raises as `usb.selection.find`."""
    from usbbridge.monitor.inventory import devices
    from usbbridge.usb.selection import find

    return find(devices(root), device, serial=serial)


def saved(file: BinaryIO, device: str | None, serial: str | None) -> DeviceEntry:
    """The device whose descriptors a file holds."""
    from usbbridge.compat.saved import MAX_FILE, from_descriptors

    if device:
        raise UsageError("either a device that is here, or descriptors that were saved")
    return from_descriptors(file.read(2 * MAX_FILE), serial=serial or "")


def interface(number: int, text: str) -> InterfaceEntry:
    """`08/06/50`, or `03/00/00@f1d0:0001` with a HID usage. Raises UsageError."""
    classes, _, usages = text.partition("@")
    try:
        found = tuple(_whole(parse_usage(each), 0xFFFFFFFF, each) for each in usages.split(",") if each)
    except PatternError as error:
        raise UsageError(str(error)) from error
    return InterfaceEntry(number, 0, *triple(classes), "", found)


def triple(text: str) -> tuple[int, int, int]:
    """Class, subclass and protocol of `08/06/50`. Raises UsageError."""
    try:
        value = _whole(parse_class(text), 0xFFFFFF, text)
    except PatternError as error:
        raise UsageError(str(error)) from error
    return value >> 16, value >> 8 & 0xFF, value & 0xFF


def release(text: str) -> int:
    """One bcdDevice. Raises UsageError."""
    try:
        first, last = parse_release(text)
    except PatternError as error:
        raise UsageError(str(error)) from error
    if first != last:
        raise UsageError(f"{text!r} is a range; a device has one release")
    return first


def _whole(mask: Mask, full: int, text: str) -> int:
    if mask.mask != full:
        raise UsageError(f"{text!r}: of a device, every part is known; wildcards are for rules")
    return mask.value


# ---- rules


def table(conditions: Iterable[str]) -> dict[str, object]:
    """The table of a rule that was written as KEY=VALUE words. Raises UsageError."""
    found: dict[str, object] = {}
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if not equals:
            raise UsageError(f"{condition!r} is not KEY=VALUE", hint="for instance: id=0781:* verdict=connect")
        if key in found:
            raise UsageError(f"{key} is there twice", hint="several values stand behind one another, with commas")
        found[key] = value.split(",") if key in _LISTS and "," in value else value
    return found


def result(rule: Rule) -> str:
    """What follows from a rule: `deny`, `allow, no-reset`, `no-reset`."""
    verdict = [rule.verdict.value] if rule.verdict else [FOLLOW] if rule.follow else []
    return ", ".join([*verdict, *rule.quirks])


def conditions(rule: Rule) -> str:
    """When it matches, as `rules add` takes it; `always` if there is no condition."""
    written = table_of(replace(rule, note="", source="", quirks=(), verdict=None, follow=False))
    texts = [f"{key}={','.join(value) if isinstance(value, list) else value}" for key, value in written.items()]
    return " ".join(texts) or "always"


def row(rule: Rule) -> tuple[str, ...]:
    """A line of the list."""
    words = conditions(rule)
    return (rule.where, result(rule), words if len(words) <= _WIDTH else words[: _WIDTH - 1] + "…", rule.note)


def as_object(rule: Rule) -> dict[str, Any]:
    """A rule in JSON: its keys as in TOML, lists always lists, and where it stands."""
    keys = {
        key: [value] if key in _LISTS and isinstance(value, str) else value for key, value in table_of(rule).items()
    }
    return {"rule": rule.where, **keys}


# ---- decisions


def show(entry: DeviceEntry, store: Store, *, as_json: bool) -> Verdict:
    """Print what the list says about a device; returns the verdict."""
    decision, steps = store.decide(entry), store.rules.explain(entry)
    models, latest = store.models(entry.vendor, entry.product), store.outcomes(entry.vendor, entry.product)
    if as_json:
        tables.print_json(_decision_object(entry, decision, steps, models, latest))
    else:
        click.echo("\n".join(_lines(entry, decision, steps)))
        click.echo("".join(f"  {line}\n" for line in _learned(models, latest)), nl=False)
    return decision.verdict


def _lines(entry: DeviceEntry, decision: Decision, steps: tuple[Pass, ...]) -> Iterable[str]:
    yield f"{entry}: {decision.verdict.value}"
    yield f"  because {decision.because}"
    decided = [step for step in steps if step.judged.number == decision.interface]
    rest = [step for step in steps if step not in decided]
    yield from (f"  besides, {step}" for step in rest)
    yield from (f"  quirk {quirk}" for quirk in decision.quirks)
    rules = {step.rule.where: step.rule for step in decided if step.rule}
    yield from (f"  the rule's source: {rule.source}" for rule in rules.values() if rule.source)
    for identity in decision.identities:
        others = [f"{v:04x}:{p:04x}" for v, p in identity.ids if (v, p) != (entry.vendor, entry.product)]
        yield f"  is also known as {', '.join(others)} ({identity.name}: {identity.note or identity.where})"


def _learned(models: list[Model], latest: list[Outcome]) -> Iterable[str]:
    for model in models:
        yield f"learned of release {model.bcd_device:04x}: {model}"
    failures = [outcome for outcome in latest if outcome.error][:_SHOWN_OUTCOMES]
    for outcome in failures:
        yield f"{_day(outcome.at)}: {outcome.result}: {outcome.message or outcome.error}"


def _day(at: float) -> str:
    import time

    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def _decision_object(
    entry: DeviceEntry, decision: Decision, steps: tuple[Pass, ...], models: list[Model], latest: list[Outcome]
) -> dict[str, Any]:
    return {
        "bus_port": entry.bus_port,
        "id": entry.ids,
        "name": entry.name,
        "verdict": decision.verdict.value,
        "rule": decision.rule or None,
        "interface": decision.interface,
        "because": decision.because,
        "quirks": list(decision.quirks),
        "passes": [_pass_object(step) for step in steps],
        "identities": [
            {"name": i.name, "ids": [f"{v:04x}:{p:04x}" for v, p in i.ids], "note": i.note} for i in decision.identities
        ],
        "models": [_plain(model) for model in models],
        "outcomes": [_plain(outcome) for outcome in latest],
    }


def _pass_object(step: Pass) -> dict[str, Any]:
    verdict = step.verdict.value if step.has_say else FOLLOW
    return {
        "interface": step.judged.number,
        "class": f"{step.judged.triple >> 16:02x}/{step.judged.triple >> 8 & 0xFF:02x}/{step.judged.triple & 0xFF:02x}",
        "verdict": verdict,
        "rule": as_object(step.rule) if step.rule else None,
    }


def _plain(found: Model | Outcome) -> dict[str, Any]:
    from dataclasses import asdict

    values = asdict(found)
    return {
        key: f"{value:04x}" if key in ("vendor", "product", "bcd_device") else value for key, value in values.items()
    }
