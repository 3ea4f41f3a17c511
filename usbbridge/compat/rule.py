"""What the compatibility list says about a device: rules, and how they are applied.

A device is judged in several passes: by its own class, unless that is 00 or ef (which say "look at the interfaces"),
and by each of its interfaces. In every pass the first rule that matches and has a verdict decides; where none does,
the verdict is `ask`. The strictest verdict of all passes holds.

Some interfaces come along with others and mean nothing by themselves: a headset's volume keys, the data half of a
modem, the firmware update of a camera. Their rule says `follow` instead of a verdict: such an interface has no say. If
no interface has one, all are judged once more as if there were no `follow`, so that nothing gets by on them alone
(libusbredirfilter does the same, for HID interfaces without a boot protocol only).

Rules that have quirks and no verdict decide nothing: all that match count, and so do the quirks of the rules that
decided. What is said of a quirk first holds; `!no-reset` takes a quirk back that a later rule gives.

A device that goes by several ids (an identity) is one device: verdicts for one of them hold for the others, in their
place in the order, unless some rule names the one it has now. Quirks do not: each face has its own firmware.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final

from usbbridge.compat.pattern import Mask, triple
from usbbridge.usb.ch9 import ClassCode, Speed
from usbbridge.usb.entry import DeviceEntry
from usbbridge.usb.identity import class_name


class Verdict(StrEnum):
    """What may be done with a device, from the most to the least permissive; the strictest of several holds."""

    CONNECT = "connect"
    "It is attached by itself when it is plugged in."
    ALLOW = "allow"
    "It may be attached."
    ASK = "ask"
    "It may be attached only by an explicit request for it; what no rule matches is that."
    DENY = "deny"
    "It is never handed out, whoever asks."

    @property
    def strictness(self) -> int:
        """Compares verdicts: the higher, the stricter."""
        return list(Verdict).index(self)


QUIRKS: Final = {
    "no-reset": "never reset it: it does not come back from that, or comes back as something else",
    "no-streams": "offer no bulk streams: it claims them but fails with them",
    "no-read-ahead": "ask the drive for data only when the VM does: it needs a while between a command and its data",
    "delay": "wait a second between taking it from its kernel driver and using it",
}
"What can be done otherwise for a device, and why one would want it."

NOT: Final = "!"
"Before a quirk's name: this device does not need it, whatever a later rule says."

UNDECIDED: Final = "no rule is about it"
_OWN_CLASS_SAYS_NOTHING: Final = (ClassCode.PER_INTERFACE, ClassCode.MISCELLANEOUS)
_DEEDS: Final = {
    Verdict.CONNECT: "attached by itself, by",
    Verdict.ALLOW: "allowed by",
    Verdict.ASK: "asked about, by",
    Verdict.DENY: "denied by",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """What one pass is about: an interface, or the device's own class."""

    number: int | None
    "bInterfaceNumber; None for the device's own class."
    triple: int
    usages: tuple[int, ...] = ()

    def __str__(self) -> str:
        class_, subclass, protocol = self.triple >> 16, self.triple >> 8 & 0xFF, self.triple & 0xFF
        what = "its own class" if self.number is None else f"interface {self.number}"
        return f"{what} ({class_name(class_, subclass, protocol)}, {class_:02x}/{subclass:02x}/{protocol:02x})"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: conditions, of which an empty one is always met, and what holds for a device that meets them all."""

    id: tuple[Mask, ...] = ()
    "idVendor << 16 | idProduct is one of these."
    bcd_device: tuple[int, int] | None = None
    "First and last release it is about."
    class_: tuple[Mask, ...] = ()
    "Class, subclass and protocol of what is judged: an interface, or the device's own."
    usage: tuple[Mask, ...] = ()
    "What is judged is a HID interface with an application usage among these."
    any: tuple[Mask, ...] = ()
    "Some interface, or the device's own class, is one of these; which of them is judged does not matter."
    all: tuple[Mask, ...] = ()
    "Every interface, and the device's own class if it says anything, is one of these."
    device_class: tuple[Mask, ...] = ()
    "bDeviceClass, bDeviceSubClass and bDeviceProtocol are one of these."
    serial: tuple[str, ...] = ()
    "The serial number is one of these; `*`, `?` and `[a-z]` as in the shell."
    port: tuple[str, ...] = ()
    "It is plugged in at one of these, for instance `1-2` or `1-2.*`; the same wildcards."
    speed: tuple[Speed, ...] = ()
    verdict: Verdict | None = None
    follow: bool = False
    "Instead of a verdict: the interface has no say."
    quirks: tuple[str, ...] = ()
    note: str = ""
    "Why, for people."
    source: str = ""
    "Where that is known from."
    where: str = ""
    "Where the rule stands: FILE:LINE or `local:ID`."

    @property
    def decides(self) -> bool:
        """Whether it ends the search; if not, it only adds quirks."""
        return self.verdict is not None or self.follow

    def is_about(self, device: DeviceEntry, passes: tuple[Judged, ...]) -> bool:
        """Whether the device meets the conditions that are the same in every pass."""
        number = device.vendor << 16 | device.product
        if self.id and not any(mask.matches(number) for mask in self.id):
            return False
        if self.bcd_device and not self.bcd_device[0] <= device.bcd_device <= self.bcd_device[1]:
            return False
        if self.speed and device.speed not in self.speed:
            return False
        if not (_among(device.serial, self.serial) and _among(device.bus_port, self.port)):
            return False
        return self._suits_classes(device, passes)

    def _suits_classes(self, device: DeviceEntry, passes: tuple[Judged, ...]) -> bool:
        own = triple(device.class_, device.subclass, device.protocol)
        if self.device_class and not _is_one(own, self.device_class):
            return False
        if self.any and not any(_is_one(each.triple, self.any) for each in passes):
            return False
        return not self.all or all(_is_one(each.triple, self.all) for each in passes)

    def suits(self, judged: Judged) -> bool:
        """Whether what is judged in this pass meets the other conditions."""
        if self.class_ and not _is_one(judged.triple, self.class_):
            return False
        return not self.usage or any(_is_one(usage, self.usage) for usage in judged.usages)


def is_glob(text: str) -> bool:
    """Whether a pattern for serial numbers or ports has wildcards."""
    return any(character in text for character in "*?[")


def _is_one(number: int, masks: tuple[Mask, ...]) -> bool:
    return any(mask.matches(number) for mask in masks)


def _among(text: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatchcase(text, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Identity:
    """Ids under which one and the same device is known at different times: boot loader and application, for one."""

    name: str
    ids: tuple[tuple[int, int], ...]
    "(idVendor, idProduct) of each."
    note: str = ""
    source: str = ""
    where: str = ""


def other_faces(identities: Iterable[Identity], own: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """The ids that a device goes by at other times, by the identities that have its own."""
    return tuple(dict.fromkeys(ids for identity in identities for ids in identity.ids if ids != own))


@dataclass(frozen=True, slots=True)
class Decision:
    """What the list says about a device."""

    verdict: Verdict
    rule: str = ""
    "Where the rule stands that decided: FILE:LINE, `local:ID`, or empty if none matched."
    interface: int | None = None
    "bInterfaceNumber of the interface that decided; None if it was the device's own class."
    because: str = ""
    "Both in words."
    quirks: tuple[str, ...] = ()
    identities: tuple[Identity, ...] = ()
    "What else the same device is known as at other times."


@dataclass(frozen=True, slots=True)
class Pass:
    """One step of judging a device: what was judged, and the rule that matched."""

    judged: Judged
    rule: Rule | None
    has_say: bool = True
    "False if its rule says `follow`, and some other interface decides."

    @property
    def verdict(self) -> Verdict:
        return self.rule.verdict if self.rule and self.rule.verdict else Verdict.ASK

    def __str__(self) -> str:
        if self.rule is None:
            return f"{self.judged} is asked about: {UNDECIDED}"
        note = f": {self.rule.note}" if self.rule.note else ""
        if not self.has_say:
            return f"{self.judged} follows the others, by {self.rule.where}{note}"
        return f"{self.judged} is {_DEEDS[self.verdict]} {self.rule.where}{note}"


def passes_of(device: DeviceEntry) -> tuple[Judged, ...]:
    """What is judged of a device, in order."""
    interfaces = tuple(Judged(i.number, triple(i.class_, i.subclass, i.protocol), i.usages) for i in device.interfaces)
    if device.class_ in _OWN_CLASS_SAYS_NOTHING and interfaces:
        return interfaces
    return (Judged(None, triple(device.class_, device.subclass, device.protocol)), *interfaces)
