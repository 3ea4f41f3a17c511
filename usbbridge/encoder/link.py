"""The two ways to the VM: a raw usbredir socket, and a SPICE USBREDIR channel. Both satisfy
`usbbridge.encoder.loop.Link`."""

import functools
import socket
import time
from collections.abc import Callable

from usbbridge.encoder.writer import Parts
from usbbridge.errors import ConnectionLostError
from usbbridge.ipc.messages import Start
from usbbridge.redirect.host import Host
from usbbridge.spice.connection import Linked, open_channel, open_raw
from usbbridge.spice.messages import ChannelType
from usbbridge.spice.sockets import TlsOptions, delivery_rate
from usbbridge.spice.targets import SpiceTarget, Target
from usbbridge.spice.usbredir import COMPRESS_ABOVE, Compression, UsbredirChannel, usbredir_caps


class RawLink:
    """The usbredir stream itself on a socket."""

    def __init__(self, sock: socket.socket, host: Host, where: str) -> None:
        self.sock = sock
        self.frame: Callable[[Parts, int], Parts] | None = None
        self.buffer, self.received = host.codec.buffer, host.codec.received
        self._where, self._host = where, host

    def begin(self) -> None:
        """Nothing has come yet: there was no link stage."""

    def take_replies(self) -> bytes:
        """Nothing: usbredir has no pings."""
        return b""

    def lost(self) -> Exception:
        """What the end of the connection means: before a hello there was no usbredir guest, or it is busy."""
        if not self._host.guest_version:
            return ConnectionLostError(
                f"{self._where} closed the connection before it said anything",
                hint="Is that a usbredir port, and is no other device attached to it?",
            )
        return ConnectionLostError(f"{self._where} closed the connection", hint="Has the VM ended?")


class SpiceLink:
    """The usbredir stream inside the messages of a USBREDIR channel."""

    def __init__(self, linked: Linked, host: Host, *, compression: Compression) -> None:
        self.sock = linked.sock
        unix = linked.sock.family == socket.AF_UNIX
        self._channel = UsbredirChannel(
            linked.result,
            host.codec,
            compression=compression,
            unix_socket=unix,
            link_rate=functools.partial(delivery_rate, linked.sock),
            clock=time.perf_counter,
        )
        self._rest, self._host = linked.rest, host
        self.buffer, self.received = self._channel.buffer, self._channel.received
        self.take_replies, self.lost = self._channel.take_output, self._channel.ended
        self.frame: Callable[[Parts, int], Parts] | None = self._frame

    def begin(self) -> None:
        """Take what came right behind the link stage. Raises as `received`."""
        if self._rest:
            self._channel.feed(self._rest)

    def _frame(self, parts: Parts, size: int) -> Parts:
        if size > COMPRESS_ABOVE and not self._host.isochronous:  # pictures and sound have no time for it
            packed = self._channel.compress(parts, size)
            if packed is not None:
                return [packed]
        parts.insert(0, self._channel.frame(size))
        return parts


def tls_options(start: Start) -> TlsOptions:
    """How to check the server's certificate, as the starter said."""
    return TlsOptions(ca_file=start.ca_file or None, host_subject=start.host_subject or None)


def open_link(start: Start, target: Target, channel: int, host: Host) -> RawLink | SpiceLink:
    """Connect to the VM and link `channel`, if it is one that has channels. Raises LinkError subclasses."""
    if not isinstance(target, SpiceTarget):
        return RawLink(open_raw(target), host, str(target))
    compression: Compression = "never" if start.compression == "never" else "auto"
    linked = open_channel(
        target,
        ChannelType.USBREDIR,
        channel,
        connection_id=start.session_id,
        password=start.password,
        channel_caps=usbredir_caps(compression),
        tls=tls_options(start),
    )
    return SpiceLink(linked, host, compression=compression)
