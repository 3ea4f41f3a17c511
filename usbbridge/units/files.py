"""Which files make the service known to the system, where each belongs, and whether what is there now is ours.

The first line of each file that is written says by whom, with a checksum of the rest: so what was changed by hand is
told from what was not, by any version of usbbridge, and without a list of files that could get lost.
"""

import hashlib
import re
import site
import sys
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

import usbbridge
from usbbridge.config.paths import Paths

SYSTEM_UNITS: Final = ("usbbridge-monitor.service", "usbbridge-control.service", "usbbridge-sleep.service")
USER_UNITS: Final = ("usbbridge.service",)
STATE: Final = tuple(
    map(Path, ("/var/lib/usbbridge", "/var/lib/usbbridge-monitor", "/run/usbbridge", "/run/usbbridge-monitor"))
)
"What the service itself has written; the units' StateDirectory= and RuntimeDirectory=."

_STAMP: Final = "# Written by `usbbridge install-service`, which also removes it (--uninstall). sha256 of the rest: "
_TEMPLATES: Final = Path(__file__).parent


class Kind(Enum):
    """What a file is for; which programs have to be told of it follows from that."""

    UNIT = auto()
    SYSUSERS = auto()
    UDEV = auto()
    CONFIG = auto()
    "An example, written if there is none, and from then on the administrator's."


class Found(Enum):
    """What is at a file's place."""

    NOTHING = auto()
    SAME = auto()
    OURS = auto()
    "Written by us, by another version perhaps, and not touched since."
    CHANGED = auto()
    "Written by us, and changed by somebody."
    FOREIGN = auto()
    "Not written by us."


@dataclass(frozen=True, slots=True)
class File:
    """One file to be written."""

    place: Path
    kind: Kind
    text: str

    def found(self) -> Found:
        """What is there now. Raises OSError if it can't be read."""
        try:
            text = self.place.read_text(errors="replace")
        except FileNotFoundError:
            return Found.NOTHING
        if text == self.text:
            return Found.SAME
        first, _, rest = text.partition("\n")
        if not first.startswith(_STAMP):
            return Found.FOREIGN
        return Found.OURS if first == _STAMP + _checksum(rest) else Found.CHANGED


def system_files(command: Path, root: Path, kinds: frozenset[Kind]) -> list[File]:
    """For the whole system below `root`, of these kinds."""
    etc = root / "etc"
    places = {name: (Kind.UNIT, etc / "systemd/system" / name) for name in SYSTEM_UNITS}
    places["usbbridge.sysusers"] = (Kind.SYSUSERS, etc / "sysusers.d/usbbridge.conf")
    places["70-usbbridge.rules"] = (Kind.UDEV, etc / "udev/rules.d/70-usbbridge.rules")
    places["usbbridge.toml"] = (Kind.CONFIG, root / Paths.of_system().config.relative_to("/"))
    return [File(place, kind, text_of(name, command, kind)) for name, (kind, place) in places.items() if kind in kinds]


def user_files(command: Path, kinds: frozenset[Kind]) -> list[File]:
    """For one user's own service manager (systemd.unit(5), "User Unit Search Path")."""
    config = Paths.of_user().config
    places = {name: (Kind.UNIT, config.parents[1] / "systemd/user" / name) for name in USER_UNITS}
    places["usbbridge.toml"] = (Kind.CONFIG, config)
    return [File(place, kind, text_of(name, command, kind)) for name, (kind, place) in places.items() if kind in kinds]


def text_of(name: str, command: Path, kind: Kind) -> str:
    """What is written for the template `name`."""
    folder = udev_rules() if kind is Kind.UDEV else _TEMPLATES
    text = (folder / name).read_text().replace("@command@", as_word(command))
    return text if kind is Kind.CONFIG else f"{_STAMP}{_checksum(text)}\n{text}"


def as_word(command: Path) -> str:
    """A path as a word of ExecStart= (systemd.service(5), "Command lines")."""
    text = str(command).replace("%", "%%")
    if re.fullmatch(r"[\w./@%+:,=-]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def udev_rules() -> Path:
    """The folder of the udev rules: of the source tree this runs from, or where it is installed."""
    in_tree = Path(usbbridge.__file__).parents[1] / "rules/udev"
    bases = (sys.prefix, site.getuserbase(), "/usr/local", "/usr")
    installed = [Path(base) / "share/usbbridge/rules/udev" for base in bases]
    return next((folder for folder in (in_tree, *installed) if folder.is_dir()), installed[0])


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
