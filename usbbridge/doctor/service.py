"""The running service: whether it answers, whether its parts have found each other, and what this user may do."""

import grp
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from usbbridge import __version__
from usbbridge.doctor.case import Case, Service
from usbbridge.doctor.finding import Finding, ok, problem, warning
from usbbridge.doctor.installation import UNITS, installed
from usbbridge.errors import NotFoundError, NotPermittedError, UsbBridgeError
from usbbridge.ipc.api import Right

CONNECT_SECONDS: Final = 0.5
"For a socket of this machine, and its backlog may be full."


def findings(case: Case) -> Iterator[Finding]:
    """The socket, the version, the monitor, this user's rights."""
    service = case.served
    if service is None:
        yield _unreachable(case)
        return
    yield _version(case, service)
    yield _monitor(case, service)
    yield _rights(case, service)


# ---- no answer


def _unreachable(case: Case) -> Finding:
    error = case.service.error
    if isinstance(error, NotFoundError):
        return _not_running(case)
    if isinstance(error, NotPermittedError):
        return problem("service", error.message, "devices can't be asked for", *_join_hint(case))
    if isinstance(error, TimeoutError):
        found = "it is there, but does not answer"
        return problem("service", found, "control hangs, or was stopped", "restart it", *installed(case).restart(case))
    hint = error.hint if isinstance(error, UsbBridgeError) else ""
    return problem("service", f"it can't be used: {error}", "", hint or "restart it", *installed(case).restart(case))


def _not_running(case: Case) -> Finding:
    stale = [str(path) for path in case.paths.client_sockets() if _is_stale(path)]
    left = f"; an earlier one has left {', '.join(stale)}" if stale else ""
    there = installed(case)
    if there:
        why = "devices do not go to their VMs, and can't be asked for"
        found = f"it is installed, but nobody answers{left}"
        return problem("service", found, why, "start it", *there.restart(case))
    remedy = "start it, or do without: usbbridge attach --foreground DEVICE --vm TARGET"
    why = "only with it are devices attached by themselves, and again after a replug"
    return warning("service", f"it does not run{left}", why, remedy, case.sudo("usbbridge service"))


def _is_stale(path: Path) -> bool:
    """Whether it is a socket that nobody listens on any more."""
    if not path.is_socket():
        return False
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(CONNECT_SECONDS)
        try:
            sock.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


# ---- an answer


def _version(case: Case, service: Service) -> Finding:
    if service.version != __version__:
        found = f"it is version {service.version}, and this command is {__version__}"
        why = "usbbridge was upgraded while the service ran"
        return warning("service", found, why, "restart it", *installed(case).restart(case))
    pid = f", process {service.status.value.pid}" if service.status.value else ""
    return ok("service", f"it runs, version {service.version}{pid}")


def _monitor(case: Case, service: Service) -> Finding:
    if service.status.value is None:
        return warning("monitor", f"nothing is known of it: {service.status.error}")
    if not service.status.value.monitor:
        why = "control hears of no device, and can't open any"
        path = case.paths.monitor_socket
        found = f"control has no connection to it ({path}{'' if path.exists() else ', which is not there'})"
        return problem("monitor", found, why, "start the monitor", *installed(case).restart(case, UNITS[0]))
    if service.status.value.suspended:
        why = "every device stays here until it is told that the machine is awake again"
        return warning("monitor", "the service is suspended", why, "", case.sudo("usbbridge resume"))
    return ok("monitor", "control is connected to it")


def _rights(case: Case, service: Service) -> Finding:
    if Right.ATTACH in service.may:
        return ok("your rights", f"{case.user.name} may {', '.join(sorted(service.may))}")
    found = f"{case.user.name} may not attach devices"
    return problem("your rights", found, "the service asks who is asking", *_join_hint(case))


def _join_hint(case: Case) -> tuple[str, ...]:
    """(What to do, the commands for it) to become one of those who may attach."""
    permitted = case.config.access.groups if case.config else ()
    groups = [name for name in permitted if _members(name) is not None]
    waiting = [name for name in groups if case.user.name in (_members(name) or ()) and name not in case.user.groups]
    if waiting:
        return (f"you were made a member of {waiting[0]} since you logged in: log out, and in again",)
    if groups:
        remedy = f"become a member of the group {groups[0]}, then log out and in again"
        return (remedy, f"sudo usermod -aG {groups[0]} {case.user.name}")
    return ("have an administrator add you to users in [access] of the configuration, and reload the service",)


def _members(group: str) -> list[str] | None:
    """Who is in the group by the system's database; None if there is no such group."""
    try:
        return grp.getgrnam(group).gr_mem
    except KeyError:
        return None
