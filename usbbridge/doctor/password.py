"""The password of a VM, if this user may know it."""

import os
from pathlib import Path
from typing import Final

from usbbridge.doctor.case import Case
from usbbridge.doctor.finding import Finding, ok, problem

MAX_FILE: Final = 4096
"Bytes: SPICE passwords have 60 at the most; more means that another file was meant."
VARIABLE: Final = "USBBRIDGE_PASSWORD"
"Where `attach --foreground` takes it from; the service does not."


def of_target() -> str:
    """The password for a VM that is named by its target and not in the configuration."""
    return os.environ.get(VARIABLE, "")


def of_file(case: Case, subject: str, file: Path) -> str | Finding:
    """The first line of the file, or why it is not known here."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            return problem(subject, f"{file} has more than {MAX_FILE} bytes: it is no password file")
        return data.split(b"\n", 1)[0].rstrip(b"\r").decode()
    except PermissionError:
        return ok(subject, f"{file} is not for {case.user.name} to read, so the password was not tried")
    except UnicodeDecodeError:
        return problem(subject, f"its password file {file} is not UTF-8 text")
    except OSError as error:
        remedy = "correct password-file, or put the password there"
        return problem(subject, f"its password file {file} can't be read: {error.strerror}", "", remedy)
