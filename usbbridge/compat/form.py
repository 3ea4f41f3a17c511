"""A rule as a table of keys and texts, as TOML and the database hold it, and back; all its mistakes are found at once.

The keys, each a condition unless said otherwise; where several values are possible, one may stand without brackets:

    id              "0781:5567", "0781:*", "0781:55??", or a list: vendor and product
    bcd-device      "0100", "0100-01ff", "0100-", "-01ff": release
    class           "08", "08/06", "08/06/50", or a list: of the interface that is judged, or of the device
    usage           "f1d0:0001", "f1d0:*", or a list: application usages of the HID interface that is judged
    any             classes, of which some interface has one
    all             classes, of which every interface has one
    device-class    classes, of which the device itself has one
    serial, port    text with the wildcards * ? [a-z], or a list
    speed           "low", "full", "high", "super", "super-plus", or a list
    verdict         what holds: "connect", "allow", "ask", "deny", or "follow"
    quirks          what else holds: a list of names, `!name` takes one back
    note, source    why, and where that is known from
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from usbbridge.compat.pattern import (
    Mask,
    PatternError,
    format_class,
    format_pair,
    format_release,
    parse_class,
    parse_id,
    parse_release,
    parse_usage,
)
from usbbridge.compat.rule import NOT, QUIRKS, Identity, Rule, Verdict
from usbbridge.usb.ch9 import ClassCode, Speed
from usbbridge.usb.identity import parse_ids

FOLLOW: Final = "follow"
VERDICTS: Final = (*(verdict.value for verdict in Verdict), FOLLOW)
SPEEDS: Final = {speed.name.lower().replace("_", "-"): speed for speed in Speed if speed is not Speed.UNKNOWN}

MAX_TEXT: Final = 500
"Characters in one value: a note is a sentence or two."
MAX_VALUES: Final = 1000
"Values in one list: as many ids as the longest list of devices that share a quirk could have, and more."

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong with the value of a key, or with the whole if `key` is empty."""

    key: str
    reason: str


class FormError(ValueError):
    """The table is no rule."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(f"{m.key}: {m.reason}" if m.key else m.reason for m in self.mistakes))


def rule_of(table: Mapping[str, object], where: str = "") -> Rule:
    """The rule in a table. Raises FormError with everything that is wrong."""
    form = _Form(table)
    form.known((*_LISTS, "bcd-device", "verdict", "quirks", "note", "source"))
    rule = Rule(
        **{_field(key): form.several(key, parse) for key, (parse, _) in _LISTS.items()},
        bcd_device=form.one("bcd-device", parse_release),
        follow=form.one("verdict", _verdict) == FOLLOW,
        verdict=_as_verdict(form.one("verdict", _verdict)),
        quirks=form.several("quirks", _quirk),
        note=form.one("note", str) or "",
        source=form.one("source", str) or "",
        where=where,
    )
    if not form.mistakes and not rule.decides and not rule.quirks:
        form.wrong("", "it has neither a verdict nor quirks: nothing would follow from it")
    if not form.mistakes and rule.usage and any(not _is_hid(mask) for mask in rule.class_):
        form.wrong("usage", "only HID interfaces (class 03) have usages")
    form.check()
    return rule


def table_of(rule: Rule) -> dict[str, Any]:
    """The table that `rule_of` reads as this rule; conditions that are always met are left out."""
    table: dict[str, Any] = {}
    for key, (_, write) in _LISTS.items():
        texts = [write(value) for value in getattr(rule, _field(key))]
        if texts:
            table[key] = texts[0] if len(texts) == 1 else texts
    if rule.bcd_device:
        table["bcd-device"] = format_release(rule.bcd_device)
    if rule.decides:
        table["verdict"] = rule.verdict.value if rule.verdict else FOLLOW
    if rule.quirks:
        table["quirks"] = list(rule.quirks)
    return table | {key: text for key, text in (("note", rule.note), ("source", rule.source)) if text}


def identity_of(table: Mapping[str, object], where: str = "") -> Identity:
    """The identity in a table with `name`, `ids`, `note` and `source`. Raises FormError."""
    form = _Form(table)
    form.known(("name", "ids", "note", "source"))
    name = form.one("name", str) or ""
    ids = form.several("ids", _ids)
    if not form.mistakes and not name:
        form.wrong("name", "which device this is, is missing")
    if not form.mistakes and len(set(ids)) < 2:
        form.wrong("ids", "a device that is known as one thing needs no entry: two different ids at least")
    form.check()
    return Identity(name, ids, form.one("note", str) or "", form.one("source", str) or "", where)


def identity_table(identity: Identity) -> dict[str, Any]:
    """The table that `identity_of` reads as this."""
    table: dict[str, Any] = {"name": identity.name, "ids": [f"{v:04x}:{p:04x}" for v, p in identity.ids]}
    return table | {key: text for key, text in (("note", identity.note), ("source", identity.source)) if text}


def toml_of(table: Mapping[str, Any], kind: str = "rule") -> str:
    """The table in TOML, as a source file holds it."""
    return "".join([f"[[{kind}]]\n", *(f"{key} = {_toml_value(value)}\n" for key, value in table.items())])


def toml_string(text: str) -> str:
    """A basic string (TOML 1.0)."""
    escaped = (f"\\u{ord(c):04x}" if ord(c) < 0x20 or ord(c) == 0x7F else f"\\{c}" if c in '"\\' else c for c in text)
    return f'"{"".join(escaped)}"'


def closest(word: str, words: Iterable[str]) -> str:
    """`, did you mean WORD?` if one is close."""
    import difflib  # a millisecond that only a mistake is worth

    found = difflib.get_close_matches(word, list(words), 1)
    return f"; did you mean {found[0]}?" if found else ""


@dataclass(slots=True)
class _Form:
    """A table being read."""

    table: Mapping[str, object]
    mistakes: list[Mistake] = field(default_factory=list)

    def wrong(self, key: str, reason: str) -> None:
        if Mistake(key, reason) not in self.mistakes:
            self.mistakes.append(Mistake(key, reason))

    def check(self) -> None:
        if self.mistakes:
            raise FormError(self.mistakes)

    def known(self, keys: tuple[str, ...]) -> None:
        for key in self.table:
            if key not in keys:
                self.wrong(key, f"there is no such key{closest(key, keys)}")

    def one(self, key: str, parse: Callable[[str], T]) -> T | None:
        """The value of a key that has only one; None if it isn't there or is wrong."""
        value = self.table.get(key)
        if isinstance(value, list):
            self.wrong(key, "one text, not a list")
            return None
        return None if value is None else self._read(key, value, parse)

    def several(self, key: str, parse: Callable[[str], T]) -> tuple[T, ...]:
        """The values of a key, one text or a list of them."""
        value = self.table.get(key, [])
        values = value if isinstance(value, list) else [value]
        if not values and key in self.table:
            self.wrong(key, "an empty list would match nothing; leave the key out to match anything")
        if len(values) > MAX_VALUES:
            self.wrong(key, f"{len(values)} values; the limit is {MAX_VALUES}")
            return ()
        read = [self._read(key, each, parse) for each in values]
        if len(set(read)) < len(read) and None not in read:
            self.wrong(key, "one value is there twice")
        return tuple(each for each in read if each is not None)

    def _read(self, key: str, value: object, parse: Callable[[str], T]) -> T | None:
        if not isinstance(value, str):
            self.wrong(key, f"{value!r:.40} is not a text; put it into quotes")
            return None
        if not value or len(value) > MAX_TEXT:
            self.wrong(key, f"a text of {len(value)} characters; 1 to {MAX_TEXT} are possible")
            return None
        try:
            return parse(value)
        except PatternError as error:
            self.wrong(key, str(error))
            return None


def _verdict(text: str) -> str:
    if text not in VERDICTS:
        raise PatternError(f"there is no verdict {text!r}: it is {', '.join(VERDICTS)}{closest(text, VERDICTS)}")
    return text


def _as_verdict(text: str | None) -> Verdict | None:
    return None if text in (None, FOLLOW) else Verdict(text)


def _quirk(text: str) -> str:
    if text.removeprefix(NOT) not in QUIRKS:
        raise PatternError(f"there is no quirk {text!r}: there are {', '.join(QUIRKS)}{closest(text, QUIRKS)}")
    return text


def _speed(text: str) -> Speed:
    if text not in SPEEDS:
        raise PatternError(f"there is no speed {text!r}: it is {', '.join(SPEEDS)}")
    return SPEEDS[text]


def _speed_name(speed: Speed) -> str:
    return next(name for name, value in SPEEDS.items() if value is speed)


def _port(text: str) -> str:
    if not set(text) <= set("0123456789-.*?[]"):
        raise PatternError(f"{text!r} is no port: it is bus-port, for instance 1-2, or 1-2.* for what is behind a hub")
    return text


def _ids(text: str) -> tuple[int, int]:
    ids = parse_ids(text)
    if ids is None:
        raise PatternError(f"{text!r}: an id is VID:PID in hexadecimal, here without wildcards")
    return ids


def _is_hid(mask: Mask) -> bool:
    return mask.mask >> 16 == 0 or mask.value >> 16 == ClassCode.HID


def _field(key: str) -> str:
    return {"class": "class_"}.get(key, key.replace("-", "_"))


_LISTS: Final[dict[str, tuple[Callable[[str], Any], Callable[[Any], str]]]] = {
    "id": (parse_id, format_pair),
    "class": (parse_class, format_class),
    "usage": (parse_usage, format_pair),
    "any": (parse_class, format_class),
    "all": (parse_class, format_class),
    "device-class": (parse_class, format_class),
    "serial": (str, str),
    "port": (_port, str),
    "speed": (_speed, _speed_name),
}
"Conditions with several values: how each is read and written."


def _toml_value(value: str | list[str]) -> str:
    if isinstance(value, str):
        return toml_string(value)
    items = [toml_string(item) for item in value]
    short = f"[{', '.join(items)}]"
    return short if len(short) <= _TOML_WIDTH else "".join(["[\n", *(f"    {item},\n" for item in items), "]"])


_TOML_WIDTH: Final = 100
"A longer list gets a line for each item."
