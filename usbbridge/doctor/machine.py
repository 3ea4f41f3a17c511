"""The machine's USB: whether the kernel has any, who may open the devices, and who tells of new ones."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from usbbridge.doctor.case import Case
from usbbridge.doctor.examination import guarded
from usbbridge.doctor.finding import Finding, ok, problem, warning

RULES: Final = "70-usbbridge.rules"
RULE_FOLDERS: Final = ("etc", "run", "usr/local/lib", "usr/lib", "lib")
"Where udev/rules.d may be, udev(7)."

_WITHOUT: Final = "nothing that is plugged in can be seen, and so not attached; disk images (disk:PATH) can"


_DOCKER: Final = "docker run -v /dev/bus/usb:/dev/bus/usb --device-cgroup-rule 'c 189:* rmw' ..."
"189 is the major number of USB device nodes (Linux, Documentation/admin-guide/devices.txt)."


def findings(case: Case) -> Iterator[Finding]:
    """USB, device nodes, permissions, udev."""
    yield from guarded("USB", lambda: [_sysfs(case)])
    if (case.root / "sys/bus/usb").is_dir():
        yield from guarded("device nodes", lambda: [_nodes(case)])
    yield from guarded("udev", lambda: [_udevd(case)])
    yield from guarded("udev rules", lambda: [_rules(case)])


def _sysfs(case: Case) -> Finding:
    if not (case.root / "sys/bus/usb").is_dir():
        return problem("USB", f"the kernel has none: there is no {case.root / 'sys/bus/usb'}", _WITHOUT, _no_usb(case))
    hubs = sorted((case.root / "sys/bus/usb/devices").glob("usb*"))
    if not hubs:
        return problem("USB", "the kernel has USB, but no host controller", _WITHOUT, _no_usb(case))
    return ok("USB", f"{len(hubs)} {'bus' if len(hubs) == 1 else 'buses'}")


def _no_usb(case: Case) -> str:
    inside = container(case.root)
    if inside == "WSL":
        return "WSL has no USB of its own: attach devices to it with usbipd-win, or run usbbridge outside"
    if inside:
        return f"this is a container ({inside}): run usbbridge outside, or give it the host's /sys and /dev/bus/usb"
    return "is USB switched off in the firmware, or in this kernel? in a VM, give it a USB controller"


def container(root: Path) -> str:
    """What this machine is inside of, if it is a container; else empty."""
    for file, name in (("run/.containerenv", "podman"), (".dockerenv", "docker")):
        if (root / file).exists():
            return name
    try:
        return (root / "run/systemd/container").read_text().strip()
    except OSError:
        pass
    kernel = root / "proc/sys/kernel/osrelease"
    try:
        return "WSL" if "microsoft" in kernel.read_text().lower() else ""
    except OSError:
        return ""


def _nodes(case: Case) -> Finding:
    folder = case.root / "dev/bus/usb"
    nodes = sorted(folder.glob("[0-9]*/[0-9]*"))
    if not nodes:
        inside = container(case.root)
        why = "devices are seen, but can't be opened"
        if not inside:
            remedy = "is devtmpfs mounted on /dev? it, or udev, makes them"
            return problem("device nodes", f"none in {folder}", why, remedy)
        remedy = f"this is a container ({inside}): start it with the host's; for docker:"
        return problem("device nodes", f"none in {folder}", why, remedy, _DOCKER)
    closed = [node for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
    if not closed:
        return ok("device nodes", f"{case.user.name} may open all {len(nodes)}")
    found = f"{case.user.name} may open {len(nodes) - len(closed)} of {len(nodes)}"
    if case.served:
        return ok("device nodes", f"{found}; the service opens them for you")
    why = "without the service, a device is opened by the command itself"
    remedy = "run the command as root, or install the service: its monitor opens what the rules allow"
    return warning("device nodes", found, why, remedy, case.sudo("usbbridge install-service"))


def _udevd(case: Case) -> Finding:
    if (case.root / "run/udev/control").exists():
        return ok("udev", "udevd runs")
    if case.config and case.config.monitor.source == "udev":
        why = "the configuration says that devices are told by udev (monitor.source), and so none will be"
        return problem("udev", "udevd does not run", why, 'set source = "auto" in [monitor], or start udevd')
    return ok("udev", "udevd does not run: the monitor listens to the kernel itself")


def _rules(case: Case) -> Finding:
    for folder in RULE_FOLDERS:
        file = case.root / folder / "udev/rules.d" / RULES
        if file.exists():
            empty = not file.read_bytes().strip()
            return warning("udev rules", f"{file} is empty: it was masked") if empty else ok("udev rules", f"{file}")
    if case.user.is_root or case.served:
        return ok("udev rules", f"{RULES} is not installed; whom the service opens devices for does not need it")
    why = "with them, who sits at this machine may open printers, cameras and the like without the service"
    return warning("udev rules", f"{RULES} is not installed", why, "", case.sudo("usbbridge install-service"))
