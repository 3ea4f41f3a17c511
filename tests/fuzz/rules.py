"""Texts that people write, and peers: rule sources, filters of three kinds, the configuration. They are read, and then
written as they were read, or refused with all that is wrong with them.

An input is a byte that chooses what the text is, and the text: as it stands, or put together from words.
"""

import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.fuzz.source import Source
from tests.unit.compat.devices import device
from usbbridge.compat.exchange import Format, export, import_
from usbbridge.compat.form import FormError, identity_of, identity_table, rule_of, table_of, toml_of
from usbbridge.compat.libvirt import parse_filter
from usbbridge.compat.rule import Verdict
from usbbridge.compat.ruleset import RuleSet
from usbbridge.compat.source import Sources, read_text
from usbbridge.config.lines import lines_of
from usbbridge.config.loading import examine
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import Speed
from usbbridge.usb.entry import DeviceEntry
from usbbridge.usbredir import filter as redir_filter
from usbbridge.usbredir.errors import FilterError
from usbbridge.usbredir.packets import InterfaceEntry

FORMATS: Final = tuple(Format)
FILE: Final = Path("50-fuzz.toml")
STICK: Final = device("0781:5567", "08/06/50", serial="A1", port="1-2", speed=Speed.HIGH)
KEYBOARD: Final = device("0000:0001", "03/01/01@0001:0006", "03/00/00", class_="ef/02/01")
DEVICES: Final = (STICK, KEYBOARD)

_FOLDER: Final = tempfile.TemporaryDirectory(prefix="usbbridge-fuzz-")
CONFIG: Final = Path(_FOLDER.name) / "usbbridge.toml"

WORDS: Final = (
    "\n",
    " ",
    "[[rule]]\n",
    'verdict = "deny"\n',
    'id = "0781:5567"\n',
    'class = ["08/06", "*"]\n',
    'bcd-device = "0100-"\n',
    'quirks = ["no-reset", "!delay"]\n',
    'serial = "A*[0-9]?"\n',
    'port = ["1-*", "2-1.4"]\n',
    'usage = "f1d0:*"\n',
    'any = "03"\n',
    'all = "08"\n',
    'device-class = "00"\n',
    'speed = ["high", "super-plus"]\n',
    "note = '''a\nb''''\n",
    '[[identity]]\nname = "x"\nids = ["0001:0002", "0001:0003"]\n',
    "# [[rule]]\n",
    "[vm.desk]\n",
    'target = "spice://desk:5900"\n',
    'target = ["tcp://a:1", "unix:/b"]\n',
    'default-vm = "desk"\n',
    "[[assign]]\n",
    'vm = "desk"\ndevice = "1-2"\n',
    "[retry]\nfirst = 1\nlongest = 0.5\n",
    "[monitor]\nrules = []\n",
    "[access]\nusers = ['root']\n",
    '[paths]\ndatabase = "/a"\n',
    "= ",
    '"',
    "'",
    '"""',
    "[",
    "]",
    "{a.b = 1, ",
    "}",
    "\\u0041",
    "\r\n",
    "1979-05-27T07:32:00Z",
    "0x03,-1,-1,-1,0|",
    "-1:0x0781:-1:-1:1|",
    "<redirfilter>",
    "<usbdev class='0x08' vendor='0x0781' version='2.56' allow='yes'/>",
    "</redirfilter>",
    "|",
    ",",
)


def one(data: bytes) -> None:
    """Run an input."""
    source = Source(data)
    how = source.number()
    text = put_together(source) if how & 0x80 else source.rest().decode("utf-8", "replace")
    match how & 7:
        case 0 | 1:
            rules(text)
        case 2 | 3:
            configuration(text)
        case 4:
            peers_filter(text)
        case 5:
            table(text)
        case _:
            exchange(text, FORMATS[(how >> 3) % len(FORMATS)])


def put_together(source: Source) -> str:
    """Words one after the other, and some bytes between them."""
    said = ""
    while source and len(said) < 0x10000:
        choice = source.number()
        said += WORDS[choice] if choice < len(WORDS) else source.take(choice & 7).decode("utf-8", "replace")
    return said


def rules(text: str) -> None:
    """A rule source."""
    found = read_text(FILE, text)
    lines = text.count("\n") + 1
    assert all(1 <= problem.line <= lines for problem in found.problems)
    assert all(len(str(problem)) < 2000 for problem in found.problems)
    for rule in found.rules:
        assert rule_of(table_of(rule), rule.where) == rule
        assert tomllib.loads(toml_of(table_of(rule))) == {"rule": [table_of(rule)]}
    for identity in found.identities:
        assert identity_of(identity_table(identity), identity.where) == identity
    held_against_devices(found)


def held_against_devices(found: Sources) -> None:
    """What the rules decide, and what a filter of them does: it never lets through more."""
    ruleset = RuleSet(found.rules, found.identities)
    verdicts = [ruleset.judge(entry).verdict for entry in DEVICES]
    for form in FORMATS:
        exported = export(found.rules, form)
        import_(exported.text, form)
        if any("left out" in warning or "lets" in warning for warning in exported.warnings):
            continue
        for entry, verdict in zip(DEVICES, verdicts, strict=True):
            allowed = redir_filter.check(exported.rules, facts(entry)).allowed
            assert not (allowed and verdict is Verdict.DENY), f"{form} lets {entry} through"


def facts(entry: DeviceEntry) -> redir_filter.DeviceFacts:
    interfaces = tuple(InterfaceEntry(i.number, i.class_, i.subclass, i.protocol) for i in entry.interfaces)
    own = (entry.class_, entry.subclass, entry.protocol)
    return redir_filter.DeviceFacts(*own, entry.vendor, entry.product, entry.bcd_device, interfaces)


def table(text: str) -> None:
    """One rule's table as the database and the command line have it: keys and texts."""
    found = dict(line.split("=", 1) for line in text.split("\n") if "=" in line)
    try:
        rule = rule_of(found)
    except FormError:
        return
    assert rule_of(table_of(rule)) == rule


def exchange(text: str, form: Format) -> None:
    """A filter of a peer's configuration."""
    try:
        imported = import_(text, form, otherwise=Verdict.DENY)
    except UsageError:
        return
    if form is Format.LIBVIRT:
        parse_filter(text)
    exported = export(imported.rules, form)
    again = import_(exported.text, form, otherwise=Verdict.DENY)
    if exported.warnings:
        return
    one, other = RuleSet(imported.rules), RuleSet(again.rules)
    for entry in DEVICES:
        assert one.judge(entry).verdict is other.judge(entry).verdict


def peers_filter(text: str) -> None:
    """A filter that came over the wire."""
    rules = redir_filter.rules_of_peer(text)
    try:
        parsed = redir_filter.parse(text)
    except FilterError:
        assert rules == redir_filter.DENY_ALL
        return
    assert parsed == rules
    assert redir_filter.parse(redir_filter.format(rules)) == rules
    for entry in DEVICES:
        redir_filter.check(rules, facts(entry))


def configuration(text: str) -> None:
    """The main file of the configuration, as it is read from a disk."""
    CONFIG.write_text(text, "utf-8", newline="")
    loaded = examine(CONFIG)
    lines = text.count("\n") + 1
    assert (loaded.config is None) == bool(loaded.problems)
    assert all(0 <= problem.origin.line <= lines for problem in loaded.problems)
    assert all(len(str(problem)) < 2000 for problem in loaded.problems)
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError):
        return
    assert {key for key in lines_of(text) if len(key) == 1} == {(key,) for key in tree}


# ---- seeds


def seeds() -> Iterator[bytes]:
    """Files as people write them, filters as peers do, and each word by itself."""
    root = Path(__file__).parents[2]
    for file in sorted(root.glob("rules/compat/*.toml")):
        yield b"\0" + file.read_bytes()[-1500:].partition(b"\n\n")[2]
    for number in range(len(WORDS)):
        yield bytes((0x80, 2, 3, number))
        yield bytes((0x82, 18, 19, number))
        yield bytes((0x86 | number % 3 << 3, number, number))
    yield b"\2" + CONFIGURATION.encode()
    for number, text in enumerate(("0x03,-1,-1,-1,0|-1,-1,-1,-1,1", "0x08:0x0781:-1:-1:1|-1:-1:-1:-1:0", XML)):
        yield bytes((6 | number << 3,)) + text.encode()
    yield b"\4" + b"0x03,-1,-1,-1,0|-1,-1,-1,-1,1"
    yield b"\5" + b"id=0781:5567\nclass=08/06\nverdict=deny\nserial=A*"


XML: Final = """<domain><redirfilter>
<usbdev class='0x08' vendor='0x0781' version='1.10' allow='yes'/><usbdev allow='no'/>
</redirfilter></domain>"""
CONFIGURATION: Final = """
default-vm = "desk"
[vm.desk]
target = "spice+tls://desk.example:5901"
host-subject = "CN=desk"
compression = "never"
[vm."other one"]
target = ["tcp://other:7000", "unix:/run/other"]
[[assign]]
vm = "desk"
device = "0781:5567"
[access]
view = "attachers"
groups = ["root"]
[auto]
connect = true
[retry]
first = 0.5
longest = 60
"""

DICTIONARY: Final[tuple[bytes, ...]] = tuple(word.encode() for word in WORDS if word.isascii())
