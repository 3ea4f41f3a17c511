"""Devices that are handed out, each with the end of a connection that tells when its holder has ended, in any way.

What then happens to the device does not depend on the holder: it goes back to the kernel's drivers, as soon as no claim
of a dying process is left on it. The kernel tells nobody when usbfs lets go of an interface (`releaseintf` in its
devio.c suppresses the event), so that has to be tried: soon, as it takes milliseconds, then less and less often.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from usbbridge.monitor.guard import Hold
from usbbridge.monitor.handed_out import HandedOut
from usbbridge.monitor.loop import ENDED, Loop, Timer
from usbbridge.monitor.table import id_of
from usbbridge.usb.entry import DeviceEntry

RETRY: Final = (0.02, 2.0)
"Seconds until the next try: at first, doubled each time, and at most, for a process that was never known and lives on."

Restore = Callable[[DeviceEntry], bool]
"As `usbbridge.monitor.node.restore`."


@dataclass(slots=True)
class _Lease:
    end: socket.socket
    hold: Hold | None


class Leases:
    """`records` outlives this process. `on_returned` is told the id of a device that is back, or gone."""

    def __init__(self, loop: Loop, records: HandedOut, restore: Restore, on_returned: Callable[[str], None]) -> None:
        self._loop, self._records, self._restore, self._on_returned = loop, records, restore, on_returned
        self._alive: dict[str, _Lease] = {}
        self._over: dict[str, Timer | None] = {}
        "Recorded devices whose holder has ended: they go back as soon as they can, which the timers try."

    def begin(self) -> None:
        """Give back what an earlier process handed out and nobody has a claim on. The records stay until it is known
        who still holds what (`adopt`, `synced`)."""
        for device_id in self._records:
            self._try(device_id)

    def is_alive(self, device_id: str) -> bool:
        """Whether its holder lives."""
        return device_id in self._alive

    def is_out(self, device_id: str) -> bool:
        """Whether it is handed out, or not back yet."""
        return device_id in self._alive or device_id in self._records

    def is_ours(self, device_id: str) -> bool:
        """Whether it is in use because we have handed it out."""
        return self.is_out(device_id) and device_id not in self._over

    def grant(self, entry: DeviceEntry, end: socket.socket, hold: Hold | None = None) -> None:
        """It is about to be handed out, until the other end of `end` is closed. `hold` is let go when its disks have
        gone."""
        device_id = id_of(entry)
        self._records.add(entry)
        self._forget(device_id)
        self._alive[device_id] = _Lease(end, hold)
        self._loop.watch(end.fileno(), lambda: self._end(device_id), ENDED)

    def adopt(self, entry: DeviceEntry, end: socket.socket) -> None:
        """An earlier process has handed it out. If its lease is known already, `end` is one more copy of that."""
        device_id = id_of(entry)
        if device_id in self._alive:
            end.close()
        else:
            self.grant(self._records.get(device_id) or entry, end)

    def synced(self) -> None:
        """All that is held has been adopted: the rest goes back."""
        for device_id in self._records:
            if device_id not in self._alive:
                self._over.setdefault(device_id, None)
                self._try(device_id)

    def orphans(self) -> list[str]:
        """Devices that are to go back, but a process that nobody knows has a claim on them."""
        return list(self._over)

    def changed(self, device_id: str) -> None:
        """Something has happened to the device."""
        lease = self._alive.get(device_id)
        if lease is not None:
            if lease.hold is not None:
                lease.hold.release_gone()
        elif device_id in self._records:
            self._try(device_id)

    def close(self) -> None:
        """Watch them no longer; the records stay."""
        for device_id in list(self._alive):
            self._let_go(device_id)
        for device_id in self.orphans():
            self._forget(device_id)

    def _end(self, device_id: str) -> None:
        self._let_go(device_id)
        self._over[device_id] = None
        self._try(device_id)

    def _let_go(self, device_id: str) -> None:
        lease = self._alive.pop(device_id)
        self._loop.unwatch(lease.end.fileno())
        lease.end.close()
        if lease.hold is not None:
            lease.hold.release()

    def _try(self, device_id: str, delay: float = RETRY[0]) -> None:
        """Give it back if its time has come; if a claim is left on it, try again later."""
        entry = self._records.get(device_id)
        is_back = entry is None or self._restore(entry)
        if device_id not in self._over:
            return  # it may still be adopted
        self._forget(device_id)
        if is_back:
            self._records.remove(device_id)
            self._on_returned(device_id)
        else:
            later = min(2 * delay, RETRY[1])
            self._over[device_id] = self._loop.after(delay, lambda: self._try(device_id, later))

    def _forget(self, device_id: str) -> None:
        timer = self._over.pop(device_id, None)
        if timer is not None:
            timer.cancel()
