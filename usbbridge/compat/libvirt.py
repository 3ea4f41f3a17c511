"""libvirt's `<redirfilter>`: usbredir's filter rules as XML (libvirt.org/formatdomain.html, "Redirected devices").

A version is written there as two pairs of decimal digits, `2.56` for bcdDevice 0256h: a release that is not binary
coded decimal can't be said.
"""

import re
from typing import Final
from xml.etree import ElementTree

from usbbridge.errors import UsageError
from usbbridge.usbredir.filter import ANY, FilterRule

MAX_TEXT: Final = 1 << 20
"Characters of a document: a domain with everything in it has some ten thousand."

_VERSION: Final = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})")
_NUMBERS: Final = (("class", 2), ("vendor", 4), ("product", 4))


def format_filter(filters: tuple[FilterRule, ...]) -> tuple[str, list[str]]:
    """The element, and warnings for versions that can't be said."""
    lines, warnings = [], []
    for each in filters:
        version = _format_version(each.version)
        if version is None:
            reason = "denies all releases" if not each.allow else "is left out"
            warnings.append(f"version {each.version:04x} is not decimal, as libvirt has it: its rule {reason}")
            if each.allow:
                continue
        lines.append(_format_device(each, version or ""))
    return "\n".join(["<redirfilter>", *lines, "</redirfilter>"]), warnings


def _format_device(each: FilterRule, version: str) -> str:
    numbers = zip(_NUMBERS, (each.class_, each.vendor, each.product), strict=True)
    texts = [f"{name}='0x{number:0{digits}X}'" for (name, digits), number in numbers if number != ANY]
    texts += [f"version='{version}'"] if version else []
    return "  " + " ".join(["<usbdev", *texts, f"allow='{'yes' if each.allow else 'no'}'/>"])


def _format_version(version: int) -> str | None:
    """Empty for any version; None for one that is not decimal."""
    if version == ANY:
        return ""
    digits = f"{version:04x}"
    return f"{int(digits[:2])}.{digits[2:]}" if digits.isdecimal() else None


def parse_filter(text: str) -> tuple[FilterRule, ...]:
    """The rules of the first `<redirfilter>` in a document. Raises UsageError."""
    if len(text) > MAX_TEXT or "<!" in text.replace("<!--", ""):
        raise _bad(text[:40], "too long, or with a document type")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - what is dangerous in XML is a document type, and there is none
    except ElementTree.ParseError as error:
        raise _bad(text[:40], str(error)) from error
    found = root if root.tag == "redirfilter" else root.find(".//redirfilter")
    if found is None:
        raise _bad(text[:40], "it has no <redirfilter>")
    return tuple(_parse_device(each) for each in found.iter("usbdev"))


def _parse_device(element: ElementTree.Element) -> FilterRule:
    unknown = set(element.attrib) - {"class", "vendor", "product", "version", "allow"}
    if unknown or element.get("allow") not in ("yes", "no"):
        raise _bad(str(element.attrib), "a usbdev has class, vendor, product, version, and allow, yes or no")
    class_, vendor, product = (_parse_number(element.get(name)) for name, _ in _NUMBERS)
    version = _parse_version(element.get("version"))
    return FilterRule(class_, vendor, product, version, element.get("allow") == "yes")


def _parse_number(text: str | None) -> int:
    if text in (None, "-1"):
        return ANY
    try:
        return int(text, 16 if text.lower().startswith("0x") else 10)
    except ValueError as error:
        raise _bad(text, "not a number") from error


def _parse_version(text: str | None) -> int:
    if text in (None, "-1"):
        return ANY
    match = _VERSION.fullmatch(text)
    if match is None:
        raise _bad(text, "a version is two decimal numbers, as in 2.56")
    return int(f"{int(match[1]):02}{int(match[2]):02}", 16)


def _bad(text: str, reason: str) -> UsageError:
    return UsageError(f"bad libvirt filter {text[:80]!r}: {reason}")
