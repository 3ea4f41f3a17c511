"""The files of the configuration: found, held to be safe, read, and joined."""

import os
import re
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from usbbridge.config.checking import Checked, ConfigError, Origin, Problem, check
from usbbridge.config.joining import join
from usbbridge.config.lines import Key, lines_of
from usbbridge.config.model import Config, MonitorConfig
from usbbridge.config.paths import Paths, user_name

MAX_FILE: Final = 1 << 20
"Bytes of one file: a thousand assignments with a page of comments each would still fit."
MAX_FILES: Final = 256
"Drop-ins. A folder with more of them is some other folder."

_AT_LINE: Final = re.compile(r" \(at line ([0-9]+), column ([0-9]+)\)$")
"The only form in which tomllib of Python 3.11 tells where it stumbled."
_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that may have mistakes in it."""

    config: Config | None
    "None if it has."
    problems: tuple[Problem, ...]
    origins: dict[tuple[Key, str], Origin]
    "Where each value was given that is not a default, by table and key."


def load(path: Path | None = None) -> Config:
    """The configuration in force, or the one whose main file is `path`.

    No main file at all means the defaults, unless it was asked for by name. Raises ConfigError with all mistakes.
    """
    loaded = examine(path)
    if loaded.config is None:
        raise ConfigError(loaded.problems)
    return loaded.config


def examine(path: Path | None = None) -> Loaded:
    """As `load`, for those who want the mistakes and the origins."""
    defaults = default_config(path)
    paths = defaults.paths
    problems: list[Problem] = []
    files: list[tuple[Path, Checked]] = []
    named = path is not None or paths.named
    for file in _files(paths, problems, named=named):
        try:
            tree, lines = _read(file, is_system=paths.system)
        except _UnusableError as error:
            problems.append(Problem(Origin(file, error.line), "", error.reason))
        else:
            files.append((file, check(tree, lines, file)))
    joined = join(files, defaults)
    # A file that can't be read may hold what others seem to lack: what they lack is then not worth a word.
    found = [problem for _, checked in files for problem in checked.problems] if problems else [*joined.problems]
    order = [*(file for file, _ in files), *(problem.origin.file for problem in problems)]
    found.sort(key=lambda problem: (order.index(problem.origin.file), problem.origin.line))
    return Loaded(None if problems else joined.config, (*problems, *found), joined.origins)


def default_config(path: Path | None = None) -> Config:
    """What holds where no file says anything."""
    paths = Paths.default()
    if path is not None:
        paths = paths.with_config(path.absolute())
    monitor = MonitorConfig(rules=(paths.config.parent / "rules.d",))
    if not paths.system:
        monitor = replace(monitor, user=user_name(os.geteuid()) or monitor.user)
    return Config(monitor=monitor, paths=paths)


def _files(paths: Paths, problems: list[Problem], *, named: bool) -> list[Path]:
    """The main file and its drop-ins, in the order in which they are read."""
    main = [paths.config] if named or _exists(paths.config) else []
    try:
        names = sorted(file.name for file in paths.conf_d.iterdir() if _is_drop_in(file.name))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except OSError as error:
        problems.append(Problem(Origin(paths.conf_d), "", f"can't be read: {error.strerror}"))
        names = []
    if len(names) > MAX_FILES:
        problems.append(Problem(Origin(paths.conf_d), "", f"has {len(names)} files, {MAX_FILES} is the most"))
    return main + [paths.conf_d / name for name in names[:MAX_FILES]]


def _exists(path: Path) -> bool:
    """Whether there is something at `path`, were it only a link to nothing: that should be told, not passed over."""
    return os.path.lexists(path)


def _is_drop_in(name: str) -> bool:
    """Not what editors and package managers leave behind: `.#desk.toml`, `desk.toml~`, `desk.toml.dpkg-old`."""
    return name.endswith(".toml") and not name.startswith(".")


class _UnusableError(Exception):
    """A file can't be used at all."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


def _read(file: Path, *, is_system: bool) -> tuple[dict[str, Any], dict[Key, int]]:
    """What is in a file, and in which lines."""
    try:
        text = _content(file, is_system=is_system).decode()
    except OSError as error:
        raise _UnusableError(f"can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _UnusableError("is not UTF-8", 1 + error.object[: error.start].count(b"\n")) from error
    try:
        return tomllib.loads(text), lines_of(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax(text, str(error)) from error
    except ValueError as error:  # a number with more digits than Python converts
        raise _UnusableError(f"is not usable: {error}") from error
    except RecursionError as error:
        raise _UnusableError("is nested too deeply") from error


def _content(file: Path, *, is_system: bool) -> bytes:
    # O_NONBLOCK: a FIFO would have us wait for a writer. What was opened is what is judged: no time between the two.
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _UnusableError("is not a file")
        if is_system:
            _demand_safety(file, status)
        with open(descriptor, "rb", closefd=False) as stream:
            content = stream.read(MAX_FILE + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE:
        raise _UnusableError(f"is larger than {MAX_FILE >> 20} MiB")
    return content


def _demand_safety(file: Path, status: os.stat_result) -> None:
    """What root obeys only root may write: the file, and the folders where another could be put in its place."""
    for reason in unsafe(file, status):
        raise _UnusableError(f"is not used: {reason}")


def unsafe(file: Path, status: os.stat_result) -> Iterator[str]:
    """Why somebody other than root could change `file`, or what is read at its path."""
    if status.st_uid != 0:
        yield f"it belongs to {user_name(status.st_uid) or status.st_uid}, not to root (chown root {file})"
    if status.st_mode & _WRITABLE:
        yield f"others than its owner may write to it (chmod go-w {file})"
    for folder in file.resolve().parents:
        mode = folder.stat().st_mode
        if mode & _WRITABLE and not mode & stat.S_ISVTX:  # in a sticky folder files are replaced by their owners only
            yield f"others than its owner may write to the folder {folder} (chmod go-w {folder})"


def _syntax(text: str, message: str) -> _UnusableError:
    match = _AT_LINE.search(message)
    if match is None:  # "(at end of document)"
        return _UnusableError(f"is not TOML: {message}", text.count("\n") + 1)
    return _UnusableError(f"is not TOML: {message[: match.start()]} (column {match[2]})", int(match[1]))
