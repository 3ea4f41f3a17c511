"""A linked channel of the data stage: what arrives becomes events and answers (SPICE protocol, "Common messages").

Sans-IO: receive into `buffer()`, tell `received()`, send `take_output()`; `usbbridge.spice.reader` has the bytes.
"""

from typing import NoReturn, Protocol

from usbbridge.errors import ConnectionLostError, RemoteProtocolError
from usbbridge.spice.errors import ChannelBusyError, MigrationError, ServerDisconnectingError
from usbbridge.spice.framing import MessageWriter
from usbbridge.spice.link import LinkResult
from usbbridge.spice.messages import (
    DISCONNECTING,
    MAX_TEXT,
    NOTIFY,
    PING,
    SET_ACK,
    U32,
    ClientMessage,
    Event,
    Notify,
    ServerMessage,
)
from usbbridge.spice.reader import MAX_UNKNOWN, WINDOW, MessageReader, Receiver, Rule

MAX_PING = 1024 * 1024 + PING.size
"A PING's body: spice-server measures the network with 250 KiB; four times that, and it is skipped, not stored."
MAX_NOTIFY = 1024 * 1024
"A NOTIFY's body, of which `MAX_TEXT` are kept."
MAX_OUTPUT = 64 * 1024
"Answers not yet taken: a window full of PINGs makes 16 KiB of PONGs, and take_output() follows every received()."


class Handler(Protocol):
    """Who is told what the server says."""

    def event(self, event: Event) -> None:
        """Something was said that is no business of the protocol itself."""


class Channel(MessageReader):
    """One channel after the link stage; subclasses add their own messages through `rules()`.

    Raises `RemoteProtocolError` and `ConnectionLostError` subclasses from `received()`, `feed()` and `eof()`, and
    whatever the stream's receiver raises; after that the channel is dead and raises the same again.
    """

    def __init__(
        self, link: LinkResult, handler: Handler | None = None, *, stream: Receiver | None = None, stream_type: int = -1
    ) -> None:
        super().__init__(link.mini_header, stream, stream_type)
        self.link = link
        self._handler = handler
        self._writer = MessageWriter(link.mini_header)
        self._ack_window = 0
        self._ack_left = 0
        self._output = bytearray()

    def rules(self) -> dict[int, Rule]:
        """The messages every channel understands."""
        return super().rules() | {
            ServerMessage.MIGRATE: Rule(0, 0, MAX_UNKNOWN, self._migrate),
            ServerMessage.SET_ACK: Rule(SET_ACK.size, SET_ACK.size, WINDOW, self._set_ack),
            ServerMessage.PING: Rule(PING.size, PING.size, MAX_PING, self._ping),
            # WAIT_FOR_CHANNELS holds this channel back until others have got as far as it says. Nothing that MAIN or
            # USBREDIR carry depends on another channel, so each is taken as fulfilled: skipped as an unknown one is.
            ServerMessage.DISCONNECTING: Rule(DISCONNECTING.size, DISCONNECTING.size, WINDOW, self._disconnecting),
            ServerMessage.NOTIFY: Rule(NOTIFY.size, NOTIFY.size + MAX_TEXT, MAX_NOTIFY, self._notify),
        }

    def eof(self) -> NoReturn:
        """The server closed the connection, or it broke. Always raises: what that means."""
        if self._dead is not None:
            raise self._dead
        self._dead = self.ended()
        raise self._dead

    def ended(self) -> Exception:
        """What the end of the stream means now. Right after the link it means that the channel was taken already:
        spice-server links it all the same, and only then finds out.
        """
        where, channel = self.link.where, self.link.channel
        if not self._heard:
            return ChannelBusyError(where, channel)
        return ConnectionLostError(
            f"{where} closed channel {channel}" + (" in the middle of a message" if self.amid else ""),
            hint="Has the VM ended, or has another SPICE client connected? A new one ends the session of the old.",
        )

    def count(self) -> None:
        """Acknowledge every `window` messages; without that the server stops sending after twice as many."""
        self._ack_left -= 1
        if not self._ack_left:
            self._ack_left = self._ack_window
            self._answer(ClientMessage.ACK)

    def _answer(self, type_: int, body: bytes = b"") -> None:
        if len(self._output) > MAX_OUTPUT:
            raise RemoteProtocolError("The SPICE server asks for more answers than it takes")
        self._output += self._writer.message(type_, body)

    def take_output(self) -> bytes:
        """What is to be sent now, possibly nothing."""
        if not self._output:
            return b""
        output = bytes(self._output)
        self._output.clear()
        return output

    def tell(self, event: Event) -> None:
        """Pass an event on."""
        if self._handler is not None:
            self._handler.event(event)

    def _set_ack(self, body: memoryview) -> None:
        generation, self._ack_window = SET_ACK.unpack_from(body)
        self._ack_left = self._ack_window
        self._counting = self._ack_window > 0
        self._answer(ClientMessage.ACK_SYNC, U32.pack(generation))

    def _ping(self, body: memoryview) -> None:
        self._answer(ClientMessage.PONG, bytes(body))

    def _notify(self, body: memoryview) -> None:
        self.tell(Notify.parse(body))

    def _disconnecting(self, body: memoryview) -> None:
        _time, reason = DISCONNECTING.unpack_from(body)
        raise ServerDisconnectingError(self.link.where, self.link.channel, reason)

    def _migrate(self, _body: memoryview) -> None:
        raise MigrationError(self.link.where)
