"""What all checks look at, gathered once: the configuration, the service, the devices, and who is asking."""

import contextlib
import grp
import os
import pwd
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from usbbridge.config import Config, Paths
from usbbridge.config.loading import Loaded
from usbbridge.config.paths import CONFIG_VARIABLE, MODE_VARIABLE, is_system
from usbbridge.ipc.api import DeviceStatus, Status, VmStatus
from usbbridge.usb.entry import DeviceEntry

T = TypeVar("T")

SERVICE_SECONDS: Final = 0.6
"A service that has not told its status by then hangs: it answers from memory, in milliseconds."


@dataclass(frozen=True, slots=True)
class Attempt(Generic[T]):
    """Something that was tried: its result, or what came in between."""

    value: T | None = None
    error: Exception | None = None

    @property
    def got(self) -> T:
        """The result; raises what came in between."""
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value


def attempt(work: Callable[[], T], seconds: float | None = None) -> Attempt[T]:
    """Try it; with a limit, in a thread that is left behind if it takes longer than that: then it is a TimeoutError."""
    done: list[Attempt[T]] = []

    def run() -> None:
        try:
            done.append(Attempt(value=work()))
        except Exception as error:  # whatever it is, it is a finding, and no reason to stop looking
            done.append(Attempt(error=error))

    if seconds is None:
        run()
    else:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(seconds)
    return done[0] if done else Attempt(error=TimeoutError(f"no answer within {seconds:g} s"))


@dataclass(frozen=True, slots=True)
class Service:
    """The running service, as it answers on its socket."""

    version: str
    may: frozenset[str]
    "Rights of this user (`ipc.api.Right`)."
    status: Attempt[Status]
    "Not to be had without the right to see it."

    def device(self, entry: DeviceEntry) -> DeviceStatus | None:
        """What it says of the device; None if it does not know this one, or does not tell us."""
        id_ = f"{entry.bus_port}#{entry.devnum}"
        devices = self.status.value.devices if self.status.value else ()
        return next((each for each in devices if each.device.id == id_), None)

    def vm(self, name: str) -> VmStatus | None:
        """What it says of the VM."""
        vms = self.status.value.vms if self.status.value else ()
        return next((each for each in vms if each.name == name), None)


@dataclass(frozen=True, slots=True)
class User:
    """Who is asking."""

    uid: int
    name: str
    groups: frozenset[str]
    "Names of the groups that this process is in."

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    @classmethod
    def current(cls) -> "User":
        """This process's."""
        gids = {*os.getgroups(), os.getegid()}
        names = {group.gr_name for group in grp.getgrall() if group.gr_gid in gids}
        return cls(os.geteuid(), user_name(os.geteuid()), frozenset(names))


def user_name(uid: int) -> str:
    """The user's name, or the number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@dataclass(frozen=True, slots=True)
class Case:
    """All of it. Checks run at the same time in several threads; nothing here is changed."""

    root: Path
    "`/`, except in tests: below it are dev, etc, proc, run and sys."
    paths: Paths
    loaded: Attempt[Loaded]
    "The configuration, with all mistakes."
    service: Attempt[Service]
    devices: Attempt[Sequence[DeviceEntry]]
    user: User
    device: str = ""
    "The device that was asked about; empty: all of them."
    serial: str = ""
    vm: str = ""
    "The VM that was asked about, by its name or target; empty: all that are configured."

    @property
    def config(self) -> Config | None:
        """The configuration, if it has no mistakes."""
        return self.loaded.value.config if self.loaded.value else None

    def sudo(self, command: str) -> str:
        """The command as this user would have to type it to run it as root."""
        return command if self.user.is_root else f"sudo {command}"

    @property
    def served(self) -> Service | None:
        """The service, if it answers."""
        return self.service.value


def gather(root: Path, device: str = "", serial: str = "", vm: str = "") -> Case:
    """Look. Takes SERVICE_SECONDS at the most, and raises nothing."""
    with _in_mode("system" if is_systems(root) else ""):
        loaded = attempt(_loaded)
        config = loaded.value.config if loaded.value else None
        paths = config.paths if config else Paths.default()
    return Case(
        root,
        paths,
        loaded,
        attempt(lambda: _service(paths), SERVICE_SECONDS),
        attempt(lambda: _devices(root)),
        User.current(),
        device,
        serial,
        vm,
    )


def is_systems(root: Path, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether it is about the system's service, and not about one of the user's own: the one that runs, or else the one
    that is configured."""
    if MODE_VARIABLE in environment or CONFIG_VARIABLE in environment or is_system(environment):
        return is_system(environment)
    own, system = Paths.of_user(environment), Paths.of_system()
    socket, config = (root / path.relative_to("/") for path in (system.control_socket, system.config))
    places = ((own.control_socket, False), (socket, True), (own.config, False), (config, True))
    return next((systems for place, systems in places if place.exists()), False)


@contextlib.contextmanager
def _in_mode(mode: str) -> Iterator[None]:
    """Load the configuration as a process of this mode does; empty: as this one does."""
    before = os.environ.get(MODE_VARIABLE)
    if mode:
        os.environ[MODE_VARIABLE] = mode
    try:
        yield
    finally:
        if mode and before is None:
            del os.environ[MODE_VARIABLE]
        elif before is not None:
            os.environ[MODE_VARIABLE] = before


def _loaded() -> Loaded:
    from usbbridge.config.loading import examine

    return examine()


def _devices(root: Path) -> Sequence[DeviceEntry]:
    from usbbridge.monitor.inventory import devices

    return devices(root)


def _service(paths: Paths) -> Service:
    from usbbridge.ipc.client import ServiceClient

    with ServiceClient.connect(paths, greeting_seconds=SERVICE_SECONDS) as client:
        return Service(client.version or "unknown", client.may, attempt(client.status))
