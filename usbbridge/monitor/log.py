"""What the monitor says of itself: a line a happening on standard error, which a service manager keeps.

The standard library's logging would be a twentieth of this process's memory, for three levels.
"""

import sys
from enum import IntEnum
from typing import Final

from usbbridge.ipc.notify import is_journal


class Level(IntEnum):
    """Syslog's priorities, as sd-daemon(3) has them at the head of a line."""

    WARNING = 4
    "Somebody should look at it."
    NOTICE = 5
    "Something was refused, or was not as it should be."
    INFO = 6


_TO_JOURNAL: Final = is_journal()


def say(level: Level, text: str) -> None:
    """Write a line. What a device calls itself is clean already (`usbbridge.usb.identity.clean_words`)."""
    prefix = f"<{level.value}>" if _TO_JOURNAL else "usbbridge monitor: "
    try:
        print(f"{prefix}{text}", file=sys.stderr, flush=True)
    except OSError:  # nobody listens (any more)
        return
