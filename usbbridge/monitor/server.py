"""The monitor's socket: who may connect, and what is done about each kind of request.

SOCK_SEQPACKET (`usbbridge.ipc.channel`) keeps the borders of messages and the descriptors that belong to each, so that
this privileged process has no framing of its own to get wrong. Who is there is for the kernel to say (SO_PEERCRED), and
what each may ask for stands in a closed table (`usbbridge.ipc.permissions`): anything else ends the connection.
"""

import os
import socket
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from usbbridge.ipc.listener import Listener
from usbbridge.ipc.monitoring import (
    VERSION,
    Adopt,
    Gone,
    Hello,
    Listed,
    Open,
    Outcome,
    Plugged,
    Reload,
    Request,
    Returned,
    Synced,
    Welcome,
)
from usbbridge.ipc.permissions import Stage, monitor_role
from usbbridge.monitor.clients import Client
from usbbridge.monitor.leases import Leases
from usbbridge.monitor.log import Level, say
from usbbridge.monitor.loop import Loop
from usbbridge.monitor.opening import Opener
from usbbridge.monitor.table import Table
from usbbridge.usb.identity import clean_words

MAX_CLIENTS: Final = 8
"Control, one that is just taking over, and a few commands that ask for a reload."

MAX_SECONDS: Final = 1e9
"Of an attachment: 30 years."

RESULTS: Final = ("attached", "failed", "ended")


class Memory(Protocol):
    """Where outcomes are kept: `usbbridge.compat.store.Store`."""

    def record(
        self,
        vendor: int,
        product: int,
        bcd_device: int,
        result: str,
        error: str,
        message: str,
        resets: int,
        seconds: float,
    ) -> object: ...


class Server:
    """Serves `listener`. `look` tells what has changed about the device in a place; `reload` reads the rules again and
    judges every device anew."""

    def __init__(
        self,
        loop: Loop,
        listener: Listener,
        table: Table,
        leases: Leases,
        memory: Memory,
        look: Callable[[str], None],
        reload: Callable[[], None],
        control_uid: int | None,
    ) -> None:
        self._loop, self._listener, self._table, self._leases = loop, listener, table, leases
        self._memory, self._look, self._reload, self._control_uid = memory, look, reload, control_uid
        self._clients: list[Client] = []
        self.opener: Opener | None = None
        loop.watch(listener.fileno(), self._connected)

    def tell(self, changes: Iterable[Plugged | Gone | Returned]) -> None:
        """Tell every client that has said Hello."""
        for change in changes:
            for client in list(self._clients):
                if client.stage is Stage.GREETED:
                    client.send(change)

    def close(self) -> None:
        """Disconnect everybody, and accept nobody any more."""
        for client in list(self._clients):
            client.end()
        self._loop.unwatch(self._listener.fileno())

    def _connected(self) -> None:
        accepted = self._listener.accept()
        if accepted is None:
            return
        sock, peer = accepted
        role = monitor_role(peer, os.geteuid(), self._control_uid)
        if role is None or len(self._clients) >= MAX_CLIENTS:
            why = "it is neither root nor control" if role is None else "too many are connected"
            say(Level.WARNING, f"the connection of {peer} was refused: {why}")
            sock.close()
            return
        self._clients.append(Client(self._loop, sock, peer, role, self._requested, self._ended))

    def _ended(self, client: Client) -> None:
        self._clients.remove(client)
        if self.opener is not None:
            self.opener.forget(client)

    def _requested(self, client: Client, request: Request, fds: tuple[int, ...]) -> None:
        """What is permitted, and with as many descriptors as belong to it."""
        match request:
            case Hello():
                self._greet(client, request)
            case Open() | Adopt():
                self._lease(client, request, fds[0])
            case Synced():
                self._leases.synced()
                for device in self._leases.orphans():  # another program's from now on, which is an obstacle
                    self._look(device.partition("#")[0])
            case Outcome():
                self._record(client, request)
            case Reload():
                say(Level.INFO, f"{client.peer} has the rules read again")
                self._reload()

    def _greet(self, client: Client, hello: Hello) -> None:
        client.send(Welcome(VERSION))
        if hello.version != VERSION:
            client.end(f"it speaks version {hello.version}, this is {VERSION}: restart both after an update")
            return
        client.stage = Stage.GREETED
        for device in self._table:
            client.send(Plugged(device))
        client.send(Listed())

    def _lease(self, client: Client, request: Open | Adopt, fd: int) -> None:
        end = _lease_end(fd)
        if end is None:
            client.end(f"{request.kind!r} without the end of a connection for a lease")
        elif isinstance(request, Open):
            assert self.opener is not None
            self.opener.open(client, request, end)
        else:
            self._adopt(client, request, end)

    def _adopt(self, client: Client, request: Adopt, end: socket.socket) -> None:
        """Only what was handed out, or is in use by some program, can be somebody's already."""
        device = self._table.get(request.device)
        if device is None or not (self._leases.is_out(device.id) or "usbfs" in device.entry.drivers):
            say(Level.NOTICE, f"{client.peer} has no such device: {clean_words(request.device)}")
            end.close()
        else:
            say(Level.INFO, f"{device.entry} stays handed out to {client.peer}")
            self._leases.adopt(device.entry, end)
            self._look(device.entry.bus_port)

    def _record(self, client: Client, o: Outcome) -> None:
        model = self._table.model(o.device)
        if o.result not in RESULTS or not 0 <= o.seconds <= MAX_SECONDS or not 0 <= o.resets < 1 << 31:
            client.end("an outcome that can't be true")
        elif model is not None:
            self._memory.record(*model, o.result, o.error, o.message, o.resets, o.seconds)


def _lease_end(fd: int) -> socket.socket | None:
    """The descriptor as a socket whose other end's end can be noticed; None, and it is closed, if it is no such."""
    try:
        end = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None
    if end.family == socket.AF_UNIX and end.type in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        return end
    end.close()
    return None
