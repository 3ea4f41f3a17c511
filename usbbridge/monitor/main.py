"""The monitor process: what there is, what comes and goes, what the compatibility list says of it, and who may have it.

It is the only part that needs to be root. It speaks to nobody but the kernel, udevd, and whoever connects to its
socket; nothing in it comes from a network. One thread, one loop, and no wake-ups unless something happens; a service
manager with a watchdog is told now and then that the loop still turns.
"""

import gc
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from usbbridge.compat.source import shipped_rules
from usbbridge.compat.store import Store
from usbbridge.config import Config
from usbbridge.errors import UsbBridgeError
from usbbridge.ipc.listener import Listener, listen
from usbbridge.ipc.monitoring import Returned
from usbbridge.ipc.notify import notify, watchdog_seconds
from usbbridge.ipc.permissions import group_id, user_id
from usbbridge.monitor import node
from usbbridge.monitor.blockuse import BlockUse
from usbbridge.monitor.handed_out import HandedOut
from usbbridge.monitor.hotplug import EventsLost, Source, open_source
from usbbridge.monitor.inventory import ROOT
from usbbridge.monitor.leases import Leases
from usbbridge.monitor.log import Level, say
from usbbridge.monitor.loop import CHANGED, Loop, Signals, Timer
from usbbridge.monitor.opening import Opener
from usbbridge.monitor.server import Server
from usbbridge.monitor.table import Table

SETTLE_SECONDS: Final = 0.5
"""After the last event of a device that the kernel has not set up completely: then it is told of as it is. A device
without a configuration stays so, and older kernels do not say when they are done."""

CLAIM_SECONDS: Final = 3.0
"Between two looks at a device that another program uses; the kernel tells nobody when that ends."

MOUNTS_SECONDS: Final = 0.2
"Between two looks at what is mounted: a machine that starts containers changes its mounts hundreds of times a second."

TABLES: Final = ("proc/self/mountinfo", "proc/swaps")
"Kernel files that announce by EPOLLPRI that they have changed (proc_pid_mountinfo(5); proc_swaps does so too)."

_SYSTEM_MODE: Final = 0o660
_USER_MODE: Final = 0o600


def run(config: Config, *, ready: Callable[[], None] | None = None) -> int:
    """Be the monitor until SIGTERM or SIGINT; SIGHUP reads the rules again. `ready` is called when devices are known
    and clients may connect. Returns the exit status. Raises UsbBridgeError for what keeps it from starting."""
    loop = Loop()
    store = _open_store(config)
    listener = _listen(config)
    try:
        monitor = Monitor(config, loop, listener, store, open_source(config.monitor.source))
        signals = Signals(loop, monitor.reload, loop.stop)
        monitor.begin()
        if ready is not None:
            ready()
        notify("READY=1")
        loop.run()
        notify("STOPPING=1")
        signals.close()
        monitor.close()
    finally:
        listener.close()
        store.close()
        loop.close()
    return 0


class Monitor:
    """The parts, and what happens between them. `root` is where /sys, /dev and /proc are looked up."""

    def __init__(
        self, config: Config, loop: Loop, listener: Listener, store: Store, source: Source, root: Path = ROOT
    ) -> None:
        self._loop, self._store, self._source, self._root = loop, store, source, root
        self._records = HandedOut(config.paths.handed_out)
        self.leases = Leases(loop, self._records, lambda entry: node.restore(entry, root), self._returned)
        self.table = Table(root, store.decide, self._records.get, self.leases.is_ours)
        control_uid = user_id(config.monitor.user) if config.paths.system else None
        self.server = Server(loop, listener, self.table, self.leases, store, self._look, self.reload, control_uid)
        self.opener = Opener(loop, root, self.table, self.leases, self._look)
        self.server.opener = self.opener
        self._again: dict[str, Timer] = {}
        "Where something is looked at again though nothing may tell of it."
        self._mounts: Timer | None = None
        self._tables: list[int] = []
        self._said: frozenset[str] = frozenset()
        "Notices of the list that are in the log; each is in the list once, and only the latest are."

    def begin(self) -> None:
        """Find what is there. Events from before that are only looked at again."""
        self._say_notices()
        self._loop.watch(self._source.fileno(), self._events)
        self._watch_tables()
        self.leases.begin()
        self._look_at_all()
        count = sum(not device.entry.is_root_hub for device in self.table)
        say(Level.INFO, f"devices that are there: {count}; told of others by {self._source.name}")
        if seconds := watchdog_seconds():
            self._alive(seconds / 2)
        gc.collect()
        gc.freeze()  # what was made up to here stays: no need to look at it again and again

    def close(self) -> None:
        """Disconnect everybody. Devices stay handed out: whoever has them lives on, and the next monitor is told."""
        self.server.close()
        self.leases.close()
        self._loop.unwatch(self._source.fileno())
        self._source.close()
        for fd in self._tables:
            self._loop.unwatch(fd)
            os.close(fd)

    def reload(self) -> None:
        """Read the rules again, and judge every device anew."""
        notify("RELOADING=1")
        try:
            self._store.reload()
        except UsbBridgeError as error:
            say(Level.WARNING, f"the rules stay as they were: {error.message}")
        self._say_notices()
        self._look_at_all()
        notify("READY=1")

    # ---- what happens

    def _events(self) -> None:
        """Something has happened to devices: look at those, each once."""
        places: dict[str, None] = {}
        is_block = False
        try:
            for event in self._source.events():
                if event.subsystem == "usb":
                    places[event.bus_port] = None
                else:
                    is_block = True
        except EventsLost:
            say(Level.NOTICE, "events were lost: looking at everything")
            self._look_at_all(settled=False)  # what is just being set up is not to be told of in half
            places.clear()
        use = BlockUse(self._root)
        for place in places:
            self._look(place, use, settled=False)
        self.table.release()
        if is_block:
            self._mounts_changed()
        self._say_notices()

    def _look(self, bus_port: str, use: BlockUse | None = None, *, settled: bool = True) -> None:
        """Something may have happened to the device there: see, and tell."""
        timer = self._again.pop(bus_port, None)
        if timer is not None:
            timer.cancel()
        device = self.table.at(bus_port)
        if device is not None:
            self.leases.changed(device.id)
        self.server.tell(self.table.update(bus_port, use, settled=settled))
        self._look_again(bus_port)

    def _look_again(self, bus_port: str) -> None:
        """Later, if what is there changes without telling."""
        if self.table.is_pending(bus_port):
            seconds = SETTLE_SECONDS
        elif self.table.is_claimed(bus_port):
            seconds = CLAIM_SECONDS
        else:
            return
        self._again[bus_port] = self._loop.after(seconds, lambda: self._look(bus_port))

    def _look_at_all(self, *, settled: bool = True) -> None:
        use = BlockUse(self._root)
        for bus_port in self.table.places():
            self._look(bus_port, use, settled=settled)
        self.table.release()

    def _mounts_changed(self) -> None:
        """Disks may be in use now, or no longer. Looked at once for all that changes in a while."""
        if self._mounts is None:
            self._mounts = self._loop.after(MOUNTS_SECONDS, self._look_at_disks)

    def _look_at_disks(self) -> None:
        self._mounts = None
        use = BlockUse(self._root)
        for bus_port in self.table.with_disks(use):
            self._look(bus_port, use, settled=False)

    def _returned(self, device_id: str) -> None:
        """A device that was handed out is back with the kernel, or gone."""
        device = self.table.get(device_id)
        if device is not None:
            say(Level.INFO, f"{device.entry} is back")
            self.server.tell(self.table.update(device.entry.bus_port, settled=False))
        if self.table.get(device_id) is not None:
            self.server.tell([Returned(device_id)])
        self.opener.returned(device_id)

    # ---- what it needs

    def _watch_tables(self) -> None:
        for name in TABLES:
            try:
                fd = os.open(self._root / name, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:  # no swap in this kernel
                continue
            try:
                self._loop.watch(fd, self._mounts_changed, CHANGED)
            except PermissionError:  # an ordinary file, which never announces anything
                os.close(fd)
            else:
                self._tables.append(fd)

    def _alive(self, seconds: float) -> None:
        notify("WATCHDOG=1")
        self._loop.after(seconds, lambda: self._alive(seconds))

    def _say_notices(self) -> None:
        """What the list has to say since the last time."""
        notices = self._store.notices
        for notice in notices:
            if notice not in self._said:
                say(Level.WARNING, notice)
        self._said = frozenset(notices)


def _open_store(config: Config) -> Store:
    folders = [shipped_rules(), *config.monitor.rules]  # one that is not there (yet) has no rules
    database = config.paths.database
    database.parent.mkdir(mode=0o755 if config.paths.system else 0o700, parents=True, exist_ok=True)
    return Store.open(database, folders)


def _listen(config: Config) -> Listener:
    """In system mode for control's user as well, through its group."""
    path, user = config.paths.monitor_socket, config.monitor.user
    if not config.paths.system:
        return listen(path, socket.SOCK_SEQPACKET, _USER_MODE)
    group = group_id(user)
    if group is None:
        say(Level.WARNING, f"there is no user and group {user!r} for control: only root may connect")
        return listen(path, socket.SOCK_SEQPACKET, _USER_MODE)
    return listen(path, socket.SOCK_SEQPACKET, _SYSTEM_MODE, group)
