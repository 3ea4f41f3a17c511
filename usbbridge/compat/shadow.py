"""Which rules can never match, because an earlier one matches whatever they would."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Final

from usbbridge.compat.pattern import Mask
from usbbridge.compat.rule import Rule, is_glob
from usbbridge.compat.ruleset import Index

_RARE_MASKS: Final = ("usage", "all", "device_class")
_CONDITIONS: Final = ("id", "class_", "serial", "port", *_RARE_MASKS, "bcd_device", "any", "speed")


def shadows(rules: Sequence[Rule]) -> Iterator[tuple[Rule, str]]:
    """Every rule that is never reached or is there twice, and why.

    A rule that says `follow` hides none that gives a verdict: where all interfaces follow, the rules after it count.
    """
    index = Index(enumerate(rules))
    for position, rule in enumerate(rules):
        earlier = {n: other for bucket in index.could_cover(rule) for n, other in bucket if n < position}
        for _, other in sorted(earlier.items()):
            reason = _reason(other, rule)
            if reason:
                yield rule, reason
                break


def _reason(earlier: Rule, rule: Rule) -> str:
    """Why `rule` is of no use after `earlier`; empty if it is."""
    if earlier.decides != rule.decides or (earlier.follow and not rule.follow) or not covers(earlier, rule):
        return ""
    same = (earlier.verdict, earlier.follow, earlier.quirks) == (rule.verdict, rule.follow, rule.quirks)
    if same_conditions(earlier, rule) and (same or earlier.decides):
        return f"there twice, {'the same' if same else 'and differently'}: {earlier.where} comes first"
    if earlier.decides:
        return f"never reached: {earlier.where} comes first and matches everything this one does"
    return ""


def same_conditions(one: Rule, other: Rule) -> bool:
    """Whether two rules match the same, as far as one can see without thinking of wildcards."""
    return all(_as_set(getattr(one, name)) == _as_set(getattr(other, name)) for name in _CONDITIONS)


def _as_set(value: object) -> object:
    return frozenset(value) if isinstance(value, tuple) else value


def covers(earlier: Rule, rule: Rule) -> bool:
    """Whether `earlier` surely matches whatever `rule` matches, in every pass."""
    if earlier.id and not _masks_cover(earlier.id, rule.id):
        return False
    if earlier.serial and not _texts_cover(earlier.serial, rule.serial):
        return False
    if earlier.class_ and not _masks_cover(earlier.class_, rule.class_):
        return False
    return _covers_the_rest(earlier, rule)


def _covers_the_rest(earlier: Rule, rule: Rule) -> bool:
    """The conditions that few rules have."""
    return (
        all(_masks_cover(getattr(earlier, name), getattr(rule, name)) for name in _RARE_MASKS)
        and (_masks_cover(earlier.any, rule.any) or _masks_cover(earlier.any, rule.class_))
        and _texts_cover(earlier.port, rule.port)
        and (not earlier.speed or (bool(rule.speed) and set(rule.speed) <= set(earlier.speed)))
        and _range_covers(earlier.bcd_device, rule.bcd_device)
    )


def _masks_cover(wide: tuple[Mask, ...], narrow: tuple[Mask, ...]) -> bool:
    """Whether every alternative in `narrow` is within one of `wide`; no alternatives at all means everything."""
    return not wide or (bool(narrow) and all(any(w.covers(n) for w in wide) for n in narrow))


def _texts_cover(wide: tuple[str, ...], narrow: tuple[str, ...]) -> bool:
    return not wide or (bool(narrow) and all(any(_text_covers(w, n) for w in wide) for n in narrow))


def _text_covers(wide: str, narrow: str) -> bool:
    """Held for a pattern without wildcards, or with one `*` at its end; for others only if both are the same."""
    if wide == narrow:
        return True
    if not is_glob(narrow):
        return fnmatchcase(narrow, wide)
    return wide.endswith("*") and not is_glob(wide[:-1]) and narrow.startswith(wide[:-1])


def _range_covers(wide: tuple[int, int] | None, narrow: tuple[int, int] | None) -> bool:
    first, last = narrow or (0, 0xFFFF)
    return wide is None or (wide[0] <= first and last <= wide[1])
