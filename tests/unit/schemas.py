"""What programs are told, held against the schema that says so."""

import copy
import functools
import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA: dict[str, Any] = json.loads((Path(__file__).parents[2] / "usbbridge/ipc/schema.json").read_text())


def check(name: str, found: object) -> None:
    """Raises jsonschema's ValidationError if `found` is not what the definition `name` says, or has more in it."""
    validator(name).validate(found)


def check_text(name: str, text: str) -> None:
    """The same for the text of one value."""
    check(name, json.loads(text))


def check_lines(name: str, text: str) -> int:
    """The same for each line; how many there are."""
    lines = text.splitlines()
    for line in lines:
        check(name, json.loads(line))
    return len(lines)


@functools.cache
def validator(name: str) -> Draft202012Validator:
    strict = copy.deepcopy(SCHEMA)
    _close(strict)
    return Draft202012Validator(strict | {"$ref": f"#/$defs/{name}"})


def _close(schema: object) -> None:
    """Let objects have the properties that are listed, and no others."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for below in schema.values():
            _close(below)
    elif isinstance(schema, list):
        for below in schema:
            _close(below)
