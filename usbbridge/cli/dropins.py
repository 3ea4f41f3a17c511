"""Files in conf.d that `usbbridge vm add` makes and `usbbridge vm remove` takes away: each is one VM."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from usbbridge import config
from usbbridge.config import values
from usbbridge.errors import NotFoundError, NotPermittedError, RefusedError, UsageError


def add(name: str, targets: Sequence[str], fields: Mapping[str, str], *, is_default: bool) -> Path:
    """Write the file of a VM, with further `fields` as the configuration calls them. It is left only if the
    configuration with it is right. Raises UsageError, RefusedError if there is such a VM, and NotPermittedError."""
    before = config.load()
    file = _file(before.paths.conf_d, name)
    if before.vm(name) or file.exists():
        hint = f"usbbridge vm remove {name} takes it away" if file.exists() else _by_hand(name, before)
        raise RefusedError(f"there is a VM {name} already", hint=hint)
    with _permission(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, as_toml(name, targets, fields, is_default=is_default))
        try:
            config.load()
        except UsageError as error:
            file.unlink()
            raise _unwritten(name, file, error) from error
    return file


def _unwritten(name: str, file: Path, error: UsageError) -> UsageError:
    """What was wrong with a file that is gone again, without the place in it."""
    problems = error.problems if isinstance(error, config.ConfigError) else ()
    if not problems or any(problem.origin.file != file for problem in problems):
        return error
    reasons = (": ".join(filter(None, (problem.key, problem.reason))) for problem in problems)
    return UsageError(f"{name} was not added: {'; '.join(reasons)}")


def remove(name: str) -> Path:
    """Delete the file of a VM, unless the rest of the configuration needs it. Raises NotFoundError, RefusedError,
    NotPermittedError, and UsageError for what the rest says."""
    before = config.load()
    file = _file(before.paths.conf_d, name)
    if before.vm(name) is None and not file.exists():
        raise NotFoundError(f"there is no VM {name}", hint="usbbridge vm shows which there are")
    if not file.exists():
        raise RefusedError(f"{name} was not added by `usbbridge vm add`, but by hand", hint=_by_hand(name, before))
    with _permission(file):
        text = file.read_text()
        file.unlink()
        try:
            config.load()
        except UsageError:
            _write(file, text)
            raise
    return file


def as_toml(name: str, targets: Sequence[str], fields: Mapping[str, str], *, is_default: bool) -> str:
    """The file's text."""
    target = _quoted(targets[0]) if len(targets) == 1 else f"[{', '.join(map(_quoted, targets))}]"
    lines = ["# Made by `usbbridge vm add`; `usbbridge vm remove` deletes it."]
    lines += [f"default-vm = {_quoted(name)}", ""] if is_default else []
    lines += [f"[vm.{_quoted(name)}]", f"target = {target}"]
    lines += [f"{key} = {_quoted(value)}" for key, value in fields.items()]
    return "\n".join(lines) + "\n"


def _by_hand(name: str, before: config.Config) -> str:
    return f"take [vm.{name}] out of one of these: {', '.join(map(str, before.files))}"


def _quoted(text: str) -> str:
    """A basic string of TOML 1.0.0, which a string of JSON is as well."""
    return json.dumps(text, ensure_ascii=False)


def _file(conf_d: Path, name: str) -> Path:
    """Where a VM's file is. The name is checked first: it becomes part of a path."""
    try:
        return conf_d / f"vm-{values.name(name, conf_d)}.toml"
    except ValueError as error:
        raise UsageError(str(error)) from error


def _write(file: Path, text: str) -> None:
    """All of it or nothing, for whoever reads it meanwhile."""
    new = file.with_suffix(".new")  # which is no *.toml
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "w") as stream:
            stream.write(text)
        new.rename(file)
    except OSError:
        new.unlink(missing_ok=True)
        raise


@contextmanager
def _permission(file: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise NotPermittedError(f"no permission to write {error.filename or file}", hint="run it as root") from error
