"""The process that fuzzes a target: `python -m tools.fuzz.engine TARGET [LIBFUZZER ARGUMENT ...]`.

A process of its own, because what is to be observed has to be imported under atheris' eyes, and because libFuzzer ends
it when it has found something.
"""

import importlib
import sys
from typing import Final

OBSERVED: Final = ["usbbridge", "tomllib"]
"Packages whose branches guide the fuzzer; tomllib, so that it learns to write TOML."


def main() -> None:
    """Fuzz until libFuzzer has had enough."""
    atheris = importlib.import_module("atheris")  # not in every environment, and without types
    name, *arguments = sys.argv[1:]
    with atheris.instrument_imports(include=OBSERVED):
        target = importlib.import_module(f"tests.fuzz.{name}")
    atheris.Setup([sys.argv[0], *arguments], target.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
