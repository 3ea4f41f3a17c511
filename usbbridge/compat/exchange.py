"""The list in the filter languages of usbredir, QEMU and libvirt, and from them, as far as they reach.

    usbredir   class,vendor,product,version,allow|...      usbredirfilter.h; viewers' redirect filters
    qemu       class:vendor:product:version:allow|...      `filter=` of -device usb-redir
    libvirt    <redirfilter><usbdev .../>...</redirfilter>  domain XML

A filter knows two verdicts and compares whole numbers only. Where a rule can't be said in it, the filter errs towards
refusing: a rule that denies is widened to what can be said, a rule that allows is left out. Every such case is a
warning. A filter passes over HID interfaces without a boot protocol that stand beside others, which is what the list's
`follow` for 03/00/00 does.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from usbbridge.compat.form import table_of
from usbbridge.compat.pattern import Mask, parse_class
from usbbridge.compat.rule import Rule, Verdict
from usbbridge.errors import UsageError
from usbbridge.usbredir import filter as peers
from usbbridge.usbredir.filter import ANY, FilterRule

PASSED_OVER: Final = Rule(class_=(parse_class("03/00/00"),), follow=True)
"What every peer's filter does with HID interfaces without a boot protocol."

MAX_IMPORT: Final = 10_000
"Rules of one filter: as many as a decision is measured with."

_BOTH: Final = (Verdict.CONNECT, Verdict.ALLOW, Verdict.DENY)
_FAR_TOO_WIDE: Final = "it would have to deny everything, and is left out: the filter lets through what it denies"


class Format(StrEnum):
    """A peer's filter language."""

    USBREDIR = "usbredir"
    QEMU = "qemu"
    LIBVIRT = "libvirt"


@dataclass(frozen=True, slots=True)
class Exported:
    """A filter, and what of the list it does not say."""

    text: str
    rules: tuple[FilterRule, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Imported:
    """Rules that say what a filter says, and where they can't."""

    rules: tuple[Rule, ...]
    warnings: tuple[str, ...]


def export(rules: Iterable[Rule], form: Format, *, ask: Verdict = Verdict.ALLOW) -> Exported:
    """The list as a filter. What is to be asked about, and what no rule is about, the filter treats like `ask`."""
    writer = _Writer(ask)
    for rule in rules:
        writer.add(rule)
    filters = (*dict.fromkeys(writer.filters), FilterRule(ANY, ANY, ANY, ANY, ask is not Verdict.DENY))
    text, warnings = _written(filters, form)
    return Exported(text, filters, (*writer.warnings, *warnings))


def import_(text: str, form: Format, *, otherwise: Verdict | None = None) -> Imported:
    """Rules that say what a filter says. `otherwise`: what holds for all that its rules are not about.

    Raises UsageError if the filter can't be read.
    """
    filters = _read(text, form)
    if len(filters) > MAX_IMPORT:
        raise UsageError(f"a filter of {len(filters)} rules; the limit is {MAX_IMPORT}")
    rules = list(dict.fromkeys([PASSED_OVER, *map(_rule, filters)]))
    warnings = []
    ends = bool(filters) and _is_about_all(filters[-1])
    if otherwise is not None and not ends:
        rules.append(Rule(verdict=otherwise))
    elif not ends:
        warnings.append(
            "the filter refuses what none of its rules is about; here that is asked about, or decided by later rules"
        )
    return Imported(tuple(_reachable(rules)), tuple(warnings))


def _rule(filtered: FilterRule) -> Rule:
    ids, mask = 0, 0
    for number, shift in ((filtered.vendor, 16), (filtered.product, 0)):
        if number != ANY:
            ids, mask = ids | number << shift, mask | 0xFFFF << shift
    return Rule(
        id=(Mask(ids, mask),) if mask else (),
        class_=() if filtered.class_ == ANY else (parse_class(f"{filtered.class_:02x}"),),
        bcd_device=None if filtered.version == ANY else (filtered.version, filtered.version),
        verdict=Verdict.ALLOW if filtered.allow else Verdict.DENY,
    )


def _is_about_all(filtered: FilterRule) -> bool:
    return (filtered.class_, filtered.vendor, filtered.product, filtered.version) == (ANY, ANY, ANY, ANY)


def _reachable(rules: list[Rule]) -> list[Rule]:
    """Without the rules that come after one that decides everything."""
    for position, rule in enumerate(rules):
        if not table_of(replace(rule, verdict=None)):
            return rules[: position + 1]
    return rules


class _Writer:
    """Collects filter rules, and what they do not say."""

    def __init__(self, ask: Verdict) -> None:
        self._ask = ask
        self.filters: list[FilterRule] = []
        self.warnings: list[str] = []

    def add(self, rule: Rule) -> None:
        if not rule.decides:
            self._warn(rule, "a filter has no quirks")
            return
        if replace(rule, where="", note="", source="", quirks=()) == PASSED_OVER:
            return
        verdict = Verdict.ALLOW if rule.follow else rule.verdict if rule.verdict in _BOTH else self._ask
        lost = _lost(rule)
        if not lost:
            self._append(rule, verdict)
            if rule.follow:
                self._warn(rule, "lets the interface through also where it is alone: a filter can't pass over it")
        elif verdict is not Verdict.DENY:
            self._warn(rule, f"left out, as a filter can't look at {lost}")
        elif not rule.id and not _classes(rule):
            self._warn(rule, f"as a filter can't look at {lost}, {_FAR_TOO_WIDE}")
        else:
            self._warn(rule, f"denies more than it says, as a filter can't look at {lost}")
            self._append(rule, verdict)

    def _append(self, rule: Rule, verdict: Verdict | None) -> None:
        version = rule.bcd_device[0] if rule.bcd_device and rule.bcd_device[0] == rule.bcd_device[1] else ANY
        allow = verdict is not Verdict.DENY
        for mask in rule.id or (Mask(0, 0),):
            for class_ in _classes(rule) or (ANY,):
                vendor, product = _whole(mask, 16), _whole(mask, 0)
                self.filters.append(FilterRule(class_, vendor, product, version, allow))

    def _warn(self, rule: Rule, reason: str) -> None:
        self.warnings.append(f"{rule.where or 'a rule'}: {reason}")


def _whole(mask: Mask, shift: int) -> int:
    """The word at `shift` if all its bits count, or ANY."""
    return mask.value >> shift & 0xFFFF if mask.mask >> shift & 0xFFFF == 0xFFFF else ANY


def _classes(rule: Rule) -> tuple[int, ...]:
    """Class codes it is about; none if it is about all."""
    if not rule.class_ or any(mask.mask >> 16 != 0xFF for mask in rule.class_):
        return ()
    return tuple(dict.fromkeys(mask.value >> 16 for mask in rule.class_))


def _lost(rule: Rule) -> str:
    """The conditions of a rule that a filter can't have, in words; empty if it can have all."""
    words = {"usage": rule.usage, "serial": rule.serial, "port": rule.port, "speed": rule.speed}
    words |= {"any": rule.any, "all": rule.all, "device-class": rule.device_class}
    lost = [word for word, value in words.items() if value]
    if any(mask.mask != 0xFF0000 for mask in rule.class_):
        lost.append("subclass and protocol")
    if any(mask.mask >> shift & 0xFFFF not in (0, 0xFFFF) for mask in rule.id for shift in (0, 16)):
        lost.append("parts of an id")
    if rule.bcd_device and rule.bcd_device[0] != rule.bcd_device[1]:
        lost.append("a range of releases")
    return " and ".join(lost)


def _written(filters: tuple[FilterRule, ...], form: Format) -> tuple[str, list[str]]:
    if form is Format.USBREDIR:
        return peers.format(filters), []
    if form is Format.QEMU:
        return peers.format(filters).replace(",", ":"), []
    from usbbridge.compat.libvirt import format_filter  # ElementTree is not needed by the other two

    return format_filter(filters)


def _read(text: str, form: Format) -> tuple[FilterRule, ...]:
    if form is Format.USBREDIR:
        return peers.parse(text.strip())
    if form is Format.QEMU:
        return peers.parse(text.strip(), field_separators=":")
    from usbbridge.compat.libvirt import parse_filter

    return parse_filter(text)
