"""The configuration: whether it can be read, and what of it will surprise."""

import os
from collections.abc import Iterator

from usbbridge.config import Config
from usbbridge.config.loading import Loaded
from usbbridge.config.secrets import warnings
from usbbridge.doctor.case import Case
from usbbridge.doctor.examination import guarded
from usbbridge.doctor.finding import Finding, ok, problem, warning

_WHY = "the service does not start with it; one that runs goes on with what it had before"
_CHECK = "usbbridge config check"


def findings(case: Case) -> Iterator[Finding]:
    """Every mistake in it; what the service will not be able to read; VMs, and the default."""
    loaded = case.loaded.got
    hidden = [str(each.origin.file) for each in loaded.problems if not os.access(each.origin.file, os.R_OK)]
    if loaded.config is None and hidden and not case.user.is_root:
        files = ", ".join(dict.fromkeys(hidden))
        found = f"{files} is not for {case.user.name} to read, so nothing is known of it here"
        yield warning("configuration", found, "", "", case.sudo("usbbridge doctor"))
        return
    for each in loaded.problems:
        if loaded.config is None:
            yield problem("configuration", str(each), _WHY, "correct it, then:", _CHECK)
        else:
            yield warning("configuration", str(each))
    if loaded.config is not None:
        yield from guarded("configuration", lambda: _files(loaded))
        yield _sound(loaded.config)
        yield from _default(loaded.config)


def _files(loaded: Loaded) -> Iterator[Finding]:
    assert loaded.config is not None
    for each in warnings(loaded.config, loaded.origins):
        yield warning("configuration", str(each), "", "", _CHECK)


def _sound(config: Config) -> Finding:
    there = [str(file) for file in config.files if file.exists()]
    if config.vms:
        return ok("configuration", f"{', '.join(there)}; VMs: {', '.join(vm.name for vm in config.vms)}")
    found = f"{', '.join(there)} names no VM" if there else f"there is none ({config.paths.config})"
    why = "devices have nowhere to go by themselves"
    return warning("configuration", found, why, "name your VM", "usbbridge vm add desk spice://HOST:PORT")


def _default(config: Config) -> Iterator[Finding]:
    if config.vms and not config.default_vm and not config.assignments:
        why = "a device that nobody names a VM for has nowhere to go: neither default-vm nor an [[assign]] is there"
        found = f"none of the {len(config.vms)} VMs is the default"
        remedy = f'say which is, in {config.paths.config}: default-vm = "{config.vms[0].name}"'
        yield warning("configuration", found, why, remedy)
