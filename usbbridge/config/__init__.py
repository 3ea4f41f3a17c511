"""The configuration: TOML files, checked, as frozen dataclasses.

paths       where everything is
model       what can be configured, with its defaults
lines       in which line of a TOML text each key stands
values      what each kind of value may be
checking    the keys and values of one file, held against what there is to configure
joining     checked files → the Config they make together
loading     from the files on disk to a Config, or to everything that is wrong with them
secrets     whether those who need the files it names can read them, and nobody else

A module is imported when something of it is used (PEP 562): commands that only ask a running service need the paths.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usbbridge.config.checking import ConfigError, Origin, Problem
    from usbbridge.config.loading import Loaded, examine, load
    from usbbridge.config.model import Access, Assign, Auto, Config, MonitorConfig, Retry, Vm
    from usbbridge.config.paths import Paths

__all__ = [
    "Access",
    "Assign",
    "Auto",
    "Config",
    "ConfigError",
    "Loaded",
    "MonitorConfig",
    "Origin",
    "Paths",
    "Problem",
    "Retry",
    "Vm",
    "examine",
    "load",
]

_HOMES = {
    "checking": ("ConfigError", "Origin", "Problem"),
    "loading": ("Loaded", "examine", "load"),
    "model": ("Access", "Assign", "Auto", "Config", "MonitorConfig", "Retry", "Vm"),
    "paths": ("Paths",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"usbbridge.config.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
