"""What a check has found, and how it is shown: text for people, an object for programs."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

WIDTH: Final = 100
"Columns that text is wrapped at; commands are not, so that they can be copied."
_INDENT: Final = " " * 11


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    "Something works less well than it could, or will surprise somebody."
    PROBLEM = "problem"
    "Something that was asked for, or installed, does not work."


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    "What: `libusb`, `1-2 0951:1666 DataTraveler`, `VM desk`."
    level: Level
    found: str
    "What it is like."
    why: str = ""
    "Why that matters."
    remedy: str = ""
    "What to do, in words."
    commands: tuple[str, ...] = ()
    "Command lines that do it."
    area: str = ""
    "Which check it is from."


def ok(subject: str, found: str) -> Finding:
    """All is well."""
    return Finding(subject, Level.OK, found)


def warning(subject: str, found: str, why: str = "", remedy: str = "", *commands: str) -> Finding:
    """It may not be as it should."""
    return Finding(subject, Level.WARNING, found, why, remedy, commands)


def problem(subject: str, found: str, why: str = "", remedy: str = "", *commands: str) -> Finding:
    """It does not work."""
    return Finding(subject, Level.PROBLEM, found, why, remedy, commands)


def count(findings: Iterable[Finding], level: Level) -> int:
    """How many are of this level."""
    return sum(finding.level is level for finding in findings)


def as_object(findings: Sequence[Finding]) -> dict[str, Any]:
    """The JSON object, as usbbridge(1) describes it."""
    return {
        "problems": count(findings, Level.PROBLEM),
        "warnings": count(findings, Level.WARNING),
        "findings": [
            {
                "area": finding.area,
                "subject": finding.subject,
                "level": finding.level.value,
                "found": finding.found,
                "why": finding.why or None,
                "remedy": finding.remedy or None,
                "commands": list(finding.commands),
            }
            for finding in findings
        ],
    }


def as_lines(findings: Sequence[Finding]) -> Iterator[tuple[Level | None, str]]:
    """Lines for people, each with the level it is coloured by; None for all but the first line of a finding."""
    area = None
    for finding in findings:
        if finding.area != area:
            yield from ([(None, "")] if area is not None else []) + [(None, finding.area)]
            area = finding.area
        yield finding.level, _headline(finding)
        for words, text in (("why", finding.why), ("do", finding.remedy)):
            yield from ((None, line) for line in _wrapped(words, text))
        # One that would have to be shown otherwise than it is (a line end in a mount point) is no command any more.
        yield from ((None, f"{_INDENT}$ {command}") for command in finding.commands if command.isprintable())
    yield None, ""
    yield None, summary(findings)


def _headline(finding: Finding) -> str:
    return f"  {finding.level.value:<8} {_printable(finding.subject)}: {_printable(finding.found)}"


def _wrapped(words: str, text: str) -> list[str]:
    start = f"{_INDENT}{words + ':':<5}"
    lines = textwrap.wrap(_printable(text), WIDTH - len(start), break_long_words=False, break_on_hyphens=False)
    return [(" " * len(start) if index else start) + line for index, line in enumerate(lines)]


def _printable(text: str) -> str:
    """What a server, a file name or a device has contributed must not upset the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def summary(findings: Sequence[Finding]) -> str:
    """`2 problems, 1 warning.`"""
    problems, warnings = count(findings, Level.PROBLEM), count(findings, Level.WARNING)
    if not problems and not warnings:
        return "No problems."
    counted = [(problems, "problem"), (warnings, "warning")]
    return ", ".join(f"{n} {word}{'s' * (n != 1)}" for n, word in counted if n) + "."
