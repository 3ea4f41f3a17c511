"""A man in the middle of a SPICE session who takes its USB channel first.

spice-server says "in use" only within one session: a second client throws the first out instead. So this one lets the
MAIN channel pass, reads the session's id from the next link message, and takes the channel under that id himself.
"""

import contextlib
import socket
import struct
import threading
from typing import Self

from usbbridge.spice.connection import open_channel
from usbbridge.spice.messages import ChannelType
from usbbridge.spice.targets import SpiceTarget

# SpiceLinkHeader (magic, major, minor, size) and the start of SpiceLinkMess (connection_id, channel_type, channel_id).
LINK = struct.Struct("<4sIIIIBB")


class SessionThief:
    """Listens on a port of its own and passes everything on to a SPICE server, but for the theft."""

    def __init__(self, port: int, password: str) -> None:
        self._server = SpiceTarget(host="127.0.0.1", port=port)
        self._password = password
        self._stack = contextlib.ExitStack()
        self._listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._stack.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the end
            while True:
                self._pass_on(self._stack.enter_context(self._listener.accept()[0]))

    def _pass_on(self, client: socket.socket) -> None:
        begin = client.recv(LINK.size, socket.MSG_WAITALL | socket.MSG_PEEK)
        *_, session, kind, number = LINK.unpack(begin)
        if kind == ChannelType.USBREDIR:
            stolen = open_channel(self._server, kind, number, connection_id=session, password=self._password)
            self._stack.enter_context(stolen.sock)
        server = self._stack.enter_context(socket.create_connection(("127.0.0.1", self._server.port)))
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
