"""Where configuration, sockets and state are: the system's places, or a user's own.

The XDG base directories are worked out here: three variables with fixed defaults need no package, and platformdirs
would put the sockets below /tmp where XDG_RUNTIME_DIR is missing, at a name that anybody could take first.
"""

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

SERVICE_USER: Final = "usbbridge"
"Whom control and the encoders run as in system mode."
CONFIG_VARIABLE: Final = "USBBRIDGE_CONFIG"
"Environment: path of the main configuration file."
MODE_VARIABLE: Final = "USBBRIDGE_MODE"
"Environment: `system` or `user`; the units set it, so that nothing depends on who runs them."


@dataclass(frozen=True, slots=True)
class Paths:
    """Everything that usbbridge reads, writes or listens on."""

    config: Path
    "The main configuration file."
    conf_d: Path
    "Its drop-ins: *.toml here are read after it, in the order of their names."
    monitor_socket: Path
    control_socket: Path
    database: Path
    "The compatibility list: the monitor's, for others to read."
    choices: Path
    "What was chosen and is remembered: control's."
    handed_out: Path
    "Which devices are away from their kernel drivers at this moment: the monitor's."
    system: bool = False
    "Whether these are the system's places, with root and the service user in their roles."
    named: bool = False
    "Whether the main file was named in the environment: then it has to be there."

    @classmethod
    def default(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The system's for root and the service user, a user's own for everyone else, unless the environment says."""
        paths = cls.of_system() if is_system(environment) else cls.of_user(environment)
        if config := environment.get(CONFIG_VARIABLE):
            return replace(paths.with_config(Path(config).absolute()), named=True)
        return paths

    @classmethod
    def of_system(cls) -> Self:
        """What the Filesystem Hierarchy Standard 3.0 and the units' RuntimeDirectory= and StateDirectory= make it."""
        return cls(
            config=Path("/etc/usbbridge/usbbridge.toml"),
            conf_d=Path("/etc/usbbridge/conf.d"),
            monitor_socket=Path("/run/usbbridge-monitor/monitor.sock"),
            control_socket=Path("/run/usbbridge/control.sock"),
            database=Path("/var/lib/usbbridge-monitor/compat.db"),
            choices=Path("/var/lib/usbbridge/choices.json"),
            handed_out=Path("/run/usbbridge-monitor/handed-out.json"),
            system=True,
        )

    @classmethod
    def of_user(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """What the XDG Base Directory Specification makes it."""
        home = Path(environment.get("HOME") or Path.home())
        config = _xdg(environment, "XDG_CONFIG_HOME", home / ".config")
        state = _xdg(environment, "XDG_STATE_HOME", home / ".local/state")
        # Without a session manager there is no such folder (cron, Termux); the state's is as private, only not emptied.
        runtime = _xdg(environment, "XDG_RUNTIME_DIR", state.parent)
        return cls(
            config=config / "usbbridge.toml",
            conf_d=config / "conf.d",
            monitor_socket=runtime / "monitor.sock",
            control_socket=runtime / "control.sock",
            database=state / "compat.db",
            choices=state / "choices.json",
            handed_out=runtime / "handed-out.json",
        )

    def client_sockets(self) -> list[Path]:
        """Where a client looks for control: at the service of its own user, if there is one, then at the system's."""
        if self.system:
            return [self.control_socket]
        own = [self.control_socket] if self.control_socket.exists() else []
        return [*own, Paths.of_system().control_socket]

    def with_config(self, config: Path) -> Self:
        """The same with another main file, its drop-ins beside it."""
        return replace(self, config=config, conf_d=config.parent / "conf.d")


def is_system(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is, or serves, the system rather than one user."""
    if mode := environment.get(MODE_VARIABLE):
        return mode == "system"
    return os.geteuid() == 0 or user_name(os.geteuid()) == SERVICE_USER


def user_name(uid: int) -> str:
    """The name of a user; empty if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _xdg(environment: Mapping[str, str], variable: str, default: Path) -> Path:
    """Our folder in one of the base directories; the specification has relative paths ignored."""
    value = Path(environment.get(variable) or "")
    return (value if value.is_absolute() else default) / "usbbridge"
