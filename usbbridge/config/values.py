"""What each kind of value may be. A check takes what TOML said and the folder of the file in which it stands, and
returns what the dataclasses hold; it raises ValueError with a reason that reads on from the key's name.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from usbbridge.errors import UsageError
from usbbridge.spice.targets import parse_target
from usbbridge.usb.identity import is_bus_port, parse_ids

Check = Callable[[Any, Path], object]

MAX_TEXT: Final = 1024
"Characters: certificate subjects are the longest texts there are, and a tenth of that."
MAX_NAME: Final = 64
"Characters of a VM's name: it has to fit a column of `usbbridge list`."
MAX_ITEMS: Final = 256
"Items of one list. Nobody types in more; a file that has them was not meant for this."
MAX_PATH: Final = 4095
"PATH_MAX without its terminating NUL (limits.h)."
MAX_SOCKET_PATH: Final = 107
"sun_path without its terminating NUL, in bytes (unix(7))."
MAX_SERIAL: Final = 126
"Characters that a string descriptor can hold (USB 2.0 §9.6.7)."
LEAST_DELAY: Final = 0.1
"Seconds: a VM that refuses connections is asked ten times a second at the most."
MOST_DELAY: Final = 86400.0
"Seconds: longer than a day is not a retry any more."

_NAME: Final = re.compile(r"\w[\w.-]*")
"Without colons: it can't be taken for a target. Without spaces: it needs no quotes in a shell."
_ACCOUNT: Final = re.compile(r"[^\s:,/-][^\s:,/]*\$?")
"What useradd(8) and directory services agree on; whether there is such an account is not a question of syntax."
_READABLE_BITS: Final = 256
"Of a number that is shown. Python refuses to print one of more than 4300 digits (int_max_str_digits)."
_ANY_PRODUCT: Final = re.compile(r"([0-9a-fA-F]{1,4}):\*")


def boolean(value: Any, folder: Path) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {shown(value)}")
    return value


def seconds(value: Any, folder: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number of seconds, not {shown(value)}")
    if not LEAST_DELAY <= value <= MOST_DELAY:  # is not true of nan either
        raise ValueError(f"must be {LEAST_DELAY:g} to {MOST_DELAY:g} seconds, not {shown(value)}")
    return float(value)


def text(value: Any, folder: Path) -> str:
    return _text(value, MAX_TEXT)


def serial(value: Any, folder: Path) -> str:
    return _text(value, MAX_SERIAL)


def choice(*words: str) -> Check:
    """One of `words`."""
    alternatives = f"{', '.join(map(shown, words[:-1]))} or {shown(words[-1])}"

    def check(value: Any, folder: Path) -> str:
        if value not in words:
            raise ValueError(f"must be {alternatives}, not {shown(value)}")
        assert isinstance(value, str)
        return value

    return check


def name(value: Any, folder: Path) -> str:
    """Of a VM."""
    word = _text(value, MAX_NAME)
    if not _NAME.fullmatch(word):
        raise ValueError(f"{shown(word)} is no name for a VM: use letters, digits, '.', '_' and '-'")
    return word


def account(value: Any, folder: Path) -> str:
    """A user or a group."""
    word = _text(value, MAX_NAME)
    if not _ACCOUNT.fullmatch(word):
        raise ValueError(f"{shown(word)} is not the name of a user or group")
    return word


def accounts(value: Any, folder: Path) -> tuple[str, ...]:
    return tuple(account(item, folder) for item in _items(value, "names"))


def path(value: Any, folder: Path) -> Path:
    """Absolute; a relative one starts at the folder of the file in which it stands, `~` is the user's home."""
    word = _text(value, MAX_PATH)
    try:
        return folder / Path(word).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{shown(word)}: whose home that is, is not known") from error


def socket_path(value: Any, folder: Path) -> Path:
    found = path(value, folder)
    if len(bytes(found)) > MAX_SOCKET_PATH:
        raise ValueError(f"is too long for a socket: {len(bytes(found))} bytes, {MAX_SOCKET_PATH} is the most")
    return found


def folders(value: Any, folder: Path) -> tuple[Path, ...]:
    return tuple(path(item, folder) for item in _items(value, "folders"))


def targets(value: Any, folder: Path) -> tuple[str, ...]:
    """One target, or a list of them; each in the form that `str()` of a target gives it."""
    found = []
    for item in [value] if isinstance(value, str) else _items(value, "targets"):
        try:
            found.append(str(parse_target(_text(item, MAX_PATH))))
        except UsageError as error:
            raise ValueError(f"{error.message}. {error.hint}") from error
    if not found:
        raise ValueError("needs at least one target")
    return tuple(found)


def device(value: Any, folder: Path) -> str:
    """BUS-PORT, VID:PID or VID:*; ids in the form in which they are compared: four digits each, lower case."""
    word = _text(value, MAX_NAME)
    if is_bus_port(word):
        return word
    if match := _ANY_PRODUCT.fullmatch(word):
        return f"{int(match[1], 16):04x}:*"
    ids = parse_ids(word)
    if ids is None:
        raise ValueError(f"{shown(word)} is neither a place (1-2.3) nor an id (0951:1666, or 0951:* for a vendor)")
    return f"{ids[0]:04x}:{ids[1]:04x}"


def shown(value: Any) -> str:
    """A value as TOML writes it, or nearly so, cut to a readable length."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return ascii(value)[:80] if not value.isprintable() else f'"{value[:80]}"'
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and value.bit_length() > _READABLE_BITS:
        return "a number beyond all measure"
    return str(value)[:80]


def _text(value: Any, longest: int) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a text in quotes, not {shown(value)}")
    if not value:
        raise ValueError("must not be empty; leave it out instead")
    if len(value) > longest:
        raise ValueError(f"is too long: {len(value)} characters, {longest} is the most")
    if not value.isprintable():
        raise ValueError(f"has control characters in it: {shown(value)}")
    return value


def _items(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of {what} in brackets, not {shown(value)}")
    if len(value) > MAX_ITEMS:
        raise ValueError(f"is too long: {len(value)} {what}, {MAX_ITEMS} is the most")
    return value
