"""The loopback VM's sockets: a SPICE server, or a raw usbredir listener, in front of the VM's USB ports.

Everything runs on one asyncio loop in one thread, because the protocol objects behind it aren't made for threads. As
with spice-server, a new MAIN link ends the session before it; a busy USBREDIR channel is linked in full and then
closed; a channel whose client breaks the protocol is closed, and with MAIN all of its session.
"""

import asyncio
import secrets
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Final, Protocol, cast

from usbbridge.errors import ConnectionLostError, RemoteProtocolError, UsbBridgeError
from usbbridge.loopback.channels import CAP_COMPRESS_LZ4, MAIN_CAPS, MainServer, ServerChannel, UsbredirServer
from usbbridge.loopback.link import CHANNEL_MAIN, CHANNEL_USBREDIR, ClientLink, LinkPolicy, LinkServer
from usbbridge.loopback.tasks import Buffer

HOST: Final = "127.0.0.1"
HANDSHAKE_SECONDS: Final = 1.0
"How long the end of the server waits for a client that has not finished its TLS handshake."
LATENCY_PING_SECONDS: Final = 0.1
"spice-server measures a channel's latency when it has been idle that long, by two pings."


class Event(Enum):
    """What a server tells of."""

    LINKED = "linked"
    REFUSED = "refused"
    CLOSED = "closed"
    VIOLATION = "violation"


Report = Callable[[Event, str], None]


class UsbPort(Protocol):
    """One of the VM's usb-redir devices, as the server sees it."""

    @property
    def taken(self) -> bool:
        """A client is on it."""

    def opened(self, wake: Callable[[], None]) -> None:
        """A client has come; `wake` is to be called when there is output that no input has brought about."""

    def feed(self, data: bytes | memoryview) -> None:
        """usbredir bytes. Raises `RemoteProtocolError`."""

    def take_output(self) -> list[Buffer]:
        """usbredir bytes to send, once."""

    def closed(self, error: UsbBridgeError) -> None:
        """The client has gone."""


class Connection(asyncio.Protocol):
    """What every connection has: a transport, and one place where broken protocol ends it."""

    def __init__(self, server: "Server") -> None:
        self.server = server
        self.transport: asyncio.Transport
        self.port: UsbPort | None = None
        self._error: UsbBridgeError = ConnectionLostError("the client closed the connection")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.came(self)

    def data_received(self, data: bytes) -> None:
        try:
            self.receive(data)
        except RemoteProtocolError as error:
            self._error = error
            self.server.report(Event.VIOLATION, str(error))
            self.transport.close()
        else:
            self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.went(self)
        if self.port is not None:
            port, self.port = self.port, None
            port.closed(self._error)

    def receive(self, data: bytes) -> None:
        """Bytes from the client. Raises `RemoteProtocolError`."""
        raise NotImplementedError

    def flush(self) -> None:
        """Send what the port has to say."""
        raise NotImplementedError

    def take_port(self, port: UsbPort) -> bool:
        """Put this client on a port; False, and the connection closes, if there is one on it already."""
        if port.taken:
            self.server.report(Event.REFUSED, "busy")
            self.transport.close()
            return False
        self.port = port
        port.opened(self.flush)
        return True

    def write(self, parts: Iterable[Buffer]) -> None:
        """Send these, in one go."""
        data = b"".join(parts)
        if data and not self.transport.is_closing():
            self.transport.write(data)


class RawConnection(Connection):
    """A bare usbredir byte stream, as QEMU's `-chardev socket` speaks it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.take_port(self.server.ports[0]):
            self.server.report(Event.LINKED, "usbredir")
            self.flush()

    def receive(self, data: bytes) -> None:
        if self.port is not None:
            self.port.feed(data)

    def flush(self) -> None:
        if self.port is not None:
            self.write(self.port.take_output())


class SpiceConnection(Connection):
    """A SPICE channel from its first byte on."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._link = LinkServer(self.server.policy)
        self._timers: list[asyncio.TimerHandle] = []
        self.channel: ServerChannel | None = None
        self.session = 0

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in self._timers:
            timer.cancel()
        if isinstance(self.channel, MainServer):
            self.server.end_session(self.session)

    def receive(self, data: bytes) -> None:
        if self.channel is not None:
            self.channel.feed(data)
        elif self._link.linked is None and not self._link.closed:
            self._linking(data)

    def _linking(self, data: bytes) -> None:
        self._link.receive(data)
        if self._link.closed:
            self.server.report(Event.REFUSED, "link stage")
        self.write((self._link.bytes_to_send(),))
        if self._link.closed:
            self.transport.close()
        elif self._link.linked is not None:
            self._begin(self._link.linked)

    def _begin(self, link: ClientLink) -> None:
        if link.channel_type == CHANNEL_MAIN:
            self._begin_main(link)
        else:
            self._begin_usbredir(link)
        if self.channel is not None:
            self.flush()
            self.channel.feed(self._link.rest)

    def _begin_main(self, link: ClientLink) -> None:
        self.server.report(Event.LINKED, "MAIN")
        if link.connection_id:  # taken for the target of a migration: nothing comes, as with spice-server
            return
        self.server.end_session(self.server.session)
        self.session = self.server.session = 1 + secrets.randbelow(0xFFFFFFFF)
        self.channel = MainServer(link, self.session, tuple(self.server.policy.channels), self.server.name)

    def _begin_usbredir(self, link: ClientLink) -> None:
        port = self.server.ports[link.channel_id]
        if not self.take_port(port):
            return
        self.session = link.connection_id
        self.channel = UsbredirServer(link, port.feed)
        self.server.report(Event.LINKED, f"USBREDIR {link.channel_id}")
        loop = asyncio.get_running_loop()
        self._timers = [loop.call_later(LATENCY_PING_SECONDS * n, self._ping, n) for n in (1, 2)]

    def _ping(self, number: int) -> None:
        assert self.channel is not None
        self.channel.ping(number, time.monotonic_ns())
        self.flush()

    def flush(self) -> None:
        if self.channel is None:
            return
        if isinstance(self.channel, UsbredirServer) and self.port is not None:
            self.channel.send(self.port.take_output())
        self.write(self.channel.take_output())


class Server:
    """Listens on a free port of the loopback interface. To be used on its loop's thread alone."""

    def __init__(
        self, ports: Sequence[UsbPort], report: Report, *, password: str | None = None, name: str = "loopback VM"
    ) -> None:
        self.ports = ports
        self.report = report
        self.name = name
        self.connections: set[Connection] = set()
        self.session = 0
        "The one session there is; 0: none."
        self.policy = LinkPolicy(
            password,
            channels=[(CHANNEL_USBREDIR, number) for number in range(len(ports))],
            channel_caps={CHANNEL_MAIN: MAIN_CAPS, CHANNEL_USBREDIR: CAP_COMPRESS_LZ4},
            sessions=lambda session: bool(session) and session == self.session,
        )
        self._listener: asyncio.Server | None = None
        self._closing = False
        self._quiet = asyncio.Event()
        "No connection is left."
        self._quiet.set()

    async def listen(self, kind: type[Connection], tls: ssl.SSLContext | None = None) -> int:
        """Start to listen; returns the TCP port."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: kind(self), HOST, 0, ssl=tls)
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    def came(self, connection: Connection) -> None:
        """A connection was made."""
        self.connections.add(connection)
        self._quiet.clear()
        if self._closing:
            connection.transport.abort()

    def went(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if not self.connections:
            self._quiet.set()

    async def close(self) -> None:
        """Stop listening and end every connection, also those that are being accepted."""
        self._closing = True
        self.abort()
        # a listener that is closed while asyncio accepts a connection leaves that one open for ever
        while accepting := asyncio.all_tasks() - {asyncio.current_task()}:
            if not (await asyncio.wait(accepting, timeout=HANDSHAKE_SECONDS))[0]:
                break
        if self._listener is not None:
            self._listener.close()
        await self._quiet.wait()

    def abort(self) -> None:
        """End every connection at once, as a VM that is killed does."""
        for connection in list(self.connections):
            connection.transport.abort()

    def end_session(self, session: int) -> None:
        """Close all channels of a session: they live and die with its MAIN."""
        if not session:
            return
        if session == self.session:
            self.session = 0
        for connection in list(self.connections):
            if isinstance(connection, SpiceConnection) and connection.session == session:
                connection.transport.close()

    def pause(self, paused: bool) -> None:
        """Read nothing while paused, as QEMU while its VM is stopped."""
        for connection in self.connections:
            if connection.port is not None:
                (connection.transport.pause_reading if paused else connection.transport.resume_reading)()
