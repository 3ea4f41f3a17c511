"""Rules in their order, and a quick way from a device to those that could be about it."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from heapq import merge
from typing import Final

from usbbridge.compat.rule import NOT, Decision, Identity, Judged, Pass, Rule, is_glob, other_faces, passes_of
from usbbridge.usb.entry import DeviceEntry


class RuleSet:
    """Rules in their order, with an index: a decision looks at the few rules that could be about the device."""

    def __init__(self, rules: Iterable[Rule] = (), identities: Iterable[Identity] = ()) -> None:
        self.rules = tuple(rules)
        self.identities = tuple(identities)
        self._deciding = Index((n, rule) for n, rule in enumerate(self.rules) if rule.decides)
        self._quirks = Index((n, rule) for n, rule in enumerate(self.rules) if not rule.decides)
        self._position = {id(rule): n for n, rule in enumerate(self.rules)}
        self._known_as: dict[tuple[int, int], list[Identity]] = {}
        for identity in self.identities:
            for ids in identity.ids:
                self._known_as.setdefault(ids, []).append(identity)

    def judge(self, device: DeviceEntry) -> Decision:
        """What the rules say about a device."""
        steps = self.explain(device)
        identities = self._identities_of(device)
        decided = max((step for step in steps if step.has_say), key=lambda step: step.verdict.strictness)
        return Decision(
            decided.verdict,
            decided.rule.where if decided.rule else "",
            decided.judged.number,
            str(decided),
            self._quirks_of(device, steps),
            identities,
        )

    def explain(self, device: DeviceEntry) -> tuple[Pass, ...]:
        """Every pass, and the rule that matched in it."""
        judged = passes_of(device)
        search = _Search(self._deciding, device, judged, self._faces_of(device))
        found = [Pass(each, search.first(each, follow=each.number is not None)) for each in judged]
        steps = [Pass(step.judged, step.rule, not (step.rule and step.rule.follow)) for step in found]
        if not any(step.has_say for step in steps if step.judged.number is not None):
            steps = [step if step.has_say else Pass(step.judged, search.first(step.judged)) for step in steps]
        return tuple(steps)

    def _identities_of(self, device: DeviceEntry) -> tuple[Identity, ...]:
        return tuple(self._known_as.get((device.vendor, device.product), ()))

    def _faces_of(self, device: DeviceEntry) -> tuple[DeviceEntry, ...]:
        """The device with each of the ids it goes by at other times."""
        others = other_faces(self._identities_of(device), (device.vendor, device.product))
        return tuple(replace(device, vendor=vendor, product=product) for vendor, product in others)

    def _quirks_of(self, device: DeviceEntry, steps: tuple[Pass, ...]) -> tuple[str, ...]:
        passes = tuple(step.judged for step in steps)
        matching = [step.rule for step in steps if step.rule and step.has_say]
        search = _Search(self._quirks, device, passes)
        matching += dict.fromkeys(rule for judged in passes for rule in search.all(judged))
        said: dict[str, bool] = {}
        for rule in sorted(matching, key=lambda rule: self._position[id(rule)]):
            for quirk in rule.quirks:
                said.setdefault(quirk.removeprefix(NOT), not quirk.startswith(NOT))
        return tuple(quirk for quirk, holds in said.items() if holds)


Bucket = list[tuple[int, Rule]]
"Rules with their positions, in order."


class Index:
    """Rules by the narrowest of their conditions that is exact: ids, vendor, serial number, port, class."""

    def __init__(self, rules: Iterable[tuple[int, Rule]]) -> None:
        self._by: dict[tuple[str, int | str], Bucket] = {}
        for position, rule in rules:
            for key in dict.fromkeys(keys_of(rule)):
                self._by.setdefault(key, []).append((position, rule))

    def of_device(self, device: DeviceEntry) -> Iterator[tuple[int, Rule]]:
        """Rules that could be about the device in any pass, in no order."""
        ids = device.vendor << 16 | device.product
        for key in (
            ("id", ids),
            ("vendor", device.vendor),
            ("serial", device.serial),
            ("port", device.bus_port),
            _REST,
        ):
            yield from self._by.get(key, ())

    def naming(self, device: DeviceEntry) -> Bucket:
        """Those of them that name its ids, both of them."""
        return self._by.get(("id", device.vendor << 16 | device.product), [])

    def of_class(self, class_: int) -> Bucket:
        """Those that could be about an interface of this class besides, in order."""
        return self._by.get(("class", class_), [])

    def could_cover(self, rule: Rule) -> Iterator[Bucket]:
        """Where rules can be that match whatever `rule` matches."""
        keys: set[tuple[str, int | str]] = {_REST}
        keys |= {("id", mask.value) for mask in rule.id} | {("vendor", mask.value >> 16) for mask in rule.id}
        keys |= {("serial", text) for text in rule.serial} | {("port", text) for text in rule.port}
        keys |= {("class", mask.value >> 16) for mask in rule.class_}
        for key in keys:
            yield self._by.get(key, [])


_REST: Final[tuple[str, int | str]] = ("", 0)
_VENDOR: Final = 0xFFFF0000
_EXACT: Final = 0xFFFFFFFF
_CLASS: Final = 0xFF0000


def keys_of(rule: Rule) -> Iterator[tuple[str, int | str]]:
    """The keys a rule is filed under; one of them is among those of every device and pass that it matches."""
    if rule.id and all(mask.mask & _VENDOR == _VENDOR for mask in rule.id):
        for mask in rule.id:
            yield ("id", mask.value) if mask.mask == _EXACT else ("vendor", mask.value >> 16)
    elif rule.serial and not any(map(is_glob, rule.serial)):
        yield from (("serial", text) for text in rule.serial)
    elif rule.port and not any(map(is_glob, rule.port)):
        yield from (("port", text) for text in rule.port)
    elif rule.class_ and all(mask.mask & _CLASS for mask in rule.class_):
        yield from (("class", mask.value >> 16) for mask in rule.class_)
    else:
        yield _REST


class _Search:
    """Looks for rules about one device. What is the same in every pass is looked at once.

    Verdicts about its other `faces` hold as well, unless some rule names what it is now.
    """

    def __init__(
        self, index: Index, device: DeviceEntry, passes: tuple[Judged, ...], faces: Iterable[DeviceEntry] = ()
    ) -> None:
        about = {position: rule for position, rule in index.of_device(device) if rule.is_about(device, passes)}
        if not any(position in about for position, _ in index.naming(device)):
            about |= {n: r for face in faces for n, r in index.naming(face) if r.verdict and r.is_about(face, passes)}
        self._about = sorted(about.items())
        self._of_class = {
            class_: [(n, rule) for n, rule in index.of_class(class_) if rule.is_about(device, passes)]
            for class_ in {judged.triple >> 16 for judged in passes}
        }

    def first(self, judged: Judged, *, follow: bool = False) -> Rule | None:
        """The first rule that matches in a pass; with those that say `follow`, if they count."""
        return next((rule for rule in self.all(judged) if follow or not rule.follow), None)

    def all(self, judged: Judged) -> Iterator[Rule]:
        """The rules that match in a pass, in order."""
        for _, rule in merge(self._about, self._of_class[judged.triple >> 16], key=lambda found: found[0]):
            if rule.suits(judged):
                yield rule
