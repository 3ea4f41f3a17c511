"""Runs the checks: all at the same time, each within a limit, and none able to hide what the others have found."""

import importlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final

from usbbridge.doctor.case import Case
from usbbridge.doctor.finding import Finding, warning
from usbbridge.errors import UsbBridgeError

Check = Callable[[Case], Iterable[Finding]]

AREAS: Final = {
    "Software": "software",
    "USB": "machine",
    "Installation": "installation",
    "Service": "service",
    "Configuration": "configuration",
    "Compatibility list": "database",
    "Devices": "devices",
    "Virtual machines": "vms",
}
"What is looked at, in this order → the module of this package whose `findings` does it."

LIMIT: Final = 5.0
"Seconds for all of it. The checks have limits of their own, far below; this one is for what has none, a dead NFS say."


def examine(case: Case, areas: Iterable[str] = AREAS, limit: float = LIMIT) -> list[Finding]:
    """Everything that was found, in the order of the areas."""
    end = time.monotonic() + limit
    running = [_Running(area, _check(area), case) for area in areas]
    found: list[Finding] = []
    for each in running:
        found += each.wait(max(end - time.monotonic(), 0))
    return found


def _check(area: str) -> Check:
    def check(case: Case) -> Iterable[Finding]:
        # Imported here: on a system that is installed by half, the import may be what fails.
        module = importlib.import_module(f"usbbridge.doctor.{AREAS[area]}")
        findings: Iterable[Finding] = module.findings(case)
        return findings

    return check


class _Running:
    """A check in a thread of its own, which is left behind if it never ends."""

    def __init__(self, area: str, check: Check, case: Case) -> None:
        self._area, self._found = area, list[Finding]()
        self._thread = threading.Thread(target=self._run, args=(check, case), name=area, daemon=True)
        self._thread.start()

    def _run(self, check: Check, case: Case) -> None:
        self._found.extend(guarded(self._area, lambda: check(case)))

    def wait(self, seconds: float) -> list[Finding]:
        self._thread.join(seconds)
        found = [replace(finding, area=self._area) for finding in self._found]
        if self._thread.is_alive():
            late = warning(self._area, "this took too long to look at, and was given up")
            found.append(replace(late, area=self._area))
        return found


def guarded(subject: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What the check finds; if it fails, what it had found until then, and the failure."""
    try:
        yield from check()
    except UsbBridgeError as error:
        yield warning(subject, f"could not be looked at: {error.message}", remedy=error.hint)
    except Exception as error:  # a check that fails is a finding too
        yield warning(subject, f"could not be looked at: {type(error).__name__}: {error}")
