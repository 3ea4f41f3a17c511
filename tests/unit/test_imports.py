"""Who may import whom: the architecture of usbbridge, held against every import statement in it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "usbbridge"

ALWAYS = ("errors",)
"The error tree: everyone's vocabulary."

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "config": ("spice.targets", "usb.identity"),  # targets and device names are checked when they are read
    "usb": (),
    "usbredir": ("usb",),
    "spice": (),
    "redirect": ("usbredir", "usb", "backend.base"),
    "backend": ("usb",),
    # usbredir: the peers' filter language, for export and import alone; config.lines: where in a TOML text a key stands
    "compat": ("usb", "usbredir.filter", "usbredir.errors", "config.lines"),
    "ipc": ("usb", "compat.rule", "config"),
    "monitor": ("ipc", "compat", "usb", "config"),
    "capture": ("usb",),
    "encoder": (
        "spice",
        "redirect",
        "backend",
        "ipc",
        "capture",
        "usb",
    ),  # usb: the words of the backend's seam, to tap it
    "control": ("spice", "ipc", "compat.rule", "usb", "config"),
    "web": ("ipc", "config"),
    "fleet": ("ipc", "config"),
    # The demonstration's VM speaks the other end of both protocols; it never meets the parts it is shown to.
    "loopback": ("spice", "usbredir", "usb"),
    # The doctor looks at every part, and runs none: at what it says of itself, and where it looks for things.
    "doctor": (
        "ipc",
        "config",
        "compat",
        "usb",
        "monitor.inventory",
        "monitor.blockuse",
        "spice",
        "backend.libusb_library",
    ),
    "units": ("config",),
    # A verb is a client of the service, or starts a part of it: then it names that part's entry point, nothing beneath.
    "cli": (
        "ipc",
        "config",
        "compat",  # rules
        "usb",  # entries, selectors and descriptors, to show and to name devices
        "monitor.main",  # monitor, the process
        "control.main",  # control, the process
        "monitor.inventory",  # list, and naming a device without a service
        "control.foreground",  # attach --foreground
        "encoder.main",  # the encoder's own process
        "loopback",  # demo
        "doctor",  # doctor
        "units",  # install-service
        "monitor.node",  # attach --foreground stands for the monitor: it opens the node, and gives it back
        "spice.targets",  # --vm is checked before anything is opened
        "spice.errors",  # a wrong password is told from other errors, and asked for
        "capture.pcapng",  # capture: only whole blocks are written, within a limit
    ),
    "__main__": ("cli.main",),
}
"Package → what it may import beside itself, `ALWAYS`, and what is not usbbridge's. Every package has a row."

PURE = ("usb", "usbredir", "spice", "redirect", "capture", "ipc.messages", "ipc.monitoring", "ipc.api", "ipc.codec")
PURE += tuple(f"compat.{name}" for name in ("rule", "ruleset", "pattern", "form", "lines", "shadow"))
PURE += tuple(f"control.{name}" for name in ("engine", "world", "settle", "endings", "requests", "wishes", "choices"))
PURE += tuple(f"control.{name}" for name in ("actions", "backoff", "devices", "failures", "views", "vmbook", "vms"))
"They take bytes and the time as arguments, and return events, bytes and deadlines."
NOT_PURE = ("spice.connection", "spice.secure", "spice.sockets", "spice.tls")
"The one shell inside a pure package."
IMPURE_MODULES = {"asyncio", "socket", "ssl", "usb1", "sqlite3"} | {"select", "selectors", "signal", "subprocess"}
IMPURE_MODULES |= {"multiprocessing", "threading", "time"}

USB1_IS_IMPORTED_BY = "backend.libusb"
"python-libusb1 stays behind the backend's Protocol: this module and those that carry its name on (`libusb_*.py`)."


def modules() -> dict[str, Path]:
    """Every module of the package by its name below `usbbridge`; the package itself is `""`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(source: str) -> Iterator[str]:
    """Full name of everything imported anywhere in `source`, inside functions and `if TYPE_CHECKING` too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def own_module(name: str) -> str | None:
    """The usbbridge module that an imported name is or lies in, as in `MODULES`; None for other people's."""
    top, _, rest = name.partition(".")
    if top != "usbbridge":
        return None
    while rest and rest not in MODULES:
        rest = rest.rpartition(".")[0]
    return rest


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def violations(module: str, source: str) -> list[str]:
    """The rules that `source` breaks, if it is the text of `module`."""
    package = module.partition(".")[0]
    allowed = (package, *ALWAYS, *MAY_IMPORT.get(package, ()))
    broken = []
    for name in imports(source):
        imported = own_module(name)
        if name.startswith("."):
            broken.append(f"{module} imports {name}: imports are absolute")
        elif imported and not within(imported, allowed):
            broken.append(f"{module} imports usbbridge.{imported}: not in the table")
        elif imported is None and within(module, PURE) and not within(module, NOT_PURE):
            top = name.partition(".")[0]
            broken += [f"{module} imports {top}: the package is pure"] if top in IMPURE_MODULES else []
        if name.partition(".")[0] == "usb1" and not module.startswith(USB1_IS_IMPORTED_BY):
            broken.append(f"{module} imports usb1: only {USB1_IS_IMPORTED_BY} may")
    return broken


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_the_table_allows(module: str) -> None:
    assert violations(module, MODULES[module].read_text()) == []


def test_every_package_has_a_row_in_the_table() -> None:
    packages = {module.partition(".")[0] for module in MODULES} - {""}
    assert packages <= MAY_IMPORT.keys()


def test_spice_and_usbredir_meet_only_where_they_are_joined() -> None:
    both = {package for package, allowed in MAY_IMPORT.items() if {"spice", "usbredir"} <= set(allowed)}
    assert both == {"loopback"}
    assert "redirect" in MAY_IMPORT["encoder"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("usb.descriptors", "import asyncio"),
        ("usb.descriptors", "def later():\n    import time"),
        ("usbredir.codec", "from usbbridge.spice.link import LinkClient"),
        ("redirect.host", "from usbbridge.backend import libusb"),
        ("redirect.host", "import usbbridge.backend.libusb"),
        ("redirect.host", "import usb1"),
        ("encoder.main", "import usb1"),
        ("monitor.inventory", "from usbbridge.usbredir import codec"),
        ("cli.list", "from usbbridge.encoder import loop"),
        ("spice.link", "from . import errors"),
        ("spice.link", "from socket import socket"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) >= 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("redirect.host", "from usbbridge.backend.base import Device\nfrom usbbridge.errors import DeviceError"),
        ("spice.connection", "import socket, ssl, time"),
        ("backend.libusb", "import usb1"),
        ("cli.list", "from usbbridge.monitor.inventory import find"),
        ("errors", "import enum"),
    ],
)
def test_a_permitted_import_is_left_alone(module: str, source: str) -> None:
    assert violations(module, source) == []


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `statement`."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_descriptors_are_read_without_loading_construct() -> None:
    assert "construct" not in loaded_by("import usbbridge.usb.descriptors")
