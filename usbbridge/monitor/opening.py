"""Handing out a device: everything that has to be true at that moment, looked at in that moment."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usbbridge.compat.rule import Verdict
from usbbridge.errors import DeviceLostError, NotFoundError, RefusedError, UsbBridgeError
from usbbridge.ipc.monitoring import Open, Opened, PluggedDevice, Refused
from usbbridge.monitor import guard, inventory, node
from usbbridge.monitor.blockuse import BlockUse
from usbbridge.monitor.clients import Client
from usbbridge.monitor.leases import Leases
from usbbridge.monitor.log import Level, say
from usbbridge.monitor.loop import Loop, Timer
from usbbridge.monitor.table import Table
from usbbridge.monitor.unmount import Commands, Unmounting, commands
from usbbridge.usb.identity import clean_words

WAIT_SECONDS: Final = 5.0
"""For an earlier holder to end: a second for the guest's word, two for cancelled transfers, and the time that the
kernel takes to let go."""

_UNMOUNT_HINT: Final = "attach it with --unmount, or stop what uses it first: taking it away now could lose data"

_BUSY_HINT: Final = "end the programs that use it, or unmount it yourself, and try again"


@dataclass(slots=True)
class _Opening:
    """A request that is being worked on."""

    client: Client
    request: Open
    end: socket.socket
    "The lease."
    knew: bool = False
    "Whether it had been told that the device is not to be had when it asked."
    timer: Timer | None = None
    "While an earlier holder is waited for."
    unmounted: str | None = None
    "After its disks were to be unmounted: why that did not work; empty if it did."


class Opener:
    """Answers `Open`. One request for a device is worked on at a time. `look` tells what
    has changed about the device in a place."""

    def __init__(
        self,
        loop: Loop,
        root: Path,
        table: Table,
        leases: Leases,
        look: Callable[[str], None],
        unmount_commands: Commands = commands,
    ) -> None:
        self._loop, self._root, self._table, self._leases, self._look = loop, root, table, leases, look
        self._unmount_commands = unmount_commands
        self._openings: dict[str, _Opening] = {}
        self._unmountings: dict[str, Unmounting] = {}
        "The latest of each device; its command may run on when whoever asked has gone, or was told to wait."

    def open(self, client: Client, request: Open, end: socket.socket) -> None:
        """Answer a request, now or later, by `Opened` or `Refused`. `end` is ours."""
        opening = _Opening(client, request, end)
        device = self._table.get(request.device)
        if device is None:
            self._refuse(opening, NotFoundError(f"{clean_words(request.device)} is not plugged in (any more)"))
        elif device.id in self._openings:
            self._refuse(opening, RefusedError(f"{device.entry} is being opened for another request"))
        else:
            self._openings[device.id] = opening
            opening.knew = _is_forbidden(device.verdict, request)
            if self._leases.is_out(device.id):
                opening.timer = self._loop.after(WAIT_SECONDS, lambda: self._waited(opening))
            else:
                self._judge(opening)

    def returned(self, device_id: str) -> None:
        """A device is back: who has waited for it may have it."""
        opening = self._openings.get(device_id)
        if opening is not None and opening.timer is not None:
            opening.timer.cancel()
            opening.timer = None
            self._judge(opening)

    def forget(self, client: Client) -> None:
        """The client is gone, and so are its requests."""
        for opening in [o for o in self._openings.values() if o.client is client]:
            self._end(opening)

    def _waited(self, opening: _Opening) -> None:
        self._refuse(
            opening,
            RefusedError(f"{opening.request.device} is still in use by an earlier attachment", hint="try again"),
        )

    def _judge(self, opening: _Opening) -> None:
        """What the list says of the device as it is now, and what it is used for."""
        request = opening.request
        told = self._table.get(request.device)
        now = None if told is None else self._table.look(told.entry.bus_port)
        if told is None or now is None or now.id != told.id:
            self._refuse(opening, NotFoundError(f"{request.device} is not plugged in any more"))
        elif _is_forbidden(now.verdict, request):
            self._forbid(opening, now)
        elif obstacle := inventory.obstacle_beside_disks(self._root, now.entry):
            self._refuse(opening, obstacle.error())
        else:
            self._guard(opening, now)

    def _forbid(self, opening: _Opening, now: PluggedDevice) -> None:
        """Control has been told the verdict, and does not ask for what it can't have: who does so all the same is
        not what he should be. Unless the rules have changed since."""
        why = f"it may only be attached by asking for it: {now.because}"
        if now.verdict is Verdict.DENY:
            why = f"the compatibility list denies it: {now.because}"
        hint = f"`usbbridge rules explain {now.entry.bus_port}` tells more"
        self._refuse(opening, RefusedError(f"{now.entry}: {why}", hint=hint))
        if opening.knew:
            opening.client.end(f"it asked for {now.entry}, which it had been told is not to be had")
        else:
            self._look(now.entry.bus_port)

    def _guard(self, opening: _Opening, now: PluggedDevice) -> None:
        """Refuse a device whose disks are in use, or unmount them, or take it all the same, as was asked."""
        folder, request = self._table.folder(now.entry), opening.request
        use = BlockUse(self._root)
        in_use = inventory.disks_in_use(now.entry, use.of(folder))
        try:
            guard.demand_foreign(use, folder, str(now.entry))
        except RefusedError as error:
            self._refuse(opening, error)
            return
        if in_use is None or (request.force and opening.unmounted is None):
            self._hold(opening, now, use)
        elif opening.unmounted is not None:
            message = f"{now.entry} is in use: {opening.unmounted}" if opening.unmounted else in_use.message
            self._refuse(opening, RefusedError(message, hint=_BUSY_HINT))
        elif request.unmount:
            self._unmount(opening, now, folder)
        else:
            self._refuse(opening, RefusedError(in_use.message, hint=_UNMOUNT_HINT))

    def _unmount(self, opening: _Opening, now: PluggedDevice, folder: Path) -> None:
        """One at a time for a device: a stick that does not take its data would keep a process for every request."""
        before = self._unmountings.get(now.id)
        if before is not None and before.is_busy:
            self._refuse(opening, RefusedError(f"{now.entry} is being unmounted already", hint="try again in a while"))
            return
        done = lambda why: self._unmounted(opening, why)  # noqa: E731  # short, and used once
        self._unmountings = {i: unmounting for i, unmounting in self._unmountings.items() if unmounting.is_busy}
        self._unmountings[now.id] = Unmounting(self._loop, self._root, folder, done, self._unmount_commands)
        self._unmountings[now.id].begin()

    def _unmounted(self, opening: _Opening, why: str) -> None:
        """That may have taken a minute: rules, and the device itself, may be others by now."""
        if self._openings.get(opening.request.device) is opening:  # else whoever asked is gone
            opening.unmounted = why
            self._judge(opening)

    def _hold(self, opening: _Opening, now: PluggedDevice, use: BlockUse) -> None:
        disks = use.disks(self._table.folder(now.entry))
        try:
            hold = guard.hold(self._root, disks)
        except guard.DiskBusyError as error:
            if not opening.request.force:
                self._refuse(opening, RefusedError(f"{now.entry}: {error.message}", hint=error.hint))
                return
            hold = guard.Hold(self._root, {})
        try:
            fd = self._open_node(now)
        except UsbBridgeError as error:
            hold.release()
            self._refuse(opening, error)
            return
        self._hand_out(opening, now, hold, fd)

    def _open_node(self, now: PluggedDevice) -> int:
        """Raises UsbBridgeError."""
        fd = node.open_node(now.entry)
        again = self._table.read(now.entry.bus_port)
        if again is None or not node.is_same(again, now.entry):  # else the node that we have opened is another's
            os.close(fd)
            raise DeviceLostError(f"{now.entry} was unplugged")
        return fd

    def _hand_out(self, opening: _Opening, now: PluggedDevice, hold: guard.Hold, fd: int) -> None:
        del self._openings[now.id]
        self._leases.grant(now.entry, opening.end, hold)
        say(Level.INFO, f"{now.entry} is handed out to {opening.client.peer}")
        opening.client.send(Opened(opening.request.request), fd)

    def _refuse(self, opening: _Opening, error: UsbBridgeError) -> None:
        self._end(opening)
        say(Level.NOTICE, f"refused to {opening.client.peer}: {error.message}")
        number, name = opening.request.request, type(error).__name__
        opening.client.send(Refused(number, error.exit_status, name, error.message, error.hint))

    def _end(self, opening: _Opening) -> None:
        if self._openings.get(opening.request.device) is opening:
            del self._openings[opening.request.device]
        if opening.timer is not None:
            opening.timer.cancel()
        opening.end.close()


def _is_forbidden(verdict: Verdict, request: Open) -> bool:
    return verdict is Verdict.DENY or (verdict is Verdict.ASK and not request.asked)
