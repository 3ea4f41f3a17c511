"""Filter rules: which devices one end of a connection lets through; usbredirfilter.h's language, read more strictly.

A filter is `class,vendor,product,version,allow`, joined by `|`; -1 matches anything, numbers are decimal, 0x hexa-
decimal or 0 octal. Separators collapse, so that `||` and `,,` count once. The first rule that matches decides.

A device is judged in several passes, each with the rules from the start: once by its device class, unless that is 0x00
or 0xef (which say "look at the interfaces"), and once for each interface by the interface's class. Vendor, product and
version count in every pass. Every pass must allow. An interface that is HID without a boot protocol (3/0/0) is passed
over if there are others, because headsets have one for their volume keys; if all would be passed over, none is.

Where libusbredirfilter errs towards letting a device through, we do not. All such cases:

    a number that does not fit    cut to 32 bits before its range is checked: 0x100000003 is    an error
                                  class 3, 99999999999999999999 is -1 and so matches anything
    allow other than 0 and 1      any number but 0 allows, also -1                              an error
    no interfaces, class 00 or ef no pass at all: allowed, even by an empty filter              one pass by that class
    a peer's unreadable filter    ignored with a log line: everything is allowed                `rules_of_peer`: deny
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from usbbridge.usbredir.errors import FilterError
from usbbridge.usbredir.packets import InterfaceEntry

ANY = -1
"Matches every value of a field."

_CLASS_MAX = 0xFF
_WORD_MAX = 0xFFFF
_FIELDS = (("class", _CLASS_MAX), ("vendor", _WORD_MAX), ("product", _WORD_MAX), ("version", _WORD_MAX))
_HID_WITHOUT_BOOT = (3, 0, 0)
_CLASSES_OF_INTERFACES = (0x00, 0xEF)
"bDeviceClass 00h: each interface has its own; EFh: miscellaneous, for interface associations (USB-IF class codes)."

# strtol(s, &end, 0) of C11 7.22.1.4 with *end == 0: white space may lead, a sign may follow, nothing may trail.
_NUMBER = re.compile(r"[ \t\n\v\f\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))", re.ASCII)
_MAX_DIGITS = 16
"More digits than this are out of every range, and int() takes quadratic time and refuses beyond 4300 of them."


@dataclass(frozen=True, slots=True)
class FilterRule:
    """One rule; `ANY` for what it does not look at. Raises `FilterError` if a number is out of range."""

    class_: int
    vendor: int
    product: int
    version: int
    allow: bool

    def __post_init__(self) -> None:
        numbers = (self.class_, self.vendor, self.product, self.version)
        for (name, most), number in zip(_FIELDS, numbers, strict=True):
            if not ANY <= number <= most:
                raise FilterError(f"{number:#x}", f"{name} must be -1 or 0 to {most:#x}")

    def matches(self, class_: int, vendor: int, product: int, version: int) -> bool:
        """Whether the rule is about a device or interface of these numbers."""
        return (
            self.class_ in (ANY, class_)
            and self.vendor in (ANY, vendor)
            and self.product in (ANY, product)
            and self.version in (ANY, version)
        )


DENY_ALL: tuple[FilterRule, ...] = (FilterRule(ANY, ANY, ANY, ANY, False),)


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a filter looks at. `version` is bcdDevice; `interfaces` is empty while the device is unconfigured."""

    class_: int
    subclass: int
    protocol: int
    vendor: int
    product: int
    version: int
    interfaces: tuple[InterfaceEntry, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a device may pass, and what decided: the rule that denied, and the interface it was denied for."""

    allowed: bool
    rule: FilterRule | None = None
    "None if the device is allowed, or if no rule matched."
    interface: InterfaceEntry | None = None
    "None if the device is allowed, or was judged by its device class."


def parse(text: str, *, field_separators: str = ",", rule_separators: str = "|") -> tuple[FilterRule, ...]:
    """The rules of a filter string; none for an empty one. Raises `FilterError`.

    Separators are sets of characters: `field_separators=":"` reads what QEMU's command line takes.
    """
    return tuple(_parse_rule(rule, field_separators) for rule in _split(text, rule_separators))


def rules_of_peer(text: str) -> tuple[FilterRule, ...]:
    """The rules a peer sent, or `DENY_ALL` if they cannot be read: a peer that filters does not mean "anything"."""
    try:
        return parse(text)
    except FilterError:
        return DENY_ALL


def format(rules: Iterable[FilterRule]) -> str:
    """A filter string of these rules, written as libusbredirfilter writes it."""
    return "|".join(_format_rule(rule) for rule in rules)


def check(
    rules: Sequence[FilterRule],
    device: DeviceFacts,
    *,
    default_allow: bool = False,
    dont_skip_non_boot_hid: bool = False,
) -> Verdict:
    """Judge a device. `default_allow` is the verdict of a pass in which no rule matches."""
    for class_, interface in _passes(device, dont_skip_non_boot_hid):
        rule = _first_match(rules, class_, device)
        if not (default_allow if rule is None else rule.allow):
            return Verdict(False, rule, interface)
    return Verdict(True)


def _passes(device: DeviceFacts, dont_skip: bool) -> Iterable[tuple[int, InterfaceEntry | None]]:
    if device.class_ not in _CLASSES_OF_INTERFACES or not device.interfaces:
        yield device.class_, None
    judged = [each for each in device.interfaces if not _is_hid_without_boot(each)]
    if dont_skip or not judged:
        judged = list(device.interfaces)
    for interface in judged:
        yield interface.class_, interface


def _is_hid_without_boot(interface: InterfaceEntry) -> bool:
    return (interface.class_, interface.subclass, interface.protocol) == _HID_WITHOUT_BOOT


def _first_match(rules: Sequence[FilterRule], class_: int, device: DeviceFacts) -> FilterRule | None:
    for rule in rules:
        if rule.matches(class_, device.vendor, device.product, device.version):
            return rule
    return None


def _split(text: str, separators: str) -> list[str]:
    """What strtok finds: the non-empty stretches between any of the separators."""
    return [part for part in re.split(f"[{re.escape(separators)}]", text) if part]


def _parse_rule(text: str, separators: str) -> FilterRule:
    tokens = _split(text, separators)
    if len(tokens) != len(_FIELDS) + 1:
        raise FilterError(text, f"a rule has {len(_FIELDS) + 1} fields, this one {len(tokens)}")
    class_, vendor, product, version, allow = (_number(token) for token in tokens)
    if allow not in (0, 1):
        raise FilterError(text, "allow must be 0 or 1")
    return FilterRule(class_, vendor, product, version, allow == 1)


def _number(token: str) -> int:
    match = _NUMBER.fullmatch(token)
    if match is None:
        raise FilterError(token, "not a number")
    sign, hexadecimal, octal, decimal = match.groups()
    digits = (hexadecimal or octal or decimal).lstrip("0") or "0"
    if len(digits) > _MAX_DIGITS:
        raise FilterError(token, "number too long")
    value = int(digits, 16 if hexadecimal else 8 if octal else 10)
    return -value if sign == "-" else value


def _format_rule(rule: FilterRule) -> str:
    words = (_hex(rule.vendor, 4), _hex(rule.product, 4), _hex(rule.version, 4))
    return ",".join((_hex(rule.class_, 2), *words, "1" if rule.allow else "0"))


def _hex(value: int, digits: int) -> str:
    return "-1" if value == ANY else f"0x{value:0{digits}x}"
